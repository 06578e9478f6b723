"""Laws of the simulated world, over random services, loads and changes of plan, for every discipline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miniature import BUILT_IN, MS, SECOND, Recorded, Recording, cut, gpus, make_world, random_instants, service
from numpy.typing import NDArray

from partita.controller.commands import commands_for
from partita.controller.reconcile import Wishes, build
from partita.mig import Geometry
from partita.model.cluster import Batching
from partita.model.plan import Placement, Plan, StopReplicas
from partita.model.service import Service
from partita.model.staggered import Overheads
from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.score import Score
from partita.replay.world import World

SPAN_S = 4.0
INVENTORY = gpus(3)
GEOMETRIES = tuple(map(cut, (None, None, "7x1g.10gb", "3g.40gb@0,3g.40gb@4")))
KINDS = {
    "deferred": (Batching("deferred"), Batching("deferred", options=(("gpu_choice", "earliest"),))),
    "eager": (Batching("eager"), Batching("eager", options=(("drop", "timeout"),))),
    "timeout": (Batching("timeout", 0.005), Batching("timeout", 0.0, 4, (("queue_policy", "reject"),))),
    "mixed": (Batching("deferred"), Batching("eager"), Batching("timeout", 0.01)),
}

EXAMPLES = int(os.environ.get("PARTITA_EXAMPLES", "60"))

examples = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Story:
    """Services and their requests, the plan at first, and the plans wanted at later instants."""

    services: tuple[Service, ...]
    instants: tuple[NDArray[np.int64], ...]
    first: Plan
    later: tuple[tuple[float, Plan], ...]
    delays: Delays
    overheads: Overheads
    counted_from_s: float
    log_delay_s: float


@st.composite
def stories(draw: st.DrawFn, discipline: str) -> Story:
    """Make up a story; heavy services must live apart, and some plans have no place for one of them."""
    memory = st.sampled_from([2.0, 2.0, 6.0, 45.0])
    services = tuple(
        service(
            name,
            slo_ms=draw(st.sampled_from([15.0, 60.0, 300.0])),
            beta_ms=draw(st.sampled_from([1.0, 9.0])),
            memory_gib=draw(memory),
        )
        for name in "abcd"[: draw(st.integers(1, 4))]
    )
    rates = [draw(st.sampled_from([0.0, 3.0, 40.0, 200.0, 800.0])) for _ in services]
    seed = draw(st.integers(0, 1000))
    instants = tuple(random_instants(r, SPAN_S, seed + n) for n, r in enumerate(rates))
    usual = {g.id: draw(st.sampled_from(GEOMETRIES)) for g in INVENTORY}
    plans = [draw(_plans(services, discipline, usual)) for _ in range(draw(st.integers(1, 6)))]
    times = sorted(draw(st.sampled_from([0.1, 0.3, 0.55, 0.8, 1.0, 1.003, 2.0, 3.5, 3.9])) for _ in plans[1:])
    return Story(
        services,
        instants,
        plans[0],
        tuple(zip(times, plans[1:], strict=True)),
        Delays(draw(st.sampled_from([0.0, 0.02, 0.7])), draw(st.sampled_from([0.0, 0.3]))),
        draw(st.sampled_from([Overheads(), Overheads(0.0005, 0.00005, 0.001)])),
        draw(st.sampled_from([0.0, 1.5])),
        draw(st.sampled_from([0.0, 0.25, 1.0])),
    )


@st.composite
def _plans(
    draw: st.DrawFn, services: tuple[Service, ...], discipline: str, usual: Mapping[str, Geometry | None]
) -> Plan:
    geometry = usual
    if draw(st.integers(0, 3)) == 0:
        geometry = {g.id: draw(st.sampled_from(GEOMETRIES)) for g in INVENTORY}
    batching = draw(st.sampled_from(KINDS[discipline]))
    placement = None
    if draw(st.booleans()):
        marks = [draw(st.integers(0, 2)) for _ in services]
        groups = [tuple(s.name for s, m in zip(services, marks, strict=True) if m == k) for k in sorted(set(marks))]
        placement = Placement(tuple((names, draw(st.sampled_from([0.5, 1.0, 4.0]))) for names in groups))
    wishes = Wishes(geometry, {s.name: batching for s in services}, placement)
    return build(draw(st.sampled_from([0, 1, 2, 2, 3, 3])), wishes, services, INVENTORY, [1.0] * len(services), "why")


@dataclass
class Played:
    """A story that was played: the world, its score, and every advance of every pool."""

    story: Story
    world: World
    score: Score
    records: list[Recorded]
    ready_ns: dict[int, list[tuple[int, int]]]
    """By instance number: the instant of each change of plan, and from when that instance could serve after it."""
    watermarks: list[tuple[float, float]]
    logged: NDArray[np.int64]
    settled: dict[str, NDArray[np.int64]]


def play(story: Story) -> Played:
    recordings = {name: Recording(inner) for name, inner in BUILT_IN.items()}
    cluster = SimulatedCluster(INVENTORY, story.delays)
    cluster.begin_with(story.first)
    world = make_world(
        story.services,
        story.instants,
        cluster,
        span_s=SPAN_S,
        counted_from_s=story.counted_from_s,
        log_delay_s=story.log_delay_s,
        disciplines=recordings,
        overheads=story.overheads,
    )
    for recording in recordings.values():
        recording.clock = world
    ready: dict[int, list[tuple[int, int]]] = {}
    watermarks, logged, since_s = [], np.zeros(len(story.services), np.int64), 0.0
    settled = {s.name: np.zeros(4, np.int64) for s in story.services}

    def look() -> None:
        nonlocal since_s
        view = world.read_log(since_s, 0.5)
        watermarks.append((world.now_ns / 1e9, view.watermark_s))
        assert view.recent is not None
        assert len(view.recent) == 0 or view.recent.ns.max() < view.watermark_s * 1e9
        assert view.load.start_s == since_s
        since_s = view.load.end_s
        assert since_s == view.watermark_s
        logged[:] += view.load.counts.sum(axis=1).astype(np.int64)
        for name, o in view.outcomes.items():
            settled[name] += (o.offered, o.good, o.late, o.dropped)

    for at_s, plan in story.later:
        world.advance(round(at_s * SECOND))
        look()
        now = world.now_ns
        cluster.apply(commands_for(plan, cluster.observe(now)), now)
        for slot in cluster.slots.values():
            ready.setdefault(slot.number, []).append((now, max(slot.created_ns, slot.loaded_ns)))
    world.advance(round(SPAN_S * SECOND))
    look()
    score = world.finish()
    records = sorted((r for rec in recordings.values() for r in rec.records), key=lambda r: r.since_ns)
    return Played(story, world, score, records, ready, watermarks, logged, settled)


def batches(played: Played) -> NDArray[np.int64]:
    """All batches in the order of the advances: instance, service, size, start, finish, and when the advance began."""
    parts = [
        np.stack(
            [
                r.served.batch_instance,
                r.served.batch_service,
                r.served.batch_size,
                r.served.batch_start_ns,
                r.served.batch_finish_ns,
                np.full(len(r.served.batch_size), r.since_ns),
            ],
            axis=1,
        )
        for r in played.records
    ]
    return np.concatenate(parts) if parts else np.empty((0, 6), np.int64)


# The laws -----------------------------------------------------------------------------------------------------------


def assert_conserved(played: Played) -> None:
    """Everything that arrived is good, late or dropped, once."""
    story, score = played.story, played.score
    counted = [int((ns >= story.counted_from_s * SECOND).sum()) for ns in story.instants]
    assert list(score.offered_by_service.values()) == counted
    assert score.offered == score.good + score.late + score.dropped == sum(counted)
    assert score.good == sum(score.good_by_service.values())
    seen: dict[int, int] = {}
    for r in played.records:
        for number, finish in zip(r.served.arrivals.size.astype(int), r.served.finish_ns, strict=True):
            assert number not in seen, "a settled request came again"
            if finish != 0:
                seen[number] = int(finish)
    everything = np.concatenate(story.instants)
    answered = {n for n, finish in seen.items() if finish > 0}
    assert sum(r.served.batch_size.sum() for r in played.records) == len(answered)
    inside = sum(1 for n in answered if everything[n] >= story.counted_from_s * SECOND)
    assert score.good + score.late == inside
    for (name, settled), ns in zip(played.settled.items(), story.instants, strict=True):
        assert settled[0] == settled[1:].sum() <= len(ns), name


def assert_causal(played: Played) -> None:
    """Nothing is done before it is decided, nor for requests that are not there yet, nor on instances not there yet."""
    everything = np.concatenate(played.story.instants)
    lead = played.story.overheads.control_s * SECOND
    for r in played.records:
        assert np.all(r.served.arrivals.ns == everything[r.served.arrivals.size.astype(int)])
        assert np.all(r.served.arrivals.ns < r.until_ns)
        ran = r.served.finish_ns > 0
        assert np.all(r.served.start_ns[ran] >= r.served.arrivals.ns[ran] + lead)
        assert np.all(r.served.finish_ns[ran] > r.served.start_ns[ran])
        assert np.all(r.served.batch_start_ns >= r.since_ns), "a batch started before the advance that granted it"
        assert set(r.served.batch_service) <= set(r.active)
    for number, row, _, start, _, since in batches(played).tolist():
        due = [at for commanded, at in played.ready_ns.get(number, []) if commanded <= since]
        assert start >= (due or [0])[-1], f"instance {number} served {row} before it was up and loaded"


def assert_one_batch_at_a_time(played: Played) -> None:
    """No instance runs two batches at once, a GPU's old instances none once its new ones run theirs."""
    table = batches(played)
    for number in np.unique(table[:, 0]):
        mine = table[table[:, 0] == number]
        mine = mine[np.argsort(mine[:, 3], kind="stable")]
        assert np.all(mine[1:, 3] >= mine[:-1, 4]), f"instance {number} ran two batches at once"


def assert_held(played: Played) -> None:
    """GPUs are held while batches run on them, and away only while they are held."""
    cluster, end = played.world.cluster, round(SPAN_S * SECOND)
    held = [(h.gpu, h.since_ns, h.until_ns if h.until_ns is not None else 2**62) for h in cluster.holds]
    for number, _, _, start, finish, _ in batches(played).tolist():
        gpu = INVENTORY[number // 64].id
        assert any(g == gpu and since <= start and finish <= until for g, since, until in held), "ran unheld"
    for since in (0, end // 3):
        span = (since, end)
        assert -1e-9 <= cluster.away_gpu_seconds(*span) <= cluster.gpu_seconds(*span) + 1e-9
        assert cluster.gpu_seconds(*span) <= cluster.peak(*span) * (end - since) / 1e9 + 1e-9
    assert cluster.peak(0, end) <= len(INVENTORY)
    spans: dict[str, list[tuple[int, int]]] = {}
    for gpu, since, until in sorted(held, key=lambda h: h[1]):
        assert not spans.get(gpu) or spans[gpu][-1][1] <= since, "a GPU is held twice at once"
        spans.setdefault(gpu, []).append((since, until))


def assert_log_is_late(played: Played) -> None:
    """The log ends a delay before the present, on a whole second, and counts each request before that once."""
    for now_s, watermark_s in played.watermarks:
        assert watermark_s == max(0.0, np.floor(now_s - played.story.log_delay_s + 1e-9))
    assert [m for _, m in played.watermarks] == sorted(m for _, m in played.watermarks)
    # What became of requests is told as late as the requests themselves.
    end = played.watermarks[-1][1] * SECOND
    for settled, ns in zip(played.settled.values(), played.story.instants, strict=True):
        assert settled[0] <= (ns < end).sum()
    assert played.logged.tolist() == [int((ns < end).sum()) for ns in played.story.instants]


@pytest.mark.parametrize("discipline", KINDS)
def test_the_laws_of_the_world(discipline: str) -> None:
    @examples
    @given(stories(discipline))
    def hold(story: Story) -> None:
        played = play(story)
        assert_conserved(played)
        assert_causal(played)
        assert_one_batch_at_a_time(played)
        assert_held(played)
        assert_log_is_late(played)

    hold()


@pytest.mark.parametrize("discipline", KINDS)
def test_looking_more_often_changes_nothing(discipline: str) -> None:
    """Cutting the time into other intervals gives the same score, as long as plans change at the same instants."""

    @settings(examples, max_examples=EXAMPLES // 3)
    @given(stories(discipline), st.integers(2, 9))
    def holds(story: Story, every: int) -> None:
        def score(steps: int) -> Score:
            cluster = SimulatedCluster(INVENTORY, story.delays)
            cluster.begin_with(story.first)
            world = make_world(
                story.services, story.instants, cluster, span_s=SPAN_S, overheads=story.overheads, log_delay_s=0.0
            )
            begin = 0
            for at_s, plan in (*story.later, (SPAN_S, None)):
                end = round(at_s * SECOND)
                for k in range(1, steps + 1):
                    world.advance(begin + (end - begin) * k // steps)
                if plan is not None:
                    cluster.apply(commands_for(plan, cluster.observe(end)), end)
                begin = end
            return world.finish()

        assert score(1) == score(every)

    holds()


# Cases worked by hand -----------------------------------------------------------------------------------------------


def one_gpu(*names: str, held: int = 1) -> tuple[SimulatedCluster, tuple[Service, ...]]:
    """Hold GPUs that serve these services together: one request takes 10 ms, the SLO is 100 ms."""
    services = tuple(service(name) for name in names)
    cluster = SimulatedCluster(INVENTORY, Delays(1.0, 0.5))
    cluster.begin_with(build(held, wishes(services), services, INVENTORY, [1.0] * len(services), ""))
    return cluster, services


def wishes(services: tuple[Service, ...], kind: str = "eager") -> Wishes:
    return Wishes({g.id: None for g in INVENTORY}, {s.name: Batching(kind) for s in services})


def test_gpu_hours_and_latencies_of_a_run_worked_by_hand() -> None:
    """Ten requests a second apart on one GPU; a second GPU from 4 s to 7.005 s, where it still runs a batch."""
    cluster, services = one_gpu("a")
    instants = [np.arange(10) * SECOND + SECOND // 2]
    world = make_world(services, instants, cluster, span_s=10.0)
    world.advance(4 * SECOND)
    two = build(2, wishes(services), services, INVENTORY, [1.0], "")
    cluster.apply(commands_for(two, cluster.observe(world.now_ns)), world.now_ns)
    world.advance(7 * SECOND)
    cluster.slots["gpu1"].busy_ns = 7 * SECOND + 5 * MS
    one = build(1, wishes(services), services, INVENTORY, [1.0], "")
    cluster.apply(commands_for(one, cluster.observe(world.now_ns)), world.now_ns)
    world.advance(10 * SECOND)
    score = world.finish()
    assert (score.offered, score.good, score.batches, score.mean_batch) == (10, 10, 10, 1.0)
    assert score.gpu_hours * 3600 == pytest.approx(10 + 3.005)
    assert score.gpus_held_mean == pytest.approx(1.3005)
    assert score.gpus_held_peak == 2
    assert score.reconfigurations == 2
    assert score.reconfiguration_gpu_hours * 3600 == pytest.approx(1.0 + 0.005)
    assert score.utilisation == pytest.approx(10 * 0.01 / 13.005)
    assert score.latency_ms.p50 == pytest.approx(10.0, rel=0.022)
    assert score.goodput_rps == 1.0
    columns = world.timeline.columns()
    assert columns["t_s"].tolist() == [4.0, 7.0, 10.0]
    assert columns["gpus_held"].tolist() == [1, 2, 1]
    assert columns["offered_rps"].tolist() == columns["good_rps"].tolist() == [1.0, 1.0, 1.0]


def test_a_loading_gpu_serves_nothing_before_its_load_ended() -> None:
    """With no GPU at first, requests of the first second and of the load's second are lost, later ones are good."""
    cluster, services = one_gpu("a", held=0)
    world = make_world(services, [np.arange(30) * SECOND // 10], cluster, span_s=3.0)
    world.advance(SECOND)
    cluster.apply(commands_for(build(1, wishes(services), services, INVENTORY, [1.0], ""), cluster.observe(0)), SECOND)
    world.advance(3 * SECOND)
    score = world.finish()
    # Up at 2.0 s. The request of 1.9 s has until 2.0 s, and takes 10 ms: only those from 2.0 s on are good.
    assert (score.good, score.dropped) == (10, 20)
    assert score.unplaced == 10


def test_requests_of_services_without_a_place_are_dropped_and_counted() -> None:
    cluster, services = one_gpu("a", "b")
    alone = build(1, wishes(services[:1]), services[:1], INVENTORY, [1.0], "")
    cluster.apply(commands_for(alone, cluster.observe(0)), 0)
    instants = [np.arange(5) * SECOND // 10, np.arange(7) * SECOND // 10]
    world = make_world(services, instants, cluster, span_s=1.0, log_delay_s=0.0)
    world.advance(SECOND)
    view = world.read_log(0.0, 1.0)
    score = world.finish()
    assert (score.offered, score.good, score.dropped, score.unplaced) == (12, 5, 7, 7)
    assert score.worst_service == "b"
    assert (view.outcomes["b"].offered, view.outcomes["b"].dropped) == (7, 7)


def test_a_route_to_a_group_that_is_not_there_loses_nobody_silently() -> None:
    cluster, services = one_gpu("a")
    cluster.sub_clusters = ()
    world = make_world(services, [np.arange(5) * SECOND // 10], cluster, span_s=1.0)
    world.advance(SECOND)
    assert world.finish().unplaced == 5


def test_an_instance_without_its_models_serves_nothing() -> None:
    """One of two services is unloaded behind our back: the instance is out of its group until it is loaded again."""
    cluster, services = one_gpu("a", "b")
    world = make_world(services, [np.arange(20) * SECOND // 10, np.empty(0, np.int64)], cluster, span_s=2.0)
    world.advance(SECOND // 2)
    cluster.apply([StopReplicas("gpu0", ("b",), "by someone else")], world.now_ns)
    world.advance(SECOND)
    score = world.finish()
    assert (score.offered, score.good, score.dropped) == (10, 5, 5)


def test_waiting_requests_move_with_their_service_to_its_new_group() -> None:
    """Two requests wait behind a batch of another service when their service gets a GPU of its own."""
    cluster, services = one_gpu("a", "b", held=2)
    both = build(2, wishes(services), services, INVENTORY, [1.0, 1.0], "")
    for gpu in ("gpu0", "gpu1"):
        cluster.slots[gpu].free_ns = cluster.slots[gpu].busy_ns = 30 * MS
    world = make_world(services, [np.array([MS]), np.array([2 * MS, 3 * MS])], cluster, span_s=1.0)
    world.advance(10 * MS)
    apart = Placement(((("a",), 1.0), (("b",), 1.0)))
    eager = Wishes(wishes(services).geometry, wishes(services).batching, apart)
    split = build(2, eager, services, INVENTORY, [1.0, 1.0], "")
    assert [g.services for g in both.sub_clusters] == [("a", "b")]
    cluster.apply(commands_for(split, cluster.observe(world.now_ns)), world.now_ns)
    world.advance(SECOND)
    score = world.finish()
    assert (score.good, score.batches) == (3, 2)
    # a waits from 1 to 30 ms and takes 10; the two of b wait for theirs from 2 and 3 ms on and take 11 together.
    assert score.latency_ms.max == pytest.approx(39.0, rel=0.022)


def test_the_clock_never_goes_back() -> None:
    cluster, services = one_gpu("a")
    world = make_world(services, [np.arange(5) * SECOND // 10], cluster, span_s=1.0)
    world.advance(SECOND // 2)
    world.advance(SECOND // 4)
    assert world.now_ns == SECOND // 2
    assert len(world.timeline.columns()["t_s"]) == 1


def test_the_log_shows_recent_requests_of_its_window_only() -> None:
    cluster, services = one_gpu("a")
    world = make_world(services, [np.arange(50) * SECOND // 10], cluster, span_s=5.0, log_delay_s=1.5)
    world.advance(4 * SECOND)
    view = world.read_log(0.0, 1.0)
    assert (view.watermark_s, view.recent_span_s) == (2.0, (1.0, 2.0))
    assert view.recent is not None
    np.testing.assert_array_equal(view.recent.ns, np.arange(10, 20) * SECOND // 10)
    np.testing.assert_array_equal(view.load.counts, [[10.0, 10.0]])
    world.advance(5 * SECOND)
    view = world.read_log(2.0, 10.0)
    assert (view.load.start_s, view.load.end_s) == (2.0, 3.0)
    assert view.recent_span_s == (0.0, 3.0)


@pytest.mark.parametrize(("near_s", "log_delay_s"), [(1.0, 0.0), (1.0, 1.0), (1.0, 3.5), (2.5, 1.0), (5.0, 1.0)])
def test_outcomes_are_told_when_the_log_is_that_far_and_once(near_s: float, log_delay_s: float) -> None:
    cluster, services = one_gpu("a")
    instants = np.arange(200) * SECOND // 10
    world = make_world(services, [instants], cluster, span_s=20.0, log_delay_s=log_delay_s)
    told = 0
    for k in range(1, round(20 / near_s) + 1):
        world.advance(round(k * near_s * SECOND))
        view = world.read_log(0.0, 1.0)
        told += view.outcomes["a"].offered
        known = int((instants < view.watermark_s * SECOND).sum())
        assert known - 10 * near_s <= told <= known


@pytest.mark.parametrize("kind", ["eager", "timeout"])
def test_what_waited_in_a_group_that_is_gone_is_served_from_now_on_not_in_the_past(kind: str) -> None:
    """A request that deferral held back until 50 ms runs at 50 ms under another discipline, not at its arrival."""
    cluster, services = one_gpu("a")
    deferred, other = (build(1, wishes(services, name), services, INVENTORY, [1.0], "") for name in ("deferred", kind))
    cluster.begin_with(deferred)
    recording = Recording(BUILT_IN[kind])
    disciplines = {**BUILT_IN, kind: recording}
    world = make_world(services, [np.array([10 * MS])], cluster, span_s=1.0, disciplines=disciplines)
    world.advance(50 * MS)
    cluster.apply(commands_for(other, cluster.observe(world.now_ns)), world.now_ns)
    world.advance(SECOND)
    assert recording.records[-1].served.batch_start_ns.tolist() == [50 * MS]
