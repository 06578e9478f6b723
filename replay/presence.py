"""Services that appear and vanish: arrivals of each only between two instants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from partita.model.load import Arrivals
from partita.traces.arrivals import ArrivalSource


class PresentOnly:
    """The requests of another source that come while their service is there: in ``[from, until)`` seconds."""

    def __init__(self, source: ArrivalSource, present_s: Sequence[tuple[float, float]]) -> None:
        self._source = source
        self._bounds = [(round(begin * 1e9), round(min(end, 1e9) * 1e9)) for begin, end in present_s]
        self.services, self.origin_ns, self.span_ns = source.services, source.origin_ns, source.span_ns

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        arrivals = self._source.until(ns)
        begin, end = (np.repeat(b, np.diff(arrivals.offsets)) for b in np.array(self._bounds, np.int64).T)
        kept = (arrivals.ns >= begin) & (arrivals.ns < end)
        offsets = np.concatenate(([0], np.cumsum(kept)))[arrivals.offsets]
        return Arrivals(arrivals.ns[kept], offsets, arrivals.size[kept])
