"""Random pools whose instances differ, for the properties of disciplines that look at kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray
from properties.drawn_sizes import let_sizes_count
from properties.test_disciplines import Run, Scenario, assert_same, play, scenarios

from partita.errors import ConfigError
from partita.model.cluster import OptionValue
from partita.model.load import Arrivals
from partita.ports import Discipline, Kinds, Pool

Options = Mapping[str, OptionValue]
Lead = Callable[[Pool, NDArray[np.int64]], NDArray[np.int64]]
"""What lies between decision and start of batches of these sizes."""


@st.composite
def mixed(
    draw: st.DrawFn,
    common: st.SearchStrategy[Options],
    own: st.SearchStrategy[Options],
    *,
    pools: int = 1,
    cut: bool = False,
) -> Scenario:
    """Make up a scenario with several kinds of instances, options of all services and options of each one."""
    scenario = draw(scenarios("timeout", pools=pools, cut=cut))
    made: dict[int, Pool] = {}
    for pool in scenario.pools:
        if id(pool) not in made:
            everybody = draw(common)
            by_service = tuple({**everybody, **draw(own)} for _ in pool.slo_ns)
            kinds = draw(_kinds(pool)) if draw(st.integers(0, 4)) else None
            made[id(pool)] = replace(pool, parameters={}, by_service=by_service, kinds=kinds)
    pools_, arrivals = let_sizes_count(draw, [made[id(pool)] for pool in scenario.pools], scenario.arrivals)
    return replace(scenario, pools=pools_, arrivals=arrivals)


@st.composite
def _kinds(draw: st.DrawFn, pool: Pool) -> Kinds:
    """Make up one to three kinds: each runs everything at its own pace, and may be unable to serve a service."""
    count = draw(st.integers(1, 3))
    paces = np.array([draw(st.sampled_from([10, 10, 13, 25])) for _ in range(count)], np.int64)
    largest = np.array(
        [[draw(st.sampled_from([int(b), int(b), 1, (int(b) + 1) // 2, 0])) for b in pool.max_batch] for _ in paces],
        np.int64,
    )
    planned = pool.latency_ns[None, :, :] * paces[:, None, None] // 10
    return Kinds(
        of=np.array([draw(st.integers(0, count - 1)) for _ in pool.number], np.int64),
        max_batch=largest,
        planned_ns=planned,
        run_ns=np.maximum(1, planned * draw(st.sampled_from([10, 10, 9])) // 10),
        spread=draw(st.sampled_from([0.0, 0.0, 0.3])),
        seed=draw(st.integers(0, 5)),
    )


@st.composite
def refined(draw: st.DrawFn, scenario: Scenario) -> Scenario:
    """Cut each pool's time at more instants; nothing else changes."""
    ends, pools, since = [], [], int(scenario.arrivals.ns.min(initial=scenario.ends_ns[0]))
    for pool, end in zip(scenario.pools, scenario.ends_ns, strict=True):
        inner = sorted({since + draw(st.integers(1, max(1, end - since))) for _ in range(draw(st.integers(0, 3)))})
        inner = [at for at in inner if at < end]
        ends += [*inner, end]
        pools += [pool] * (len(inner) + 1)
        since = max(since, end)
    return Scenario(tuple(pools), tuple(ends), scenario.arrivals)


def assert_lawful(
    run: Run,
    scenario: Scenario,
    lead: Lead,
    *,
    exact: bool = True,
) -> None:
    """Hold a run on mixed pools against what no discipline may do; `lead` lies before the start of these sizes.

    Where batches are not `exact`, they may be filled up with copies.
    """
    since = -(2**62)
    leads = []
    for pool, batches, until in zip(scenario.pools, run.advances, scenario.ends_ns, strict=True):
        number, service, size, start, finish = batches.T
        kinds, place = pool.by_kind(), np.searchsorted(pool.number, number)
        assert np.all(np.isin(number, pool.number)), "a batch ran on an instance that is not there"
        assert np.all(np.isin(service, pool.active)), "a service was served that the pool does not serve"
        kind = kinds.of[place]
        assert np.all((size >= 1) & (size <= kinds.max_batch[kind, service])), "a batch is larger than allowed"
        if kinds.spread == 0 and exact:
            run_ns = kinds.run_ns[kind, service, size]
            if pool.sizes is None:
                assert np.all(finish - start == run_ns), "a batch did not take its time"
            assert np.all(finish - start <= run_ns), "a batch took longer than with the largest inputs"
        assert np.all(start >= since), "a batch was granted before the advance began"
        leads.append(lead(pool, size))
        since = until
    if len(set(map(id, scenario.pools))) == 1:
        pool = scenario.pools[0]
        for place, number in enumerate(pool.number):
            mine = run.batches[run.batches[:, 0] == number]
            ready = np.concatenate((pool.free_at_ns[[place]], mine[:, 4]))
            assert np.all(mine[:, 3] >= ready[:-1]), "an instance ran two batches at once, or before it was free"
            assert run.free_at_ns[place] == ready[-1]
    arrivals, every_lead = scenario.arrivals, np.concatenate(leads)
    for s in range(len(arrivals.offsets) - 1):
        rows = np.arange(arrivals.offsets[s], arrivals.offsets[s + 1])
        fate = run.finish_ns[rows]
        served, mine = rows[fate > 0], run.batches[:, 1] == s
        assert len(served) + np.count_nonzero(fate == -1) + np.count_nonzero(fate == 0) == len(rows)
        assert not run.start_ns[rows[fate <= 0]].any()
        size = run.batches[mine, 2]
        assert len(served) == size.sum(), "requests served and sizes of batches differ"
        ran = np.stack((run.start_ns[served], run.finish_ns[served]))
        seats = np.stack([np.repeat(column, size) for column in run.batches[mine, 3:5].T])
        np.testing.assert_array_equal(ran[:, np.lexsort(ran)], seats[:, np.lexsort(seats)])
        earliest = every_lead[mine].min(initial=0)
        assert np.all(run.start_ns[served] >= arrivals.ns[served] + earliest), "a request rode before it was there"


def small_pool(*own: Options) -> Pool:
    """Make a pool of one instance whose services have these options."""
    services = len(own)
    return Pool(
        active=np.arange(services),
        slo_ns=np.full(services, 25_000_000),
        max_batch=np.full(services, 2),
        latency_ns=np.tile(np.array([0, 6_000_000, 7_000_000, 8_000_000]), (services, 1)),
        number=np.array([3]),
        free_at_ns=np.zeros(1, np.int64),
        by_service=own,
    )


def lead_of_each(pool: Pool, size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what lies before a batch where every request makes its way when it arrives."""
    return np.full(len(size), pool.control_ns + pool.data_ns)


def lead_of_batch(pool: Pool, size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what lies before a batch where its requests make their way together."""
    return pool.control_ns + pool.data_ns * size


def assert_equals_its_twin(
    discipline: Discipline, twin: Discipline, scenario: Scenario, lead: Lead, *, exact: bool = True
) -> None:
    """Hold a kernel against its twin, request by request."""
    run = play(discipline, scenario)
    assert_lawful(run, scenario, lead, exact=exact)
    assert_same(run, play(twin, scenario))


def assert_cuts_change_nothing(discipline: Discipline, scenario: Scenario, lead: Lead, *, exact: bool = True) -> None:
    """Hold a run that is cut into many advances against the same run in one."""
    run = play(discipline, scenario)
    assert_lawful(run, scenario, lead, exact=exact)
    assert_same(run, play(discipline, scenario, cut=False))


def assert_change_keeps_the_queues(
    discipline: Discipline, twin: Discipline, scenario: Scenario, data: st.DataObject, lead: Lead, *, exact: bool = True
) -> None:
    """Hold a run over several pools against its twin, and against itself with further cuts."""
    run = play(discipline, scenario)
    assert_lawful(run, scenario, lead, exact=exact)
    assert_same(run, play(twin, scenario))
    assert_same(run, play(discipline, data.draw(refined(scenario))))


def assert_planned_in_time(discipline: Discipline, scenario: Scenario) -> None:
    """Where batches take what was planned, nobody who rides is answered after the deadline."""
    pool = scenario.pools[0]
    kinds = pool.by_kind()
    if kinds.spread == 0 and np.all(kinds.run_ns <= kinds.planned_ns):
        run = play(discipline, scenario)
        deadline = scenario.arrivals.ns + np.repeat(pool.slo_ns - pool.response_ns, np.diff(scenario.arrivals.offsets))
        served = run.finish_ns > 0
        assert np.all(run.finish_ns[served] <= deadline[served])


def assert_setting_is_named(discipline: Discipline, own: tuple[Options, ...], key: str, text: str) -> None:
    """See a setting that makes no sense refused, by its name."""
    with pytest.raises(ConfigError, match=text) as raised:
        discipline.advance(discipline.initial_state(len(own)), Arrivals.empty(len(own)), small_pool(*own), 1)
    assert raised.value.key == f"discipline.{key}"
