"""Arrivals for replay, pulled interval by interval from a trace or from a stochastic process.

However the time is cut into intervals, the same seed gives the same requests. Instants are nanoseconds after the start
of the replay; memory holds the requests of about one interval and one bin of the trace.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.model.load import Arrivals
from partita.ports import Counts, Rows
from partita.traces.draw import LAWS, Bins, bin_keys, draw_even, draw_poisson, draw_renewal, service_key
from partita.traces.services import ServiceMap

DEFAULT_SIZE = 1.0
"""Input size of a request whose trace tells none."""

GAPS_AT_ONCE = 4096
DRAWN_AT_ONCE = 1 << 16


class ArrivalSource(Protocol):
    """Where the requests of a replay come from."""

    @property
    def services(self) -> tuple[str, ...]:
        """Names, in the order of the arrivals' groups."""
        ...

    @property
    def origin_ns(self) -> int:
        """Unix time of the replay's instant 0, 0 where there is none."""
        ...

    @property
    def span_ns(self) -> int:
        """Length of the replay; no request is at or after it."""
        ...

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        ...


class _Pending:
    """Requests of one service that are drawn but not yet asked for."""

    def __init__(self) -> None:
        self._ns, self._size = np.empty(0, np.int64), np.empty(0, np.float32)
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.float32] | None]] = []

    def add(self, ns: NDArray[np.int64], size: NDArray[np.float32] | None = None) -> None:
        """Add rising instants; None stands for DEFAULT_SIZE."""
        if ns.size:
            self._parts.append((ns, size))

    def take(self, ns: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Remove and return what is before `ns`."""
        if self._parts:
            parts = [(self._ns, self._size), *self._parts]
            self._parts = []
            self._ns = np.concatenate([at for at, _ in parts])
            sizes = [np.full(at.size, DEFAULT_SIZE, np.float32) if s is None else s for at, s in parts]
            self._size = np.concatenate(sizes)
            if (self._ns[1:] < self._ns[:-1]).any():
                order = np.argsort(self._ns, kind="stable")
                self._ns, self._size = self._ns[order], self._size[order]
        cut = int(np.searchsorted(self._ns, ns))
        taken = self._ns[:cut], self._size[:cut]
        self._ns, self._size = self._ns[cut:], self._size[cut:]
        return taken


def _gather(pending: Sequence[_Pending], ns: int) -> Arrivals:
    taken = [p.take(ns) for p in pending]
    offsets = np.zeros(len(taken) + 1, np.int64)
    np.cumsum([at.size for at, _ in taken], out=offsets[1:])
    if not offsets[-1]:
        return Arrivals.empty(len(taken))
    return Arrivals(np.concatenate([at for at, _ in taken]), offsets, np.concatenate([size for _, size in taken]))


# From a trace ---------------------------------------------------------------------------------------------------------


class TraceArrivals:
    """Requests of a trace between two instants, from a file's or a database's stream of blocks.

    Requests of `Rows` come as they are; the bins of `Counts` are filled from `seed`, each from the names of its service
    and the instant it starts at, so that other bounds or services change nothing. `speed` 2 plays twice as fast. What
    the map leaves out is counted in `dropped`.
    """

    def __init__(
        self,
        blocks: Iterable[Rows | Counts],
        mapping: ServiceMap,
        *,
        begin_ns: int,
        end_ns: int,
        bin_s: float | None = None,
        speed: float = 1.0,
        seed: int = 0,
    ) -> None:
        if speed <= 0 or end_ns <= begin_ns:
            raise ConfigError("the part of the trace to replay is empty or its speed is not above 0", key="trace")
        self.services, self.origin_ns = mapping.services, begin_ns
        self.dropped = 0
        self._blocks: Iterator[Rows | Counts] = iter(blocks)
        self._mapping, self._speed, self._seed = mapping, speed, seed
        self._end_ns, self._width_ns = end_ns, round((bin_s or 0.0) * 1e9)
        self.span_ns = end_ns - begin_ns if speed == 1.0 else ceil((end_ns - begin_ns) / speed)
        self._pending = [_Pending() for _ in self.services]
        self._block: Rows | Counts | None = None
        self._from = 0
        self._keys: dict[str, np.uint64] = {}

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        ns = min(ns, self.span_ns)
        while self._has_next_before(ns):
            block, self._block = self._block, None
            match block:
                case Rows():
                    self._add_rows(block)
                case Counts():
                    self._block = self._add_counts(block)
        return _gather(self._pending, ns)

    def _has_next_before(self, ns: int) -> bool:
        while self._block is None:
            self._block = next(self._blocks, None)
            self._from = 0
            if self._block is None:
                return False
            if not self._block.at_ns.size:
                self._block = None
        first = self._block.at_ns[self._from : self._from + 1]
        return bool(first[0] < self._end_ns and self._replay_ns(first)[0] < ns)

    def _replay_ns(self, at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        after = at_ns - self.origin_ns
        return after if self._speed == 1.0 else np.floor(after / self._speed).astype(np.int64)

    def _add_rows(self, block: Rows) -> None:
        inside = (block.at_ns >= self.origin_ns) & (block.at_ns < self._end_ns)
        index = self._mapping.indices(block.service[inside])
        self.dropped += int((index < 0).sum())
        at, size = self._replay_ns(block.at_ns[inside]), np.nan_to_num(block.size[inside], nan=DEFAULT_SIZE)
        order = np.argsort(index, kind="stable")
        edges = np.searchsorted(index[order], np.arange(len(self.services) + 1))
        for service, (low, high) in enumerate(itertools.pairwise(edges)):
            part = order[low:high]
            self._pending[service].add(at[part], size[part])

    def _add_counts(self, block: Counts) -> Counts | None:
        """Draw the next bins of the block, about DRAWN_AT_ONCE requests; return the block if any remain."""
        enough = np.searchsorted(np.cumsum(block.count[self._from :]), DRAWN_AT_ONCE) + 1
        rows = slice(self._from, self._from + int(enough))
        self._draw(block, rows)
        self._from = rows.stop
        return block if rows.stop < block.at_ns.size else None

    def _draw(self, block: Counts, rows: slice) -> None:
        at, count, law, names = block.at_ns[rows], block.count[rows], block.law[rows], block.service[rows]
        if unknown := set(law.tolist()).difference(LAWS):
            raise ConfigError(f"there is no law {min(unknown)!r}", key="law", value=min(unknown))
        index = self._mapping.indices(names)
        keep = (at + self._width_ns > self.origin_ns) & (at < self._end_ns) & (count > 0)
        self.dropped += int(count[keep & (index < 0)].sum())
        keep &= index >= 0
        services = np.array([self._key(name) for name in names], np.uint64)
        bins = Bins(self._replay_ns(at), self._replay_ns(at + self._width_ns), count, bin_keys(services, at))
        for kind, fill in (("even", draw_even), ("poisson", draw_poisson)):
            if (chosen := np.flatnonzero(keep & (law == kind))).size:
                chosen = chosen[np.argsort(index[chosen], kind="stable")]
                self._add_groups(index[chosen], count[chosen], fill(bins.at(chosen)))
        for row in np.flatnonzero(keep & (law != "even") & (law != "poisson")).tolist():
            self._add(int(index[row]), draw_renewal(law[row], float(block.shape[rows][row]), bins, row))

    def _add_groups(self, index: NDArray[np.int64], count: NDArray[np.int64], drawn: NDArray[np.int64]) -> None:
        edges = np.concatenate([[0], np.cumsum(count)])
        first = np.concatenate([[0], np.flatnonzero(np.diff(index)) + 1, [index.size]])
        for low, high in zip(first[:-1].tolist(), first[1:].tolist(), strict=True):
            part = drawn[edges[low] : edges[high]]
            part.sort()
            self._add(int(index[low]), part)

    def _add(self, service: int, at: NDArray[np.int64]) -> None:
        """Keep what the bounds leave of one or more drawn bins."""
        if at.size and (at.min() < 0 or at.max() >= self.span_ns):
            at = at[(at >= 0) & (at < self.span_ns)]
        self._pending[service].add(at)

    def _key(self, name: str) -> np.uint64:
        if name not in self._keys:
            self._keys[name] = service_key(self._seed, name)
        return self._keys[name]


# From a process -------------------------------------------------------------------------------------------------------

Process = Literal["constant", "poisson", "gamma"]


@dataclass(slots=True)
class _Renewal:
    """One service's endless stream of arrivals."""

    gap_ns: float
    draw: Callable[[], NDArray[np.float64]] | None
    last_ns: int

    def next_ns(self) -> NDArray[np.int64]:
        """Return the next GAPS_AT_ONCE arrivals."""
        gaps = np.full(GAPS_AT_ONCE, self.gap_ns) if self.draw is None else self.draw() * self.gap_ns
        found: NDArray[np.int64] = self.last_ns + np.rint(np.cumsum(gaps)).astype(np.int64)
        self.last_ns = int(found[-1])
        return found


class ProcessArrivals:
    """Requests of renewal processes, one a service: constant, poisson, or gamma gaps of one shape.

    `rates_rps` are the services' rates; the first request of each comes a uniform part of its mean gap after the start.
    """

    origin_ns = 0

    def __init__(
        self,
        services: Sequence[str],
        rates_rps: Sequence[float],
        *,
        process: Process = "poisson",
        shape: float = 1.0,
        span_s: float,
        seed: int = 0,
    ) -> None:
        self.services, self.span_ns = tuple(services), round(span_s * 1e9)
        self._pending = [_Pending() for _ in self.services]
        shape = 1.0 if process == "poisson" else shape
        self._streams = [_renewal(rate, process, shape, seed, at) for at, rate in enumerate(rates_rps)]
        for stream, pending in zip(self._streams, self._pending, strict=True):
            if stream is not None:
                pending.add(np.array([stream.last_ns]))

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        ns = min(ns, self.span_ns)
        for stream, pending in zip(self._streams, self._pending, strict=True):
            while stream is not None and stream.last_ns < ns:
                pending.add(stream.next_ns())
        return _gather(self._pending, ns)


def _renewal(rate_rps: float, process: Process, shape: float, seed: int, service: int) -> _Renewal | None:
    if rate_rps < 0 or shape <= 0:
        raise ConfigError("rates must not be negative and shapes must be above 0", key="arrivals", value=rate_rps)
    if rate_rps == 0:
        return None
    gap_ns = 1e9 / rate_rps
    rng = np.random.Generator(np.random.SFC64([seed, service]))
    first_ns = int(rng.random() * gap_ns)
    draw = None if process == "constant" else lambda: rng.standard_gamma(shape, GAPS_AT_ONCE) / shape
    return _Renewal(gap_ns, draw, first_ns)
