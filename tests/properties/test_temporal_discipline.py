"""Sharing in time: the kernel against its plain twin, cuts in time, and who may not run past a slice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.temporal_twin import TemporalTwin
from properties.mixed_pools import (
    Options,
    assert_change_keeps_the_queues,
    assert_cuts_change_nothing,
    assert_equals_its_twin,
    assert_planned_in_time,
    assert_setting_is_named,
    lead_of_each,
    mixed,
)
from properties.test_disciplines import JIT, Scenario, assert_passes_uncompiled, examples

from partita.replay.disciplines.temporal import Temporal

COMMON = st.fixed_dictionaries(
    {"idle": st.sampled_from(["pass", "keep"])}, optional={"drop": st.sampled_from(["window", "timeout"])}
)
OWN = st.fixed_dictionaries(
    {}, optional={"slice_ms": st.sampled_from([0.5, 3.0, 20.0]), "slice_share": st.sampled_from([0.2, 1.0])}
)


@examples
@given(mixed(COMMON, OWN))
def test_kernel_equals_its_twin(scenario: Scenario) -> None:
    assert_equals_its_twin(Temporal(), TemporalTwin(), scenario, lead_of_each)


@examples
@given(mixed(COMMON, OWN, cut=True))
def test_cutting_time_changes_nothing(scenario: Scenario) -> None:
    assert_cuts_change_nothing(Temporal(), scenario, lead_of_each)


@examples
@given(mixed(COMMON, OWN, pools=3), st.data())
def test_a_change_of_pool_keeps_the_queues(scenario: Scenario, data: st.DataObject) -> None:
    assert_change_keeps_the_queues(Temporal(), TemporalTwin(), scenario, data, lead_of_each)


@examples
@given(mixed(COMMON, OWN))
def test_nobody_is_planned_past_the_deadline(scenario: Scenario) -> None:
    assert_planned_in_time(Temporal(), scenario)


@pytest.mark.parametrize(
    ("own", "key", "text"),
    [
        (({"idle": "sleep"},), "idle", "'sleep' is none of"),
        (({"drop": "all"},), "drop", "'all' is none of"),
        (({"slice_ms": 0},), "slice_ms", "0 is no number"),
        (({"slice_share": 1.5},), "slice_share", "1.5 is no number"),
        (({"idle": "keep"}, {"idle": "pass"}), "idle", "have different ones"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(own: tuple[Options, ...], key: str, text: str) -> None:
    assert_setting_is_named(Temporal(), own, key, text)


@pytest.mark.skipif(not JIT, reason="this is the run without compilation")
def test_plain_python_runs_the_same_kernels() -> None:
    """Run uncompiled, they must pass the same tests (index errors show only here)."""
    assert_passes_uncompiled(__file__)
