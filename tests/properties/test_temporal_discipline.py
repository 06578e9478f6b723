"""Sharing in time: the kernel against its plain twin, cuts in time, and who may not run past a slice."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles.temporal_twin import TemporalTwin
from properties.mixed_pools import Options, assert_lawful, mixed, refined, small_pool
from properties.test_disciplines import JIT, Scenario, assert_same, examples, play

from partita.errors import ConfigError
from partita.model.load import Arrivals
from partita.ports import Pool
from partita.replay.disciplines.temporal import Temporal

COMMON = st.fixed_dictionaries(
    {"idle": st.sampled_from(["pass", "keep"])}, optional={"drop": st.sampled_from(["window", "timeout"])}
)
OWN = st.fixed_dictionaries(
    {}, optional={"slice_ms": st.sampled_from([0.5, 3.0, 20.0]), "slice_share": st.sampled_from([0.2, 1.0])}
)


def lead(pool: Pool, size: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.full(len(size), pool.control_ns + pool.data_ns)


@examples
@given(mixed(COMMON, OWN))
def test_kernel_equals_its_twin(scenario: Scenario) -> None:
    run = play(Temporal(), scenario)
    assert_lawful(run, scenario, lead)
    assert_same(run, play(TemporalTwin(), scenario))


@examples
@given(mixed(COMMON, OWN, cut=True))
def test_cutting_time_changes_nothing(scenario: Scenario) -> None:
    run = play(Temporal(), scenario)
    assert_lawful(run, scenario, lead)
    assert_same(run, play(Temporal(), scenario, cut=False))


@examples
@given(mixed(COMMON, OWN, pools=3), st.data())
def test_a_change_of_pool_keeps_the_queues(scenario: Scenario, data: st.DataObject) -> None:
    run = play(Temporal(), scenario)
    assert_lawful(run, scenario, lead)
    assert_same(run, play(TemporalTwin(), scenario))
    assert_same(run, play(Temporal(), data.draw(refined(scenario))))


@examples
@given(mixed(COMMON, OWN))
def test_nobody_is_planned_past_the_deadline(scenario: Scenario) -> None:
    """Where batches take what was planned, nobody who rides is answered after the deadline."""
    pool = scenario.pools[0]
    kinds = pool.by_kind()
    if kinds.spread == 0 and np.all(kinds.run_ns <= kinds.planned_ns):
        run = play(Temporal(), scenario)
        deadline = scenario.arrivals.ns + np.repeat(pool.slo_ns - pool.response_ns, np.diff(scenario.arrivals.offsets))
        served = run.finish_ns > 0
        assert np.all(run.finish_ns[served] <= deadline[served])


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
    discipline, pool = Temporal(), small_pool(*own)
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
