"""Laws of a world in which GPUs and instances fail, for every discipline; and cases worked by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miniature import BUILT_IN, MS, SECOND, Recording, cut, gpus, make_world, random_instants, service

from partita.controller.commands import commands_for
from partita.controller.reconcile import Wishes, build
from partita.model.cluster import Batching
from partita.model.plan import Plan
from partita.model.service import LatencyCurve, Service
from partita.ports import Discipline
from partita.replay.cluster import INSTANCES_A_GPU, Delays, SimulatedCluster
from partita.replay.failures import Failure, draw_failures
from partita.replay.score import Score
from partita.replay.world import World

INVENTORY = gpus(3)
SERVICES = (service("a"), service("b", slo_ms=30.0, beta_ms=3.0))
SPAN_S = 4.0
INSTANCES = ("gpu0", "gpu1", "gpu2", "gpu0/3g.40gb@0", "gpu1/3g.40gb@4")

examples = settings(
    max_examples=int(os.environ.get("PARTITA_EXAMPLES", "60")) // 2,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def planned(kind: str, held: int = 3, geometry: str | None = None, services: tuple[Service, ...] = SERVICES) -> Plan:
    wishes = Wishes({g.id: cut(geometry) for g in INVENTORY}, {s.name: Batching(kind) for s in services})
    return build(held, wishes, services, INVENTORY, [1.0] * len(services), "why")


@st.composite
def failures(draw: st.DrawFn) -> tuple[Failure, ...]:
    """Make up failures, some of them of what is not there, some at once or one inside the other."""
    found = []
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.sampled_from([0, 1, 300 * MS, 777_777_777, SECOND, SECOND + 5 * MS, 2 * SECOND, 3990 * MS]))
        back = at + draw(st.sampled_from([1, 10 * MS, 400 * MS, 5 * SECOND]))
        name = draw(st.sampled_from(INSTANCES))
        whole = draw(st.booleans())
        found.append(Failure(at, back, name.partition("/")[0], "" if whole else name))
    return tuple(found)


def play(
    kind: str, struck: tuple[Failure, ...], *, geometry: str | None, seed: int, steps: int, change: bool = True
) -> tuple[World, Score, list[Recording]]:
    """Serve random requests in so many steps; half-way one GPU less is held, if there is to be a change."""
    recordings: Mapping[str, Recording] = {name: Recording(inner) for name, inner in BUILT_IN.items()}
    cluster = SimulatedCluster(INVENTORY, Delays(0.3, 0.1))
    cluster.begin_with(planned(kind, 3, geometry))
    instants = [random_instants(r, SPAN_S, seed + n) for n, r in enumerate((700.0, 300.0))]
    world = make_world(
        SERVICES, instants, cluster, span_s=SPAN_S, log_delay_s=0.0, disciplines=recordings, failures=struck
    )
    for half in range(2):
        for k in range(1, steps + 1):
            world.advance(half * 2 * SECOND + 2 * SECOND * k // steps)
        if half == 0 and change:
            now = world.now_ns
            cluster.apply(commands_for(planned(kind, 2, geometry), cluster.observe(now)), now)
    return world, world.finish(), list(recordings.values())


@pytest.mark.parametrize("kind", BUILT_IN)
def test_everybody_is_good_late_or_dropped_whatever_fails(kind: str) -> None:
    @examples
    @given(failures(), st.sampled_from([None, "3g.40gb@0,3g.40gb@4"]), st.integers(0, 99), st.integers(1, 4))
    def holds(struck: tuple[Failure, ...], geometry: str | None, seed: int, steps: int) -> None:
        world, score, _ = play(kind, struck, geometry=geometry, seed=seed, steps=steps)
        assert score.offered == score.good + score.late + score.dropped == round(700 * SPAN_S) + round(300 * SPAN_S)
        assert 0 <= world.lost == score.lost <= score.dropped
        view = world.read_log(0.0, 1.0)
        assert all(o.offered == o.good + o.late + o.dropped for o in view.outcomes.values())

    holds()


@pytest.mark.parametrize("kind", BUILT_IN)
def test_looking_more_often_changes_nothing(kind: str) -> None:
    @examples
    @given(failures(), st.integers(0, 99), st.integers(2, 7))
    def holds(struck: tuple[Failure, ...], seed: int, steps: int) -> None:
        once, often = (play(kind, struck, geometry=None, seed=seed, steps=n) for n in (1, steps))
        assert once[1] == often[1]
        assert once[0].lost == often[0].lost

    holds()


@pytest.mark.parametrize("kind", BUILT_IN)
def test_nothing_runs_on_what_is_gone(kind: str) -> None:
    """No batch starts on a GPU while it is away and its models load; what is cut short is what ran at that instant."""

    @examples
    @given(failures(), st.integers(0, 99))
    def holds(struck: tuple[Failure, ...], seed: int) -> None:
        world, _, recordings = play(kind, struck, geometry=None, seed=seed, steps=2, change=False)
        lost = 0
        for record in (r for recording in recordings for r in recording.records):
            served = record.served
            for n, (number, start, finish) in enumerate(
                zip(served.batch_instance, served.batch_start_ns, served.batch_finish_ns, strict=True)
            ):
                gpu = INVENTORY[number // INSTANCES_A_GPU].id
                mine = [f for f in struck if f.gpu == gpu and f.instance in ("", gpu)]
                assert not any(f.at_ns <= start < f.back_ns + 300 * MS and record.since_ns >= f.at_ns for f in mine)
                # Some disciplines hand a busy GPU the batch that comes next.
                if any(f.at_ns < finish and (start < f.at_ns or record.until_ns <= f.at_ns) for f in mine):
                    lost += int(served.batch_size[n])
        assert world.lost == lost

    holds()


# Cases worked by hand -----------------------------------------------------------------------------------------------


def one_gpu(
    instants: list[int], *struck: Failure, discipline: Discipline | None = None, load_s: float = 0.05
) -> tuple[World, SimulatedCluster]:
    """Serve one service on one GPU, eagerly: a batch of b takes b + 9 ms, the SLO is 100 ms."""
    cluster = SimulatedCluster(INVENTORY, Delays(load_s, 0.0))
    cluster.begin_with(planned("eager", 1, services=SERVICES[:1]))
    world = make_world(SERVICES[:1], [np.array(instants)], cluster, span_s=1.0, log_delay_s=0.0, failures=struck)
    return world, cluster


def test_a_batch_that_runs_when_its_gpu_fails_is_lost() -> None:
    """Of requests at 0, 1 and 30 ms the first runs from 0 to 10 and the second from 10 to 20, where the GPU fails."""
    world, _ = one_gpu([0, MS, 130 * MS], Failure(15 * MS, 50 * MS, "gpu0"))
    world.advance(SECOND)
    score = world.finish()
    # The last one comes when the GPU is back, at 50 ms, and its model is loaded, at 100 ms.
    assert (score.good, score.dropped, world.lost) == (2, 1, 1)
    # Busy for 10 ms, for 5 until it failed, and for 10.
    assert score.utilisation == pytest.approx(0.025)


def test_only_what_came_in_the_counted_span_counts_as_lost() -> None:
    """Requests that came at 0 and at 19 ms run when the GPU fails at 5 and at 25 ms; counted is from 10 ms on."""
    cluster = SimulatedCluster(INVENTORY, Delays(0.0, 0.0))
    cluster.begin_with(planned("eager", 1, services=SERVICES[:1]))
    struck = [Failure(5 * MS, 6 * MS, "gpu0"), Failure(25 * MS, 26 * MS, "gpu0")]
    world = make_world(
        SERVICES[:1],
        [np.array([0, 19 * MS])],
        cluster,
        span_s=1.0,
        counted_from_s=0.01,
        log_delay_s=0.0,
        failures=struck,
    )
    world.advance(SECOND)
    score = world.finish()
    assert (score.offered, score.dropped, score.lost) == (1, 1, 1)


def test_a_batch_that_ends_as_its_gpu_fails_is_answered() -> None:
    world, _ = one_gpu([0], Failure(10 * MS, 50 * MS, "gpu0"))
    world.advance(SECOND)
    assert (world.finish().good, world.lost) == (1, 0)


def test_what_waits_stays_queued_until_the_gpu_is_back() -> None:
    """A request at 20 ms waits until the model is loaded at 80 ms, and is answered at 90: within its 100."""
    world, _ = one_gpu([20 * MS], Failure(15 * MS, 30 * MS, "gpu0"))
    world.advance(SECOND)
    score = world.finish()
    assert (score.good, world.lost) == (1, 0)
    assert score.latency_ms.max == pytest.approx(70.0, rel=0.022)


def test_two_batches_alike_lose_one() -> None:
    """Two requests at once start together on two GPUs, of which one fails."""
    cluster = SimulatedCluster(INVENTORY, Delays(0.05, 0.0))
    cluster.begin_with(planned("eager", 2, services=SERVICES[:1]))
    single = [Service("a", 0.1, 0.99, 2.0, (LatencyCurve("whole", ((1, 0.010),)),))]
    struck = [Failure(5 * MS, 9 * MS, "gpu1")]
    world = make_world(single, [np.array([0, 0])], cluster, span_s=1.0, log_delay_s=0.0, failures=struck)
    world.advance(SECOND)
    score = world.finish()
    assert (score.good, score.dropped, world.lost) == (1, 1, 1)


def test_the_executor_shows_what_failed_as_missing_and_then_as_loading() -> None:
    world, cluster = one_gpu([], Failure(15 * MS, 30 * MS, "gpu0"))
    world.advance(14 * MS)
    assert cluster.observe(world.now_ns).state("gpu0") is not None
    world.advance(15 * MS)
    seen = cluster.observe(world.now_ns)
    assert (seen.state("gpu0"), seen.held) == (None, ("gpu0",))
    world.advance(30 * MS)
    back = cluster.observe(world.now_ns).state("gpu0")
    assert back is not None
    assert (back.status, back.loading, back.loaded) == ("loading", ("a",), ())
    world.advance(80 * MS)
    ready = cluster.observe(world.now_ns).state("gpu0")
    assert ready is not None
    assert (ready.status, ready.loaded) == ("ready", ("a",))


def test_what_is_ordered_on_a_failed_gpu_begins_when_it_is_back() -> None:
    world, cluster = one_gpu([], Failure(15 * MS, 500 * MS, "gpu0"))
    world.advance(20 * MS)
    plan = planned("eager", 1, services=SERVICES[:1])
    ordered = commands_for(plan, cluster.observe(world.now_ns))
    cluster.apply(ordered, world.now_ns)
    assert [type(c).__name__ for c in ordered] == ["CreateInstance", "StartReplicas"]
    world.advance(520 * MS)
    [slot] = cluster.slots.values()
    # Whole GPUs take no time to create, and its model loads from 500 to 550 ms; coming back does not load it again.
    assert (slot.created_ns, slot.loaded_ns) == (500 * MS, 550 * MS)
    assert commands_for(plan, cluster.observe(world.now_ns)) == ()


def test_an_instance_fails_alone() -> None:
    cluster = SimulatedCluster(INVENTORY, Delays(0.05, 0.0))
    cluster.begin_with(planned("eager", 1, "3g.40gb@0,3g.40gb@4", SERVICES[:1]))
    cluster.fail(Failure(0, SECOND, "gpu0", "gpu0/3g.40gb@4"))
    assert [s.instance.id for s in cluster.observe(1).instances] == ["gpu0/3g.40gb@0"]
    cluster.restore(SECOND)
    assert [s.instance.id for s in cluster.observe(SECOND).instances] == ["gpu0/3g.40gb@0", "gpu0/3g.40gb@4"]


def test_failures_one_inside_the_other_last_until_the_later_end() -> None:
    world, cluster = one_gpu([], Failure(10 * MS, 40 * MS, "gpu0"), Failure(20 * MS, 90 * MS, "gpu0"))
    for at, there in ((15, False), (45, False), (95, True)):
        world.advance(at * MS)
        assert (cluster.observe(world.now_ns).state("gpu0") is not None) is there


def test_a_gpu_that_was_given_back_does_not_come_back() -> None:
    world, cluster = one_gpu([], Failure(10 * MS, 40 * MS, "gpu0"))
    world.advance(20 * MS)
    cluster.apply(commands_for(planned("eager", 0, services=SERVICES[:1]), cluster.observe(world.now_ns)), 20 * MS)
    world.advance(SECOND)
    seen = cluster.observe(world.now_ns)
    assert (seen.held, seen.instances) == ((), ())
    assert cluster.gpu_seconds(0, SECOND) == pytest.approx(0.020)  # nor is it paid for while it is away


def test_a_gpu_that_is_taken_while_it_is_away_begins_when_it_is_back() -> None:
    world, cluster = one_gpu([], Failure(10 * MS, 400 * MS, "gpu1"))
    world.advance(20 * MS)
    cluster.apply(commands_for(planned("eager", 2, services=SERVICES[:1]), cluster.observe(world.now_ns)), 20 * MS)
    assert cluster.slots["gpu1"].loaded_ns == 450 * MS
    assert cluster.gpu_seconds(0, SECOND) == pytest.approx(1.98)


def test_a_place_that_was_taken_meanwhile_is_not_taken_back() -> None:
    """A GPU is cut in halves while it is away: its whole instance does not come back beside them."""
    world, cluster = one_gpu([], Failure(10 * MS, 400 * MS, "gpu0"))
    world.advance(20 * MS)
    halves = planned("eager", 1, "3g.40gb@0,3g.40gb@4", SERVICES[:1])
    cluster.apply(commands_for(halves, cluster.observe(world.now_ns)), 20 * MS)
    world.advance(SECOND)
    assert sorted(cluster.slots) == ["gpu0/3g.40gb@0", "gpu0/3g.40gb@4"]
    assert commands_for(halves, cluster.observe(world.now_ns)) == ()


def test_a_law_gives_the_times_it_says_and_the_seed_decides() -> None:
    """In 100,000 s of 3 GPUs with a cycle of 110 s there are about 2,727 failures; four standard deviations are 210."""

    def drawn(seed: int) -> tuple[Failure, ...]:
        return draw_failures(INVENTORY, 100.0, 10.0, 100_000.0, np.random.default_rng(seed))

    found = drawn(1)
    assert abs(len(found) - 2727) < 210
    away = np.array([f.back_ns - f.at_ns for f in found]) / 1e9
    assert abs(away.mean() - 10.0) < 4 * 10.0 / np.sqrt(len(found))
    assert found == drawn(1) != drawn(2)
    for gpu in INVENTORY:
        mine = [f for f in found if f.gpu == gpu.id]
        assert all(a.back_ns <= b.at_ns for a, b in pairwise(mine))
