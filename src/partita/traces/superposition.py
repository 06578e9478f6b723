"""Several traces at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from partita.model.load import Arrivals
from partita.ports import Counts, Rows
from partita.traces.arrivals import ArrivalSource
from partita.traces.blocks import join, pick

SEED_STEP = 1_000_003
"""Between the seeds of members, so that bins of the same name and start are not filled alike."""

Alignment = Literal["aligned", "dated"]
ALIGNMENTS: tuple[Alignment, ...] = ("aligned", "dated")
"""All begin when the first does, or each at its own date."""


def member_seed(seed: int, member: int) -> int:
    """Return what a member of a superposition draws from; the first draws as it would alone."""
    return seed + member * SEED_STEP


# Sources of arrivals --------------------------------------------------------------------------------------------------


class Later:
    """The requests of another source, all later by a time."""

    def __init__(self, source: ArrivalSource, by_ns: int) -> None:
        self._source, self._by_ns = source, by_ns
        self.services, self.origin_ns = source.services, source.origin_ns - by_ns
        self.span_ns = source.span_ns + by_ns

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        if ns <= self._by_ns:
            return Arrivals.empty(len(self.services))
        a = self._source.until(ns - self._by_ns)
        return Arrivals(a.ns + self._by_ns, a.offsets, a.size)


class Superposed:
    """The requests of several sources, all counted from the instant at which the replay starts.

    Services of the same name are one; the origin is that of the first source, the end that of the last one to end.
    """

    def __init__(self, sources: Sequence[ArrivalSource]) -> None:
        self._sources = sources
        self.services = tuple(dict.fromkeys(name for source in sources for name in source.services))
        self.origin_ns, self.span_ns = sources[0].origin_ns, max(source.span_ns for source in sources)

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet, of an instant in the order of sources."""
        parts: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float32]]]] = {name: [] for name in self.services}
        for source in self._sources:
            a = source.until(ns)
            for name, low, high in zip(source.services, a.offsets[:-1].tolist(), a.offsets[1:].tolist(), strict=True):
                if high > low:
                    parts[name].append((a.ns[low:high], a.size[low:high]))
        joined = [_join(part) for part in parts.values()]
        offsets = np.concatenate([[0], np.cumsum([at.size for at, _ in joined], dtype=np.int64)])
        return Arrivals(np.concatenate([at for at, _ in joined]), offsets, np.concatenate([size for _, size in joined]))


def _join(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    if len(parts) == 1:
        return parts[0]
    at, size = np.concatenate([at for at, _ in parts]), np.concatenate([size for _, size in parts])
    order = np.argsort(at, kind="stable")
    return at[order], size[order]


# Blocks of traces -----------------------------------------------------------------------------------------------------


class _Stream:
    """One trace, of which a part has been read and not yet given."""

    def __init__(self, blocks: Iterable[Rows | Counts]) -> None:
        self._blocks = (block for block in blocks if block.at_ns.size)
        self._held: Rows | Counts | None = None
        self._ended = False
        self.read()

    def read(self) -> None:
        """Read one block more."""
        block = next(self._blocks, None)
        if block is None:
            self._ended = True
        else:
            self._held = block if self._held is None else join([self._held, block])

    @property
    def known_until(self) -> int | None:
        """The instant from which on more may come; None if nothing comes any more."""
        if self._ended:
            return None
        assert self._held is not None
        return int(self._held.at_ns[-1])

    def take(self, until_ns: int | None) -> Rows | Counts | None:
        """Return and forget what is held before an instant, or all of it; None if that is nothing."""
        if self._held is None:
            return None
        cut = self._held.at_ns.size if until_ns is None else int(np.searchsorted(self._held.at_ns, until_ns))
        taken, rest = pick(self._held, slice(cut)), pick(self._held, slice(cut, None))
        self._held = rest if rest.at_ns.size else None
        return taken if cut else None


def merge(streams: Sequence[Iterable[Rows | Counts]]) -> Iterator[Rows | Counts]:
    """Yield several traces of one kind in the order of time, what is of one instant in the order of the traces."""
    open_streams = [_Stream(blocks) for blocks in streams]
    while True:
        ends = [stream.known_until for stream in open_streams]
        until_ns = min((end for end in ends if end is not None), default=None)
        parts = [part for stream in open_streams if (part := stream.take(until_ns)) is not None]
        if parts:
            whole = join(parts)
            yield pick(whole, np.argsort(whole.at_ns, kind="stable"))
        if until_ns is None:
            return
        for stream, end in zip(open_streams, ends, strict=True):
            if end == until_ns:
                stream.read()


def in_minutes(block: Rows | Counts, bin_s: float) -> Counts:
    """Return a block as counts in bins of a minute or less; a wider bin (of `bin_s`) is divided evenly."""
    size = block.at_ns.size
    count = block.count if isinstance(block, Counts) else np.ones(size, np.int64)
    parts = max(1, round(bin_s / 60))
    number, row = np.tile(np.arange(parts), size), np.repeat(np.arange(size), parts)
    at_ns = block.at_ns[row] + number * round(bin_s / parts * 1e9)
    divided = count[row] // parts + (number < count[row] % parts)
    order = np.argsort(at_ns, kind="stable")
    laws = np.full(order.size, "poisson", object)
    return Counts(at_ns[order], block.service[row][order], divided[order], laws, np.ones(order.size))
