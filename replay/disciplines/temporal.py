"""Sharing in time: services take turns on an instance that each of them then has for itself.

It stands for temporal sharing as D-STACK (arXiv 2304.13541) and others are compared with, and for the time slices that
a GPU gives processes without MPS. Neither paper's rules are public in detail: those here are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.kernels import temporal as kernel
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import LONGEST_MS, common_choice
from partita.replay.disciplines.lanes import Hall, Round, carried, in_turn, instances_of

IDLE = ("pass", "keep")
DROP_RULES = ("window", "timeout")
SLICE_SHARE = 0.5


@dataclass(slots=True, eq=False)
class TemporalState:
    """What lives between advances: who waits, the instances' slices, and when the last advance ended."""

    hall: Hall
    slices: NDArray[np.int64]
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Temporal:
    """Let services take turns on every instance, each for a slice.

    Parameters by service: `slice_ms`, or else `slice_share` (0.5), the share of its SLO that it would have if it were
    alone and that is divided by the number of services; of all services that share instances: `idle` (pass, keep),
    `drop` (window, timeout).
    """

    name: str = "temporal"
    by_service: bool = True

    def initial_state(self, services: int) -> TemporalState:
        """Return the state of this many services with empty queues."""
        return TemporalState(Hall.empty(services), np.empty((0, kernel.COLUMNS), np.int64))

    def advance(
        self, state: TemporalState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[TemporalState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        rules = kernel.Slices(
            slices_ns(pool),
            pool.slo_ns - pool.response_ns,
            targets(pool, common_choice(DROP_RULES, pool, "drop", "window")),
            common_choice(IDLE, pool, "idle", "pass") == "keep",
        )
        this_round = Round.open(state.hall, arrivals, pool)
        slices = carried(state.hall.number, pool.number, state.slices, _first_slices(pool))
        lanes = this_round.lanes(pool, in_turn(pool), state.at_ns, until_ns, pool.control_ns + pool.data_ns)
        this_round.logged = kernel.advance_temporal(
            lanes,
            instances_of(pool, this_round.places(pool, lanes)),
            rules,
            pool.active,
            slices,
            pool.free_at_ns,
            state.at_ns,
            until_ns,
            this_round.log,
        )
        this_round.settle(lanes)
        hall, served = this_round.close(pool)
        return TemporalState(hall, slices, until_ns), served


def slices_ns(pool: Pool) -> NDArray[np.int64]:
    """Return how long a slice of each service is; 1 ns for services that the pool does not serve."""
    lengths = np.ones(len(pool.slo_ns), np.int64)
    for s in pool.active:
        own = pool.parameters_of(s)
        share = _number(own.get("slice_share", SLICE_SHARE), "slice_share", 1.0)
        by_share = share * float(pool.slo_ns[s]) / len(pool.active)
        given = own.get("slice_ms")
        lengths[s] = max(1, round(by_share if given is None else _number(given, "slice_ms", LONGEST_MS) * 1e6))
    return lengths


def targets(pool: Pool, drop: str) -> NDArray[np.int64]:
    """Return the batch, ``(kinds, services)``, for which older requests are given up: 1, or what half an SLO holds."""
    kinds = pool.by_kind()
    target = np.minimum(kinds.max_batch, 1)
    for s in pool.active if drop == "window" else ():
        for k, most in enumerate(kinds.max_batch[:, s]):
            within = np.flatnonzero(kinds.planned_ns[k, s, 1 : most + 1] <= (pool.slo_ns[s] - pool.response_ns) / 2)
            target[k, s] = within[-1] + 1 if len(within) else target[k, s]
    return target


def _number(value: object, key: str, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= highest:
        raise ConfigError(f"{value!r} is no number above 0 and up to {highest:g}", key=f"discipline.{key}", value=value)
    return float(value)


def _first_slices(pool: Pool) -> NDArray[np.int64]:
    """Return the state of instances on which no slice has begun: the first one does when they are free."""
    slices = np.zeros((len(pool.number), kernel.COLUMNS), np.int64)
    slices[:, kernel.LOOK] = slices[:, kernel.SLICE_END] = pool.free_at_ns
    slices[:, kernel.TURN] = -1
    return slices
