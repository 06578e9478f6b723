"""Adaptive batching, ours: rules of deferred and eager batching compete on what has just happened.

What competes, how it is judged and why it is enough stand in docs/disciplines.md.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.kernels import adaptive as kernel
from partita.kernels import candidates, columns
from partita.kernels.batches import Batches, empty_batches
from partita.kernels.splice import cut
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import served
from partita.replay.disciplines.deferred import at_work, rules_of, tell


@dataclass(slots=True, eq=False)
class AdaptiveState:
    """What lives between advances.

    `kept` are the requests that wait and, while a step goes on, those since it began; `table` the kernel's columns, in
    which row 0 is the first request kept of a service; `memory` what is known of the rules; `pool` the last one.
    """

    kept: Arrivals
    table: NDArray[np.int64]
    memory: kernel.Memory
    pool: Pool | None = None
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Follow whichever rule would have lost the fewest requests lately: when to start a batch, and what to drop.

    Parameters: `match`, `order` and `gpu_choice` as for deferred.
    """

    name: str = "adaptive"

    def initial_state(self, services: int) -> AdaptiveState:
        """Return the state of this many services with empty queues."""
        table = columns.new_state(services)
        return AdaptiveState(Arrivals.empty(services), table, kernel.new_memory(table, 0))

    def advance(
        self, state: AdaptiveState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[AdaptiveState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        requests = state.kept.followed_by(arrivals)
        account, log = np.zeros((len(requests), 2), np.int64), empty_batches(2 * len(requests))
        table, memory = state.table, state.memory
        if state.pool is None or not _alike(state.pool, pool):
            memory = kernel.forget_the_step(memory, len(pool.number))
        for rows in (table, memory.state):
            rows[:, columns.ROWS] += requests.offsets[:-1, np.newaxis]
        heads = table[:, columns.HEAD].copy()
        tell(memory.state, requests, pool)
        work, instances = at_work(table, requests, account, pool)
        rules = rules_of(pool, candidates.FRONTRUN)
        logged = kernel.advance_adaptive(
            work, pool.active, instances, pool.free_at_ns, rules, state.at_ns, until_ns, log, memory
        )
        first = (memory.state if memory.notes[kernel.FORKED] >= 0 else table)[:, columns.HEAD].copy()
        kept = Arrivals(*cut(requests.ns, requests.offsets, requests.size, first))
        for rows in (table, memory.state):
            rows[:, columns.ROWS] -= first[:, np.newaxis]
        return AdaptiveState(kept, table, memory, pool, until_ns), _told(requests, account, heads, log, logged, pool)


def _told(
    requests: Arrivals, account: NDArray[np.int64], heads: NDArray[np.int64], log: Batches, logged: int, pool: Pool
) -> Served:
    """Return the account of the requests from these rows on: those before were settled in an earlier advance."""
    if (heads > requests.offsets[:-1]).any():
        rows = np.arange(len(requests)) >= np.repeat(heads, np.diff(requests.offsets))
        requests, account = Arrivals(*cut(requests.ns, requests.offsets, requests.size, heads)), account[rows]
    return served(requests, account, log, logged, pool)


def _alike(one: Pool, other: Pool) -> bool:
    """Say whether two pools are the same, whatever their instances are busy with."""
    return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(Pool) if f.name != "free_at_ns")


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if is_dataclass(one) and type(one) is type(other):
        return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return bool(one == other)
