"""Timeout batching after Triton's dynamic batcher.

Source: triton-inference-server/core, `dynamic_batch_scheduler.cc`. As shipped (delay 0, no queue policy) it is eager
first-in first-out without drops; `queue_policy: reject` gives requests up once they have waited for too long. Batches
are formed when an instance is free; `triton` forms them when a model instance is, as a server with several models does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from partita.errors import ConfigError
from partita.kernels.timeout import Filling, Lead, Queues, advance_apart, advance_timeout
from partita.model.cluster import OptionValue
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import (
    GPU_CHOICES,
    blank_account,
    common_choice,
    delays_ns,
    places_of,
    queue_limits_ns,
    settle_account,
)
from partita.replay.disciplines.lanes import Hall, Round, in_turn, instances_of

QUEUE_PLACES = ("shared", "per-instance")


@dataclass(slots=True, eq=False)
class TimeoutState:
    """What lives between advances: who waits (at which instance, if they have queues), when the last one ended."""

    hall: Hall
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Timeout:
    """Send a batch that is full or whose oldest request is `timeout_ms` old.

    Parameters by service: `timeout_ms` (0), `preferred` (sizes that go before their time, as "4,8"; the largest batch),
    `queue_policy` (none, reject) and `queue_timeout_ms` (the SLO); of all services that share instances: `queue`
    (shared, per-instance), `gpu_choice` (min-id, earliest).
    """

    name: str = "timeout"
    by_service: bool = True
    blind: bool = True

    def initial_state(self, services: int) -> TimeoutState:
        """Return the state of this many services with empty queues."""
        return TimeoutState(Hall.empty(services))

    def advance(
        self, state: TimeoutState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[TimeoutState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        filling, lead = fillings(pool), Lead(pool.control_ns, pool.data_ns)
        if common_choice(QUEUE_PLACES, pool, "queue", "shared") == "per-instance":
            this_round = Round.open(state.hall, arrivals, pool)
            lanes = this_round.lanes(pool, in_turn(pool), state.at_ns, until_ns, 0)
            this_round.logged = advance_apart(
                lanes,
                pool.active,
                instances_of(pool, this_round.places(pool, lanes)),
                filling,
                lead,
                pool.free_at_ns,
                state.at_ns,
                until_ns,
                this_round.log,
            )
            this_round.settle(lanes)
            hall, served = this_round.close(pool, pool.control_ns, pool.data_ns)
            return TimeoutState(hall, until_ns), served
        requests = state.hall.waiting.followed_by(arrivals)
        account, log = blank_account(requests)
        head = requests.offsets[:-1].copy()
        logged = advance_timeout(
            Queues(requests.ns, requests.offsets, head, account),
            pool.active,
            instances_of(pool, places_of(pool, requests)),
            filling,
            lead,
            common_choice(GPU_CHOICES, pool, "gpu_choice", "min-id") == "min-id",
            pool.free_at_ns,
            state.at_ns,
            until_ns,
            log,
        )
        left, served = settle_account(requests, head, account, log, logged, pool)
        return TimeoutState(Hall.nowhere(left), until_ns), served


def fillings(pool: Pool) -> Filling:
    """Return how batches fill, as the kernel is told."""
    kinds = pool.by_kind()
    least, width = kinds.max_batch.copy(), kinds.planned_ns.shape[2]
    preferred = np.zeros((len(pool.slo_ns), width), np.int64)
    for s in pool.active:
        sizes = preferred_sizes(pool.parameters_of(s).get("preferred"))
        for size in sizes:
            preferred[s, size:] = size
        for kind, largest in enumerate(kinds.max_batch[:, s]):
            least[kind, s] = min([size for size in sizes if size <= largest], default=largest)
    return Filling(delays_ns(pool), queue_limits_ns(pool), least, preferred)


def preferred_sizes(value: OptionValue | None) -> list[int]:
    """Return the sizes that a parameter names, rising: a whole number, or several with commas between them."""
    if value is None:
        return []
    words = [] if isinstance(value, bool) else str(value).split(",")
    try:
        sizes = sorted({int(word) for word in words})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        text = f"{value!r} names no batch sizes, as in '4,8'"
        raise ConfigError(text, key="discipline.preferred", value=value)
    return sizes
