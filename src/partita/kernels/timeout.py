"""Timeout batching: a batch goes when it is full or its oldest request has waited long enough.

The rule is that of Triton's dynamic batcher without preferred sizes (triton-inference-server/core,
`dynamic_batch_scheduler.cc`), looked at whenever an instance is free, for services that share a pool of instances:
among the services that are ready, the one whose oldest request has waited longest goes first (ties: the lower number).
Delay 0 is eager first-in first-out. Nothing is dropped unless requests have a limit, after which they are rejected
when they reach the front.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER
from partita.kernels.batches import DROPPED, FINISH, START, Batches
from partita.kernels.tournament import first_within, grow, put, smallest


class Queues(NamedTuple):
    """Requests of one advance by service (rows ``offsets[s]:offsets[s + 1]``), and what became of them.

    Rows before `head[s]` are settled; `account` (``(requests, 2)``: start and finish) is filled in for them.
    """

    ns: NDArray[np.int64]
    offsets: NDArray[np.int64]
    head: NDArray[np.int64]
    account: NDArray[np.int64]


@njit(cache=True)
def ready_at(q: Queues, s: int, cap: int, delay: int) -> int:
    """Return when the service's next batch may go: full, or its oldest request `delay` old."""
    head, end = q.head[s], q.offsets[s + 1]
    if head == end:
        return NEVER
    patient = q.ns[head] + delay
    if head + cap <= end:
        return min(patient, q.ns[head + cap - 1])
    return patient


@njit(cache=True)
def advance_timeout(
    q: Queues,
    active: NDArray[np.int64],
    cap: NDArray[np.int64],
    delay: NDArray[np.int64],
    limit: NDArray[np.int64],
    latency: NDArray[np.int64],
    free_at: NDArray[np.int64],
    control: int,
    data: int,
    min_id: bool,
    since: int,
    until: int,
    log: Batches,
) -> int:
    """Serve the pool from `since` until `until`; return the number of batches logged.

    `cap`, `delay` and `limit` (ns; NEVER: none) hold one entry a service, `latency` is ``(services, batches)`` in ns.
    `q`, `free_at` and `log` are changed in place.
    """
    free = grow(free_at)
    ready = np.empty(active.shape[0], np.int64)
    for k in range(active.shape[0]):
        ready[k] = ready_at(q, active[k], cap[active[k]], delay[active[k]])
    logged = 0
    while True:
        first_ready = NEVER
        for k in range(active.shape[0]):
            first_ready = min(first_ready, ready[k])
        now = max(since, first_ready, free[1])
        if now >= until:
            break
        chosen = -1
        for k in range(active.shape[0]):
            if ready[k] <= now and (chosen < 0 or q.ns[q.head[active[k]]] < q.ns[q.head[active[chosen]]]):
                chosen = k
        s = active[chosen]
        head, end = q.head[s], q.offsets[s + 1]
        while head < end and q.ns[head] + limit[s] <= now:
            q.account[head, FINISH] = DROPPED
            head += 1
        rejected = head > q.head[s]
        q.head[s] = head
        if not rejected:
            tail = head
            while tail < end and tail - head < cap[s] and q.ns[tail] <= now:
                tail += 1
            b = tail - head
            g = first_within(free, now) if min_id else smallest(free)
            start = now + control + data * b
            finish = start + latency[s, b]
            for row in range(head, tail):
                q.account[row, START] = start
                q.account[row, FINISH] = finish
            q.head[s] = tail
            put(free, g, finish)
            log.instance[logged] = g
            log.service[logged] = s
            log.size[logged] = b
            log.start[logged] = start
            log.finish[logged] = finish
            logged += 1
        ready[chosen] = ready_at(q, s, cap[s], delay[s])
    width = free.shape[0] // 2
    free_at[:] = free[width : width + free_at.shape[0]]
    return logged
