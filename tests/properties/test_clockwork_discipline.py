"""Clockwork over random pools and loads: kernel against plain twin, cuts in time, changes of pool, and its laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.clockwork_twin import ClockworkTwin
from properties.test_disciplines import JIT, assert_passes_uncompiled, assert_same, scenarios
from properties.test_shepherd_discipline import Course, assert_lawful, crowds, examples, follow, with_kinds

from partita.errors import ConfigError
from partita.model.cluster import OptionValue
from partita.model.load import Arrivals
from partita.ports import Pool
from partita.replay.disciplines.clockwork import Clockwork

PARAMETERS: st.SearchStrategy[dict[str, OptionValue]] = st.fixed_dictionaries(
    {"gpu_choice": st.sampled_from(["min-id", "earliest"])},
    optional={
        "largest_batch": st.sampled_from([1, 3, 16]),
        "look_ahead_ms": st.sampled_from([0.0, 2.0, 40.0]),
        "tolerance_ms": st.sampled_from([0.0, 1.0]),
        "buffer_ms": st.sampled_from([1.5]),
    },
)


@st.composite
def courses(draw: st.DrawFn, *, pools: int = 1, cut: bool = False) -> Course:
    """Make up a course; no batch is ever cut short, so that what was said of an instance is so."""
    loads = scenarios("deferred", pools=pools, cut=cut) if draw(st.booleans()) else crowds(pools=pools, cut=cut)
    scenario = with_kinds(draw, draw(loads), PARAMETERS)
    ways = ["left"] if cut else ["left", "booked"]
    return Course(scenario, tuple(draw(st.sampled_from(ways)) for _ in scenario.pools))


@examples
@given(courses())
def test_kernel_equals_its_twin(course: Course) -> None:
    run = follow(Clockwork(), course)
    assert_lawful(run, course)
    assert_same(run, follow(ClockworkTwin(), course))


@examples
@given(courses(cut=True))
def test_cutting_time_changes_nothing(course: Course) -> None:
    run = follow(Clockwork(), course)
    assert_lawful(run, course)
    assert_same(run, follow(Clockwork(), course, cut=False))


@examples
@given(courses(pools=3))
def test_a_change_of_pool_loses_nobody(course: Course) -> None:
    run = follow(Clockwork(), course)
    assert_lawful(run, course)
    assert_same(run, follow(ClockworkTwin(), course))


@examples
@given(courses())
def test_batches_have_exact_sizes(course: Course) -> None:
    size = follow(Clockwork(), course).batches[:, 2]
    largest = course.scenario.pools[0].parameters.get("largest_batch", 8)
    assert np.all((size & (size - 1) == 0) & (size <= largest))


@examples
@given(courses())
def test_what_takes_as_long_as_planned_is_in_time(course: Course) -> None:
    """And it begins no later than a look-ahead and a lead after it was booked, so that no instance drops it."""
    scenario, pool = course.scenario, course.scenario.pools[0]
    kinds = pool.by_kind()
    if kinds.spread > 0 or np.any(kinds.run_ns != kinds.planned_ns):
        return
    run = follow(Clockwork(), course)
    deadline = scenario.arrivals.ns + np.repeat(pool.slo_ns - pool.response_ns, np.diff(scenario.arrivals.offsets))
    served = run.finish_ns > 0
    assert np.all(run.finish_ns[served] <= deadline[served])


@pytest.mark.parametrize(
    ("key", "value"), [("largest_batch", 0), ("largest_batch", 2.5), ("look_ahead_ms", -1), ("buffer_ms", "5")]
)
def test_a_wrong_parameter_is_named(key: str, value: OptionValue) -> None:
    nobody = np.empty(0, np.int64)
    table = np.full((1, 3), 1_000_000)
    pool = Pool(np.zeros(1, np.int64), np.array([5_000_000]), np.ones(1, np.int64), table, nobody, nobody)
    state = Clockwork().initial_state(1)
    with pytest.raises(ConfigError) as told:
        Clockwork().advance(state, Arrivals.empty(1), replace(pool, parameters={key: value}), 1)
    assert key in str(told.value)
    assert str(value) in str(told.value)


@pytest.mark.skipif(not JIT, reason="this is the run without compilation")
def test_plain_python_runs_the_same_kernel() -> None:
    """Run uncompiled, it must pass the same tests (index errors show only here)."""
    assert_passes_uncompiled(__file__)
