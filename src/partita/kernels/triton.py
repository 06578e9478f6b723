"""Dynamic batching as a server with several models on shared devices does it.

Each service has a queue of its own and so many model instances on every device. A model instance that is free takes a
batch from its service's queue when that is full or its oldest request has waited long enough; with that the batch is
settled, though the device may still be at work for others. It takes its place in the device's line at that instant, and
its inputs move while it waits there; the device runs one batch at a time. The model instance is free again a turnaround
after its batch has run.

Source: triton-inference-server/core, `dynamic_batch_scheduler.cc` and `rate_limiter.cc`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels.batches import DROPPED, FINISH, Batches, answer, note
from partita.kernels.instances import Instances, run_ns
from partita.kernels.sizes import largest_place
from partita.kernels.timeout import Queues, ready_at
from partita.kernels.tournament import first_within, grow, put, smallest


class Batchers(NamedTuple):
    """Settings by service: largest batch, longest wait for it, longest time in the queue (NEVER: none); in ns.

    The largest batch is that of any device: one that runs smaller ones takes what it can. `taken_until` (``(services,
    devices, model instances)``) says when each model instance is free; those that a service does not have, or that
    stand on a device that may not serve it, never are.
    """

    cap: NDArray[np.int64]
    delay: NDArray[np.int64]
    limit: NDArray[np.int64]
    taken_until: NDArray[np.int64]


@njit(cache=True)
def advance_triton(
    q: Queues,
    active: NDArray[np.int64],
    batchers: Batchers,
    p: Instances,
    free_at: NDArray[np.int64],
    control: int,
    data: int,
    turnaround: int,
    min_id: bool,
    since: int,
    until: int,
    log: Batches,
) -> int:
    """Serve the pool from `since` until `until`; return the number of batches logged.

    `q`, `batchers.taken_until`, `free_at` (the devices) and `log` are
    changed in place. Services that could take a batch at the same instant do so in their order.
    """
    services, width = active.shape[0], batchers.taken_until.shape[2]
    if services == 0 or free_at.shape[0] == 0:
        return 0
    takers = np.empty((services, grow(batchers.taken_until[active[0]].ravel()).shape[0]), np.int64)
    next_take = np.empty(services, np.int64)
    for k in range(services):
        s = active[k]
        takers[k] = grow(batchers.taken_until[s].ravel())
        next_take[k] = max(since, takers[k, 1], ready_at(q, s, batchers.cap[s], batchers.delay[s]))
    takes = grow(next_take)
    logged = 0
    while takes[1] < until:
        now, k = takes[1], smallest(takes)
        s = active[k]
        cap, head, end = batchers.cap[s], q.head[s], q.offsets[s + 1]
        while head < end and q.ns[head] + batchers.limit[s] <= now:
            q.account[head, FINISH] = DROPPED
            head += 1
        rejected = head > q.head[s]
        q.head[s] = head
        if not rejected:
            taker = first_within(takers[k], now) if min_id else smallest(takers[k])
            device = taker // width
            tail, most = head, p.max_batch[p.kind[device], s]
            while tail < end and tail - head < most and q.ns[tail] <= now:
                tail += 1
            b = tail - head
            start = max(now + control + data * b, free_at[device])
            finish = start + run_ns(p, device, s, b, q.ns[head], largest_place(p.places, head, b))
            answer(q.account, head, b, start, finish)
            q.head[s] = tail
            free_at[device] = finish
            put(takers[k], taker, finish + turnaround)
            batchers.taken_until[s, device, taker % width] = finish + turnaround
            logged = note(log, logged, device, s, b, start, finish)
        put(takes, k, max(since, takers[k, 1], ready_at(q, s, cap, batchers.delay[s])))
    return logged
