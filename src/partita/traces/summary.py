"""What a trace holds, in one streaming pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partita.errors import TraceError
from partita.ports import Counts, Rows, TraceInfo, TraceReader
from partita.traces.arrivals import TraceArrivals
from partita.traces.guard import read_blocks
from partita.traces.read_options import seeded
from partita.traces.services import ServiceMap
from partita.traces.times import LARGEST_NS, parse_instant

MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class TraceSummary:
    """A trace in numbers, by service: how many requests, and the highest mean rate over a minute (or a longer bin).

    `busiest_minute_rps` are the rates of all services in the one minute that weighs most in all.
    The trace begins at `begin_ns` and no request is at or after `end_ns` (unix time). `entries` are requests or bins as
    the file has them, `missing_bins` how many bins between a count trace's ends have no entry, `dropped` how many
    requests no service was found for.
    """

    info: TraceInfo
    services: tuple[str, ...]
    requests: NDArray[np.int64]
    peak_minute_rps: NDArray[np.float64]
    busiest_minute_rps: NDArray[np.float64]
    begin_ns: int
    end_ns: int
    entries: int
    missing_bins: int
    dropped: int

    @property
    def span_s(self) -> float:
        """Length in seconds."""
        return (self.end_ns - self.begin_ns) / 1e9

    @property
    def mean_rps(self) -> NDArray[np.float64]:
        """Mean rate by service."""
        return self.requests / self.span_s


def summarise(
    reader: TraceReader,
    path: Path,
    mapping: ServiceMap | None = None,
    *,
    begin_ns: int | None = None,
    end_ns: int | None = None,
) -> TraceSummary:
    """Count a trace's requests and bins that begin in [begin_ns, end_ns); TraceError if there are none."""
    info, mapping = reader.info(path), mapping or ServiceMap()
    found = summarise_blocks(read_blocks(reader, path), info, mapping, begin_ns=begin_ns, end_ns=end_ns)
    if found is None:
        raise TraceError("holds no requests in the part asked for", file=str(path))
    return found


def summarise_blocks(
    blocks: Iterable[Rows | Counts],
    info: TraceInfo,
    mapping: ServiceMap,
    *,
    begin_ns: int | None = None,
    end_ns: int | None = None,
    weigh: Callable[[str], float] = lambda _: 1.0,
) -> TraceSummary | None:
    """Do the same for a stream of blocks; None if nothing is in the part.

    `weigh` says what a request of a service (of the mapping's) counts towards the busiest minute.
    """
    width = round((info.bin_s or 0.0) * 1e9)
    tally, busiest, first, last = _Tally(), _Busiest(), None, 0
    bins: dict[str, int] = {}
    entries = dropped = 0
    for block in blocks:
        low = 0 if begin_ns is None else int(np.searchsorted(block.at_ns, begin_ns))
        high = block.at_ns.size if end_ns is None else int(np.searchsorted(block.at_ns, end_ns))
        if high <= low:
            continue
        at, names = block.at_ns[low:high], block.service[low:high]
        count = block.count[low:high] if isinstance(block, Counts) else np.ones(at.size, np.int64)
        index = mapping.indices(names)
        first, last = int(at[0]) if first is None else first, int(at[-1])
        entries += at.size
        dropped += int(count[index < 0].sum())
        if width:
            for name, often in zip(*np.unique(names.astype(str), return_counts=True), strict=True):
                bins[name] = bins.get(name, 0) + int(often)
        tally.add(at[index >= 0], index[index >= 0], count[index >= 0])
        weights = np.array([weigh(name) for name in mapping.services])
        busiest.add(at[index >= 0] // MINUTE_NS, index[index >= 0], count[index >= 0], weights)
    if first is None:
        return None
    # A trace on a grid begins and ends on it, so that another seed's instants are in the same bounds.
    grid = round((info.grid_s or 0.0) * 1e9) or 1
    begin = first // grid * grid if begin_ns is None else begin_ns
    end = -(-(last + max(width, 1)) // grid) * grid if end_ns is None else end_ns
    expected = (last - first) // width + 1 if width else 0
    size = len(mapping.services)
    return TraceSummary(
        info,
        mapping.services,
        tally.requests(size),
        tally.peak(size) / max(60.0, info.bin_s or 0.0),
        busiest.requests(size) / max(60.0, info.bin_s or 0.0),
        begin,
        end,
        entries,
        sum(expected - n for n in bins.values()),
        dropped,
    )


def first_instant(reader: TraceReader, path: Path) -> int:
    """Return where a trace (or the grid it is on) begins, in unix nanoseconds; TraceError if it holds nothing."""
    grid = round((reader.info(path).grid_s or 0.0) * 1e9) or 1
    for block in read_blocks(reader, path):
        return int(block.at_ns[0]) // grid * grid
    raise TraceError("holds no requests", file=str(path))


def open_arrivals(
    reader: TraceReader,
    path: Path,
    mapping: ServiceMap,
    *,
    begin: str | float | None = None,
    end: str | float | None = None,
    speed: float = 1.0,
    seed: int = 0,
) -> tuple[TraceArrivals, TraceSummary]:
    """Open a part of a trace for replay, and say what it holds (rates in the trace's own time, whatever the speed).

    `begin` and `end` are dates, or times after the trace's first instant (see `parse_instant`).
    """
    origin = first_instant(reader, path)
    summary = summarise(
        reader,
        path,
        mapping,
        begin_ns=None if begin is None else parse_instant(begin, origin_ns=origin, key="trace.from"),
        end_ns=None if end is None else parse_instant(end, origin_ns=origin, key="trace.to"),
    )
    arrivals = TraceArrivals(
        read_blocks(seeded(reader, seed), path),
        mapping.fixed(),
        begin_ns=summary.begin_ns,
        end_ns=min(summary.end_ns, LARGEST_NS),
        bin_s=summary.info.bin_s,
        speed=speed,
        seed=seed,
    )
    return arrivals, summary


class _Tally:
    """Requests by service, in all and in the fullest minute, while the minutes pass by."""

    def __init__(self) -> None:
        self._all: dict[int, int] = {}
        self._peak: dict[int, int] = {}
        self._open: dict[int, tuple[int, int]] = {}

    def add(self, at_ns: NDArray[np.int64], index: NDArray[np.int64], count: NDArray[np.int64]) -> None:
        """Add requests in the order of time."""
        order = np.argsort(index, kind="stable")
        edges = np.flatnonzero(np.diff(index[order])) + 1
        for part in np.split(order, edges) if order.size else []:
            service = int(index[part[0]])
            minutes = at_ns[part] // MINUTE_NS
            starts = np.concatenate([[0], np.flatnonzero(np.diff(minutes)) + 1])
            sums = np.add.reduceat(count[part], starts)
            minute, carried = self._open.get(service, (None, 0))
            if minute == minutes[0]:
                sums[0] += carried
            self._open[service] = int(minutes[-1]), int(sums[-1])
            self._peak[service] = max(self._peak.get(service, 0), int(sums.max()))
            self._all[service] = self._all.get(service, 0) + int(count[part].sum())

    def requests(self, services: int) -> NDArray[np.int64]:
        """Return the requests by service."""
        return np.array([self._all.get(s, 0) for s in range(services)], np.int64)

    def peak(self, services: int) -> NDArray[np.float64]:
        """Return the requests of the fullest minute by service."""
        return np.array([self._peak.get(s, 0) for s in range(services)], np.float64)


class _Busiest:
    """The requests by service of the minute that weighs most, while the minutes pass by."""

    def __init__(self) -> None:
        self._minute: int | None = None
        self._present: NDArray[np.float64] = np.zeros(0)
        self._best: NDArray[np.float64] = np.zeros(0)
        self._weight = -1.0

    def add(
        self,
        minutes: NDArray[np.int64],
        index: NDArray[np.int64],
        count: NDArray[np.int64],
        weights: NDArray[np.float64],
    ) -> None:
        """Add requests in the order of time; `weights` are by service."""
        edges = np.flatnonzero(np.diff(minutes)) + 1
        for a, b in pairwise([0, *edges.tolist(), minutes.size] if minutes.size else []):
            sums = np.bincount(index[a:b], count[a:b], minlength=weights.size).astype(np.float64)
            if int(minutes[a]) == self._minute:
                sums[: self._present.size] += self._present
            self._minute, self._present = int(minutes[a]), sums
            weight = float(sums @ weights)
            if weight > self._weight:
                self._best, self._weight = sums, weight

    def requests(self, services: int) -> NDArray[np.float64]:
        """Return that minute's requests by service."""
        return np.pad(self._best, (0, services - self._best.size))
