"""Queues of instances: requests are handed to an instance when they arrive, and wait there in a lane of their service.

A lane holds the requests of one service at one instance, oldest first; those of an advance lie side by side,
instance by instance, so that each instance can be served on its own, without a look at the others.

Requests are dealt by deficit round robin (M. Shreedhar, G. Varghese, SIGCOMM 1995): a service goes round its instances;
each gains its quantum when it is reached and takes a request for a whole `UNIT`. Equal quanta of one unit are plain
turns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.batches import FINISH, START

UNIT = 1_000_000
"""What a request costs of an instance's deficit; a quantum is at most this."""

NOWHERE = -1
"""The instance of a request that was handed to none yet."""


class Hands(NamedTuple):
    """Where the requests of one advance wait: the place of their instance, and from when on they are there, in ns."""

    place: NDArray[np.int64]
    there: NDArray[np.int64]


class Dealer(NamedTuple):
    """How requests are handed out: `quantum` and `deficit` are ``(services, instances)``, `turn` is ``(services,)``.

    An instance with quantum 0 gets no request of that service. `number` is rising; `turn` is the place of the instance
    that had the last request of a service, or before which that one stood, and `last` its number.
    """

    quantum: NDArray[np.int64]
    deficit: NDArray[np.int64]
    number: NDArray[np.int64]
    turn: NDArray[np.int64]
    last: NDArray[np.int64]


class Lanes(NamedTuple):
    """Requests by instance and by service in it: lane ``g * services + s`` is rows ``offsets[lane]:offsets[lane + 1]``.

    `row` is a request's place in the advance; rows before `head` are settled, and `account` is filled in for them.
    """

    ns: NDArray[np.int64]
    there: NDArray[np.int64]
    row: NDArray[np.int64]
    offsets: NDArray[np.int64]
    head: NDArray[np.int64]
    account: NDArray[np.int64]


@lean
def _deal_one(dealer: Dealer, s: int) -> int:
    g, instances = dealer.turn[s], dealer.quantum.shape[1]
    while True:
        g = g + 1 if g + 1 < instances else 0
        dealer.deficit[s, g] += dealer.quantum[s, g]
        if dealer.deficit[s, g] >= UNIT:
            break
    dealer.deficit[s, g] -= UNIT
    dealer.turn[s], dealer.last[s] = g, dealer.number[g]
    return g


@njit(cache=True)
def deal(
    ns: NDArray[np.int64],
    offsets: NDArray[np.int64],
    active: NDArray[np.int64],
    hands: Hands,
    dealer: Dealer,
    since: int,
    lead: int,
) -> None:
    """Hand out the requests of active services that wait nowhere, or where their service is no longer served.

    They are at their instance one `lead` after they arrive, or after `since` if that is later. `hands` and `dealer` are
    changed in place.
    """
    for k in range(active.shape[0]):
        s = active[k]
        most = 0
        for g in range(dealer.quantum.shape[1]):
            most = max(most, dealer.quantum[s, g])
        for row in range(offsets[s], offsets[s + 1]):
            g = hands.place[row]
            if g >= 0 and dealer.quantum[s, g] > 0:
                continue
            hands.place[row] = _deal_one(dealer, s) if most > 0 else NOWHERE
            hands.there[row] = max(ns[row], since) + lead


@njit(cache=True)
def into_lanes(ns: NDArray[np.int64], offsets: NDArray[np.int64], hands: Hands, instances: int) -> Lanes:
    """Sort requests into lanes. Nobody overtakes in a lane: a request is there no earlier than those before it."""
    services = offsets.shape[0] - 1
    ends = np.zeros(instances * services + 1, np.int64)
    for s in range(services):
        for row in range(offsets[s], offsets[s + 1]):
            if hands.place[row] >= 0:
                ends[hands.place[row] * services + s + 1] += 1
    for lane in range(instances * services):
        ends[lane + 1] += ends[lane]
    total = ends[instances * services]
    fill = ends[:-1].copy()
    lanes = Lanes(
        np.empty(total, np.int64),
        np.empty(total, np.int64),
        np.empty(total, np.int64),
        ends,
        ends[:-1].copy(),
        np.zeros((total, 2), np.int64),
    )
    for s in range(services):
        for row in range(offsets[s], offsets[s + 1]):
            if hands.place[row] < 0:
                continue
            lane = hands.place[row] * services + s
            at = fill[lane]
            if at > ends[lane]:
                hands.there[row] = max(hands.there[row], lanes.there[at - 1])
            lanes.ns[at], lanes.there[at], lanes.row[at] = ns[row], hands.there[row], row
            fill[lane] = at + 1
    return lanes


@njit(cache=True)
def out_of_lanes(lanes: Lanes, account: NDArray[np.int64]) -> None:
    """Write what became of requests back to their places in the advance."""
    for at in range(lanes.row.shape[0]):
        account[lanes.row[at], START] = lanes.account[at, START]
        account[lanes.row[at], FINISH] = lanes.account[at, FINISH]


@lean
def due_at(lanes: Lanes, lane: int) -> int:
    """Return when the lane's oldest request is there; NEVER if it is empty."""
    head = lanes.head[lane]
    return lanes.there[head] if head < lanes.offsets[lane + 1] else NEVER
