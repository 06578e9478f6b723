"""The recent log of a replay: requests as they came, kept for as long as somebody may ask for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.kernels.splice import regroup
from partita.kernels.tally import add_per_second
from partita.model.load import Arrivals

SECOND_NS = 1_000_000_000
LEAST_ROOM = 1 << 12


class RecentLog:
    """Requests in the order of their batches of arrivals, each grouped by service; old ones are forgotten.

    What comes is written behind what is there, and only what is asked for is put together by service.
    """

    def __init__(self, services: int) -> None:
        self._ns, self._size = np.empty(LEAST_ROOM, np.int64), np.empty(LEAST_ROOM, np.float32)
        self._begin = self._end = 0
        self._until_ns: list[int] = []
        self._offsets = np.empty((0, services + 1), np.int64)

    def add(self, arrivals: Arrivals, until_ns: int) -> None:
        """Keep requests, all before `until_ns` and not before those of the last call."""
        end = self._end + len(arrivals)
        if end > len(self._ns):
            self._make_room(len(arrivals))
            end = self._end + len(arrivals)
        self._ns[self._end : end], self._size[self._end : end] = arrivals.ns, arrivals.size
        self._offsets = np.concatenate((self._offsets, [arrivals.offsets + self._end]))
        self._until_ns.append(until_ns)
        self._end = end

    def forget(self, before_ns: int) -> None:
        """Let go of what came before an instant, batches of arrivals as a whole."""
        gone = int(np.searchsorted(self._until_ns, before_ns, side="right"))
        if gone:
            del self._until_ns[:gone]
            self._begin = int(self._offsets[gone - 1, -1])
            self._offsets = self._offsets[gone:]

    def between(self, since_ns: int, until_ns: int) -> Arrivals:
        """Return the requests in ``[since, until)`` that have not been forgotten."""
        first, last = np.searchsorted(self._until_ns, (since_ns, until_ns), side="right")
        chosen = self._offsets[first : last + 1]
        return Arrivals(*regroup(self._ns, self._size, chosen, since_ns, until_ns))

    def per_second(self, since_ns: int, seconds: int) -> NDArray[np.int64]:
        """Count the requests of each of the seconds from `since_ns` on, ``(services, seconds)``."""
        counts = np.zeros((self._offsets.shape[1] - 1, seconds), np.int64)
        until_ns = since_ns + seconds * SECOND_NS
        first, last = np.searchsorted(self._until_ns, (since_ns, until_ns), side="right")
        for offsets in self._offsets[first : last + 1] if seconds else ():
            add_per_second(self._ns, offsets, since_ns, until_ns, counts)
        return counts

    def _make_room(self, more: int) -> None:
        """Move what is kept to the front of arrays at least twice as long as needed."""
        kept, begin = slice(self._begin, self._end), self._begin
        room = max(LEAST_ROOM, 2 * (self._end - begin + more))
        ns, size = np.empty(room, np.int64), np.empty(room, np.float32)
        ns[: self._end - begin], size[: self._end - begin] = self._ns[kept], self._size[kept]
        self._ns, self._size = ns, size
        self._offsets = self._offsets - begin
        self._begin, self._end = 0, self._end - begin
