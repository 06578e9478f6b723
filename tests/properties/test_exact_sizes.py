"""Exact sizes in a world: one queue for all sizes, a batch takes as long as its largest input, under any discipline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import BUILT_IN, MS, SECOND, Recording, make_world, random_instants
from properties.test_sizes import IMAGES, INVENTORY, SPAN_S, TEXT, Sized, examples, line, load, planned, play

from partita.controller.commands import commands_for
from partita.model.load import Arrivals
from partita.model.service import Service
from partita.model.staggered import NO_OVERHEADS
from partita.ports import Discipline, Pool, Served
from partita.replay.cluster import INSTANCES_A_GPU, Delays, SimulatedCluster
from partita.replay.failures import Failure
from partita.replay.pools import Variation
from partita.replay.rehearsal import Rehearser
from partita.replay.score import Score

EXACT = replace(TEXT, exact_sizes=True)
"""Up to size 128 a batch takes 0.5 b + 4 ms, up to 512 2 b + 5."""
LARGEST = Service("text", 0.06, 0.99, 2.0, (line(2.0, 5.0),))


def exact_ms(batch: int, largest: float) -> float:
    """Return what a batch takes: the line between both edges, worked out by hand."""
    part = min(1.0, max(0.0, (largest - 128) / (512 - 128)))
    return (1 - part) * (0.5 * batch + 4) + part * (2 * batch + 5)


def together(served: Served) -> dict[tuple[int, int, int], list[float]]:
    """Return the sizes of those that rode at the same time, by service, start and finish."""
    riders: dict[tuple[int, int, int], list[float]] = {}
    service = np.repeat(np.arange(2), np.diff(served.arrivals.offsets))
    for row in np.flatnonzero(served.finish_ns > 0):
        key = int(service[row]), int(served.start_ns[row]), int(served.finish_ns[row])
        riders.setdefault(key, []).append(float(served.arrivals.size[row]))
    return riders


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_batch_takes_as_long_as_its_largest_input(kind: str) -> None:
    @examples
    @given(st.integers(0, 999), st.integers(1, 5))
    def holds(seed: int, steps: int) -> None:
        instants, sizes = load(seed)
        _, score, recordings = play((EXACT, IMAGES), kind, instants, sizes, steps=steps)
        assert list(score.offered_by_service.values()) == [len(ns) for ns in instants]
        assert score.offered == score.good + score.late + score.dropped
        assert score.unplaced == int((sizes[0] > 512).sum())
        checked = 0
        for r in (r for recording in recordings for r in recording.records):
            assert len(r.served.arrivals.offsets) == 3
            riders = together(r.served)
            columns = (r.served.batch_service, r.served.batch_start_ns, r.served.batch_finish_ns, r.served.batch_size)
            for service, start, finish, size in zip(*(column.tolist() for column in columns), strict=True):
                mine = riders.get((service, start, finish), [])
                if (
                    service == 0 and len(mine) == size > 0
                ):  # else two batches ran at the same time, or one was cut short
                    assert (finish - start) / MS == pytest.approx(exact_ms(size, max(mine)), abs=1e-5)
                    checked += 1
        assert checked > 20

    holds()


@pytest.mark.parametrize("kind", BUILT_IN)
def test_looking_more_often_changes_nothing(kind: str) -> None:
    @examples
    @given(st.integers(0, 999), st.integers(2, 7))
    def holds(seed: int, steps: int) -> None:
        instants, sizes = load(seed)
        once, often = (play((EXACT, IMAGES), kind, instants, sizes, steps=n)[1] for n in (1, steps))
        assert once == often

    holds()


@pytest.mark.parametrize("kind", BUILT_IN)
def test_with_all_sizes_the_largest_nothing_is_different(kind: str) -> None:
    """Padded, exact, and without sizes at all: the same score, whatever the discipline.

    Padded differs where each bucket is given room of its own before anybody comes: an instance, or a slice.
    """

    @examples
    @given(st.integers(0, 999), st.integers(1, 5))
    def holds(seed: int, steps: int) -> None:
        instants, _ = load(seed, (1500.0, 900.0))
        sizes = [np.full(len(ns), 512, np.float32) for ns in instants]
        exact, padded, plain = (
            play((text, IMAGES), kind, instants, sizes, steps=steps)[1] for text in (EXACT, TEXT, LARGEST)
        )
        assert exact == plain
        assert exact == padded or kind in ("nexus", "temporal")

    holds()


@dataclass(frozen=True, slots=True)
class Blind:
    """A discipline that counts on the largest size, whatever waits."""

    inner: Discipline

    @property
    def name(self) -> str:
        """The name of the discipline it stands for."""
        return self.inner.name

    def initial_state(self, services: int) -> Any:
        """Return the inner discipline's first state."""
        return self.inner.initial_state(services)

    def advance(self, state: Any, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[Any, Served]:
        """Advance the inner discipline on a pool where all sizes are planned as the largest."""
        if pool.sizes is not None:
            known, edges = pool.sizes, pool.sizes.edges.shape[1]
            planned = np.repeat(known.planned_ns[:, :, -1:], edges, axis=2)
            largest = {"max_batch": pool.max_batch, "max_batch_of": pool.by_kind().max_batch}
            pool = replace(pool, sizes=replace(known, planned_ns=planned, **largest))
        return self.inner.advance(state, arrivals, pool, until_ns)


@pytest.mark.parametrize("kind", ["deferred", "eager", "adaptive"])
def test_it_pays_to_know_the_sizes_that_wait(kind: str) -> None:
    """Nine in ten are small, and the load is twice what could be carried if all were large."""
    instants = [random_instants(2000.0, SPAN_S, 5)]
    sizes = [np.random.default_rng(2).choice([100, 512], len(instants[0]), p=[0.9, 0.1]).astype(np.float32)]
    good = []
    for discipline in (BUILT_IN[kind], Blind(BUILT_IN[kind])):
        cluster = SimulatedCluster(INVENTORY, Delays())
        cluster.begin_with(planned((EXACT,), kind))
        disciplines = {**BUILT_IN, kind: discipline}
        source = Sized(["text"], instants, sizes)
        world = make_world((EXACT,), instants, cluster, span_s=SPAN_S, disciplines=disciplines, source=source)
        world.advance(round(SPAN_S * SECOND))
        good.append(world.finish().good)
    assert good[0] > 1.1 * good[1]


@pytest.mark.parametrize("kind", BUILT_IN)
def test_with_all_sizes_small_nothing_is_late_that_padding_would_answer(kind: str) -> None:
    """At a low load everybody is answered in both ways, as no discipline counts on less than what is run."""
    instants, _ = load(7, (60.0, 40.0))
    sizes = [np.full(len(ns), 100, np.float32) for ns in instants]
    exact, padded = (play((text, IMAGES), kind, instants, sizes)[1] for text in (EXACT, TEXT))
    assert exact.good >= 0.9 * padded.good
    assert exact.utilisation <= 1.5 * padded.utilisation


RATES = 400.0, 200.0


def broken(kind: str, sizes: Sequence[np.ndarray], steps: int) -> tuple[Score, int]:
    """Let a GPU fail for half a second in the middle; half-way through that the other one is given back too."""
    instants, _ = load(11, RATES)
    cluster = SimulatedCluster(INVENTORY, Delays(0.1, 0.0))
    cluster.begin_with(planned((EXACT, IMAGES), kind))
    world = make_world(
        (EXACT, IMAGES),
        instants,
        cluster,
        span_s=SPAN_S,
        log_delay_s=0.0,
        source=Sized(["text", "images"], instants, sizes),
        variation=Variation(tail=1.1, jitter=0.1, seed=4),
        failures=[Failure(800 * MS, 1300 * MS, "gpu0")],
    )
    for part in range(2):
        for k in range(1, steps + 1):
            world.advance(part * SECOND + SECOND * k // steps)
        if part == 0:
            cluster.apply(commands_for(planned((EXACT, IMAGES), kind, 1), cluster.observe(SECOND)), SECOND)
    return world.finish(), world.lost


@pytest.mark.parametrize("kind", BUILT_IN)
def test_failures_and_jitter_leave_nobody_out(kind: str) -> None:
    _, sizes = load(11, RATES)
    (once, lost), (often, lost_often) = (broken(kind, sizes, steps) for steps in (1, 9))
    assert once == often
    assert lost == lost_often
    assert once.offered == once.good + once.late + once.dropped
    assert once.good > 0.1 * once.offered


def test_the_bounds_know_the_sizes() -> None:
    """Within the SLO of 60 ms run 64 of the small ones (36 ms) and 27 of the large ones (59 ms).

    320 is half-way from 128 to 512, so that it counts for half of each: 1 / (0.75 · 36/64 + 0.25 · 59/27) a ms.
    """
    ns = np.arange(100) * 10 * MS
    sizes = np.where(np.arange(100) % 2 == 0, 100, 320).astype(np.float32)
    cluster = SimulatedCluster(INVENTORY, Delays())
    cluster.begin_with(planned((EXACT,), "eager", 1))
    world = make_world((EXACT,), [ns], cluster, span_s=SPAN_S, source=Sized(["text"], [ns], [sizes]))
    world.advance(round(SPAN_S * SECOND))
    score = world.finish()
    assert (score.good, score.offered) == (100, 100)
    assert score.bound_fluid_rps == pytest.approx(1e3 / (0.75 * 36 / 64 + 0.25 * 59 / 27), rel=1e-6)
    assert 0 < score.bound_staggered_rps < score.bound_fluid_rps


def test_rehearsal_knows_the_sizes() -> None:
    """64 small ones fit into a batch that ends in time (36 ms), 28 large ones do not (61 ms).

    20 small ones and a large one run together: in 47 ms; 30 and a large one would take 67, and nobody may be late.
    """

    def good(*sizes: float) -> int:
        count = len(sizes)
        at_once = Arrivals(np.zeros(count, np.int64), np.array([0, count, count]), np.array(sizes, np.float32))
        plan = planned((EXACT, IMAGES), "eager", 1)
        rehearsed = Rehearser((EXACT, IMAGES), NO_OVERHEADS, BUILT_IN).rehearse(plan, at_once, SECOND)
        assert rehearsed.offered.tolist() == [count, 0]
        return int(rehearsed.good[0])

    assert good(*[100.0] * 64) == 64
    assert good(*[300.0] * 64) < 64
    assert good(*[512.0] * 28) == 27
    assert good(*[100.0] * 20, 512.0) == 21
    assert good(9999.0) == 0


def test_instances_are_where_the_account_says() -> None:
    """Batches of all sizes go to all instances: no size has an instance of its own."""
    instants, sizes = load(3)
    recording = Recording(BUILT_IN["nexus"])
    cluster = SimulatedCluster(INVENTORY, Delays())
    cluster.begin_with(planned((EXACT, IMAGES), "nexus"))
    world = make_world(
        (EXACT, IMAGES),
        instants,
        cluster,
        span_s=SPAN_S,
        disciplines={**BUILT_IN, "nexus": recording},
        source=Sized(["text", "images"], instants, sizes),
    )
    world.advance(round(SPAN_S * SECOND))
    numbers = {int(n) // INSTANCES_A_GPU for r in recording.records for n in r.served.batch_instance}
    assert numbers == {0, 1}
