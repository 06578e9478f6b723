"""Shepherd's online scheduler (FLEX): the largest batch first, and a running batch gives way to a much larger one.

Each service keeps its requests in order of arrival. A batch of a service on an instance begins with the oldest waiting
request that could still be met there alone, and grows as long as that one keeps its deadline; the finish of a batch
must rise with its size. An instance that comes free takes the largest batch of all services. A request that arrives is
offered to the instances by number: an idle one runs its service's batch at once, a busy one if that batch is at least
`threshold` times as large as the one that runs there, whose requests then wait again and are offered in turn.

Until a batch has come to its planned end, or to its end if that is sooner, it may be cut short. So its requests are
settled only then, and stand in lists until then: `link` threads the waiting requests of a service, by row, or those of
a running batch. Offers look for instances in trees over the sizes of what they run, so that an arrival that would cut
nothing short costs no look at each of them.

Order of events, which decides ties: by time; at one instant instances before arrivals, both by number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, inlined, lean
from partita.kernels.batches import DROPPED, FINISH, QUEUED, START, Batches, note
from partita.kernels.instances import Instances, grow_forest, run_ns
from partita.kernels.sizes import place_of
from partita.kernels.tournament import grow, next_within, put, smallest

COMING, WAITING = -2, -1
"""Where a request is that rides in no batch: not taken in yet, or in its service's queue. Else its batch's instance."""

NOBODY, UNSERVED = -1, -1
"""The end of a list; what stands for the end of its rows at a service that the pool does not serve."""

FIRST, LAST, COUNT, NEXT, END = 0, 1, 2, 3, 4
"""Columns of a service: oldest and newest waiting row, how many wait, next arrival's row, end of its rows."""
DEADLINE, ALONE, BATCHES, BUDGET = 5, 6, 7, 8
"""Columns: deadline of the oldest waiting row; what one request takes on the fastest kind; batches that run; time from
arrival to deadline."""
COLUMNS = 9

SERVICE, SIZE, OLDEST, CLEAR, BEGUN, PLANNED, DONE = 0, 1, 2, 3, 4, 5, 6
"""Columns of an instance: service, size (0: nothing that may be cut short) and first row of its batch, when the
instance was clear for it, when it begins, when it should be finished, and when it will be."""
RUN_COLUMNS = 7

LOGGED, LINE_FROM, LINE_TO = 0, 1, 2
"""Entries of `at`: batches logged, ends of the line of services to offer."""


class Requests(NamedTuple):
    """Requests of one advance by service; `owner` says where each of them is, in between advances."""

    ns: NDArray[np.int64]
    offsets: NDArray[np.int64]
    account: NDArray[np.int64]
    link: NDArray[np.int64]
    owner: NDArray[np.int64]


class Board(NamedTuple):
    """What changes as time goes by.

    `services` is ``(services, COLUMNS)``, `runs` ``(instances, RUN_COLUMNS)``. `sizes` is a forest over the sizes of
    batches that may be cut short (0: idle, NEVER: taken), `events` a tree over when instances need attention, `crowd`
    one over how many wait for services (below zero, so that the largest crowd is the smallest key), in the order that
    decides ties. `line` lists services to be offered anew; `lined` marks them.
    """

    services: NDArray[np.int64]
    runs: NDArray[np.int64]
    sizes: NDArray[np.int64]
    events: NDArray[np.int64]
    free_at: NDArray[np.int64]
    crowd: NDArray[np.int64]
    line: NDArray[np.int64]
    lined: NDArray[np.bool_]
    at: NDArray[np.int64]


class Left(NamedTuple):
    """The instances as the last advance left them: numbers, runs, and their places now.

    A place is -1 where the instance is gone, or was booked by somebody else: what it ran is answered as planned.
    """

    number: NDArray[np.int64]
    runs: NDArray[np.int64]
    place: NDArray[np.int64]


class Rules(NamedTuple):
    """Settings of the discipline and times outside the instances, in ns."""

    threshold: float
    lower_first: bool
    preemption_ns: int
    control_ns: int
    data_ns: int
    response_ns: int


@inlined
def _deadline(s: int, row: int, q: Requests, board: Board) -> int:
    return q.ns[row] + board.services[s, BUDGET]


@inlined
def _finish(s: int, k: int, b: int, now: int, free: int, p: Instances, r: Rules) -> int:
    """Return when a batch decided now should be finished on an instance of kind `k` that is free at `free`."""
    return max(now + r.control_ns + r.data_ns * b, free) + p.planned[k, s, b]


@lean
def _largest(s: int, k: int, deadline: int, most: int, now: int, free: int, p: Instances, r: Rules) -> int:
    """Return the largest batch up to `most` that meets the deadline; one request alone must."""
    low, high = 1, most
    while low < high:
        b = (low + high + 1) // 2
        if deadline >= _finish(s, k, b, now, free, p, r):
            low = b
        else:
            high = b - 1
    return low


@lean
def _leaf(s: int, board: Board, r: Rules) -> int:
    """Return a service's place in the order that decides ties, or the service at a place."""
    return s if r.lower_first else board.services.shape[0] - 1 - s


@inlined
def _count(s: int, more: int, board: Board, r: Rules) -> None:
    """Change how many wait."""
    board.services[s, COUNT] += more
    if board.services[s, END] != UNSERVED:
        put(board.crowd, _leaf(s, board, r), -board.services[s, COUNT])


@inlined
def _begin_queue(s: int, row: int, q: Requests, board: Board) -> None:
    """Make a row (or NOBODY) the oldest one that waits."""
    board.services[s, FIRST] = row
    if row == NOBODY:
        board.services[s, LAST] = NOBODY
    else:
        board.services[s, DEADLINE] = _deadline(s, row, q, board)


@inlined
def _drop_hopeless(s: int, now: int, q: Requests, board: Board, r: Rules) -> None:
    """Drop, from the oldest on, what could not be met any more even alone, at once, on the fastest kind."""
    done = now + r.control_ns + r.data_ns + board.services[s, ALONE]
    row, dropped = board.services[s, FIRST], 0
    if row == NOBODY or board.services[s, DEADLINE] >= done:
        return
    while row != NOBODY and _deadline(s, row, q, board) < done:
        q.account[row, FINISH] = DROPPED
        row = q.link[row]
        dropped += 1
    _begin_queue(s, row, q, board)
    _count(s, -dropped, board, r)


@inlined
def _first_met(
    s: int, k: int, now: int, free: int, q: Requests, board: Board, p: Instances, r: Rules
) -> tuple[int, int, int]:
    """Return the oldest waiting row that would be met alone there (or NOBODY), the row before it, how many precede."""
    done = _finish(s, k, 1, now, free, p, r)
    row, before, passed = board.services[s, FIRST], NOBODY, 0
    if row == NOBODY or board.services[s, DEADLINE] >= done:
        return row, before, passed
    while row != NOBODY and _deadline(s, row, q, board) < done:
        before, row = row, q.link[row]
        passed += 1
    return row, before, passed


@inlined
def _start(s: int, g: int, b: int, now: int, free: int, q: Requests, board: Board, p: Instances, r: Rules) -> None:
    """Let an instance run a batch of the oldest requests that can be met there."""
    k = p.kind[g]
    first, before, _ = _first_met(s, k, now, free, q, board, p, r)
    last, place = first, place_of(p.places, first)
    for _ in range(b - 1):
        last = q.link[last]
        place = max(place, place_of(p.places, last))
    after = q.link[last]
    q.link[last] = NOBODY
    if before == NOBODY:
        _begin_queue(s, after, q, board)
    else:
        q.link[before] = after
        if after == NOBODY:
            board.services[s, LAST] = before
    _count(s, -b, board, r)
    begun = max(now + r.control_ns + r.data_ns * b, free)
    planned = begun + p.planned[k, s, b]
    done = begun + run_ns(p, g, s, b, q.ns[first], place)
    run = board.runs[g]
    run[SERVICE], run[SIZE], run[OLDEST] = s, b, first
    run[CLEAR], run[BEGUN], run[PLANNED], run[DONE] = free, begun, planned, done
    board.services[s, BATCHES] += 1
    board.free_at[g] = done
    put(board.events, g, min(planned, done))
    put(board.sizes[k], g, b)


@lean
def _note(number: int, s: int, size: int, start: int, finish: int, board: Board, log: Batches) -> None:
    board.at[LOGGED] = note(log, board.at[LOGGED], number, s, size, start, finish)


@lean
def _clear_at(g: int, now: int, board: Board, r: Rules) -> int:
    """Return when an instance could be clear for another batch if it were to stop now."""
    run = board.runs[g]
    if run[SIZE] == 0:
        return now
    return now + r.preemption_ns if now >= run[BEGUN] else max(now, run[CLEAR])


@lean
def _cut_short(g: int, now: int, number: NDArray[np.int64], q: Requests, board: Board, r: Rules, log: Batches) -> None:
    """End a batch before its time: its requests wait again, in order of arrival; what it took, if it ran, is logged."""
    run = board.runs[g]
    s = run[SERVICE]
    row, before, waiting = run[OLDEST], NOBODY, board.services[s, FIRST]
    while row != NOBODY:
        while waiting != NOBODY and waiting < row:
            before, waiting = waiting, q.link[waiting]
        following = q.link[row]
        q.link[row] = waiting
        if before == NOBODY:
            _begin_queue(s, row, q, board)
        else:
            q.link[before] = row
        if waiting == NOBODY:
            board.services[s, LAST] = row
        before, row = row, following
    _count(s, run[SIZE], board, r)
    board.services[s, BATCHES] -= 1
    if now >= run[BEGUN]:
        _note(number[g], s, 0, run[BEGUN], now + r.preemption_ns, board, log)


@inlined
def _settle(g: int, number: NDArray[np.int64], q: Requests, board: Board, log: Batches) -> None:
    """Enter a batch that nothing can cut short any more into the account."""
    run = board.runs[g]
    row = run[OLDEST]
    while row != NOBODY:
        q.account[row, START], q.account[row, FINISH] = run[BEGUN], run[DONE]
        row = q.link[row]
    _note(number[g], run[SERVICE], run[SIZE], run[BEGUN], run[DONE], board, log)
    board.services[run[SERVICE], BATCHES] -= 1
    run[SIZE] = 0


@inlined
def _size_on(s: int, g: int, now: int, free: int, q: Requests, board: Board, p: Instances, r: Rules) -> int:
    """Return the size of the service's batch on an instance, with what it runs there of the same service."""
    k, run = p.kind[g], board.runs[g]
    if p.max_batch[k, s] == 0:
        return 0
    row, _, passed = _first_met(s, k, now, free, q, board, p, r)
    most = board.services[s, COUNT] - passed
    if run[SIZE] > 0 and run[SERVICE] == s:
        if _deadline(s, run[OLDEST], q, board) < _finish(s, k, 1, now, free, p, r):
            return 0
        row = run[OLDEST] if row == NOBODY else min(row, run[OLDEST])
        most += run[SIZE]
    if row == NOBODY:
        return 0
    return _largest(s, k, _deadline(s, row, q, board), min(p.max_batch[k, s], most), now, free, p, r)


@inlined
def _holds(s: int, k: int, least: int, now: int, q: Requests, board: Board, p: Instances, r: Rules) -> bool:
    """Say whether a service has a batch of at least so many for a free instance of kind `k`."""
    if min(p.max_batch[k, s], board.services[s, COUNT]) < least:
        return False
    _drop_hopeless(s, now, q, board, r)
    row, _, passed = _first_met(s, k, now, now, q, board, p, r)
    if board.services[s, COUNT] - passed < least:
        return False
    return _deadline(s, row, q, board) >= _finish(s, k, least, now, now, p, r)


@lean
def _look(g: int, now: int, q: Requests, board: Board, p: Instances, r: Rules) -> None:
    """Let a free instance run the largest batch of all services; else it is idle."""
    k = p.kind[g]
    first = smallest(board.crowd)  # looked at first, since most others have no larger batch then
    chosen, largest = first, 0
    if board.crowd[1] < 0:
        largest = _size_on(_leaf(first, board, r), g, now, now, q, board, p, r)
    leaf = next_within(board.crowd, 0, -max(1, largest))
    while leaf >= 0:
        s = _leaf(leaf, board, r)
        least = max(1, largest if leaf < chosen else largest + 1)
        if leaf != first and _holds(s, k, least, now, q, board, p, r):
            chosen, largest = leaf, _size_on(s, g, now, now, q, board, p, r)
        leaf = next_within(board.crowd, leaf + 1, -max(1, largest if leaf + 1 < chosen else largest + 1))
    if largest == 0:
        put(board.events, g, NEVER)
        put(board.sizes[k], g, 0)
    else:
        _start(_leaf(chosen, board, r), g, largest, now, now, q, board, p, r)


@inlined
def _next_taker(s: int, since: int, now: int, q: Requests, board: Board, p: Instances, r: Rules) -> int:
    """Return the lowest-numbered instance from `since` on that might take a batch of the service; -1 if none might.

    With what waits for the service, and what it runs there, a batch may be as large as the oldest waiting request
    allows, if instances are clear at once. Sizes that are not below that over the threshold need no look.
    """
    waiting = board.services[s, COUNT]
    # A batch of its own service brings its requests along: waiting + size >= threshold * size.
    share = waiting / (r.threshold - 1.0 if board.services[s, BATCHES] > 0 else r.threshold)
    best = -1
    for k in range(p.max_batch.shape[0]):
        bound = int(share + 1e-9)
        if p.max_batch[k, s] == 0 or board.sizes[k, 1] > bound:
            continue
        if r.preemption_ns > 0:
            # An instance that is clear later passes over more of the old requests, and its batch may be the larger one.
            g = next_within(board.sizes[k], since, bound)
            if g >= 0 and (best < 0 or g < best):
                best = g
            continue
        row, _, _ = _first_met(s, k, now, now, q, board, p, r)
        if row == NOBODY:
            continue
        least = max(1, int(np.ceil(r.threshold * board.sizes[k, 1] - 1e-9)))
        if least > p.max_batch[k, s] or _deadline(s, row, q, board) < _finish(s, k, least, now, now, p, r):
            continue
        reach = _largest(s, k, _deadline(s, row, q, board), p.max_batch[k, s], now, now, p, r)
        g = next_within(board.sizes[k], since, min(bound, int(reach / r.threshold + 1e-9)))
        if g >= 0 and (best < 0 or g < best):
            best = g
    return best


@inlined
def _offer(
    s: int,
    now: int,
    number: NDArray[np.int64],
    q: Requests,
    board: Board,
    p: Instances,
    r: Rules,
    log: Batches,
) -> None:
    """Offer a service's requests to one instance after the other."""
    _drop_hopeless(s, now, q, board, r)
    g = -1
    while board.services[s, COUNT] > 0:
        g = _next_taker(s, g + 1, now, q, board, p, r)
        if g < 0:
            break
        running = board.runs[g, SIZE]
        free = _clear_at(g, now, board, r)
        b = _size_on(s, g, now, free, q, board, p, r)
        if b == 0 or b < r.threshold * running:
            continue
        if running > 0:
            other = board.runs[g, SERVICE]
            _cut_short(g, now, number, q, board, r, log)
            if other != s and not board.lined[other]:
                board.lined[other] = True
                board.line[board.at[LINE_TO]] = other
                board.at[LINE_TO] = (board.at[LINE_TO] + 1) % board.line.shape[0]
        _start(s, g, b, now, free, q, board, p, r)


@lean
def _arrive(
    s: int,
    now: int,
    number: NDArray[np.int64],
    q: Requests,
    board: Board,
    p: Instances,
    r: Rules,
    log: Batches,
) -> None:
    """Take the service's next arrival and offer it, then what was cut short for it."""
    row = board.services[s, NEXT]
    board.services[s, NEXT] = row + 1
    _append(s, row, q, board)
    _count(s, 1, board, r)
    _offer(s, now, number, q, board, p, r, log)
    while board.at[LINE_FROM] != board.at[LINE_TO]:
        other = board.line[board.at[LINE_FROM]]
        board.at[LINE_FROM] = (board.at[LINE_FROM] + 1) % board.line.shape[0]
        board.lined[other] = False
        if board.services[other, END] != UNSERVED:
            _offer(other, now, number, q, board, p, r, log)


@inlined
def _append(s: int, row: int, q: Requests, board: Board) -> None:
    q.link[row] = NOBODY
    if board.services[s, FIRST] == NOBODY:
        _begin_queue(s, row, q, board)
    else:
        q.link[board.services[s, LAST]] = row
    board.services[s, LAST] = row


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
) -> None:
    """Run the event loop; `coming` is a tree over the active services' next arrivals."""
    while min(board.events[1], coming[1]) < until:
        if board.events[1] <= coming[1]:
            now, g = board.events[1], smallest(board.events)
            if board.runs[g, SIZE] > 0:
                _settle(g, number, q, board, log)
                if board.runs[g, DONE] > now:
                    put(board.sizes[p.kind[g]], g, NEVER)
                    put(board.events, g, board.runs[g, DONE])
                    continue
            _look(g, now, q, board, p, r)
        else:
            now, at = coming[1], smallest(coming)
            s = active[at]
            _arrive(s, now, number, q, board, p, r, log)
            row = board.services[s, NEXT]
            put(coming, at, max(since, q.ns[row]) if row < board.services[s, END] else NEVER)


@lean
def _take_up(
    q: Requests, board: Board, before: NDArray[np.int64], place: NDArray[np.int64], newest: NDArray[np.int64]
) -> None:
    """Put requests where they were: into queues and batches; those of batches whose instance is gone are answered."""
    for s in range(q.offsets.shape[0] - 1):
        row, end = q.offsets[s], q.offsets[s + 1]
        while row < end and q.owner[row] != COMING:
            owner = q.owner[row]
            if owner == WAITING:
                _append(s, row, q, board)
                board.services[s, COUNT] += 1
            elif place[owner] < 0:
                q.account[row, START], q.account[row, FINISH] = before[owner, BEGUN], before[owner, DONE]
            else:
                g = place[owner]
                if board.runs[g, OLDEST] == NOBODY:
                    board.runs[g, OLDEST] = row
                else:
                    q.link[newest[g]] = row
                newest[g] = row
                q.link[row] = NOBODY
            row += 1
        board.services[s, NEXT] = row
        board.services[s, END] = end


@lean
def _say_where(q: Requests, board: Board) -> None:
    """Write down where the unsettled requests are."""
    for s in range(q.offsets.shape[0] - 1):
        for row in range(q.offsets[s], q.offsets[s + 1]):
            q.owner[row] = WAITING if row < board.services[s, NEXT] else COMING
    for g in range(board.runs.shape[0]):
        if board.runs[g, SIZE] > 0:
            row = board.runs[g, OLDEST]
            while row != NOBODY:
                q.owner[row] = g
                row = q.link[row]


@njit(cache=True)
def _blank_services(slo: NDArray[np.int64], response_ns: int) -> NDArray[np.int64]:
    columns = np.zeros((slo.shape[0], COLUMNS), np.int64)
    columns[:, FIRST] = NOBODY
    columns[:, LAST] = NOBODY
    columns[:, BUDGET] = slo - response_ns
    columns[:, ALONE] = -NEVER
    return columns


@njit(cache=True)
def _arrivals_to_come(
    active: NDArray[np.int64], columns: NDArray[np.int64], since: int, q: Requests, p: Instances
) -> NDArray[np.int64]:
    """Return a tree over the active services' next arrivals; fill in what the pool means to services."""
    present = np.zeros(p.max_batch.shape[0], np.bool_)
    for g in range(p.kind.shape[0]):
        present[p.kind[g]] = True
    served = np.zeros(columns.shape[0], np.bool_)
    coming = np.full(active.shape[0], NEVER, np.int64)
    for n in range(active.shape[0]):
        s = active[n]
        served[s] = True
        fastest = NEVER
        for k in range(present.shape[0]):
            if present[k] and p.max_batch[k, s] > 0:
                fastest = min(fastest, p.planned[k, s, 1])
        if fastest < NEVER:
            columns[s, ALONE] = fastest
        if columns[s, NEXT] < columns[s, END]:
            coming[n] = max(since, q.ns[columns[s, NEXT]])
    for s in range(columns.shape[0]):
        if not served[s]:
            columns[s, END] = UNSERVED
    return grow(coming)


@njit(cache=True)
def advance_shepherd(
    q: Requests,
    active: NDArray[np.int64],
    slo: NDArray[np.int64],
    number: NDArray[np.int64],
    free_at: NDArray[np.int64],
    left: Left,
    p: Instances,
    r: Rules,
    since: int,
    until: int,
    log: Batches,
) -> tuple[NDArray[np.int64], int]:
    """Serve the pool from `since` until `until`; return what runs at the end, and the number of batches logged.

    `log.instance` takes numbers, not places; batches are logged when they are settled or cut short, the latter with
    size 0. `q`, `free_at` and `log` are changed in place.
    """
    services, instances = slo.shape[0], number.shape[0]
    columns = _blank_services(slo, r.response_ns)
    runs = np.zeros((instances, RUN_COLUMNS), np.int64)
    events, sizes = np.empty((1, instances), np.int64), np.full((1, instances), NEVER, np.int64)
    line, lined = np.empty(services + 1, np.int64), np.zeros(services, np.bool_)
    crowd, at = np.full(services, NEVER, np.int64), np.zeros(3, np.int64)
    board = Board(columns, runs, sizes, events[0], free_at, crowd, line, lined, at)
    for old in range(left.runs.shape[0]):
        run = left.runs[old]
        if left.place[old] >= 0:
            runs[left.place[old]] = run
            runs[left.place[old], OLDEST] = NOBODY
        elif run[SIZE] > 0:
            _note(left.number[old], run[SERVICE], run[SIZE], run[BEGUN], run[DONE], board, log)
    _take_up(q, board, left.runs, left.place, np.empty(instances, np.int64))
    for g in range(instances):
        attention = free_at[g]
        if runs[g, SIZE] > 0:
            attention = min(runs[g, PLANNED], runs[g, DONE])
            sizes[0, g] = runs[g, SIZE]
            columns[runs[g, SERVICE], BATCHES] += 1
        events[0, g] = max(since, attention)
    coming = _arrivals_to_come(active, columns, since, q, p)
    for n in range(active.shape[0]):
        crowd[_leaf(active[n], board, r)] = -columns[active[n], COUNT]
    forest, events_tree = grow_forest(sizes[0], p), grow(events[0])
    board = Board(columns, runs, forest, events_tree, free_at, grow(crowd), line, lined, at)
    _serve(since, until, active, coming, number, q, board, p, r, log)
    for n in range(active.shape[0]):
        _drop_hopeless(active[n], until, q, board, r)
    _say_where(q, board)
    return runs, at[LOGGED]


@njit(cache=True)
def unsettled(
    ns: NDArray[np.int64],
    offsets: NDArray[np.int64],
    size: NDArray[np.float32],
    owner: NDArray[np.int64],
    finish: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Keep the rows that are not settled; return their instants, offsets, sizes and owners."""
    services = offsets.shape[0] - 1
    kept = 0
    for row in range(ns.shape[0]):
        kept += finish[row] == QUEUED
    kept_ns, kept_size = np.empty(kept, np.int64), np.empty(kept, np.float32)
    kept_owner, kept_offsets = np.empty(kept, np.int64), np.zeros(services + 1, np.int64)
    at = 0
    for s in range(services):
        for row in range(offsets[s], offsets[s + 1]):
            if finish[row] == QUEUED:
                kept_ns[at], kept_size[at], kept_owner[at] = ns[row], size[row], owner[row]
                at += 1
        kept_offsets[s + 1] = at
    return kept_ns, kept_offsets, kept_size, kept_owner
