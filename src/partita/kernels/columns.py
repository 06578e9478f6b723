"""The state of a service under deferred batching: one row of int64, so that a step touches one or two cache lines."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partita.kernels import NEVER, inlined
from partita.kernels.sizes import ANY, at_place

BIN_NS = 50_000_000
"""Width of one counter of the rate meter."""
BINS = 100
"""Counters of the rate meter: the rate is their mean over five seconds. One more slot holds the present bin."""

HEAD, SPLIT, TAIL, END = 0, 1, 2, 3
"""Rows of this advance's requests: first unsettled, start of the suffix, next arrival, end."""
STATUS, BATCH, EXEC_AT, INVALID_AFTER, DUE = 4, 5, 6, 7, 8
"""The candidate's status, size, start and last feasible start; when its timer is due."""
SLO, CAP = 9, 10
"""The service's SLO and largest batch, set anew at each advance."""
TARGET = 11
"""Target batch at the meter's present rate; 0 where it is to be found anew."""
METERED, BIN, FIRST_BIN, BIN_END, TOTAL = 12, 13, 14, 15, 16
"""The meter: first row not counted, present bin, first bin (-1: none), the present bin's end, sum of counts."""
LAST_START, CREDIT = 17, 18
"""Start of the last batch, and the time saved so far (ns), for the windows that look at them."""
RATE = 19
"""Adaptive batching: requests a second as last measured, in millionths."""
PEAK, SLOPE, GAP, ROOM = 20, 21, 22, 23
"""What follows from it in this pool: batch that deferral reaches; ns that a request adds to a batch; ns between two
batches of a service that the load leaves room for, and that room, in millionths of an instance."""
METER = 24
"""First column of the meter's counters."""
AIM = METER + BINS + 1
"""The target batch when the service became pending, where its rank hangs on it; else 0."""
WIDE = AIM + 1
"""The largest batch whatever the inputs, where sizes count: that of the smallest ones. `CAP` is that of the largest."""
COLUMNS = WIDE + 1
ROWS = np.array([HEAD, SPLIT, TAIL, METERED])
"""Columns that name rows of this advance's requests."""

MILLION = 1_000_000
"""What rates and rooms are held in parts of, so that a service's state is whole numbers."""

IDLE, WAITING, PENDING, EXPIRED = 0, 1, 2, 3
"""Candidate status: none; its send timer runs; waits for an instance; lost its chance, will be formed anew."""


class Rules(NamedTuple):
    """Settings of the discipline and times outside the instances, in ns; `wait_share` is a share of the SLO."""

    window: int
    drop: int
    match: int
    order: int
    choice: int
    control_ns: int
    data_ns: int
    response_ns: int
    jitter_ns: int
    wait_share: float


class Work(NamedTuple):
    """The arrays of one advance, all changed in place but `ns` and `latency`.

    `ns` and `account` (``(requests, 2)``: start and finish) are the requests by service; `latency`, ``(services,
    batches)`` in ns, is that of the slowest instances; `state` is ``(services, COLUMNS)``. Where sizes count,
    `places` are those of the requests, and tables have rows for edges (`partita.kernels.sizes`).
    """

    ns: NDArray[np.int64]
    account: NDArray[np.int64]
    latency: NDArray[np.int64]
    state: NDArray[np.int64]
    places: NDArray[np.float64]


@inlined
def sized(s: int, w: Work) -> bool:
    """Say whether the sizes of a service's requests count."""
    head = w.state[s, HEAD]
    return w.places.shape[0] > 0 and head < w.state[s, END] and w.places[head] != ANY


@inlined
def takes(s: int, b: int, latency: NDArray[np.int64], place: float, w: Work) -> int:
    """Return what a batch whose largest input has this place takes by a table of latencies."""
    return latency[s, b] if place == ANY else at_place(latency, w.state.shape[0], s, b, place)


def new_state(services: int) -> NDArray[np.int64]:
    """Return the state, ``(services, COLUMNS)``, of this many services with nothing queued and nothing metered."""
    state = np.zeros((services, COLUMNS), np.int64)
    state[:, FIRST_BIN] = -1
    state[:, DUE] = NEVER
    state[:, LAST_START] = -NEVER
    return state
