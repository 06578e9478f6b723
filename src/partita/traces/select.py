"""A part of a trace under other names: what an import takes over from a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from partita.ports import Counts, Rows
from partita.traces.arrivals import ArrivalSource
from partita.traces.blocks import join_counts, pick
from partita.traces.services import ServiceMap

NOT_RECORDED = np.float32(np.nan)


class Selection:
    """The requests and bins of a trace that begin in [begin_ns, end_ns), renamed; to be gone through once.

    What the map leaves out is counted in `dropped`. Where several services of a count trace become one, their counts of
    a bin are added, and the law of the largest stands for all.
    """

    def __init__(
        self,
        blocks: Iterable[Rows | Counts],
        mapping: ServiceMap,
        *,
        begin_ns: int | None = None,
        end_ns: int | None = None,
    ) -> None:
        self.dropped = 0
        self._blocks, self._mapping = blocks, mapping
        self._begin_ns, self._end_ns = begin_ns, end_ns

    def __iter__(self) -> Iterator[Rows | Counts]:
        held: list[Counts] = []
        for block in self._blocks:
            match self._take(block):
                case Rows() as rows:
                    yield rows
                case Counts() as counts:
                    # The last instant waits: the next block may go on with it.
                    whole = join_counts([*held, counts])
                    cut = int(np.searchsorted(whole.at_ns, whole.at_ns[-1])) if whole.at_ns.size else 0
                    held = [pick(whole, slice(cut, None))]
                    yield _merge(pick(whole, slice(cut)))
        for counts in held:
            yield _merge(counts)

    def _take(self, block: Rows | Counts) -> Rows | Counts:
        low = 0 if self._begin_ns is None else int(np.searchsorted(block.at_ns, self._begin_ns))
        high = block.at_ns.size if self._end_ns is None else int(np.searchsorted(block.at_ns, self._end_ns))
        part = pick(block, slice(low, high))
        index = self._mapping.indices(part.service)
        left_out = index < 0
        self.dropped += int(part.count[left_out].sum() if isinstance(part, Counts) else left_out.sum())
        kept = pick(part, ~left_out)
        return replace(kept, service=np.array(self._mapping.services, object)[index[~left_out]])


def _merge(block: Counts) -> Counts:
    names, number = np.unique(block.service.astype(str), return_inverse=True)
    # By instant and service, the largest count first: it keeps its law, and the others' counts are added to it.
    order = np.lexsort((-block.count, number, block.at_ns))
    at, service = block.at_ns[order], number[order]
    first = np.flatnonzero(np.concatenate([[True], (np.diff(at) != 0) | (np.diff(service) != 0)])[: at.size])
    if not first.size:
        return block
    merged = pick(block, order[first])
    count = np.add.reduceat(block.count[order], first)
    return Counts(merged.at_ns, names.astype(object)[service[first]], count, merged.law, merged.shape)


def as_rows(arrivals: ArrivalSource, *, step_ns: int) -> Iterator[Rows]:
    """Yield a source's requests in the order of time, `step_ns` at a time, without sizes."""
    names = np.array(arrivals.services, object)
    for until in range(step_ns, arrivals.span_ns + step_ns, step_ns):
        drawn = arrivals.until(until)
        order = np.argsort(drawn.ns, kind="stable")
        service = np.repeat(np.arange(names.size), np.diff(drawn.offsets))[order]
        unknown = np.full(order.size, NOT_RECORDED)
        yield Rows(arrivals.origin_ns + drawn.ns[order], names[service], unknown, unknown)
