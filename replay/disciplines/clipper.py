"""Adaptive batching after Clipper: the largest batch is learned from how long batches took.

Source: Clipper (NSDI 2017) for `aimd`, with constants of ours, and its public code (github.com/ucbrise/clipper,
"Adaptive Batching v2") for `v2`. They are two rules: a table must say which.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.kernels import clipper as kernel
from partita.kernels.timeout import Lead, Queues
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import (
    GPU_CHOICES,
    blank_account,
    common_choice,
    delays_ns,
    places_of,
    settle_account,
)
from partita.replay.disciplines.lanes import NOBODY, carried, instances_of

VARIANTS = {"aimd": kernel.AIMD, "v2": kernel.V2}
DROP_RULES = {"none": kernel.NONE, "expired": kernel.EXPIRED, "timeout": kernel.ALONE, "window": kernel.WINDOW}
OWN_DROP_RULE = {"aimd": "none", "v2": "expired"}


@dataclass(slots=True, eq=False)
class ClipperState:
    """What lives between advances: who waits, what was learned of each instance, when the last advance ended."""

    waiting: Arrivals
    memory: kernel.Memory
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Clipper:
    """Let batches grow as long as they are in time.

    Parameters of all services that share instances: `variant` (aimd, v2), `drop` (none, expired, timeout, window; as
    the variant has it), `gpu_choice` (min-id, earliest), `seed` (0); by service: `budget` (1.0, share of the SLO that
    a batch may run, aimd), `timeout_ms` (0).
    """

    name: str = "clipper"
    by_service: bool = True

    def initial_state(self, services: int) -> ClipperState:
        """Return the state of this many services with empty queues and nothing learned."""
        return ClipperState(Arrivals.empty(services), _nothing_learned(NOBODY, services, 1))

    def advance(
        self, state: ClipperState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[ClipperState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        variant = common_choice(VARIANTS, pool, "variant", "aimd")
        rules = kernel.Rules(
            VARIANTS[variant],
            DROP_RULES[common_choice(DROP_RULES, pool, "drop", OWN_DROP_RULE[variant])],
            budgets_ns(pool),
            delays_ns(pool),
            pool.slo_ns - pool.response_ns,
            seed(pool),
        )
        memory = remembered(state.memory, pool, pool.by_kind().planned_ns.shape[2] if variant == "v2" else 1)
        requests = state.waiting.followed_by(arrivals)
        account, log = blank_account(requests)
        head = requests.offsets[:-1].copy()
        logged = kernel.advance_clipper(
            Queues(requests.ns, requests.offsets, head, account),
            pool.active,
            instances_of(pool, places_of(pool, requests)),
            rules,
            memory,
            Lead(pool.control_ns, pool.data_ns),
            common_choice(GPU_CHOICES, pool, "gpu_choice", "min-id") == "min-id",
            pool.free_at_ns,
            state.at_ns,
            until_ns,
            log,
        )
        left, served = settle_account(requests, head, account, log, logged, pool)
        return ClipperState(left, memory, until_ns), served


def budgets_ns(pool: Pool) -> NDArray[np.float64]:
    """Return how long a batch of each service may run."""
    budgets = np.zeros(len(pool.slo_ns))
    for s in pool.active:
        share = pool.parameters_of(s).get("budget", 1.0)
        if isinstance(share, (str, bool)) or not 0 < share <= 1:
            text = f"{share!r} is no share of the SLO above 0 and up to 1"
            raise ConfigError(text, key="discipline.budget", value=share)
        budgets[s] = share * float(pool.slo_ns[s])
    return budgets


def seed(pool: Pool) -> int:
    """Return the seed that all services share."""
    found = {pool.parameters_of(s).get("seed", 0) for s in pool.active} or {0}
    value = found.pop()
    if found:
        raise ConfigError("the services that share instances have different ones", key="discipline.seed")
    if isinstance(value, (str, bool)) or value != int(value) or not 0 <= value < 2**31:
        text = f"{value!r} is no whole number from 0 to 2147483647"
        raise ConfigError(text, key="discipline.seed", value=value)
    return int(value)


def remembered(memory: kernel.Memory, pool: Pool, sizes: int) -> kernel.Memory:
    """Return what is known of the pool's instances; with `sizes` batch sizes, or as many as were known before."""
    services = memory.learned.shape[1]
    sizes = max(sizes, memory.seen.shape[2])
    fresh = _nothing_learned(pool.number, services, sizes)
    wider = ((0, 0), (0, 0), (0, sizes - memory.seen.shape[2]))
    return kernel.Memory(
        carried(memory.number, pool.number, memory.learned, fresh.learned),
        carried(memory.number, pool.number, np.pad(memory.seen, wider), fresh.seen),
        carried(memory.number, pool.number, np.pad(memory.mean, wider), fresh.mean),
        memory.full,
        pool.number.copy(),
    )


def _nothing_learned(number: NDArray[np.int64], services: int, sizes: int) -> kernel.Memory:
    learned = np.zeros((len(number), services, kernel.COLUMNS))
    learned[:, :, kernel.LIMIT] = 1.0
    by_size = np.zeros((len(number), services, sizes))
    return kernel.Memory(learned, by_size, by_size.copy(), np.ones(services, np.int64), number)
