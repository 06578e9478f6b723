"""Dynamic batching of several models that share devices, after NVIDIA's Triton Inference Server.

Source: triton-inference-server/core: `dynamic_batch_scheduler.cc` (when a batch is formed), `rate_limiter.cc` and
`instance_queue.cc` (when it is settled). A server without queue timeouts forms up to two batches ahead for each model
instance; but only the last of them is not full, and it grows until a model instance takes it, so that forming ahead
changes no batch. Left out: preferred batch sizes, priorities, limits on the queue's length, and what the server itself
costs, of which `turnaround_ms` is the part between two batches of one model instance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.kernels import NEVER
from partita.kernels.timeout import Queues
from partita.kernels.triton import Batchers, advance_triton
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import (
    GPU_CHOICES,
    blank_account,
    common_choice,
    common_time_ns,
    delays_ns,
    places_of,
    queue_limits_ns,
    settle_account,
    whole_numbers,
)
from partita.replay.disciplines.lanes import instances_of

MOST_INSTANCES = 64
"""Most model instances of one service on one device."""


@dataclass(slots=True, eq=False)
class TritonState:
    """What lives between advances: who waits, and the devices and their model instances as they were left.

    `number` are the devices' numbers, `line_ns` says when each would be free, and `taken_until_ns` (``(services,
    devices, model instances)``) when each model instance would.
    """

    waiting: Arrivals
    number: NDArray[np.int64]
    line_ns: NDArray[np.int64]
    taken_until_ns: NDArray[np.int64]
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Triton:
    """Let a free model instance take a batch that is full or whose oldest request is `timeout_ms` old.

    Parameters by service: `timeout_ms` (0), `instances` (1, on each device), `queue_policy` (none, reject) and
    `queue_timeout_ms` (the SLO); of all services that share devices: `gpu_choice` (min-id, earliest), `turnaround_ms`
    (0).
    """

    name: str = "triton"
    by_service: bool = True
    blind: bool = True
    max_batch_as_set: bool = True

    def initial_state(self, services: int) -> TritonState:
        """Return the state of this many services with empty queues."""
        nobody = np.empty(0, np.int64)
        return TritonState(Arrivals.empty(services), nobody, nobody, np.empty((services, 0, 1), np.int64))

    def advance(self, state: TritonState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TritonState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        instances = whole_numbers(pool, "instances", 1, MOST_INSTANCES)
        taken_until = _taken_until(state, pool, instances)
        requests = state.waiting.followed_by(arrivals)
        account, log = blank_account(requests)
        head = requests.offsets[:-1].copy()
        logged = advance_triton(
            Queues(requests.ns, requests.offsets, head, account),
            pool.active,
            Batchers(pool.by_kind().max_batch.max(axis=0), delays_ns(pool), queue_limits_ns(pool), taken_until),
            instances_of(pool, places_of(pool, requests)),
            pool.free_at_ns,
            pool.control_ns,
            pool.data_ns,
            common_time_ns(pool, "turnaround_ms"),
            common_choice(GPU_CHOICES, pool, "gpu_choice", "min-id") == "min-id",
            state.at_ns,
            until_ns,
            log,
        )
        left, served = settle_account(requests, head, account, log, logged, pool)
        return TritonState(left, pool.number.copy(), pool.free_at_ns.copy(), taken_until, until_ns), served


def _taken_until(state: TritonState, pool: Pool, instances: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return when each model instance is free; those that a service does not have never are.

    A device that is new, or that something else than these batches keeps busy (models that load), takes none before it
    is free. Where a service has fewer model instances than before, those that are free first stay; where the device
    may not serve it, it has none.
    """
    width = int(instances.max(initial=1))
    taken_until = np.zeros((len(instances), len(pool.number), width), np.int64)
    _, here, there = np.intersect1d(pool.number, state.number, assume_unique=True, return_indices=True)
    before = np.sort(state.taken_until_ns[:, there], axis=2)[:, :, :width]
    taken_until[:, here, : before.shape[2]] = np.where(before < NEVER, before, 0)
    as_left = np.zeros(len(pool.number), bool)
    as_left[here] = state.line_ns[there] == pool.free_at_ns[here]
    taken_until = np.maximum(taken_until, np.where(as_left, 0, pool.free_at_ns)[None, :, None])
    taken_until[np.broadcast_to(np.arange(width) >= instances[:, None, None], taken_until.shape)] = NEVER
    kinds = pool.by_kind()
    taken_until[kinds.max_batch[kinds.of].T == 0] = NEVER
    return taken_until
