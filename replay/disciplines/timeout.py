"""Timeout batching after Triton's dynamic batcher.

Source: triton-inference-server/core, `dynamic_batch_scheduler.cc`. As shipped (delay 0, no queue policy) it is eager
first-in first-out without drops; `queue_policy: reject` gives requests up once they have waited for too long. Batches
are formed when an instance is free; `triton` forms them when a model instance is, as a server with several models does.
"""

from __future__ import annotations

from dataclasses import dataclass

from partita.kernels.timeout import Queues, advance_timeout
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import (
    GPU_CHOICES,
    blank_account,
    common_choice,
    delays_ns,
    join,
    queue_limits_ns,
    settle_account,
)


@dataclass(slots=True, eq=False)
class TimeoutState:
    """What lives between advances: who waits, and when the last advance ended."""

    waiting: Arrivals
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Timeout:
    """Send a batch that is full or whose oldest request is `timeout_ms` old.

    Parameters by service: `timeout_ms` (0), `queue_policy` (none, reject) and `queue_timeout_ms` (the SLO); of all
    services that share instances: `gpu_choice` (min-id, earliest).
    """

    name: str = "timeout"
    by_service: bool = True
    blind: bool = True

    def initial_state(self, services: int) -> TimeoutState:
        """Return the state of this many services with empty queues."""
        return TimeoutState(Arrivals.empty(services))

    def advance(
        self, state: TimeoutState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[TimeoutState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        requests = join(state.waiting, arrivals)
        account, log = blank_account(requests)
        head = requests.offsets[:-1].copy()
        logged = advance_timeout(
            Queues(requests.ns, requests.offsets, head, account),
            pool.active,
            pool.max_batch,
            delays_ns(pool),
            queue_limits_ns(pool),
            pool.latency_ns,
            pool.free_at_ns,
            pool.control_ns,
            pool.data_ns,
            common_choice(GPU_CHOICES, pool, "gpu_choice", "min-id") == "min-id",
            state.at_ns,
            until_ns,
            log,
        )
        left, served = settle_account(requests, head, account, log, logged, pool)
        return TimeoutState(left, until_ns), served
