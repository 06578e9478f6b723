"""What failures take from an account: the batches that were running, and the answers to their requests."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from partita.kernels.batches import DROPPED
from partita.ports import Served
from partita.replay.cluster import INSTANCES_A_GPU
from partita.replay.failures import Failure
from partita.replay.serving import Ready


class Losses:
    """Takes out of accounts what failures have struck.

    `requests` counts those that lost their answer so, of what arrived from `counted_ns` on and before its end.

    A batch that was granted before a failure of its instance and would end after it is lost. It is then logged with
    size 0 and the time it took, like any batch that was cut short, and its requests count as dropped: a client sees an
    error at once, and whether it asks again is its own affair. A discipline that preempts logs a batch when it can no
    longer be cut short: one on an instance that is not there any more was granted before.
    """

    def __init__(self, failures: Sequence[Failure], places: Sequence[str], counted_ns: tuple[int, int]) -> None:
        self._failures = sorted(failures)
        self._at_ns = [f.at_ns for f in self._failures]
        self._place = {gpu: n for n, gpu in enumerate(places)}
        self._number = dict.fromkeys((f.instance for f in failures if f.instance), -1)
        self._since_ns = self._until_ns = 0
        self._from_ns, self._to_ns = counted_ns
        self.requests = 0

    def taken_from(self, served: Served, ready: Ready, until_ns: int) -> Served:
        """Return an account, made by an advance until an instant, as failures leave it."""
        if self._number:  # an account may come when its instance is gone
            numbered = zip(ready.instances, ready.number.tolist(), strict=True)
            self._number.update((i.id, number) for i, number in numbered if i.id in self._number)
        if until_ns != self._until_ns:  # the first of several accounts of this advance
            self._since_ns, self._until_ns = self._until_ns, until_ns
        if not self._failures or not len(served.batch_finish_ns):
            return served
        gone = ~np.isin(served.batch_instance, ready.number)
        earliest = min(int(served.batch_start_ns.min()), until_ns - 1, self._since_ns - 1 if gone.any() else until_ns)
        first = bisect_right(self._at_ns, earliest)
        last = bisect_left(self._at_ns, int(served.batch_finish_ns.max()))
        for failure in self._failures[first:last]:
            struck = self._on(failure, served) & (served.batch_finish_ns > failure.at_ns)
            before = (served.batch_start_ns < failure.at_ns) | (until_ns <= failure.at_ns)
            struck &= before | (gone & (self._since_ns <= failure.at_ns))
            if struck.any():
                served = self._without(served, np.flatnonzero(struck), failure.at_ns)
        return served

    def _on(self, failure: Failure, served: Served) -> NDArray[np.bool_]:
        """Say which batches ran on what fails."""
        ran: NDArray[np.bool_] = (
            served.batch_instance == self._number[failure.instance]
            if failure.instance
            else served.batch_instance // INSTANCES_A_GPU == self._place[failure.gpu]
        )
        return ran

    def _without(self, served: Served, lost: NDArray[np.int64], at_ns: int) -> Served:
        """Cut batches short and drop their requests."""
        start, finish = served.start_ns.copy(), served.finish_ns.copy()
        rows = np.concatenate([_requests_of(served, int(batch)) for batch in lost])
        start[rows], finish[rows] = 0, DROPPED
        came = served.arrivals.ns[rows]
        self.requests += int(((came >= self._from_ns) & (came < self._to_ns)).sum())
        size, ended = served.batch_size.copy(), served.batch_finish_ns.copy()
        size[lost] = 0
        ended[lost] = np.maximum(at_ns, served.batch_start_ns[lost])
        return replace(served, start_ns=start, finish_ns=finish, batch_size=size, batch_finish_ns=ended)


def _requests_of(served: Served, batch: int) -> NDArray[np.int64]:
    """Return the rows of a batch's requests.

    Batches of a service that start and end together cannot be told apart by their times: they take their requests in
    the order in which they were granted.
    """
    service, begin, end = (a[batch] for a in (served.batch_service, served.batch_start_ns, served.batch_finish_ns))
    offsets = served.arrivals.offsets
    own = slice(offsets[service], offsets[service + 1])
    rows = offsets[service] + np.flatnonzero((served.start_ns[own] == begin) & (served.finish_ns[own] == end))
    alike = (served.batch_service == service) & (served.batch_start_ns == begin) & (served.batch_finish_ns == end)
    before = int(served.batch_size[:batch][alike[:batch]].sum())
    taken: NDArray[np.int64] = rows[before : before + int(served.batch_size[batch])]
    return taken
