"""What disciplines share that hand requests to instances as they arrive: who waits where, between advances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from partita.kernels.batches import FINISH, QUEUED, START, Batches, empty_batches
from partita.kernels.instances import Instances
from partita.kernels.lanes import NOWHERE, UNIT, Dealer, Hands, Lanes, deal, into_lanes, out_of_lanes
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import by_edge, places_of

NOBODY = np.empty(0, np.int64)
Entry = TypeVar("Entry", np.int64, np.float64)


@dataclass(slots=True, eq=False)
class Hall:
    """Everybody who waits between advances, and where: at which instance (its number), and from when on, in ns.

    `number` are the instances' numbers, `deficit` is ``(services, instances)``; `last` says which instance had the last
    request of each service.
    """

    waiting: Arrivals
    at_number: NDArray[np.int64]
    there_ns: NDArray[np.int64]
    number: NDArray[np.int64]
    deficit: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def empty(cls, services: int) -> Hall:
        """Return the hall of this many services in which nobody waits."""
        return cls.nowhere(Arrivals.empty(services))

    @classmethod
    def nowhere(cls, waiting: Arrivals) -> Hall:
        """Return the hall in which all wait in one queue a service, and nobody was handed out yet."""
        services, total = len(waiting.offsets) - 1, len(waiting)
        deficit, last = np.empty((services, 0), np.int64), np.full(services, NOWHERE)
        return cls(waiting, np.full(total, NOWHERE), np.zeros(total, np.int64), NOBODY, deficit, last)


@dataclass(slots=True, eq=False)
class Round:
    """One advance: its requests, where they wait (places in this pool), what became of them, and the batches."""

    requests: Arrivals
    hands: Hands
    deficit: NDArray[np.int64]
    turn: NDArray[np.int64]
    last: NDArray[np.int64]
    account: NDArray[np.int64]
    log: Batches
    logged: int = 0
    _shown: NDArray[np.int64] = field(default_factory=lambda: NOBODY)

    @classmethod
    def open(cls, hall: Hall, arrivals: Arrivals, pool: Pool) -> Round:
        """Let new arrivals join; whoever waits at an instance that is gone waits nowhere."""
        requests = hall.waiting.followed_by(arrivals)
        hands = Hands(np.full(len(requests), NOWHERE), np.zeros(len(requests), np.int64))
        moved = requests.offsets[:-1] - hall.waiting.offsets[:-1]
        rows = np.arange(len(hall.waiting)) + np.repeat(moved, np.diff(hall.waiting.offsets))
        hands.place[rows] = places(pool.number, hall.at_number)
        hands.there[rows] = hall.there_ns
        return cls(
            requests,
            hands,
            carried(hall.number, pool.number, hall.deficit.T, np.zeros((len(pool.number), len(hall.last)), np.int64)).T,
            np.searchsorted(pool.number, hall.last, side="right") - 1,
            hall.last.copy(),
            np.zeros((len(requests), 2), np.int64),
            empty_batches(len(requests)),
        )

    def lanes(self, pool: Pool, quantum: NDArray[np.int64], since_ns: int, until_ns: int, lead_ns: int) -> Lanes:
        """Hand out who has arrived by `until_ns`, and show the requests that wait, by instance and service."""
        ns, offsets = self.requests.ns, self.requests.offsets
        self._shown = np.flatnonzero((self.account[:, FINISH] == QUEUED) & (ns < until_ns))
        ns, offsets = ns[self._shown], np.searchsorted(self._shown, offsets)
        hands = Hands(self.hands.place[self._shown], self.hands.there[self._shown])
        deficit = np.ascontiguousarray(self.deficit)
        dealer = Dealer(np.ascontiguousarray(quantum), deficit, pool.number, self.turn, self.last)
        deal(ns, offsets, pool.active, hands, dealer, since_ns, lead_ns)
        lanes = into_lanes(ns, offsets, hands, len(pool.number))
        self.deficit = deficit
        self.hands.place[self._shown], self.hands.there[self._shown] = hands
        return lanes

    def places(self, pool: Pool, lanes: Lanes) -> NDArray[np.float64]:
        """Return where the sizes of the requests in lanes lie among the edges."""
        places = places_of(pool, self.requests)
        return places if pool.sizes is None else places[self._shown][lanes.row]

    def settle(self, lanes: Lanes) -> None:
        """Take down what became of the requests that were shown."""
        shown = np.zeros((len(self._shown), 2), np.int64)
        out_of_lanes(lanes, shown)
        self.account[self._shown] = shown

    def close(self, pool: Pool, lead_ns: int = 0, data_ns: int = 0) -> tuple[Hall, Served]:
        """Return who waits now and the account of what was served.

        Instances are served one by one; their batches are put in the order in which they were granted, one lead (with
        `data_ns` for each request) before they start.
        """
        log, logged = self.log, self.logged
        size, start = log.size[:logged].astype(np.int64), log.start[:logged]
        order = np.lexsort((log.instance[:logged], start - lead_ns - data_ns * size))
        served = Served(
            self.requests,
            self.account[:, START],
            self.account[:, FINISH],
            pool.number[log.instance[order]],
            log.service[order].astype(np.int64),
            size[order],
            start[order],
            log.finish[order],
        )
        kept = np.flatnonzero(self.account[:, FINISH] == QUEUED)
        waiting = Arrivals(
            self.requests.ns[kept], np.searchsorted(kept, self.requests.offsets), self.requests.size[kept]
        )
        place = self.hands.place[kept]
        at_number = np.where(place >= 0, pool.number[place], NOWHERE) if len(pool.number) else place
        hall = Hall(waiting, at_number, self.hands.there[kept], pool.number.copy(), self.deficit, self.last)
        return hall, served


def in_turn(pool: Pool) -> NDArray[np.int64]:
    """Return the quanta, ``(services, instances)``, by which requests go to instances that may serve them in turn."""
    kinds = pool.by_kind()
    return np.where(kinds.max_batch[kinds.of] > 0, UNIT, 0).T.astype(np.int64)


def instances_of(pool: Pool, places: NDArray[np.float64]) -> Instances:
    """Return the pool's instances as kernels see them, for requests whose sizes lie at these places."""
    k = pool.by_kind()
    if pool.sizes is None:
        return Instances(k.of, k.max_batch, k.planned_ns, k.run_ns, k.spread, k.seed)
    planned, run = by_edge(k.planned_ns, pool.sizes.planned_ns[1:]), by_edge(k.run_ns, pool.sizes.run_ns)
    return Instances(k.of, k.max_batch, planned, run, k.spread, k.seed, places)


def places(number: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each wanted number stands among rising ones; NOWHERE for those that are not there."""
    if not len(number):
        return np.full(len(wanted), NOWHERE)
    at = np.minimum(np.searchsorted(number, wanted), len(number) - 1)
    return np.where(number[at] == wanted, at, NOWHERE)


def carried(
    before: NDArray[np.int64], number: NDArray[np.int64], rows: NDArray[Entry], fresh: NDArray[Entry]
) -> NDArray[Entry]:
    """Return `fresh`, one row an instance, with the rows of the instances that were there before in their places."""
    at = places(before, number)
    fresh[at >= 0] = rows[at[at >= 0]]
    return fresh
