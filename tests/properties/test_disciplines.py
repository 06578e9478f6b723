"""Disciplines over random pools and loads: kernel against plain twin, and the invariants of a simulation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles.adaptive_twin import AdaptiveTwin
from oracles.deferred_twin import DeferredTwin
from oracles.sizes_twin import mean_ns, planned_ns
from oracles.timeout_twin import TimeoutTwin
from properties.drawn_sizes import let_sizes_count

from partita.model.cluster import OptionValue
from partita.model.load import Arrivals
from partita.model.service import LatencyCurve
from partita.ports import Discipline, Kinds, Pool, Served
from partita.replay.disciplines import Adaptive, Deferred, Eager, Timeout
from partita.replay.disciplines.deferred import DROP_RULES, MATCHES, ORDERS, WINDOWS

MS = 1_000_000
HALF = 500 * MS
JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") != "1"
EXAMPLES = int(os.environ.get("PARTITA_EXAMPLES", "30" if JIT else "8"))
FAMILY = ("deferred", "eager", "adaptive")
TWINS: dict[str, tuple[Discipline, Discipline]] = {
    "deferred": (Deferred(), DeferredTwin()),
    "eager": (Eager(), DeferredTwin("eager")),
    "adaptive": (Adaptive(), AdaptiveTwin()),
    "timeout": (Timeout(), TimeoutTwin()),
}

examples = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="PARTITA_EXAMPLES" not in os.environ,  # who asks for more examples searches anew
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Scenario:
    """Pools that follow one another, the instants at which each one ends, and their load."""

    pools: tuple[Pool, ...]
    ends_ns: tuple[int, ...]
    arrivals: Arrivals


@st.composite
def scenarios(draw: st.DrawFn, discipline: str, *, pools: int = 1, cut: bool = False) -> Scenario:
    """Make up a scenario; instants lie on a grid of 1 ns, 0.5 ms or 1 ms, on which exact ties are common."""
    services = draw(st.integers(1, 5))
    grid = draw(st.sampled_from([1, MS // 2, MS]))
    span_ms = draw(st.sampled_from([20, 150, 900]))
    begin = draw(st.sampled_from([0, 1_763_900_000_000_000_000]))
    per_service = [_instants(draw, grid, span_ms) + begin for _ in range(services)]
    pause = draw(st.sampled_from([0, 0, 0, 6_000])) * MS  # longer than the rate meter looks back
    per_service = [np.where(ns > begin + span_ms * MS // 2, ns + pause, ns) for ns in per_service]
    offsets = np.concatenate(([0], np.cumsum([len(ns) for ns in per_service]))).astype(np.int64)
    ns = np.concatenate(per_service)
    end = begin + span_ms * MS + pause + 1 + draw(st.sampled_from([0, 20, 500])) * MS
    inner = sorted(draw(_cuts(begin, end, grid)) for _ in range(5 if cut else pools - 1))
    made = [draw(_pools(discipline, services, grid, begin)) for _ in range(pools)]
    sized, arrivals = let_sizes_count(draw, made, Arrivals(ns, offsets, np.arange(len(ns), dtype=np.float32)))
    return Scenario(tuple(sized[min(k, pools - 1)] for k in range(len(inner) + 1)), (*inner, end), arrivals)


def _cuts(begin: int, end: int, grid: int) -> st.SearchStrategy[int]:
    """Draw an instant after `begin`, on the grid or not; whole per cents, as large integers are drawn small."""
    at = st.integers(0, 100).map(lambda k: begin + 1 + (end - begin - 1) * k // 100)
    return at | at.map(lambda ns: min(end, -(-ns // grid) * grid))


@st.composite
def _pools(draw: st.DrawFn, discipline: str, services: int, grid: int, begin: int) -> Pool:
    max_batch = [draw(st.sampled_from([1, 2, 3, 8, 40])) for _ in range(services)]
    width = max(max_batch) + 2
    active = draw(st.sets(st.integers(0, services - 1), min_size=1)) if draw(st.integers(0, 2)) else range(services)
    instances = draw(st.integers(0, 12))
    busy = draw(st.sampled_from([0, 30, 400]))
    pool = Pool(
        active=np.array(sorted(active), np.int64),
        slo_ns=np.array([draw(st.integers(4, 80)) * MS for _ in range(services)], np.int64),
        max_batch=np.array(max_batch, np.int64),
        latency_ns=np.stack([_table(draw(_curves(grid)), largest, width) for largest in max_batch]),
        number=np.cumsum([draw(st.integers(1, 3)) for _ in range(instances)]).astype(np.int64),
        free_at_ns=np.array([draw(st.integers(0, busy)) * MS + begin for _ in range(instances)], np.int64),
        control_ns=draw(st.sampled_from([0, 1_000, 100_000, MS])),
        data_ns=draw(st.sampled_from([0, 50_000, MS])),
        response_ns=draw(st.sampled_from([0, 2 * MS])),
        jitter_ns=draw(st.sampled_from([0, 100_000])),
        parameters=draw(_parameters(discipline)),
    )
    return draw(_mixed(pool)) if discipline in FAMILY and draw(st.booleans()) else pool


@st.composite
def _mixed(draw: st.DrawFn, pool: Pool) -> Pool:
    """Make the instances differ in pace, largest batch and services; what the pool had is what the slowest does."""
    count = draw(st.integers(1, 3))
    paces = np.array([draw(st.sampled_from([10, 10, 8, 4])) for _ in range(count)], np.int64)
    services, width = pool.latency_ns.shape
    largest = np.array([[draw(_limit(int(b))) for b in pool.max_batch] for _ in paces], np.int64)
    longer = int(largest.max()) + 2
    planned = np.full((count, services, max(width, longer)), 3_600_000 * MS, np.int64)
    for k, s in np.ndindex(count, services):
        b = np.arange(int(largest[k, s]) + 1)
        line = pool.latency_ns[s, pool.max_batch[s]] + np.maximum(0, b - pool.max_batch[s]) * MS
        known = pool.latency_ns[s, np.minimum(b, pool.max_batch[s])]
        planned[k, s, : len(b)] = np.where(b <= pool.max_batch[s], known, line) * paces[k] // 10
    kinds = Kinds(
        of=np.array([draw(st.integers(0, count - 1)) for _ in pool.number], np.int64),
        max_batch=largest,
        planned_ns=planned,
        run_ns=np.maximum(1, planned * draw(st.sampled_from([10, 10, 9, 12])) // 10),
        spread=draw(st.sampled_from([0.0, 0.0, 0.3])),
        seed=draw(st.integers(0, 5)),
    )
    return replace(pool, kinds=kinds)


def _limit(largest: int) -> st.SearchStrategy[int]:
    """Draw the largest batch of a kind: at least the pool's, or none."""
    return st.sampled_from([largest, largest, largest + 1, 2 * largest, 0])


def _curves(grid: int) -> st.SearchStrategy[LatencyCurve]:
    """Lines and measured points whose latencies rise."""
    unit = max(grid, MS // 10)
    times = st.lists(st.integers(1, 12 * MS // unit), min_size=2, max_size=4).map(sorted)
    points = times.map(lambda t: LatencyCurve("whole", tuple((1 + 5 * k, n * unit / 1e9) for k, n in enumerate(t))))
    lines = st.tuples(st.integers(1, 20), st.integers(0, 60)).map(
        lambda ab: LatencyCurve.linear(ab[0] * 0.1, ab[1] * 0.1, up_to=64)
    )
    return st.one_of(lines, points)


def _table(curve: LatencyCurve, largest: int, width: int) -> NDArray[np.int64]:
    return np.concatenate((curve.table_ns(largest), np.full(width, 3_600_000 * MS)))[:width]


def _instants(draw: st.DrawFn, grid: int, span_ms: int) -> NDArray[np.int64]:
    """Draw one service's arrivals: even, at random, or in bursts of simultaneous ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.sampled_from([0, 1, 5, 30, 90]))
    span = span_ms * MS
    match draw(st.sampled_from(["random", "even", "bursts"])):
        case "random":
            ns = rng.integers(0, span, count)
        case "even":
            ns = np.arange(count) * (span // max(1, count))
        case _:
            ns = rng.choice(rng.integers(0, span, 4), count)
    return np.sort(ns // grid * grid).astype(np.int64)


@st.composite
def pressed(draw: st.DrawFn, *, silence_ms: int = 0) -> Scenario:
    """Make up several seconds of a load that keeps a pool about as busy as it can be, half-way a pool of another size.

    In the middle nobody comes for `silence_ms`. Times are such that a few hundred requests a second do, so that plain
    Python can follow.
    """
    services, grid = draw(st.integers(1, 4)), draw(st.sampled_from([1, MS // 2, 5 * MS]))
    begin = draw(st.sampled_from([0, 1_763_900_000_000_000_000])) + draw(st.sampled_from([0, 123_456_789]))
    # The meter looks back five seconds.
    end = begin + draw(st.integers(1_500, 4_000) | st.integers(1_500, 4_000) | st.integers(6_000, 9_000)) * MS
    betas = st.integers(3, 40) | st.integers(3, 40) | st.just(0.2)  # with next to no overhead, waiting saves nothing
    curves = [LatencyCurve.linear(draw(st.integers(2, 6)), draw(betas), up_to=64) for _ in range(services)]
    slo_ms = [draw(st.integers(50, 300)) for _ in range(services)]
    largest = [max(1, min(24, curve.largest_within(slo / 1e3))) for curve, slo in zip(curves, slo_ms, strict=True)]
    pool = Pool(
        active=np.arange(services),
        slo_ns=np.array(slo_ms, np.int64) * MS,
        max_batch=np.array(largest, np.int64),
        latency_ns=np.stack([_table(curve, b, 26) for curve, b in zip(curves, largest, strict=True)]),
        number=np.arange(draw(st.integers(1, 5))),
        free_at_ns=np.zeros(0, np.int64),
        control_ns=draw(st.sampled_from([0, 100_000])),
        data_ns=draw(st.sampled_from([0, 50_000])),
        response_ns=draw(st.sampled_from([0, 2 * MS])),
        jitter_ns=draw(st.sampled_from([0, 100_000])),
        parameters=draw(_parameters("adaptive")),
    )
    made = []
    for instances in (len(pool.number), max(1, len(pool.number) + draw(st.integers(-1, 1)))):
        free = np.full(instances, begin, np.int64)
        active = pool.active if draw(st.integers(0, 2)) else pool.active[: max(1, services - 1)]
        made.append(replace(pool, active=active, number=np.arange(instances), free_at_ns=free))
        made[-1] = draw(_mixed(made[-1])) if draw(st.integers(0, 3)) == 0 else made[-1]
    busy = draw(st.floats(0.5, 1.5)) * len(pool.number) / services
    each = [int(pool.latency_ns[s, b]) / b for s, b in enumerate((np.array(largest) + 1) // 2)]
    per_service = [_renewals(draw, busy / ns, begin, end) // grid * grid for ns in each]
    per_service = [np.where(ns > (begin + end) // 2, ns + silence_ms * MS, ns) for ns in per_service]
    end += silence_ms * MS
    steps = st.sampled_from([at for at in range(begin // HALF * HALF, end, HALF) if at > begin])
    cuts = _cuts(begin, end, grid) | steps  # they end at whole half seconds
    ends = sorted({end, *(draw(cuts) for _ in range(draw(st.integers(0, 4))))})
    offsets = np.concatenate(([0], np.cumsum([len(ns) for ns in per_service]))).astype(np.int64)
    change = draw(st.integers(0, len(ends)))
    arrivals = Arrivals(np.concatenate(per_service), offsets, np.arange(offsets[-1], dtype=np.float32))
    sized, arrivals = let_sizes_count(draw, made, arrivals)
    return Scenario(tuple(sized[int(k >= change)] for k in range(len(ends))), tuple(ends), arrivals)


def _renewals(draw: st.DrawFn, per_ns: float, begin: int, end: int) -> NDArray[np.int64]:
    """Draw arrivals whose gaps follow a Gamma law: Poisson, or clumped."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([1.0, 1.0, 0.2, 0.05]))
    count = int((end - begin) * per_ns)
    ns = begin + np.cumsum(rng.gamma(shape, 1 / (shape * per_ns), count)).astype(np.int64)
    return ns[ns < end]


def _parameters(discipline: str) -> st.SearchStrategy[Mapping[str, OptionValue]]:
    choice = st.sampled_from(["min-id", "earliest"])
    if discipline == "timeout":
        policy, delay = st.sampled_from(["none", "reject"]), st.sampled_from([0.0, 0.5, 5.0, 60.0])
        return st.fixed_dictionaries({"gpu_choice": choice, "queue_policy": policy, "timeout_ms": delay})
    common = {"gpu_choice": choice, "match": st.sampled_from([*MATCHES]), "order": st.sampled_from([*ORDERS])}
    if discipline == "adaptive":
        return st.fixed_dictionaries(common)
    # More often than the rest: the defaults, by which nearly everybody goes.
    drop = st.sampled_from(["window", *DROP_RULES])
    window = st.sampled_from(["frontrun", "frontrun", *WINDOWS])
    share = st.sampled_from([0.0, 0.1, 0.5])
    return st.fixed_dictionaries({**common, "drop": drop, "window": window, "wait_share": share})


@dataclass(frozen=True)
class Run:
    """Everything that happened: requests by row, batches by advance, and when the last pool's instances are free."""

    start_ns: NDArray[np.int64]
    finish_ns: NDArray[np.int64]
    advances: tuple[NDArray[np.int64], ...]
    free_at_ns: NDArray[np.int64]

    @property
    def batches(self) -> NDArray[np.int64]:
        """All batches: instance, service, size, start, finish."""
        return np.concatenate(self.advances)


def play(discipline: Discipline, scenario: Scenario, *, cut: bool = True) -> Run:
    """Play a scenario, in one go if it shall not be cut; requests are told apart by their size.

    An instance that comes back in another pool is busy for as long as it was.
    """
    ends, pools = (scenario.ends_ns, scenario.pools) if cut else (scenario.ends_ns[-1:], scenario.pools[-1:])
    state = discipline.initial_state(len(pools[0].slo_ns))
    since, last, accounts = -1, None, []
    free: dict[int, int] = {}
    for until, template in zip(ends, pools, strict=True):
        if template is not last:
            own = zip(template.number.tolist(), template.free_at_ns.tolist(), strict=True)
            pool = replace(template, free_at_ns=np.array([max(at, free.get(g, at)) for g, at in own], np.int64))
        state, served = discipline.advance(state, between(scenario.arrivals, since, until), pool, until)
        free |= zip(pool.number.tolist(), pool.free_at_ns.tolist(), strict=True)
        accounts.append(served)
        since, last = until, template
    return collect(accounts, scenario.arrivals, pool)


def between(arrivals: Arrivals, since: int, until: int) -> Arrivals:
    """Keep the arrivals of one interval."""
    keep = (arrivals.ns >= since) & (arrivals.ns < until)
    offsets = np.concatenate(([0], np.cumsum(keep)))[arrivals.offsets]
    return Arrivals(arrivals.ns[keep], offsets, arrivals.size[keep])


def collect(accounts: list[Served], arrivals: Arrivals, pool: Pool) -> Run:
    """Join the accounts of several advances; sizes are the numbers from 0 on."""
    start, finish = np.zeros(len(arrivals), np.int64), np.zeros(len(arrivals), np.int64)
    row_of = np.argsort(arrivals.size)
    for served in accounts:
        row = row_of[served.arrivals.size.astype(np.int64)]
        assert np.all(finish[row] == 0), "a settled request came again"
        start[row], finish[row] = served.start_ns, served.finish_ns
    columns = [
        np.stack([s.batch_instance, s.batch_service, s.batch_size, s.batch_start_ns, s.batch_finish_ns], axis=1)
        for s in accounts
    ]
    return Run(start, finish, tuple(columns), pool.free_at_ns.copy())


def assert_same(one: Run, other: Run) -> None:
    """Compare request by request, batch by batch, instance by instance."""
    np.testing.assert_array_equal(one.finish_ns, other.finish_ns)
    np.testing.assert_array_equal(one.start_ns, other.start_ns)
    np.testing.assert_array_equal(one.batches, other.batches)
    np.testing.assert_array_equal(one.free_at_ns, other.free_at_ns)


def assert_lawful(run: Run, scenario: Scenario) -> None:
    """Hold a run against what no discipline may do, whatever its rules."""
    arrivals, since = scenario.arrivals, -(2**62)
    for pool, batches, until in zip(scenario.pools, run.advances, scenario.ends_ns, strict=True):
        number, service, size, start, finish = batches.T
        lead = pool.control_ns + pool.data_ns * size
        assert np.all(np.isin(number, pool.number)), "a batch ran on an instance that is not there"
        assert np.all(np.isin(service, pool.active)), "a service was served that the pool does not serve"
        kinds, place = pool.by_kind(), np.searchsorted(pool.number, number)
        largest = kinds.max_batch if pool.sizes is None else pool.sizes.max_batch_of
        assert np.all((size >= 1) & (size <= largest[kinds.of[place], service])), "a batch is larger than allowed"
        assert np.all(start >= since + lead), "a batch was granted before the advance began"
        assert np.all(start >= pool.free_at_ns[place]), "an instance ran before it was free"
        since = until
    for number in np.unique(run.batches[:, 0]):
        mine = run.batches[run.batches[:, 0] == number]
        assert np.all(mine[1:, 3] >= mine[:-1, 4]), "an instance ran two batches at once"
        if number in scenario.pools[-1].number:
            assert run.free_at_ns[np.searchsorted(scenario.pools[-1].number, number)] >= mine[-1, 4]
    leads = np.concatenate(
        [p.control_ns + p.data_ns * b[:, 2] for p, b in zip(scenario.pools, run.advances, strict=True)]
    )
    for s in range(len(arrivals.offsets) - 1):
        rows = np.arange(arrivals.offsets[s], arrivals.offsets[s + 1])
        served = rows[run.finish_ns[rows] > 0]
        mine = run.batches[:, 1] == s
        assert len(served) == run.batches[mine, 2].sum(), "requests served and sizes of batches differ"
        # Batches take the oldest requests that are left, so that row order is the order of service.
        assert_took_their_time(run, scenario, s, served)
        start, finish, lead = (np.repeat(x[mine], run.batches[mine, 2]) for x in (*run.batches.T[3:], leads))
        np.testing.assert_array_equal(run.start_ns[served], start)
        np.testing.assert_array_equal(run.finish_ns[served], finish)
        assert np.all(start >= arrivals.ns[served] + lead), "a request rode before it could be there"
        given_up, waiting = rows[run.finish_ns[rows] == -1], rows[run.finish_ns[rows] == 0]
        assert len(served) + len(given_up) + len(waiting) == len(rows)
        assert not run.start_ns[np.concatenate((given_up, waiting))].any()


def assert_took_their_time(run: Run, scenario: Scenario, s: int, served: NDArray[np.int64]) -> None:
    """See that each batch of a service took what its largest input takes; its requests were served in this order."""
    for pool, (number, size, start, finish), riders in batches_of(run, scenario, s, served):
        if pool.by_kind().spread == 0.0:
            g = int(np.searchsorted(pool.number, number))
            assert finish - start == mean_ns(pool, g, s, size, riders), "a batch did not take its time"


def batches_of(
    run: Run, scenario: Scenario, s: int, served: NDArray[np.int64]
) -> Iterator[tuple[Pool, tuple[int, int, int, int], list[float]]]:
    """Yield pool, batch (instance, size, start, finish) and sizes of the inputs of each batch of a service."""
    sizes = scenario.arrivals.size[served].tolist()
    for pool, batches in zip(scenario.pools, run.advances, strict=True):
        for number, _, size, start, finish in batches[batches[:, 1] == s].tolist():
            riders, sizes = sizes[:size], sizes[size:]
            yield pool, (number, size, start, finish), riders


@pytest.mark.parametrize("name", TWINS)
def test_kernel_equals_its_twin(name: str) -> None:
    kernel, twin = TWINS[name]

    @examples
    @given(scenarios(name))
    def holds(scenario: Scenario) -> None:
        run = play(kernel, scenario)
        assert_lawful(run, scenario)
        assert_same(run, play(twin, scenario))

    holds()


def test_adaptive_equals_its_twin_under_pressure() -> None:
    """Where the load is as much as a pool can take, rules are tried, and others than the first are put in charge."""
    kernel, twin = TWINS["adaptive"]
    tried, followed = [], []

    @settings(examples, max_examples=max(12, EXAMPLES // 3))  # seconds of load, in plain Python
    @given(pressed())
    def holds(scenario: Scenario) -> None:
        run = play(kernel, scenario)
        assert_lawful(run, scenario)
        assert_same(run, play(twin, scenario))
        state = kernel.initial_state(len(scenario.pools[0].slo_ns))
        for since, until, template in zip((-1, *scenario.ends_ns), scenario.ends_ns, scenario.pools, strict=False):
            pool = replace(template, free_at_ns=template.free_at_ns.copy())
            state, _ = kernel.advance(state, between(scenario.arrivals, since, until), pool, until)
            tried.append(bool(any(state.ranking.worse)))
            followed.append(state.ranking.leader)

    holds()
    assert np.mean(tried) > 0.3, "in too few scenarios rules were tried"
    assert len(set(followed)) >= 4, "too few rules were ever in charge"
    assert np.mean(np.array(followed) > 0) > 0.1, "in too few scenarios another rule than the first was followed"


@pytest.mark.parametrize("name", TWINS)
def test_cutting_time_changes_nothing(name: str) -> None:
    kernel, _ = TWINS[name]

    @examples
    @given(scenarios(name, cut=True))
    def holds(scenario: Scenario) -> None:
        run = play(kernel, scenario)
        assert_lawful(run, scenario)
        assert_same(run, play(kernel, scenario, cut=False))

    holds()


def test_cutting_time_changes_nothing_under_pressure() -> None:
    """What adaptive batching has learned does not hang on how often it is asked, not even in a silence."""
    kernel, _ = TWINS["adaptive"]

    @examples
    @given(pressed(silence_ms=4_000))
    def holds(scenario: Scenario) -> None:
        unchanged = replace(scenario, pools=scenario.pools[:1] * len(scenario.ends_ns))
        assert_same(play(kernel, unchanged), play(kernel, unchanged, cut=False))

    holds()


@pytest.mark.parametrize("name", TWINS)
def test_a_change_of_pool_keeps_the_queues(name: str) -> None:
    kernel, twin = TWINS[name]

    @examples
    @given(scenarios(name, pools=3))
    def holds(scenario: Scenario) -> None:
        run = play(kernel, scenario)
        assert_lawful(run, scenario)
        assert_same(run, play(twin, scenario))

    holds()


@pytest.mark.parametrize("name", FAMILY)
def test_no_batch_is_planned_past_a_deadline(name: str) -> None:
    """What a batch really takes may differ from what its instance is known for; nothing else makes an answer late."""
    kernel, _ = TWINS[name]

    @examples
    @given(scenarios(name))
    def holds(scenario: Scenario) -> None:
        pool = scenario.pools[0]
        drop = str(pool.parameters.get("drop", "window"))
        pool = replace(pool, parameters={**pool.parameters, "drop": "window" if drop == "never" else drop})
        scenario = replace(scenario, pools=(pool,))
        run = play(kernel, scenario)
        for s, (first, end) in enumerate(pairwise(scenario.arrivals.offsets)):
            served = first + np.flatnonzero(run.finish_ns[first:end] > 0)
            deadlines = (scenario.arrivals.ns[served] + pool.slo_ns[s] - pool.response_ns).tolist()
            for _, (number, size, start, _), riders in batches_of(run, scenario, s, served):
                planned = start + planned_ns(pool, int(np.searchsorted(pool.number, number)), s, size, riders)
                assert planned <= deadlines[0]
                del deadlines[:size]

    holds()


def assert_passes_uncompiled(path: str) -> None:
    """Run a file's tests of twins and changes without the JIT, and fewer examples of them."""
    command = [sys.executable, "-m", "pytest", "-q", path, "-k", "twin or change"]
    searching = {"PARTITA_EXAMPLES": "24"} if "PARTITA_EXAMPLES" in os.environ else {}
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", **searching}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not JIT, reason="this is the run without compilation")
def test_plain_python_runs_the_same_kernels() -> None:
    """The kernels are Python too; run uncompiled, they must pass the same tests (index errors show only here)."""
    assert_passes_uncompiled(__file__)
