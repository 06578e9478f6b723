"""Clockwork's scheduler: work is booked a little ahead, on clocks that are trusted, the most urgent batch first.

Batches have exact sizes, powers of two. Each service has a line of requests for each kind of instance and size; a
request stands in all of them until it is taken, or until a batch of that size that an instance of that kind could run
would be too late for it. A line that holds a batch wants to begin it by the deadline of its front less what it takes.
As long as the work booked on an instance ends within the look-ahead, it is given the service whose line must begin
first: of the lines that still hold enough, the one of the largest size is taken from. Older requests that stay behind
are given up.

What is booked is settled at once. An instance whose batch took longer or less than planned makes that known when the
batch is done; until then what follows is booked as if it did not. An instance drops batches that would begin too late.

Order of events, which decides ties: by time; at one instant news of instances, by number, then arrivals, by service,
then bookings, one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.batches import DROPPED, FINISH, QUEUED, Batches, answer, note
from partita.kernels.instances import Instances, grow_forest, occupy, run_ns
from partita.kernels.sizes import largest_place
from partita.kernels.tournament import first_within, grow, put, smallest

HEAD, TAIL, END, BUDGET = 0, 1, 2, 3
"""Columns of a service: first unsettled row, next arrival's row, end of its rows, time from arrival to deadline."""
COLUMNS = 4

PLACE, READY, PLANNED, BEGIN, DONE, NEXT = 0, 1, 2, 3, 4, 5
"""Columns of a booking: its instance, when its inputs are there, how long it should take, when it begins (or is found
to be late) and is done, and the next booking of its instance (or NONE)."""
BOOKING_COLUMNS = 6
NONE = -1

FIRST, LAST, BOOKED, STUCK = 0, 1, 2, 3
"""Columns of an instance: first and last booking not known to be done, when its work should end, whether it lags."""
INSTANCE_COLUMNS = 4


class Requests(NamedTuple):
    """Requests of one advance by service; `fronts` (``(kinds, services, sizes)``) are the first rows of the lines."""

    ns: NDArray[np.int64]
    offsets: NDArray[np.int64]
    account: NDArray[np.int64]
    services: NDArray[np.int64]
    fronts: NDArray[np.int64]


class Board(NamedTuple):
    """What changes as time goes by.

    `begins` is a forest, one tree a kind, over when each service's lines must begin their batch; `booked` one over when
    the work of instances should end; `news` a tree over when the next thing is known of them. `bookings` holds those
    not known to be done; where all batches take what is planned there are none.
    """

    begins: NDArray[np.int64]
    booked: NDArray[np.int64]
    news: NDArray[np.int64]
    instances: NDArray[np.int64]
    bookings: NDArray[np.int64]
    used: NDArray[np.int64]
    free_at: NDArray[np.int64]


class Rules(NamedTuple):
    """Settings of the discipline and times outside the instances, in ns; `present` tells which kinds there are."""

    sizes: NDArray[np.int64]
    present: NDArray[np.bool_]
    ahead_ns: int
    tolerance_ns: int
    min_id: bool
    control_ns: int
    data_ns: int


@lean
def _must_begin(k: int, s: int, q: Requests, p: Instances, r: Rules) -> tuple[int, int]:
    """Return when the service must begin a batch on that kind, NEVER if no line holds one, and the line's place."""
    begin, line = NEVER, NONE
    tail = q.services[s, TAIL]
    for z in range(r.sizes.shape[0]):
        size = r.sizes[z]
        if size > p.max_batch[k, s]:
            break
        front = q.fronts[k, s, z]
        if front + size <= tail:
            latest = q.ns[front] + q.services[s, BUDGET] - p.planned[k, s, size]
            if latest < begin:
                begin, line = latest, z
    return begin, line


@lean
def _rank(s: int, q: Requests, board: Board, p: Instances, r: Rules) -> None:
    """Put a service where it belongs among those that wait, for each kind."""
    leaf = board.begins.shape[1] // 2 + s
    for k in range(r.present.shape[0]):
        if r.present[k]:
            begin, _ = _must_begin(k, s, q, p, r)
            if begin != board.begins[k, leaf]:
                put(board.begins[k], s, begin)


@lean
def _settle_head(s: int, q: Requests, p: Instances, r: Rules) -> None:
    """Drop requests that stand in no line any more and were not taken."""
    head = NEVER
    for k in range(r.present.shape[0]):
        if r.present[k]:
            for z in range(r.sizes.shape[0]):
                if r.sizes[z] <= p.max_batch[k, s]:
                    head = min(head, q.fronts[k, s, z])
    if head < NEVER:
        for row in range(q.services[s, HEAD], head):
            if q.account[row, FINISH] == QUEUED:
                q.account[row, FINISH] = DROPPED
        q.services[s, HEAD] = max(head, q.services[s, HEAD])


@lean
def _start_of(g: int, size: int, now: int, board: Board, r: Rules) -> int:
    """Return when a batch booked now should begin."""
    return max(board.instances[g, BOOKED], now + r.control_ns + r.data_ns * size)


@lean
def _leave_lines(k: int, s: int, g: int, now: int, q: Requests, board: Board, p: Instances, r: Rules) -> int:
    """Take out of the lines what the instance would answer too late; return the place of the largest that holds enough.

    NONE if no line does.
    """
    largest, tail = NONE, q.services[s, TAIL]
    for z in range(r.sizes.shape[0]):
        size = r.sizes[z]
        if size > p.max_batch[k, s]:
            break
        # A request that arrived before this would be answered too late.
        too_old = _start_of(g, size, now, board, r) + p.planned[k, s, size] - q.services[s, BUDGET]
        front = q.fronts[k, s, z]
        while front < tail and q.ns[front] < too_old:
            front += 1
        q.fronts[k, s, z] = front
        if front + size <= tail:
            largest = z
    return largest


@lean
def _note_booking(g: int, ready: int, planned: int, begin: int, done: int, board: Board, r: Rules) -> None:
    """Keep a booking until it is known to be done."""
    at = board.used[0]
    board.used[0] = at + 1
    booking = board.bookings[at]
    booking[PLACE], booking[READY], booking[PLANNED] = g, ready, planned
    booking[BEGIN], booking[DONE], booking[NEXT] = begin, done, NONE
    if board.instances[g, FIRST] == NONE:
        board.instances[g, FIRST] = at
        _await_news(g, board, r)
    else:
        board.bookings[board.instances[g, LAST], NEXT] = at
    board.instances[g, LAST] = at


@lean
def _await_news(g: int, board: Board, r: Rules) -> None:
    """Set when the next thing is known of an instance: its first booking is done, or lags too much."""
    first = board.instances[g, FIRST]
    if first == NONE:
        put(board.news, g, NEVER)
        return
    booking = board.bookings[first]
    at = booking[DONE]
    if board.instances[g, STUCK] == 0:
        at = min(at, booking[BEGIN] + booking[PLANNED] + r.tolerance_ns + 1)
    put(board.news, g, at)


@lean
def _hear(g: int, now: int, board: Board, p: Instances, r: Rules) -> None:
    """Learn that an instance lags, so that nothing more is booked there, or that a booking is done."""
    first = board.instances[g, FIRST]
    booking = board.bookings[first]
    if booking[DONE] > now:
        board.instances[g, STUCK] = 1
        occupy(board.booked, p, g, NEVER)
        _await_news(g, board, r)
        return
    end, at = booking[DONE], booking[NEXT]
    board.instances[g, FIRST], board.instances[g, STUCK] = at, 0
    while at != NONE:
        end = max(end, board.bookings[at, READY]) + board.bookings[at, PLANNED]
        at = board.bookings[at, NEXT]
    board.instances[g, BOOKED] = end
    occupy(board.booked, p, g, end)
    _await_news(g, board, r)


@lean
def _book(
    s: int, g: int, z: int, now: int, number: int, q: Requests, board: Board, p: Instances, r: Rules, log: Batches,
    logged: int, exact: bool
) -> int:  # fmt: skip
    """Book a batch of the line's front; return how many batches are logged then."""
    k, size = p.kind[g], r.sizes[z]
    front = q.fronts[k, s, z]
    ready = now + r.control_ns + r.data_ns * size
    planned_start = _start_of(g, size, now, board, r)
    planned = p.planned[k, s, size]
    start = max(board.free_at[g], ready)
    done = start
    if start > planned_start + r.tolerance_ns:
        for row in range(front, front + size):
            q.account[row, FINISH] = DROPPED
    else:
        done = start + run_ns(p, g, s, size, q.ns[front], largest_place(p.places, front, size))
        answer(q.account, front, size, start, done)
        board.free_at[g] = done
        logged = note(log, logged, number, s, size, start, done)
    for kind in range(r.present.shape[0]):
        for line in range(r.sizes.shape[0]):
            q.fronts[kind, s, line] = max(q.fronts[kind, s, line], front + size)
    board.instances[g, BOOKED] = planned_start + planned
    if board.instances[g, STUCK] == 0:
        occupy(board.booked, p, g, planned_start + planned)
    if not exact:
        _note_booking(g, ready, planned, start, done, board, r)
    return logged


@lean
def _next_booking(since: int, board: Board, r: Rules) -> int:
    """Return when something can be booked next."""
    at = NEVER
    for k in range(r.present.shape[0]):
        if board.begins[k, 1] < NEVER:
            at = min(at, board.booked[k, 1] - r.ahead_ns)
    return max(since, at)


@lean
def _taker(now: int, board: Board, r: Rules) -> int:
    """Return the instance that is to be given work: an idle one by number, or the one whose work should end first."""
    best, at = -1, NEVER
    for k in range(r.present.shape[0]):
        if board.begins[k, 1] == NEVER or board.booked[k, 1] > now + r.ahead_ns:
            continue
        if r.min_id and board.booked[k, 1] <= now:
            g, end = first_within(board.booked[k], now), -NEVER
        else:
            g, end = smallest(board.booked[k]), board.booked[k, 1]
        if end < at or (end == at and g < best):
            best, at = g, end
    return best


@lean
def _serve(
    since: int,
    until: int,
    active: NDArray[np.int64],
    coming: NDArray[np.int64],
    number: NDArray[np.int64],
    q: Requests,
    board: Board,
    p: Instances,
    r: Rules,
    log: Batches,
    exact: bool,
) -> int:
    """Run the event loop; `coming` is a tree over the active services' next arrivals. Return what was logged."""
    logged = 0
    booking = _next_booking(since, board, r)
    while min(board.news[1], coming[1], booking) < until:
        since = max(since, min(board.news[1], coming[1], booking))
        if board.news[1] <= min(coming[1], booking):
            _hear(smallest(board.news), since, board, p, r)
        elif coming[1] <= booking:
            at = smallest(coming)
            s = active[at]
            row = q.services[s, TAIL] + 1
            q.services[s, TAIL] = row
            _rank(s, q, board, p, r)
            put(coming, at, max(since, q.ns[row]) if row < q.services[s, END] else NEVER)
        else:
            g = _taker(since, board, r)
            k = p.kind[g]
            s = smallest(board.begins[k])
            _, wanted = _must_begin(k, s, q, p, r)
            line = _leave_lines(k, s, g, since, q, board, p, r)
            if line >= wanted:
                logged = _book(s, g, line, since, number[g], q, board, p, r, log, logged, exact)
            _settle_head(s, q, p, r)
            _rank(s, q, board, p, r)
        booking = _next_booking(since, board, r)
    return logged


@njit(cache=True)
def advance_clockwork(
    q: Requests,
    active: NDArray[np.int64],
    number: NDArray[np.int64],
    free_at: NDArray[np.int64],
    instances: NDArray[np.int64],
    bookings: NDArray[np.int64],
    p: Instances,
    r: Rules,
    since: int,
    until: int,
    log: Batches,
) -> tuple[NDArray[np.int64], int]:
    """Serve the pool from `since` until `until`; return the bookings not known to be done, and the batches logged.

    `bookings` are those that the last advance left, by instance in their order. `log.instance` takes numbers, not
    places. `q`, `free_at`, `instances` and `log` are changed in place.
    """
    services = q.services.shape[0]
    # Where each batch takes what is planned there is nothing to hear of.
    exact = p.spread == 0.0 and bookings.shape[0] == 0 and np.array_equal(p.planned, p.run)
    exact = exact and p.places.shape[0] == 0
    table = np.empty((1 if exact else bookings.shape[0] + q.ns.shape[0], BOOKING_COLUMNS), np.int64)
    keys = np.where(instances[:, STUCK] == 1, NEVER, instances[:, BOOKED])
    nothing = grow(np.full(services, NEVER, np.int64))
    begins = np.empty((p.max_batch.shape[0], nothing.shape[0]), np.int64)
    for k in range(begins.shape[0]):
        begins[k] = nothing
    news = grow(np.full(number.shape[0], NEVER, np.int64))
    board = Board(begins, grow_forest(keys, p), news, instances, table, np.zeros(1, np.int64), free_at)
    for at in range(bookings.shape[0]):
        b = bookings[at]
        _note_booking(b[PLACE], b[READY], b[PLANNED], b[BEGIN], b[DONE], board, r)
    coming = np.full(active.shape[0], NEVER, np.int64)
    for n in range(active.shape[0]):
        s = active[n]
        _rank(s, q, board, p, r)
        if q.services[s, TAIL] < q.services[s, END]:
            coming[n] = max(since, q.ns[q.services[s, TAIL]])
    logged = _serve(since, until, active, grow(coming), number, q, board, p, r, log, exact)
    left = np.empty((board.used[0], BOOKING_COLUMNS), np.int64)
    count = 0
    for g in range(number.shape[0]):
        at = instances[g, FIRST]
        while at != NONE:
            left[count] = table[at]
            count += 1
            at = table[at, NEXT]
    instances[:, FIRST] = NONE
    return left[:count].copy(), logged
