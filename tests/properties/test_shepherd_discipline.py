"""Shepherd over random pools and loads: kernel against plain twin, cuts in time, changes of pool, and its laws."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import Recording, gpus, make_world, random_instants, service
from oracles.shepherd_twin import ShepherdTwin
from properties.drawn_sizes import let_sizes_count
from properties.test_disciplines import (
    JIT,
    MS,
    Run,
    Scenario,
    assert_passes_uncompiled,
    assert_same,
    between,
    collect,
    examples,
    scenarios,
)

from partita.controller.commands import commands_for
from partita.controller.reconcile import Wishes, build
from partita.errors import ConfigError
from partita.model.cluster import Batching, OptionValue
from partita.model.load import Arrivals
from partita.model.plan import Placement, Plan
from partita.model.service import LatencyCurve, Service
from partita.ports import Discipline, Kinds, Pool
from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.disciplines.shepherd import Shepherd
from partita.replay.world import World


@dataclass(frozen=True)
class Course:
    """A scenario, and by advance what becomes of instances that were there before.

    Their free instants are kept as they were left ("left"), or as the latest that was ever said ("said"), or are those
    of the new pool ("booked").
    """

    scenario: Scenario
    keeping: tuple[str, ...]

    @property
    def undisturbed(self) -> bool:
        """Say whether nobody else books an instance."""
        return "booked" not in self.keeping[1:]


@st.composite
def kinds_of(draw: st.DrawFn, pool: Pool) -> Kinds:
    """Make up to three kinds of a pool's instances; some cannot serve some services, some take long or vary."""
    kinds = draw(st.integers(1, 3))
    services, width = pool.latency_ns.shape
    planned = np.stack([pool.latency_ns * draw(st.sampled_from([10, 10, 13, 25])) // 10 for _ in range(kinds)])
    share = draw(st.sampled_from([10, 10, 9, 11]))
    limits = st.sampled_from([0, 1, 2, width, width])
    largest = np.array([[draw(limits) for _ in range(services)] for _ in range(kinds)], np.int64)
    return Kinds(
        of=np.array([draw(st.integers(0, kinds - 1)) for _ in pool.number], np.int64),
        max_batch=np.minimum(largest, pool.max_batch),
        planned_ns=planned,
        run_ns=np.maximum(1, planned * share // 10),
        spread=draw(st.sampled_from([0.0, 0.0, 0.05, 0.8])),
        seed=draw(st.integers(0, 9)),
    )


def with_kinds(draw: st.DrawFn, scenario: Scenario, parameters: st.SearchStrategy[dict[str, OptionValue]]) -> Scenario:
    """Give each pool of a scenario parameters and, mostly, kinds of instances; at one run all have the same jitter."""
    made: dict[int, Pool] = {}
    own = draw(parameters)
    for pool in scenario.pools:
        if id(pool) not in made:
            kinds = draw(kinds_of(pool)) if draw(st.integers(0, 3)) else None
            made[id(pool)] = replace(pool, parameters=own, kinds=kinds)
    pools, arrivals = let_sizes_count(draw, [made[id(pool)] for pool in scenario.pools], scenario.arrivals)
    return replace(scenario, pools=pools, arrivals=arrivals)


PARAMETERS: st.SearchStrategy[dict[str, OptionValue]] = st.fixed_dictionaries(
    {},
    optional={
        "threshold": st.sampled_from([1.01, 1.01, 1.5, 2.0, 3.03, 8.0]),
        "preemption_ms": st.sampled_from([0.5, 3.0]),
        "ties": st.sampled_from(["higher", "lower"]),
    },
)


@st.composite
def crowds(draw: st.DrawFn, *, pools: int = 1, cut: bool = False) -> Scenario:
    """Make up a scenario with few instances and dense bursts, in which queues grow while small batches run."""
    services, grid, span = draw(st.integers(2, 4)), draw(st.sampled_from([1, MS // 2])), draw(st.integers(40, 120)) * MS
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    instants = []
    for _ in range(services):
        centres = rng.integers(0, span, draw(st.integers(1, 5)))
        ns = rng.choice(centres, draw(st.integers(5, 50))) + rng.integers(0, draw(st.integers(1, 30)) * MS, 1)
        spread = rng.integers(0, draw(st.integers(1, 12)) * MS, len(ns))
        instants.append(np.sort((ns + spread) // grid * grid).astype(np.int64))
    offsets = np.cumsum([0, *(len(ns) for ns in instants)]).astype(np.int64)
    end = int(max(ns[-1] for ns in instants)) + draw(st.sampled_from([1, 30, 200])) * MS
    inner = sorted(draw(st.integers(1, end - 1)) for _ in range(5 if cut else pools - 1))
    made = [draw(_narrow_pools(services)) for _ in range(pools)]
    sizes = np.arange(offsets[-1], dtype=np.float32)
    chosen = tuple(made[min(k, pools - 1)] for k in range(len(inner) + 1))
    return Scenario(chosen, (*inner, end), Arrivals(np.concatenate(instants), offsets, sizes))


@st.composite
def _narrow_pools(draw: st.DrawFn, services: int) -> Pool:
    largest = [draw(st.sampled_from([2, 8, 20, 20])) for _ in range(services)]
    lines = [(draw(st.sampled_from([0.1, 0.1, 0.5])), draw(st.sampled_from([1.0, 4.0, 9.0]))) for _ in largest]
    latency = np.full((services, max(largest) + 2), 3_600_000 * MS, np.int64)
    for s, (b, (alpha_ms, beta_ms)) in enumerate(zip(largest, lines, strict=True)):
        latency[s, : b + 1] = LatencyCurve.linear(alpha_ms, beta_ms).table_ns(b)[: b + 1]
    instances = draw(st.integers(1, 4))
    return Pool(
        active=np.arange(services),
        slo_ns=np.array([draw(st.sampled_from([12, 20, 30, 60])) * MS for _ in largest], np.int64),
        max_batch=np.array(largest, np.int64),
        latency_ns=latency,
        number=np.cumsum([draw(st.integers(1, 2)) for _ in range(instances)]).astype(np.int64),
        free_at_ns=np.zeros(instances, np.int64),
        control_ns=draw(st.sampled_from([0, 100_000])),
        data_ns=draw(st.sampled_from([0, 50_000])),
        response_ns=draw(st.sampled_from([0, 2 * MS])),
    )


@st.composite
def courses(draw: st.DrawFn, *, pools: int = 1, cut: bool = False) -> Course:
    """Make up a course, mostly one in which batches do run into each other."""
    loads = (
        scenarios("deferred", pools=pools, cut=cut) if draw(st.integers(0, 2)) == 0 else crowds(pools=pools, cut=cut)
    )
    scenario = with_kinds(draw, draw(loads), PARAMETERS)
    ways = ["left", "said"] if cut else ["left", "said", "booked"]
    return Course(scenario, tuple(draw(st.sampled_from(ways)) for _ in scenario.pools))


def follow(discipline: Discipline, course: Course, *, cut: bool = True) -> Run:
    """Play a course; requests are told apart by their size."""
    scenario = course.scenario
    ends, pools = (scenario.ends_ns, scenario.pools) if cut else (scenario.ends_ns[-1:], scenario.pools[-1:])
    state = discipline.initial_state(len(pools[0].slo_ns))
    since, accounts = -1, []
    left: dict[int, int] = {}
    said: dict[int, int] = {}
    for until, template, keeping in zip(ends, pools, course.keeping, strict=False):
        known = {"left": left, "said": said, "booked": {}}[keeping]
        given_ns = zip(template.number, template.free_at_ns, strict=True)
        free_at = np.array([known.get(int(n), int(ns)) for n, ns in given_ns], np.int64)
        pool = replace(template, free_at_ns=free_at)
        state, served = discipline.advance(state, between(scenario.arrivals, since, until), pool, until)
        accounts.append(served)
        for n, ns in zip(pool.number.tolist(), pool.free_at_ns.tolist(), strict=True):
            left[n], said[n] = ns, max(ns, said.get(n, 0)) if keeping != "booked" else ns
        since = until
    return collect(accounts, scenario.arrivals, pool)


def assert_lawful(run: Run, course: Course) -> None:
    """Hold a run against what may never be, whatever the rules."""
    scenario = course.scenario
    arrivals = scenario.arrivals
    batches = run.batches
    for number in np.unique(batches[:, 0]) if course.undisturbed else ():
        mine = batches[batches[:, 0] == number]
        mine = mine[np.lexsort((mine[:, 4], mine[:, 3]))]
        assert np.all(mine[1:, 3] >= mine[:-1, 4]), "an instance ran two batches at once"
    for s in range(len(arrivals.offsets) - 1):
        rows = np.arange(arrivals.offsets[s], arrivals.offsets[s + 1])
        served = rows[run.finish_ns[rows] > 0]
        mine = batches[(batches[:, 1] == s) & (batches[:, 2] > 0)]
        spans, count = np.unique(np.stack((run.start_ns[served], run.finish_ns[served]), 1), axis=0, return_counts=True)
        expected = {tuple(span): 0 for span in mine[:, 3:].tolist()}
        for size, *span in mine[:, 2:].tolist():
            expected[tuple(span)] += size
        assert dict(zip(map(tuple, spans.tolist()), count.tolist(), strict=True)) == expected
        lead = min(pool.control_ns + pool.data_ns for pool in scenario.pools)
        assert np.all(run.start_ns[served] >= arrivals.ns[served] + lead), "a request rode before it could be there"
        assert not run.start_ns[rows[run.finish_ns[rows] <= 0]].any()


@examples
@given(courses())
def test_kernel_equals_its_twin(course: Course) -> None:
    run = follow(Shepherd(), course)
    assert_lawful(run, course)
    assert_same(run, follow(ShepherdTwin(), course))


@examples
@given(courses(cut=True))
def test_cutting_time_changes_nothing(course: Course) -> None:
    """Nor does it matter whether the pool believes that a batch that was cut short frees its instance sooner."""
    run = follow(Shepherd(), course)
    assert_lawful(run, course)
    whole = follow(Shepherd(), course, cut=False)
    np.testing.assert_array_equal(run.finish_ns, whole.finish_ns)
    np.testing.assert_array_equal(run.start_ns, whole.start_ns)
    np.testing.assert_array_equal(run.batches, whole.batches)
    np.testing.assert_array_equal(run.free_at_ns, whole.free_at_ns)


@examples
@given(courses(pools=3))
def test_a_change_of_pool_loses_nobody(course: Course) -> None:
    run = follow(Shepherd(), course)
    assert_lawful(run, course)
    assert_same(run, follow(ShepherdTwin(), course))


@examples
@given(courses(cut=True))
def test_two_slos_after_the_last_arrival_everybody_is_settled(course: Course) -> None:
    """However long a batch runs over its time, it is in the account: offered = good + late + dropped."""
    scenario = course.scenario
    pool = scenario.pools[0]
    last = int(scenario.arrivals.ns.max(initial=scenario.ends_ns[0])) + 2 * int(pool.slo_ns.max()) + MS
    longer = replace(
        scenario, ends_ns=(*scenario.ends_ns, max(last, scenario.ends_ns[-1]) + 1), pools=(*scenario.pools, pool)
    )
    run = follow(Shepherd(), Course(longer, (*course.keeping, "left")))
    kinds = pool.by_kind()
    servable = [s for s in pool.active if len(kinds.of) and kinds.max_batch[np.unique(kinds.of), s].any()]
    for s in servable:
        assert np.all(run.finish_ns[scenario.arrivals.offsets[s] : scenario.arrivals.offsets[s + 1]] != 0)


@examples
@given(courses())
def test_nobody_is_planned_to_be_late(course: Course) -> None:
    """What runs no longer than planned is in time."""
    scenario = course.scenario
    kinds = [pool.by_kind() for pool in scenario.pools]
    if any(k.spread > 0 or np.any(k.run_ns > k.planned_ns) for k in kinds):
        return
    run, pool = follow(Shepherd(), course), scenario.pools[0]
    deadline = scenario.arrivals.ns + np.repeat(pool.slo_ns - pool.response_ns, np.diff(scenario.arrivals.offsets))
    served = run.finish_ns > 0
    assert np.all(run.finish_ns[served] <= deadline[served])


@pytest.mark.parametrize(
    ("key", "value"), [("threshold", 1.0), ("threshold", "3"), ("preemption_ms", -1), ("ties", "?")]
)
def test_a_wrong_parameter_is_named(key: str, value: OptionValue) -> None:
    nobody = np.empty(0, np.int64)
    table = np.full((1, 3), MS)
    pool = Pool(np.zeros(1, np.int64), np.array([MS]), np.ones(1, np.int64), table, nobody, nobody)
    wrong = replace(pool, parameters={key: value})
    state = Shepherd().initial_state(1)
    with pytest.raises(ConfigError) as told:
        Shepherd().advance(state, Arrivals.empty(1), wrong, 1)
    assert key in str(told.value)
    assert str(value) in str(told.value)


# In the simulated world ----------------------------------------------------------------------------------------------


INVENTORY = gpus(2)
SERVICES = tuple(service(name) for name in "ab")
"""One request takes 10 ms, each further one 1 ms more; the SLO is 100 ms."""


def world_of(instants: list[list[float]], span_s: float) -> tuple[World, SimulatedCluster, Recording]:
    """Hold two GPUs that serve both services together; instants are in ms."""
    recording = Recording(Shepherd())
    cluster = SimulatedCluster(INVENTORY, Delays(1.0, 0.5))
    cluster.begin_with(plan(SERVICES))
    at_ns = [np.array([round(ms * MS) for ms in own], np.int64) for own in instants]
    return make_world(SERVICES, at_ns, cluster, span_s=span_s, disciplines={"shepherd": recording}), cluster, recording


def plan(services: tuple[Service, ...], placement: Placement | None = None) -> Plan:
    """Plan two GPUs for the services, together unless they are placed apart."""
    batching = {s.name: Batching("shepherd") for s in services}
    wishes = Wishes({g.id: None for g in INVENTORY}, batching, placement)
    return build(2, wishes, services, INVENTORY, [1.0] * len(services), "")


def test_requests_of_a_running_batch_move_with_their_group_and_are_served_once() -> None:
    """a runs from 1 to 11 ms, b from 2 to 12 ms; at 5 ms they are put apart, and begin anew.

    Their GPUs are still busy with what was begun: a ends at 21 ms, b at 22 ms; both took 20 ms.
    """
    world, cluster, recording = world_of([[1.0], [2.0]], 1.0)
    world.advance(5 * MS)
    apart = plan(SERVICES, Placement(((("a",), 1.0), (("b",), 1.0))))
    cluster.apply(commands_for(apart, cluster.observe(world.now_ns)), world.now_ns)
    world.advance(1000 * MS)
    score = world.finish()
    assert (score.offered, score.good, score.dropped) == (2, 2, 0)
    assert score.batches == 2
    assert score.latency_ms.max == pytest.approx(20.0, rel=0.022)
    settled = [int(n) for r in recording.records for n in r.served.arrivals.size[r.served.finish_ns != 0]]
    assert sorted(settled) == [0, 1]


def test_the_end_of_a_run_settles_what_runs() -> None:
    """The last request comes 1 ms before the end, while both GPUs are busy with requests that came 2 ms before it."""
    world, _, recording = world_of([[997.0, 999.0], [997.0]], 1.0)
    world.advance(1000 * MS)
    assert sum(r.served.batch_size.sum() for r in recording.records) == 0
    score = world.finish()
    assert (score.offered, score.good, score.late, score.dropped) == (3, 3, 0, 0)
    assert sum(r.served.batch_size.sum() for r in recording.records) == 3


@pytest.mark.parametrize("steps", [7, 100])
def test_looking_at_the_world_more_often_changes_nothing(steps: int) -> None:
    """With as much load as makes batches cut others short."""
    instants = [list(random_instants(rate, 2.0, seed) / MS) for seed, rate in enumerate((300, 120))]
    scores = []
    for count in (1, steps):
        world, _, recording = world_of(instants, 2.0)
        for k in range(1, count + 1):
            world.advance(2000 * MS * k // count)
        scores.append(world.finish())
        assert sum(np.count_nonzero(r.served.batch_size == 0) for r in recording.records) > 10
    assert scores[0] == scores[1]


@pytest.mark.skipif(not JIT, reason="this is the run without compilation")
def test_plain_python_runs_the_same_kernel() -> None:
    """Run uncompiled, it must pass the same tests (index errors show only here)."""
    assert_passes_uncompiled(__file__)
