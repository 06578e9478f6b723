"""Requests handed to instances as they arrive, in plain Python: who waits where, whatever instances do then.

Written from docs/disciplines.md; shared by the twins of the disciplines that hand requests out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from oracles.deferred_twin import Request, account
from oracles.sizes_twin import really_ns

from partita.model.load import Arrivals
from partita.ports import Pool, Served


@dataclass
class Hand:
    """One request that waits, at which instance (its number), and from when on it is there."""

    request: Request
    number: int | None = None
    there_ns: int = 0


@dataclass
class Counter:
    """One service's requests in order of arrival, and how they are handed out."""

    hands: list[Hand] = field(default_factory=list)
    credit: dict[int, int] = field(default_factory=dict)
    last: int = -1

    def hand_out(self, pool: Pool, quanta: dict[int, int], since_ns: int, lead_ns: int, until_ns: int = 2**62) -> None:
        """Hand out those who wait nowhere, or where nobody serves them; quanta are in millionths.

        Requests that come at `until_ns` or later are left alone.
        """
        self.credit = {n: self.credit.get(n, 0) for n in map(int, pool.number)}
        for hand in self.hands:
            if hand.request.ns >= until_ns or hand.request.finish_ns != 0:
                continue
            if quanta.get(hand.number, 0) > 0 if hand.number is not None else False:
                continue
            hand.number = self._next(quanta) if any(quanta.values()) else None
            hand.there_ns = max(hand.request.ns, since_ns) + lead_ns

    def _next(self, quanta: dict[int, int]) -> int:
        numbers = sorted(quanta)
        while True:
            later = [n for n in numbers if n > self.last]
            self.last = later[0] if later else numbers[0]
            self.credit[self.last] += quanta[self.last]
            if self.credit[self.last] >= 1_000_000:
                self.credit[self.last] -= 1_000_000
                return self.last

    def lane(self, number: int) -> list[Hand]:
        """Return those who wait at an instance; nobody is there before those ahead of him."""
        lane = [hand for hand in self.hands if hand.number == number and hand.request.finish_ns == 0]
        for before, hand in pairwise(lane):
            hand.there_ns = max(hand.there_ns, before.there_ns)
        return lane


@dataclass
class Hall:
    """All services' counters."""

    counters: list[Counter]

    @classmethod
    def of(cls, services: int) -> Hall:
        """Return a hall in which nobody waits."""
        return cls([Counter() for _ in range(services)])

    def join(self, arrivals: Arrivals) -> list[list[Request]]:
        """Let new requests join; return all that are present, by service."""
        for s, counter in enumerate(self.counters):
            rows = range(arrivals.offsets[s], arrivals.offsets[s + 1])
            counter.hands += [Hand(Request(int(arrivals.ns[row]), float(arrivals.size[row]))) for row in rows]
        return [[hand.request for hand in counter.hands] for counter in self.counters]

    def forget(self) -> None:
        """Nobody was handed out, and nobody ever has been."""
        for counter in self.counters:
            counter.credit, counter.last = {}, -1
            for hand in counter.hands:
                hand.number = None

    def leave(self) -> None:
        """Let go of everybody who is settled."""
        for counter in self.counters:
            counter.hands = [hand for hand in counter.hands if hand.request.finish_ns == 0]

    def lose(self, pool: Pool) -> None:
        """Whoever waits at an instance that is gone waits nowhere; what was kept in mind of it is forgotten."""
        present = set(map(int, pool.number))
        for counter in self.counters:
            counter.credit = {n: credit for n, credit in counter.credit.items() if n in present}
            for hand in counter.hands:
                if hand.number not in present:
                    hand.number = None


@dataclass
class Batch:
    """A batch as it was granted."""

    decided_ns: int
    number: int
    service: int
    size: int
    start_ns: int
    finish_ns: int


def played(present: list[list[Request]], batches: list[Batch], *, by_number: bool = True) -> Served:
    """Return the account of an advance: batches as they come, or by when they were granted (then by instance)."""
    if by_number:
        batches = sorted(batches, key=lambda b: (b.decided_ns, b.number))
    return account(present, [(b.number, b.service, b.size, b.start_ns, b.finish_ns) for b in batches])


def takes_ns(pool: Pool, g: int, s: int, riders: list[Request], size: int | None = None) -> int:
    """Return how long a batch really takes on the instance in place `g`."""
    return really_ns(pool, g, s, size or len(riders), riders[0].ns, [rider.size for rider in riders])


def plans_ns(pool: Pool, g: int, s: int) -> Callable[[int], int]:
    """Return how long batches of a service are planned to take on the instance in place `g`."""
    k = pool.by_kind()
    return lambda b: int(k.planned_ns[k.of[g], s, b])


def most(pool: Pool, g: int, s: int) -> int:
    """Return the largest batch of a service on the instance in place `g`."""
    k = pool.by_kind()
    return int(k.max_batch[k.of[g], s])


def quanta_of(throughput: dict[int, Fraction]) -> dict[int, int]:
    """Return quanta in millionths of the largest throughput."""
    largest = max(throughput.values(), default=Fraction(0))
    if largest == 0:
        return dict.fromkeys(throughput, 0)
    return {n: max(1, round(t / largest * 1_000_000)) if t else 0 for n, t in throughput.items()}
