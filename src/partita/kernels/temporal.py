"""Sharing in time: every instance serves its services in turn, each for a slice.

Requests are handed to instances as they arrive (`partita.kernels.lanes`), and slices follow one another in the order
of the services' numbers. In its slice a service runs batches as large as deadlines allow that end within it; the first
batch of a slice may run over its end with a single request, or no slice could be shorter than a batch. Nothing is
preempted.

What nobody uses of a slice passes on to the next service that has requests there, or is kept idle. A service is looked
at when its slice begins, after each of its batches, and when a request comes that finds the instance idle in its slice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.batches import DROPPED, FINISH, Batches, answer, note
from partita.kernels.instances import Instances, run_ns
from partita.kernels.lanes import Lanes, due_at
from partita.kernels.sizes import largest_place
from partita.kernels.tournament import grow, next_within, put

LOOK, TURN, SLICE_END, USED = 0, 1, 2, 3
"""Columns of an instance's state: when it looks next; whose slice it is (-1: nobody's yet), when that ends, and whether
a batch has run in it."""
COLUMNS = 4


class Slices(NamedTuple):
    """The rules: how long a slice is, and the deadline (after arrival), by service, in ns; whether idle time is kept.

    Who would miss a deadline in a batch of `target` (``(kinds, services)``), or of all that are there, is given up.
    """

    length: NDArray[np.int64]
    deadline: NDArray[np.int64]
    target: NDArray[np.int64]
    keep: bool


class Instance(NamedTuple):
    """One instance, as it is served: its place, a tree over when each service's oldest request is there (`due`), one
    over which services have slices (0; NEVER: not), and how long slices last together."""

    g: int
    due: NDArray[np.int64]
    served: NDArray[np.int64]
    rotation: int


@lean
def _gather(lanes: Lanes, p: Instances, r: Slices, g: int, s: int, now: int, end: int, used: bool) -> int:
    """Drop what is given up, and return the size of the batch that may run now."""
    kind, lane = p.kind[g], g * r.length.shape[0] + s
    head, last = lanes.head[lane], lanes.offsets[lane + 1]
    if used and now + p.planned[kind, s, 1] > end:
        return 0
    b = 0
    while True:
        while b < r.target[kind, s] and head + b < last and lanes.there[head + b] <= now:
            if b > 0 and now + p.planned[kind, s, b + 1] > end:
                break
            b += 1
        if b == 0 or lanes.ns[head] + r.deadline[s] >= now + p.planned[kind, s, b]:
            break
        lanes.account[head, FINISH] = DROPPED
        head += 1
        b -= 1
    lanes.head[lane] = head
    if b == 0:
        return 0
    by = min(lanes.ns[head] + r.deadline[s], end)
    while b < p.max_batch[kind, s] and head + b < last and lanes.there[head + b] <= now:
        if now + p.planned[kind, s, b + 1] > by:
            break
        b += 1
    return b


@lean
def _after(tree: NDArray[np.int64], s: int, bound: int) -> int:
    """Return the next service after `s` in turn (at last `s` itself) whose key is at most `bound`."""
    found = next_within(tree, s + 1, bound)
    return found if found >= 0 else next_within(tree, 0, bound)


@lean
def _roll(x: Instance, r: Slices, state: NDArray[np.int64], now: int, free_at: int) -> None:
    """Let slices follow one another up to the one that holds `now`; each begins when the one before has ended."""
    begin = max(state[x.g, SLICE_END], free_at)
    begin += (now - begin) // x.rotation * x.rotation
    while True:
        turn = _after(x.served, state[x.g, TURN], 0)
        state[x.g, TURN], state[x.g, SLICE_END], state[x.g, USED] = turn, begin + r.length[turn], 0
        if now < begin + r.length[turn]:
            break
        begin += r.length[turn]


@lean
def _serve(
    lanes: Lanes,
    p: Instances,
    r: Slices,
    x: Instance,
    state: NDArray[np.int64],
    free_at: NDArray[np.int64],
    since: int,
    until: int,
    log: Batches,
    logged: int,
) -> int:
    """Serve one instance until `until`; return the number of batches logged so far."""
    g = x.g
    while True:
        now = max(since, state[g, LOOK], free_at[g])
        if r.keep or now >= state[g, SLICE_END]:
            now = max(now, x.due[1])
        if now >= until:
            break
        state[g, LOOK] = now
        if now >= state[g, SLICE_END]:
            if r.keep:
                _roll(x, r, state, now, free_at[g])
            else:
                s = _after(x.due, state[g, TURN], now)
                state[g, TURN], state[g, SLICE_END], state[g, USED] = s, now + r.length[s], 0
        s = state[g, TURN]
        lane = g * r.length.shape[0] + s
        b = _gather(lanes, p, r, g, s, now, state[g, SLICE_END], state[g, USED] == 1)
        head = lanes.head[lane]
        if b > 0:
            finish = now + run_ns(p, g, s, b, lanes.ns[head], largest_place(p.places, head, b))
            answer(lanes.account, head, b, now, finish)
            lanes.head[lane] = head + b
            logged = note(log, logged, g, s, b, now, finish)
            state[g, LOOK], state[g, USED] = finish, 1
            free_at[g] = finish
        elif not r.keep:
            state[g, SLICE_END] = now
        elif due_at(lanes, lane) <= now:
            state[g, LOOK] = state[g, SLICE_END]
        else:
            following = min(due_at(lanes, lane), state[g, SLICE_END])
            if following >= until:
                break
            state[g, LOOK] = following
        put(x.due, s, due_at(lanes, lane))
    if r.keep and max(state[g, SLICE_END], free_at[g]) <= until:
        _roll(x, r, state, until, free_at[g])
    return logged


@lean
def _take_up(x: Instance, state: NDArray[np.int64], since: int, free_at: int) -> None:
    """End a slice whose service is not served any more."""
    turn, now = state[x.g, TURN], max(since, free_at)
    if turn < 0 or x.served[x.served.shape[0] // 2 + turn] != 0:
        state[x.g, SLICE_END] = min(state[x.g, SLICE_END], now)
        state[x.g, LOOK] = min(state[x.g, LOOK], now)


@njit(cache=True)
def advance_temporal(
    lanes: Lanes,
    p: Instances,
    r: Slices,
    active: NDArray[np.int64],
    state: NDArray[np.int64],
    free_at: NDArray[np.int64],
    since: int,
    until: int,
    log: Batches,
) -> int:
    """Serve the lanes from `since` until `until`; return the number of batches logged, instance by instance.

    `lanes`, `state` (``(instances, COLUMNS)``), `free_at` and `log` are changed in place.
    """
    services, logged = r.length.shape[0], 0
    due, served = grow(np.full(services, NEVER, np.int64)), grow(np.full(services, NEVER, np.int64))
    for g in range(free_at.shape[0]):
        rotation = 0
        for k in range(active.shape[0]):
            s = active[k]
            may = p.max_batch[p.kind[g], s] > 0
            rotation += r.length[s] if may else 0
            put(served, s, 0 if may else NEVER)
            put(due, s, due_at(lanes, g * services + s) if may else NEVER)
        if rotation > 0:
            x = Instance(g, due, served, rotation)
            _take_up(x, state, since, free_at[g])
            logged = _serve(lanes, p, r, x, state, free_at, since, until, log, logged)
    return logged
