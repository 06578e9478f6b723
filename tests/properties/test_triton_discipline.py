"""Batching set by service: kernels against plain twins, cuts in time, and what model instances may not do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.timeout_twin import TimeoutTwin
from oracles.triton_twin import TritonTwin
from properties.test_disciplines import (
    JIT,
    Scenario,
    assert_lawful,
    assert_passes_uncompiled,
    assert_same,
    examples,
    play,
    scenarios,
)

from partita.model.cluster import OptionValue
from partita.ports import Discipline, Pool
from partita.replay.disciplines import Timeout, Triton

TWINS: dict[str, tuple[Discipline, Discipline]] = {
    "timeout": (Timeout(), TimeoutTwin()),
    "triton": (Triton(), TritonTwin()),
}


@st.composite
def settings_by_service(draw: st.DrawFn, services: int) -> tuple[dict[str, OptionValue], ...]:
    """Give each service its own settings; the choice of a device and the turnaround are everybody's."""
    common: dict[str, OptionValue] = {
        "gpu_choice": draw(st.sampled_from(["min-id", "earliest"])),
        "turnaround_ms": draw(st.sampled_from([0.0, 0.0, 0.5, 3.0])),
    }
    own = st.fixed_dictionaries(
        {"timeout_ms": st.sampled_from([0.0, 0.5, 5.0, 60.0]), "instances": st.integers(1, 3)},
        optional={
            "queue_policy": st.sampled_from(["none", "reject"]),
            "queue_timeout_ms": st.sampled_from([0.0, 2.0, 7.5, 40.0]),
        },
    )
    return tuple({**common, **draw(own)} for _ in range(services))


@st.composite
def served_by_own_settings(draw: st.DrawFn, *, pools: int = 1, cut: bool = False) -> Scenario:
    """Make up a scenario whose services batch differently; in a change of pools devices may stay."""
    scenario = draw(scenarios("timeout", pools=pools, cut=cut))
    made: dict[int, Pool] = {}
    for pool in scenario.pools:
        if id(pool) not in made:
            made[id(pool)] = replace(pool, by_service=draw(settings_by_service(len(pool.slo_ns))))
    return replace(scenario, pools=tuple(made[id(pool)] for pool in scenario.pools))


@pytest.mark.parametrize("name", TWINS)
def test_kernel_equals_its_twin(name: str) -> None:
    kernel, twin = TWINS[name]

    @examples
    @given(served_by_own_settings())
    def holds(scenario: Scenario) -> None:
        run = play(kernel, scenario)
        assert_lawful(run, scenario)
        assert_same(run, play(twin, scenario))

    holds()


@pytest.mark.parametrize("name", TWINS)
def test_cutting_time_changes_nothing(name: str) -> None:
    kernel, _ = TWINS[name]

    @examples
    @given(served_by_own_settings(cut=True))
    def holds(scenario: Scenario) -> None:
        run = play(kernel, scenario)
        assert_lawful(run, scenario)
        assert_same(run, play(kernel, scenario, cut=False))

    holds()


@pytest.mark.parametrize("name", TWINS)
def test_a_change_of_pool_keeps_the_queues(name: str) -> None:
    kernel, twin = TWINS[name]

    @examples
    @given(served_by_own_settings(pools=3))
    def holds(scenario: Scenario) -> None:
        run = play(kernel, scenario)
        assert_lawful(run, scenario)
        assert_same(run, play(twin, scenario))

    holds()


@examples
@given(served_by_own_settings())
def test_no_more_batches_are_taken_than_there_are_model_instances(scenario: Scenario) -> None:
    """Whoever takes a batch after `instances` others has finished one of those before it."""
    run, pool = play(Triton(), scenario), scenario.pools[0]
    for s in pool.active:
        start, finish = run.batches[run.batches[:, 1] == s, 3:].T
        instances = int(pool.by_service[s]["instances"]) * len(pool.number)
        for n in range(instances, len(start)):
            assert start[n] >= np.sort(finish[:n])[n - instances]


@pytest.mark.skipif(not JIT, reason="this is the run without compilation")
def test_plain_python_runs_the_same_kernels() -> None:
    """Run uncompiled, they must pass the same tests (index errors show only here)."""
    assert_passes_uncompiled(__file__)
