"""Preemptive batching after Shepherd: the largest batch first, which may cut short a much smaller one.

Source: the online part (FLEX) of Shepherd (NSDI '23), as its emulation in Symphony's public code has it
(github.com/abcdabcd987/nexuslb, `tools/shepherd`), less what is wrong there; the rules stand in the kernel. Left out:
the planner that groups services and instances (HERD); all instances of a pool form one group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.kernels import shepherd as kernel
from partita.kernels.batches import FINISH, START
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import LONGEST_MS, blank_account, choice, places_of
from partita.replay.disciplines.lanes import instances_of

THRESHOLD = 3.03
"""How many times as large a batch must be to cut a running one short, as the emulation has it."""
TIES = ("higher", "lower")
"""Which number wins among services whose batches are equally large."""


@dataclass(slots=True, eq=False)
class ShepherdState:
    """What lives between advances: who is not settled and where, and the instances as they were left.

    `owner` has one entry a request of `present`: its batch's place in `number`, or why it has none. `free_ns` says when
    each instance is free, `said_ns` the latest instant that was ever said for it: a batch that is cut short frees its
    instance sooner than was said before, which who keeps the pool may not believe.
    """

    present: Arrivals
    owner: NDArray[np.int64]
    number: NDArray[np.int64]
    runs: NDArray[np.int64]
    free_ns: NDArray[np.int64]
    said_ns: NDArray[np.int64]
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Shepherd:
    """Run the largest batch, and cut short what runs for one that is `threshold` times as large.

    Parameters: `threshold` (3.03), `preemption_ms` (0) and `ties` (higher, lower). `preempts` says that requests are
    settled only when their batch is done: as long as it runs it may be cut short, so that no account can say when it
    begins that it will be run.
    """

    name: str = "shepherd"
    preempts: bool = True

    def initial_state(self, services: int) -> ShepherdState:
        """Return the state of this many services with empty queues."""
        nobody, nothing = np.empty(0, np.int64), np.empty((0, kernel.RUN_COLUMNS), np.int64)
        return ShepherdState(Arrivals.empty(services), nobody, nobody, nothing, nobody, nobody)

    def advance(
        self, state: ShepherdState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[ShepherdState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        rules = kernel.Rules(
            _threshold(pool),
            choice(TIES, pool, "ties", "higher") == "lower",
            _preemption_ns(pool),
            pool.control_ns,
            pool.data_ns,
            pool.response_ns,
        )
        place, said_ns = _find_again(state, pool)
        requests, owner = _join(state, arrivals)
        account, log = blank_account(requests)
        runs, logged = kernel.advance_shepherd(
            kernel.Requests(requests.ns, requests.offsets, account, np.empty(len(requests), np.int64), owner),
            pool.active,
            pool.slo_ns,
            pool.number,
            pool.free_at_ns,
            kernel.Left(state.number, state.runs, place),
            instances_of(pool, places_of(pool, requests)),
            rules,
            state.at_ns,
            until_ns,
            log,
        )
        served = Served(
            requests,
            account[:, START],
            account[:, FINISH],
            *(column[:logged].astype(np.int64) for column in log),
        )
        ns, offsets, size, owner = kernel.unsettled(
            requests.ns, requests.offsets, requests.size, owner, account[:, FINISH]
        )
        free_ns = pool.free_at_ns.copy()
        said_ns = np.maximum(said_ns, free_ns)
        present = Arrivals(ns, offsets, size)
        return ShepherdState(present, owner, pool.number, runs, free_ns, said_ns, until_ns), served


def _find_again(state: ShepherdState, pool: Pool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the last pool's instances are in this one, and what was ever said of when these are free.

    Where somebody else has booked an instance it is not found again; where the pool has kept what was said before a
    batch was cut short, it is put right.
    """
    place, said_ns = np.full(len(state.number), -1, np.int64), pool.free_at_ns.copy()
    if len(state.number) == 0 or len(pool.number) == 0:
        return place, said_ns
    at = np.minimum(np.searchsorted(pool.number, state.number), len(pool.number) - 1)
    given = pool.free_at_ns[at]
    known = (pool.number[at] == state.number) & ((given == state.free_ns) | (given == state.said_ns))
    place[known] = at[known]
    pool.free_at_ns[at[known]] = state.free_ns[known]
    said_ns[at[known]] = state.said_ns[known]
    return place, said_ns


def _join(state: ShepherdState, arrivals: Arrivals) -> tuple[Arrivals, NDArray[np.int64]]:
    """Put new arrivals behind what is present of each service; return where each request is, too."""
    requests = state.present.followed_by(arrivals)
    owner = np.full(len(requests), kernel.COMING, np.int64)
    counts = np.diff(state.present.offsets)
    shift = np.repeat(requests.offsets[:-1] - state.present.offsets[:-1], counts)
    owner[np.arange(len(state.present)) + shift] = state.owner
    return requests, owner


def _threshold(pool: Pool) -> float:
    value = pool.parameters.get("threshold", THRESHOLD)
    if isinstance(value, (str, bool)) or not 1 < value <= 1e6:
        text = f"{value!r} is no number above 1 and up to a million"
        raise ConfigError(text, key="discipline.threshold", value=value)
    return float(value)


def _preemption_ns(pool: Pool) -> int:
    value = pool.parameters.get("preemption_ms", 0.0)
    if isinstance(value, (str, bool)) or not 0 <= value <= LONGEST_MS:
        text = f"{value!r} is no time from 0 ms to a day"
        raise ConfigError(text, key="discipline.preemption_ms", value=value)
    return round(value * 1e6)
