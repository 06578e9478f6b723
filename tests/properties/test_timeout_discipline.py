"""Triton's batcher on instances that differ, with preferred sizes and queues of instances: kernels against twins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.timeout_twin import TimeoutTwin
from oracles.triton_twin import TritonTwin
from properties.mixed_pools import (
    Options,
    assert_change_keeps_the_queues,
    assert_cuts_change_nothing,
    assert_equals_its_twin,
    assert_setting_is_named,
    lead_of_batch,
    mixed,
    refined,
)
from properties.test_disciplines import JIT, Scenario, assert_passes_uncompiled, assert_same, examples, play

from partita.replay.disciplines import Timeout, Triton

COMMON = st.fixed_dictionaries(
    {"queue": st.sampled_from(["shared", "per-instance"]), "gpu_choice": st.sampled_from(["min-id", "earliest"])}
)
OWN = st.fixed_dictionaries(
    {"timeout_ms": st.sampled_from([0.0, 0.5, 5.0, 60.0])},
    optional={
        "preferred": st.sampled_from([1, 2, 6, "2,4", "8,3", 100]),
        "queue_policy": st.sampled_from(["none", "reject"]),
        "queue_timeout_ms": st.sampled_from([0.0, 2.0, 7.5, 40.0]),
    },
)
SERVER = st.fixed_dictionaries(
    {"gpu_choice": st.sampled_from(["min-id", "earliest"]), "turnaround_ms": st.sampled_from([0.0, 0.5, 3.0])}
)
MODELS = st.fixed_dictionaries(
    {"timeout_ms": st.sampled_from([0.0, 5.0]), "instances": st.integers(1, 3)},
    optional={"queue_policy": st.sampled_from(["none", "reject"]), "queue_timeout_ms": st.sampled_from([0.0, 7.5])},
)


@examples
@given(mixed(COMMON, OWN))
def test_kernel_equals_its_twin(scenario: Scenario) -> None:
    assert_equals_its_twin(Timeout(), TimeoutTwin(), scenario, lead_of_batch)


@examples
@given(mixed(COMMON, OWN, cut=True))
def test_cutting_time_changes_nothing(scenario: Scenario) -> None:
    assert_cuts_change_nothing(Timeout(), scenario, lead_of_batch)


@examples
@given(mixed(COMMON, OWN, pools=3), st.data())
def test_a_change_of_pool_keeps_the_queues(scenario: Scenario, data: st.DataObject) -> None:
    assert_change_keeps_the_queues(Timeout(), TimeoutTwin(), scenario, data, lead_of_batch)


@examples
@given(mixed(SERVER, MODELS, pools=3), st.data())
def test_a_server_equals_its_twin(scenario: Scenario, data: st.DataObject) -> None:
    run = play(Triton(), scenario)
    assert_same(run, play(TritonTwin(), scenario))
    assert_same(run, play(Triton(), data.draw(refined(scenario))))


@pytest.mark.parametrize(
    ("own", "key", "text"),
    [
        (({"queue": "two"},), "queue", "'two' is none of"),
        (({"preferred": "4;8"},), "preferred", "'4;8' names no batch sizes"),
        (({"preferred": 0},), "preferred", "0 names no batch sizes"),
        (({"preferred": True},), "preferred", "True names no batch sizes"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(own: tuple[Options, ...], key: str, text: str) -> None:
    assert_setting_is_named(Timeout(), own, key, text)


@pytest.mark.skipif(not JIT, reason="this is the run without compilation")
def test_plain_python_runs_the_same_kernels() -> None:
    """Run uncompiled, they must pass the same tests (index errors show only here)."""
    assert_passes_uncompiled(__file__)
