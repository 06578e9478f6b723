"""Queues and routing of the runtime, without clock or processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from local.harness import OVERHEADS, service
from miniature import BUILT_IN, gpus

from partita.executors.local.dispatcher import Astray, Dispatcher, Turned
from partita.executors.local.requests import Request
from partita.model.cluster import Batching, Route, SubCluster, instances_of
from partita.model.load import Arrivals
from partita.ports import Discipline, Pool, Served
from partita.replay.pools import PoolMaker

MS = 1_000_000
SERVICES = tuple(service(name) for name in "abc")
FIRST, SECOND = (instances_of(gpu, None)[0] for gpu in gpus(2))
ONE = np.zeros(1, np.int64)


def dispatcher(**more: Discipline) -> Dispatcher:
    return Dispatcher([s.name for s in SERVICES], {**BUILT_IN, **more}, PoolMaker(SERVICES, OVERHEADS).pool)


def group(name: str, services: str, discipline: str = "timeout", **how: Any) -> SubCluster:
    return SubCluster(name, (FIRST,), tuple(services), (Batching(discipline, **how),) * len(services))


def routes(*groups: SubCluster) -> list[Route]:
    return [Route(s, g.name) for g in groups for s in g.services]


def request(service: int, at_ns: int, size: float = nan) -> Request:
    return Request(service, size, at_ns, asyncio.get_running_loop().create_future())


def play(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def turn(queues: Dispatcher, name: str, now_ns: int) -> Turned:
    found = next(g for g in queues.groups if g.plan.name == name)
    return queues.turn(found, ONE, ONE.copy(), now_ns)


def test_a_batch_holds_the_requests_that_were_granted_it_in_order() -> None:
    async def story() -> None:
        queues, plan = dispatcher(), group("all", "abc", timeout_s=0.01)
        queues.regroup([plan], routes(plan), 1)
        sent = [request(n % 2, 10 + n) for n in range(6)]
        assert all(queues.admit(r) for r in sent)
        assert turn(queues, "all", 5 * MS).grants == []
        assert queues.waiting() == 6
        grants = turn(queues, "all", 500 * MS).grants
        assert [(g.service, g.requests) for g in grants] == [(0, sent[0::2]), (1, sent[1::2])]
        assert queues.waiting() == 0

    play(story())


def test_what_a_discipline_drops_is_told() -> None:
    async def story() -> None:
        queues, plan = dispatcher(), group("all", "a", "deferred")
        queues.regroup([plan], routes(plan), 1)
        hopeless = request(0, 5)
        queues.admit(hopeless)
        nobody = np.empty(0, np.int64)
        turned = queues.turn(queues.groups[0], nobody, nobody, 200 * MS)
        assert (turned.grants, turned.dropped) == ([], [])
        queues.admit(request(0, 250 * MS))
        turned = queues.turn(queues.groups[0], nobody, nobody, 260 * MS)
        assert turned.dropped == [hopeless]
        assert queues.waiting() == 1

    play(story())


def test_requests_that_wait_move_with_their_service_in_order_of_arrival() -> None:
    async def story() -> None:
        queues, both = dispatcher(), group("all", "ab", timeout_s=1.0)
        queues.regroup([both], routes(both), 1)
        sent = [request(n % 2, 10 + n) for n in range(6)]
        for r in sent[:4]:
            queues.admit(r)
        turn(queues, "all", 1 * MS)
        for r in sent[4:]:
            queues.admit(r)
        left, right = group("left", "a", timeout_s=0.02), group("right", "b", "eager")
        assert queues.regroup([left, right], routes(left, right), 2 * MS) == []
        assert queues.waiting() == 6
        assert [r for g in turn(queues, "right", 20 * MS).grants for r in g.requests] == sent[1::2]
        assert [r for g in turn(queues, "left", 100 * MS).grants for r in g.requests] == sent[0::2]

    play(story())


def test_requests_of_a_service_that_lost_its_group_are_returned() -> None:
    async def story() -> None:
        queues, both, alone = dispatcher(), group("all", "ab", timeout_s=1.0), group("all", "a", timeout_s=1.0)
        queues.regroup([both], routes(both), 1)
        sent = [request(0, 10), request(1, 11)]
        for r in sent:
            queues.admit(r)
        assert queues.regroup([alone], routes(alone), 20) == [sent[1]]
        assert queues.waiting() == 1
        assert not queues.admit(request(1, 30))

    play(story())


def test_a_group_that_only_batches_otherwise_keeps_its_queue_and_state() -> None:
    async def story() -> None:
        queues, slow = dispatcher(), group("all", "a", timeout_s=1.0)
        queues.regroup([slow], routes(slow), 1)
        sent = request(0, 10)
        queues.admit(sent)
        turn(queues, "all", 1 * MS)
        before = queues.groups[0]
        quick = group("renamed", "a", timeout_s=0.001)
        queues.regroup([quick], routes(quick), 2 * MS)
        assert queues.groups[0] is before
        assert [g.requests for g in turn(queues, "renamed", 10 * MS).grants] == [[sent]]

    play(story())


def test_routes_split_by_size_and_weight() -> None:
    async def story() -> None:
        queues = dispatcher()
        small, large, other = group("small", "a"), group("large", "a"), group("other", "a")
        split = [Route("a", "small", 10.0), Route("a", "large", inf, 0.75), Route("a", "other", inf, 0.25)]
        queues.regroup([small, large, other], split, 1)
        for n in range(40):
            queues.admit(request(0, 10 + n, 5.0 if n % 2 else 50.0))
        queues.admit(request(0, 100))
        counts = Counter({g.plan.name: g.waiting() for g in queues.groups})
        # 20 small ones; 20 large ones and one of unknown size, three in four of them to the first.
        assert counts["small"] == 20
        assert counts["large"] in (15, 16)
        assert counts["other"] == 21 - counts["large"]

    play(story())


def test_a_size_beyond_every_route_is_served_by_nobody() -> None:
    async def story() -> None:
        queues, plan = dispatcher(), group("small", "a")
        queues.regroup([plan], [Route("a", "small", 10.0)], 1)
        assert not queues.admit(request(0, 10, 11.0))
        assert queues.admit(request(0, 10, 10.0))

    play(story())


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (group("x", "ad"), "unknown service d"),
        (group("x", "a", "none such"), "no discipline none such"),
        (SubCluster("x", (FIRST,), (), ()), "serves nothing"),
        (
            group("x", "a", "shepherd"),
            "shepherd may cut running batches short, which can be replayed but not done live",
        ),
        (group("x", "a", "deferred", options=(("drop", "sometimes"),)), "sometimes"),
    ],
)
def test_what_cannot_be_served_is_said_before(plan: SubCluster, problem: str) -> None:
    assert problem in (dispatcher().problem([plan]) or "")
    assert dispatcher().problem([group("y", "abc")]) is None
    assert "two sub-clusters" in (dispatcher().problem([group("y", "a"), group("y", "b")]) or "")


@dataclass
class Own:
    """A discipline of a third party: what it does with its requests is given."""

    verdicts: tuple[int, ...]
    batches: tuple[int, ...]
    name: str = "own"
    instance: int = 0

    def initial_state(self, services: int) -> Any:
        return Arrivals.empty(services)

    def advance(self, state: Any, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[Any, Served]:
        if not len(arrivals):
            none = np.empty(0, np.int64)
            return state, Served(arrivals, none, none, none, none, none, none, none)
        finish = np.array(self.verdicts, np.int64)
        size = np.array(self.batches, np.int64)
        zero = np.zeros(len(size), np.int64)
        return state, Served(arrivals, finish, finish, zero + self.instance, zero, size, zero + 1, zero + 2)


def test_a_discipline_may_pick_from_the_middle() -> None:
    async def story() -> None:
        queues, plan = dispatcher(own=Own((0, 9, -1, 9, 0), (2,))), group("all", "a", "own")
        queues.regroup([plan], routes(plan), 1)
        sent = [request(0, 10 + n) for n in range(5)]
        for r in sent:
            queues.admit(r)
        turned = turn(queues, "all", 100)
        assert [g.requests for g in turned.grants] == [[sent[1], sent[3]]]
        assert turned.dropped == [sent[2]]
        assert list(queues.groups[0].queues[0]) == [sent[0], sent[4]]

    play(story())


@pytest.mark.parametrize(
    "own",
    [Own((9, 9), (1,)), Own((9, 0), (2,)), Own((9,), (1,)), Own((9, 9), (2,), instance=5)],
    ids=["few", "many", "short", "elsewhere"],
)
def test_an_account_that_does_not_add_up_gives_all_requests_back(own: Own) -> None:
    async def story() -> None:
        queues, plan = dispatcher(own=own), group("all", "a", "own")
        queues.regroup([plan], routes(plan), 1)
        sent = [request(0, 10), request(0, 11)]
        for r in sent:
            queues.admit(r)
        with pytest.raises(Astray, match="own") as astray:
            turn(queues, "all", 100)
        assert astray.value.requests == sent
        assert queues.waiting() == 0

    play(story())
