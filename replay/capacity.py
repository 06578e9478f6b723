"""The search for what a cluster carries: what to measure next, and what the measurements say.

A question is a function of what has been measured so far, without a state of its own: it can be stopped and taken up
anywhere, and comes to the same answer whatever order the measurements come in.

Where the bad rate rises with the load, the answer is bracketed and bisection closes in on it. Where it does not,
bisection would find some crossing, not the right one: such a discipline is scanned on a grid, and the bracket at the
best level that met the limit is refined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil, log2, sqrt
from typing import Protocol

NOT_MONOTONE = frozenset({"nexus"})
"""Disciplines known to pack GPUs full at every load, so that more load, which is given more GPUs, can fare better."""

OPENING = (0.25, 0.5, 0.75, 1.0)
"""First rates as shares of the bound: a bracket for bisection, a coarse curve, and a look at whether it rises."""

GRID = 24
"""Rates of a scan, evenly up to the bound; numbers of GPUs of one, from the least on."""

BEYOND, AT_MOST_BEYOND = 1.25, 8
"""What a rate that meets the limit at the bound is multiplied by for the next one, and how often."""

LOWEST = 2.0**-10
"""Share of the bound below which no rate is looked for."""

SIGMAS = 5.0
"""Binomial standard deviations by which the bad rate must fall to count as falling.

Requests come in bursts and share a fate, so that fewer would see falls where there are none.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured at a level: the bad rate, and how many requests it is a share of."""

    bad_rate: float
    requests: int


Readings = Mapping[float, Reading]
"""What was measured, by level: a rate, or a number of GPUs."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best level that met the limit, None if none did; `missed` is its next harder neighbour, which did not.

    `contradiction` holds a level that misses the limit, or fares worse, and a harder one that fares better; None if
    more load never fared better.
    """

    level: float | None
    missed: float | None
    contradiction: tuple[float, float] | None


class Question(Protocol):
    """A search: `wanted` levels are to be measured next, all at once; none are when it is over.

    One that is not a scan is over as well when its readings contradict each other: `scanned` is then the question.
    """

    @property
    def scan(self) -> bool:
        """Whether it goes over a grid."""
        ...

    def scanned(self) -> Question:
        """Return the same question, asked by a scan."""
        ...

    def wanted(self, readings: Readings) -> tuple[float, ...]:
        """Return the levels to measure next."""
        ...

    def remaining(self, readings: Readings) -> int:
        """Estimate how many measurements are still to come."""
        ...

    def conclude(self, readings: Readings) -> Found:
        """Say what was found."""
        ...


@dataclass(frozen=True, slots=True)
class HighestRate:
    """The highest rate with a bad rate of at most `limit`; it is expected below `bound`.

    `resolution` is how close the highest rate met and the lowest one missed shall come, as a share of them. `curve`
    more rates, evenly up to the bound, are measured for a figure's sake.
    """

    limit: float
    bound: float
    resolution: float = 0.005
    scan: bool = False
    curve: int = 0

    def scanned(self) -> HighestRate:
        """Return the same question, asked by a scan."""
        return replace(self, scan=True)

    def wanted(self, readings: Readings) -> tuple[float, ...]:
        """Return the rates to measure next."""
        if missing := tuple(rate for rate in self._first() if rate not in readings):
            return missing
        if not self.scan and self.conclude(readings).contradiction is not None:
            return ()
        low, high = self._bracket(readings)
        if high is None:
            beyond = sum(rate > self.bound for rate in readings)
            return (low * BEYOND,) if beyond < AT_MOST_BEYOND else ()
        if low == 0.0:
            return (high / 2,) if high / 2 >= self.bound * LOWEST else ()
        return ((low + high) / 2,) if high - low > self.resolution * high else ()

    def remaining(self, readings: Readings) -> int:
        """Estimate how many measurements are still to come."""
        first = self._first()
        missing = sum(rate not in readings for rate in first)
        low, high = self._bracket(readings)
        if not missing and not self.wanted(readings):
            return 0
        width = 1.0 / len(first) if missing or high is None or low == 0.0 else (high - low) / high
        return missing + max(0, ceil(log2(width / self.resolution)))

    def conclude(self, readings: Readings) -> Found:
        """Say what was found."""
        low, high = self._bracket(readings)
        return Found(low or None, high, _contradiction(sorted(readings.items()), self.limit))

    def _first(self) -> tuple[float, ...]:
        shares = (at / GRID for at in range(1, GRID + 1)) if self.scan else OPENING
        curve = (at / self.curve for at in range(1, self.curve + 1))
        return tuple(self.bound * share for share in dict.fromkeys((*shares, *curve)))

    def _bracket(self, readings: Readings) -> tuple[float, float | None]:
        """Return the highest rate met (0: none) and the lowest one measured above it (None: none)."""
        low = max((rate for rate, reading in readings.items() if reading.bad_rate <= self.limit), default=0.0)
        return low, min((rate for rate in readings if rate > low), default=None)


@dataclass(frozen=True, slots=True)
class FewestGpus:
    """The fewest GPUs, `most` at most, with a bad rate of at most `limit`; about `guess` are expected."""

    limit: float
    guess: int
    most: int
    scan: bool = False

    def scanned(self) -> FewestGpus:
        """Return the same question, asked by a scan."""
        return replace(self, scan=True)

    def wanted(self, readings: Readings) -> tuple[float, ...]:
        """Return the numbers of GPUs to measure next."""
        if missing := tuple(float(gpus) for gpus in self._first() if gpus not in readings):
            return missing
        if not self.scan and self.conclude(readings).contradiction is not None:
            return ()
        met, missed = self._bracket(readings)
        if met is None:
            # Steps double: one more than the guess, then three, then seven.
            following = min(self.most, 2 * int(max(readings)) - self.guess + 1)
            return (float(following),) if following not in readings else ()
        if missed is None:
            lower = max(1, 2 * int(met) - self.guess - 1)
            return (float(lower),) if lower not in readings else ()
        return (float((int(met) + int(missed)) // 2),) if met - missed > 1 else ()

    def remaining(self, readings: Readings) -> int:
        """Estimate how many measurements are still to come."""
        if readings and not self.wanted(readings):
            return 0
        met, missed = self._bracket(readings)
        missing = sum(gpus not in readings for gpus in self._first())
        return max(missing, 3 if met is None or missed is None else ceil(log2(met - missed)))

    def conclude(self, readings: Readings) -> Found:
        """Say what was found."""
        met, missed = self._bracket(readings)
        return Found(met, missed, _contradiction(sorted(readings.items(), reverse=True), self.limit))

    def _first(self) -> Iterable[int]:
        return range(self.guess, min(self.guess + GRID - 1, self.most) + 1) if self.scan else (self.guess,)

    def _bracket(self, readings: Readings) -> tuple[float | None, float | None]:
        """Return the fewest GPUs that met the limit and the most measured below them, None where there are none."""
        met = min((gpus for gpus, reading in readings.items() if reading.bad_rate <= self.limit), default=None)
        return met, max((gpus for gpus in readings if met is not None and gpus < met), default=None)


def _contradiction(by_hardness: list[tuple[float, Reading]], limit: float) -> tuple[float, float] | None:
    """Return the first two levels of which the harder one fares better by more than chance.

    That is a level that misses the limit below one that meets it, or a fall of the bad rate by more than the limit and
    more than SIGMAS standard deviations.
    """
    for at, (level, easier) in enumerate(by_hardness):
        for other, harder in by_hardness[at + 1 :]:
            if easier.bad_rate > limit >= harder.bad_rate or _falls(easier, harder, by=limit):
                return level, other
    return None


def _falls(easier: Reading, harder: Reading, *, by: float) -> bool:
    fall = easier.bad_rate - harder.bad_rate
    variance = sum(r.bad_rate * (1.0 - r.bad_rate) / max(r.requests, 1) for r in (easier, harder))
    return fall > max(by, SIGMAS * sqrt(variance))
