"""Timeout batching after Triton's dynamic batcher.

Source: triton-inference-server/core, `dynamic_batch_scheduler.cc`. As shipped (delay 0, no queue policy) it is eager
first-in first-out without drops; `queue_policy: reject` gives requests up once their SLO has passed in the queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from partita.errors import ConfigError
from partita.kernels import NEVER
from partita.kernels.timeout import Queues, advance_timeout
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import blank_account, choice, join, settle_account

QUEUE_POLICIES = ("none", "reject")
GPU_CHOICES = ("min-id", "earliest")


@dataclass(slots=True, eq=False)
class TimeoutState:
    """What lives between advances: who waits, and when the last advance ended."""

    waiting: Arrivals
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Timeout:
    """Send a batch that is full or whose oldest request is `timeout_ms` old.

    Parameters: `timeout_ms` (0), `queue_policy` (none, reject) and `gpu_choice` (min-id, earliest).
    """

    name: str = "timeout"

    def initial_state(self, services: int) -> TimeoutState:
        """Return the state of this many services with empty queues."""
        return TimeoutState(Arrivals.empty(services))

    def advance(
        self, state: TimeoutState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[TimeoutState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        services = len(pool.slo_ns)
        policy = choice(QUEUE_POLICIES, pool, "queue_policy", "none")
        requests = join(state.waiting, arrivals)
        account, log = blank_account(requests)
        head = requests.offsets[:-1].copy()
        logged = advance_timeout(
            Queues(requests.ns, requests.offsets, head, account),
            pool.active,
            pool.max_batch,
            np.full(services, _delay_ns(pool), np.int64),
            pool.slo_ns if policy == "reject" else np.full(services, NEVER, np.int64),
            pool.latency_ns,
            pool.free_at_ns,
            pool.control_ns,
            pool.data_ns,
            choice(GPU_CHOICES, pool, "gpu_choice", "min-id") == "min-id",
            state.at_ns,
            until_ns,
            log,
        )
        left, served = settle_account(requests, head, account, log, logged, pool)
        return TimeoutState(left, until_ns), served


def _delay_ns(pool: Pool) -> int:
    value = pool.parameters.get("timeout_ms", 0.0)
    if isinstance(value, str) or not 0 <= value < inf:
        raise ConfigError(f"{value!r} is no time from 0 ms on", key="discipline.timeout_ms", value=value)
    return round(value * 1e6)
