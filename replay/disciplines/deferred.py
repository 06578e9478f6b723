"""Deferred batching after Symphony, and its eager sibling.

Source: the abstracts of Symphony (arXiv 2308.07470) and its public scheduler (github.com/abcdabcd987/nexuslb). A batch
starts as late as it may (deferred) or as soon as an instance is free (eager); the rules stand in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.kernels import deferred as kernel
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import blank_account, choice, join, settle_account

DROP_RULES = {"window": kernel.WINDOW_DROP, "timeout": kernel.TIMEOUT_DROP}
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

    Parameters: `drop` (window, timeout) and `gpu_choice` (min-id, earliest).
    """

    name: str = "deferred"
    window: int = kernel.FRONTRUN

    def initial_state(self, services: int) -> DeferredState:
        """Return the state of this many services with empty queues."""
        return DeferredState(Arrivals.empty(services), kernel.new_state(services))

    def advance(
        self, state: DeferredState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[DeferredState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        rules = kernel.Rules(
            self.window,
            DROP_RULES[choice(DROP_RULES, pool, "drop", "window")],
            GPU_CHOICES[choice(GPU_CHOICES, pool, "gpu_choice", "min-id")],
            pool.control_ns,
            pool.data_ns,
            pool.response_ns,
            pool.jitter_ns,
        )
        requests = join(state.waiting, arrivals)
        account, log = blank_account(requests)
        columns, first = state.columns, requests.offsets[:-1]
        columns[:, kernel.SPLIT] += first - columns[:, kernel.HEAD]
        columns[:, kernel.TAIL] += first - columns[:, kernel.HEAD]
        columns[:, kernel.HEAD] = first
        columns[:, kernel.END] = requests.offsets[1:]
        columns[:, kernel.SLO] = pool.slo_ns
        columns[:, kernel.CAP] = pool.max_batch
        columns[:, kernel.TARGET] = 0  # it was found with the last pool's latencies
        logged = kernel.advance_deferred(
            kernel.Work(requests.ns, account, pool.latency_ns, columns),
            pool.active,
            pool.free_at_ns,
            rules,
            state.at_ns,
            until_ns,
            log,
        )
        waiting, served = settle_account(requests, columns[:, kernel.HEAD], account, log, logged, pool)
        return DeferredState(waiting, columns, until_ns), served


@dataclass(frozen=True, slots=True)
class Eager(Deferred):
    """Start as soon as an instance is free; parameters as for deferred."""

    name: str = "eager"
    window: int = kernel.IMMEDIATE
