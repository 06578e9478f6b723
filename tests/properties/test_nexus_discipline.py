"""Serving by a plan: the kernel against its plain twin, cuts in time, and what plans may not do."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.nexus_twin import NexusTwin
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
from properties.test_disciplines import JIT, Scenario, assert_passes_uncompiled, assert_same, examples, play

from partita.model.load import Arrivals
from partita.replay.disciplines.nexus import Nexus

COMMON = st.fixed_dictionaries(
    {"schedule": st.just("static"), "cycle_us": st.sampled_from([50.0, 500.0, 7_000.0])},
    optional={"net_ms": st.sampled_from([0.5, 2.0, 10.0])},
)
OWN = st.fixed_dictionaries({}, optional={"batch": st.sampled_from([1, 3, 6, 50])})


EPOCHS = st.fixed_dictionaries(
    {"schedule": st.just("epoch"), "cycle_us": st.sampled_from([500.0, 7_000.0])},
    optional={"net_ms": st.sampled_from([0.5, 2.0]), "headroom": st.sampled_from([0.1, 0.5])},
)


@st.composite
def over_epochs(draw: st.DrawFn, *, pools: int = 1, cut: bool = False) -> Scenario:
    """Make up a scenario of a minute and more: instants are stretched, so that plans are renewed."""
    scenario = draw(mixed(EPOCHS, st.just({}), pools=pools, cut=cut))
    begin, end = int(scenario.arrivals.ns.min(initial=scenario.ends_ns[0] - 1)), scenario.ends_ns[-1]
    factor = max(1, draw(st.sampled_from([35, 70, 140])) * 10**9 // (end - begin))
    seconds = [draw(st.integers(0, 60)) for _ in scenario.ends_ns]
    grid = draw(st.sampled_from([1, 10**9]))
    ends = sorted(
        begin + ((at - begin) * factor + x * 10**9) // grid * grid
        for at, x in zip(scenario.ends_ns, seconds, strict=True)
    )
    ends = list(accumulate(ends, lambda before, at: max(before + 1, at)))  # a pool of no time hands out, and is gone
    services = len(scenario.arrivals.offsets) - 1
    count = draw(st.sampled_from([50, 400, 1500]))
    shares = np.array([draw(st.sampled_from([0.0, 0.1, 1.0, 3.0])) for _ in range(services)]) + 1e-9
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ebb = draw(st.sampled_from([1.0, 3.0]))
    each = rng.multinomial(count, shares / shares.sum())
    ns = [np.sort(begin + (rng.random(n) ** ebb * (ends[-1] - begin)).astype(np.int64)) for n in each]
    offsets = np.concatenate(([0], np.cumsum(each))).astype(np.int64)
    rows = np.arange(count, dtype=np.float32)
    return Scenario(scenario.pools, tuple(ends), Arrivals(np.concatenate(ns), offsets, rows))


@examples
@given(mixed(COMMON, OWN))
def test_kernel_equals_its_twin(scenario: Scenario) -> None:
    assert_equals_its_twin(Nexus(), NexusTwin(), scenario, lead_of_each)


@examples
@given(mixed(COMMON, OWN, cut=True))
def test_cutting_time_changes_nothing(scenario: Scenario) -> None:
    assert_cuts_change_nothing(Nexus(), scenario, lead_of_each)


@examples
@given(mixed(COMMON, OWN, pools=3), st.data())
def test_a_change_of_pool_keeps_the_queues(scenario: Scenario, data: st.DataObject) -> None:
    assert_change_keeps_the_queues(Nexus(), NexusTwin(), scenario, data, lead_of_each)


@examples
@given(over_epochs())
def test_plans_follow_the_rates_as_the_twin_has_it(scenario: Scenario) -> None:
    assert_equals_its_twin(Nexus(), NexusTwin(), scenario, lead_of_each)


@examples
@given(over_epochs(cut=True))
def test_cutting_time_changes_no_plan(scenario: Scenario) -> None:
    assert_same(play(Nexus(), scenario), play(Nexus(), scenario, cut=False))


@examples
@given(over_epochs(pools=3), st.data())
def test_plans_follow_a_change_of_pool(scenario: Scenario, data: st.DataObject) -> None:
    assert_change_keeps_the_queues(Nexus(), NexusTwin(), scenario, data, lead_of_each)


@examples
@given(mixed(COMMON, OWN))
def test_nobody_is_planned_past_the_deadline(scenario: Scenario) -> None:
    assert_planned_in_time(Nexus(), scenario)


@pytest.mark.parametrize(
    ("own", "key", "text"),
    [
        (({"schedule": "weekly"},), "schedule", "'weekly' is none of"),
        (({"schedule": "static", "batch": 0},), "batch", "0 is no whole number"),
        (({"schedule": "static", "rate_rps": -1.0},), "rate_rps", "-1.0 is no number"),
        (({"schedule": "static", "rate_rps": 5.0}, {"schedule": "static"}), "rate_rps", "some have not"),
        (({"headroom": -0.1},), "headroom", "-0.1 is no share"),
        (({"cycle_us": 0},), "cycle_us", "0 is no number"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(own: tuple[Options, ...], key: str, text: str) -> None:
    assert_setting_is_named(Nexus(), own, key, text)


@pytest.mark.skipif(not JIT, reason="this is the run without compilation")
def test_plain_python_runs_the_same_kernels() -> None:
    """Run uncompiled, they must pass the same tests (index errors show only here)."""
    assert_passes_uncompiled(__file__)
