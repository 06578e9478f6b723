"""Triton's batcher on instances that differ, with preferred sizes and queues of instances: kernels against twins."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles.timeout_twin import TimeoutTwin
from oracles.triton_twin import TritonTwin
from properties.mixed_pools import Options, assert_lawful, mixed, refined, small_pool
from properties.test_disciplines import JIT, Scenario, assert_same, examples, play

from partita.errors import ConfigError
from partita.model.load import Arrivals
from partita.ports import Pool
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


def lead(pool: Pool, size: NDArray[np.int64]) -> NDArray[np.int64]:
    return pool.control_ns + pool.data_ns * size


@examples
@given(mixed(COMMON, OWN))
def test_kernel_equals_its_twin(scenario: Scenario) -> None:
    run = play(Timeout(), scenario)
    assert_lawful(run, scenario, lead)
    assert_same(run, play(TimeoutTwin(), scenario))


@examples
@given(mixed(COMMON, OWN, cut=True))
def test_cutting_time_changes_nothing(scenario: Scenario) -> None:
    run = play(Timeout(), scenario)
    assert_lawful(run, scenario, lead)
    assert_same(run, play(Timeout(), scenario, cut=False))


@examples
@given(mixed(COMMON, OWN, pools=3), st.data())
def test_a_change_of_pool_keeps_the_queues(scenario: Scenario, data: st.DataObject) -> None:
    run = play(Timeout(), scenario)
    assert_lawful(run, scenario, lead)
    assert_same(run, play(TimeoutTwin(), scenario))
    assert_same(run, play(Timeout(), data.draw(refined(scenario))))


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
    discipline, pool = Timeout(), small_pool(*own)
    with pytest.raises(ConfigError, match=text) as raised:
        discipline.advance(discipline.initial_state(len(own)), Arrivals.empty(len(own)), pool, 1)
    assert raised.value.key == f"discipline.{key}"


@pytest.mark.skipif(not JIT, reason="this is the run without compilation")
def test_plain_python_runs_the_same_kernels() -> None:
    """Run uncompiled, they must pass the same tests (index errors show only here)."""
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "twin or change"]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PARTITA_EXAMPLES": "12"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
