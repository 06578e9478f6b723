"""Adaptive batching: the kernel against its plain twin, cuts in time, and what is learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.clipper_twin import ClipperTwin
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

from partita.model.load import Arrivals
from partita.replay.disciplines.clipper import Clipper

VARIANTS = ("aimd", "v2")
OWN = st.fixed_dictionaries(
    {"timeout_ms": st.sampled_from([0.0, 0.0, 0.5, 5.0])}, optional={"budget": st.sampled_from([0.1, 0.3, 1.0])}
)


def common(variant: str) -> st.SearchStrategy[Options]:
    return st.fixed_dictionaries(
        {"variant": st.just(variant), "gpu_choice": st.sampled_from(["min-id", "earliest"])},
        optional={"drop": st.sampled_from(["none", "expired", "timeout", "window"]), "seed": st.integers(0, 9)},
    )


@st.composite
def crowded(draw: st.DrawFn, variant: str) -> Scenario:
    """Make up a scenario of many requests for few instances, so that much is learned."""
    scenario = draw(mixed(common(variant), OWN))
    pool = scenario.pools[0]
    few = draw(st.integers(1, 2))
    kinds = pool.by_kind()
    pool = replace(
        pool,
        number=pool.number[:few],
        free_at_ns=pool.free_at_ns[:few],
        slo_ns=pool.slo_ns * draw(st.sampled_from([1, 2, 4])),
        kinds=replace(kinds, of=kinds.of[:few], spread=draw(st.sampled_from([0.0, 0.1, 0.3]))),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    begin, span = int(pool.free_at_ns.min(initial=0)), draw(st.sampled_from([1, 4])) * 10**9
    each = rng.multinomial(600, np.full(len(pool.slo_ns), 1 / len(pool.slo_ns)))
    ns = [np.sort(begin + rng.choice(rng.integers(0, span, draw(st.sampled_from([80, 400]))), n)) for n in each]
    offsets = np.concatenate(([0], np.cumsum(each))).astype(np.int64)
    end = begin + span + 10**9
    return Scenario((pool,), (end,), Arrivals(np.concatenate(ns), offsets, np.arange(600, dtype=np.float32)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_kernel_equals_its_twin(variant: str) -> None:
    @examples
    @given(mixed(common(variant), OWN))
    def holds(scenario: Scenario) -> None:
        assert_equals_its_twin(Clipper(), ClipperTwin(), scenario, lead_of_batch, exact=variant == "aimd")

    holds()


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_learned_equals_what_the_twin_learns(variant: str) -> None:
    @examples
    @given(crowded(variant), st.data())
    def holds(scenario: Scenario, data: st.DataObject) -> None:
        run = play(Clipper(), scenario)
        assert_same(run, play(ClipperTwin(), scenario))
        assert_same(run, play(Clipper(), data.draw(refined(scenario))))

    holds()


@pytest.mark.parametrize("variant", VARIANTS)
def test_cutting_time_changes_nothing(variant: str) -> None:
    @examples
    @given(mixed(common(variant), OWN, cut=True))
    def holds(scenario: Scenario) -> None:
        assert_cuts_change_nothing(Clipper(), scenario, lead_of_batch, exact=variant == "aimd")

    holds()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_change_of_pool_keeps_what_was_learned(variant: str) -> None:
    @examples
    @given(mixed(common(variant), OWN, pools=3), st.data())
    def holds(scenario: Scenario, data: st.DataObject) -> None:
        exact = variant == "aimd"
        assert_change_keeps_the_queues(Clipper(), ClipperTwin(), scenario, data, lead_of_batch, exact=exact)

    holds()


@pytest.mark.parametrize(
    ("own", "key", "text"),
    [
        (({"variant": "v3"},), "variant", "'v3' is none of"),
        (({"drop": "all"},), "drop", "'all' is none of"),
        (({"budget": 0},), "budget", "0 is no share"),
        (({"seed": 0.5},), "seed", "0.5 is no whole number"),
        (({"seed": 1}, {"seed": 2}), "seed", "have different ones"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(own: tuple[Options, ...], key: str, text: str) -> None:
    assert_setting_is_named(Clipper(), own, key, text)


@pytest.mark.skipif(not JIT, reason="this is the run without compilation")
def test_plain_python_runs_the_same_kernels() -> None:
    """Run uncompiled, they must pass the same tests (index errors show only here)."""
    assert_passes_uncompiled(__file__)
