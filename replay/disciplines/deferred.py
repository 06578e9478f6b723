"""Deferred batching after Symphony, and its eager sibling.

Source: the abstracts of Symphony (arXiv 2308.07470) and its public scheduler (github.com/abcdabcd987/nexuslb). A batch
starts as late as it may (deferred) or as soon as an instance is free (eager); the rules stand in docs/disciplines.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.kernels import candidates, columns
from partita.kernels import deferred as kernel
from partita.kernels.instances import Instances
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import blank_account, by_edge, choice, places_of, settle_account
from partita.replay.disciplines.lanes import instances_of

WINDOWS = {
    "frontrun": candidates.FRONTRUN,
    "latest": candidates.LATEST,
    "target-batch": candidates.TARGET_BATCH,
    "queueing-delay": candidates.QUEUEING_DELAY,
    "beta-lambda": candidates.BETA_LAMBDA,
    "slo-share": candidates.SLO_SHARE,
    "credit": candidates.CREDITED,
}
DROP_RULES = {
    "window": candidates.WINDOW_DROP,
    "timeout": candidates.TIMEOUT_DROP,
    "never": candidates.NO_DROP,
}
MATCHES = {"both": kernel.BOTH, "service": kernel.SERVICE_ONLY, "instance": kernel.INSTANCE_ONLY}
ORDERS = {"last-start": kernel.BY_LAST_START, "deadline": kernel.BY_DEADLINE, "efficiency": kernel.BY_EFFICIENCY}
GPU_CHOICES = {"min-id": kernel.MIN_ID, "earliest": kernel.EARLIEST}


@dataclass(slots=True, eq=False)
class DeferredState:
    """What lives between advances: who waits, the kernel's columns, and when the last advance ended."""

    waiting: Arrivals
    columns: NDArray[np.int64]
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Deferred:
    """Wait until one more request would no longer fit.

    Parameters: `window` (frontrun, latest, target-batch, queueing-delay, beta-lambda, slo-share with `wait_share`,
    credit), `drop` (window, timeout, never), `match` (both, service, instance), `order` (last-start, deadline,
    efficiency) and `gpu_choice` (min-id, earliest).
    """

    name: str = "deferred"
    window: int | None = None
    """The rule that is not the user's to choose."""

    def initial_state(self, services: int) -> DeferredState:
        """Return the state of this many services with empty queues."""
        return DeferredState(Arrivals.empty(services), columns.new_state(services))

    def advance(
        self, state: DeferredState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[DeferredState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        requests = state.waiting.followed_by(arrivals)
        account, log = blank_account(requests)
        table, first = state.columns, requests.offsets[:-1]
        table[:, columns.ROWS] += (first - table[:, columns.HEAD])[:, np.newaxis]
        work, instances = at_work(table, requests, account, pool)
        logged = kernel.serve(
            work,
            pool.active,
            kernel.room_for(len(table), instances),
            instances,
            pool.free_at_ns,
            rules_of(pool, self.window),
            state.at_ns,
            until_ns,
            log,
            0,
        )
        waiting, served = settle_account(requests, table[:, columns.HEAD], account, log, logged, pool)
        return DeferredState(waiting, table, until_ns), served


@dataclass(frozen=True, slots=True)
class Eager(Deferred):
    """Start as soon as an instance is free; parameters as for deferred, but for the window."""

    name: str = "eager"
    window: int | None = candidates.IMMEDIATE


def at_work(
    table: NDArray[np.int64], requests: Arrivals, account: NDArray[np.int64], pool: Pool
) -> tuple[columns.Work, Instances]:
    """Return what the kernels work on, and the instances."""
    tell(table, requests, pool)
    places, latency = places_of(pool, requests), pool.latency_ns
    instances = instances_of(pool, places)
    if pool.sizes is not None:
        latency = by_edge(latency, pool.sizes.planned_ns[0])
        instances = instances._replace(max_batch=pool.sizes.max_batch_of)
    return columns.Work(requests.ns, account, latency, table, places), instances


def tell(table: NDArray[np.int64], requests: Arrivals, pool: Pool) -> None:
    """Enter into the columns what this advance's requests and pool are."""
    table[:, columns.END] = requests.offsets[1:]
    table[:, columns.SLO] = pool.slo_ns
    table[:, columns.CAP] = pool.max_batch
    table[:, columns.WIDE] = pool.max_batch if pool.sizes is None else pool.sizes.max_batch
    table[:, columns.TARGET] = 0  # it was found with the last pool's latencies


def rules_of(pool: Pool, window: int | None) -> columns.Rules:
    """Return the rules that a pool's parameters ask for, the window only where none is given."""
    return columns.Rules(
        WINDOWS[choice(WINDOWS, pool, "window", "frontrun")] if window is None else window,
        DROP_RULES[choice(DROP_RULES, pool, "drop", "window")],
        MATCHES[choice(MATCHES, pool, "match", "both")],
        ORDERS[choice(ORDERS, pool, "order", "last-start")],
        GPU_CHOICES[choice(GPU_CHOICES, pool, "gpu_choice", "min-id")],
        pool.control_ns,
        pool.data_ns,
        pool.response_ns,
        pool.jitter_ns,
        _wait_share(pool),
    )


def _wait_share(pool: Pool) -> float:
    """Return the share of the SLO that `slo-share` lets the oldest request wait."""
    value = pool.parameters.get("wait_share", 0.1)
    if isinstance(value, (str, bool)) or not 0 <= value <= 1:
        raise ConfigError(f"{value!r} is no share from 0 to 1", key="discipline.wait_share", value=value)
    return float(value)
