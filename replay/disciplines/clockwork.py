"""Batching on clocks that are trusted, after Clockwork.

Source: Clockwork (OSDI '20), as its public code has it (github.com/malixian/clockwork, a mirror at 59176203,
`infer5_scheduler`), with all models of a pool loaded; the rules stand in the kernel. Left out: loading and evicting
models, the longest execution (250 ms), the floor under a request's SLO, and estimates from measurements: a batch is
expected to take what is planned for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.kernels import clockwork as kernel
from partita.kernels.batches import FINISH, START
from partita.kernels.splice import cut
from partita.model.load import Arrivals
from partita.ports import Kinds, Pool, Served
from partita.replay.disciplines.backlog import GPU_CHOICES, LONGEST_MS, blank_account, choice, places_of
from partita.replay.disciplines.lanes import instances_of

LARGEST_BATCH = 8
MOST = 1024
"""The largest batch as shipped, and the largest that may be asked for."""
LOOK_AHEAD_MS = 10.0
TOLERANCE_MS = 10.0
BUFFER_MS = 0.0


def _nobody() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(slots=True, eq=False)
class ClockworkState:
    """What lives between advances.

    `taken` are the requests of each service that have been taken in, of those that wait; `fronts` (``(kinds, services,
    sizes)``) counts those that a line has left behind. They hold for these `kinds` and `sizes`: with others, all that
    waits stands in all lines again. `instances` and `bookings` are as the kernel left them, of these `number`;
    `free_ns` says when each instance is free.
    """

    waiting: Arrivals
    taken: NDArray[np.int64]
    fronts: NDArray[np.int64] | None = None
    kinds: Kinds | None = None
    sizes: NDArray[np.int64] = field(default_factory=_nobody)
    number: NDArray[np.int64] = field(default_factory=_nobody)
    free_ns: NDArray[np.int64] = field(default_factory=_nobody)
    instances: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, kernel.INSTANCE_COLUMNS), np.int64))
    bookings: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, kernel.BOOKING_COLUMNS), np.int64))
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Clockwork:
    """Book batches of exact sizes a little ahead of time, the most urgent first.

    Parameters: `largest_batch` (8), `look_ahead_ms` (10), `tolerance_ms` (10), `buffer_ms` (0) and `gpu_choice`
    (min-id, earliest).
    """

    name: str = "clockwork"

    def initial_state(self, services: int) -> ClockworkState:
        """Return the state of this many services with empty queues."""
        return ClockworkState(Arrivals.empty(services), np.zeros(services, np.int64))

    def advance(
        self, state: ClockworkState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[ClockworkState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        kinds, sizes = pool.by_kind(), _sizes(pool)
        present = np.zeros(len(kinds.max_batch), np.bool_)
        present[kinds.of] = True
        rules = kernel.Rules(
            sizes,
            present,
            _time_ns(pool, "look_ahead_ms", LOOK_AHEAD_MS),
            _time_ns(pool, "tolerance_ms", TOLERANCE_MS),
            choice(GPU_CHOICES, pool, "gpu_choice", "min-id") == "min-id",
            pool.control_ns,
            pool.data_ns,
        )
        requests = state.waiting.followed_by(arrivals)
        account, log = blank_account(requests)
        first = requests.offsets[:-1]
        services = np.empty((len(first), kernel.COLUMNS), np.int64)
        services[:, kernel.HEAD] = first
        services[:, kernel.TAIL] = first + state.taken
        services[:, kernel.END] = requests.offsets[1:]
        services[:, kernel.BUDGET] = pool.slo_ns - pool.response_ns - _time_ns(pool, "buffer_ms", BUFFER_MS)
        fronts = np.zeros((len(present), len(first), len(sizes)), np.int64)
        if state.fronts is not None and state.kinds is not None and _alike(state, kinds, present, sizes):
            fronts += state.fronts
        fronts += first[None, :, None]
        instances, bookings = _met_again(state, pool)
        left, logged = kernel.advance_clockwork(
            kernel.Requests(requests.ns, requests.offsets, account, services, fronts),
            pool.active,
            pool.number,
            pool.free_at_ns,
            instances,
            bookings,
            instances_of(pool, places_of(pool, requests)),
            rules,
            state.at_ns,
            until_ns,
            log,
        )
        head = np.ascontiguousarray(services[:, kernel.HEAD])
        served = Served(
            requests,
            account[:, START],
            account[:, FINISH],
            *(column[:logged].astype(np.int64) for column in log),
        )
        state = ClockworkState(
            Arrivals(*cut(requests.ns, requests.offsets, requests.size, head)),
            services[:, kernel.TAIL] - head,
            np.maximum(fronts - head[None, :, None], 0),
            kinds,
            sizes,
            pool.number,
            pool.free_at_ns.copy(),
            instances,
            left,
            until_ns,
        )
        return state, served


def _alike(state: ClockworkState, kinds: Kinds, present: NDArray[np.bool_], sizes: NDArray[np.int64]) -> bool:
    """Say whether the lines of the last advance are those of this one."""
    last = state.kinds
    if last is None or not np.array_equal(state.sizes, sizes):
        return False
    had = np.zeros(len(last.max_batch), np.bool_)
    had[last.of] = True
    return (
        np.array_equal(had, present)
        and np.array_equal(last.max_batch, kinds.max_batch)
        and np.array_equal(last.planned_ns, kinds.planned_ns)
    )


def _met_again(state: ClockworkState, pool: Pool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the instances and what is booked on them; somebody else's work is booked until it ends."""
    instances = np.zeros((len(pool.number), kernel.INSTANCE_COLUMNS), np.int64)
    instances[:, kernel.FIRST] = instances[:, kernel.LAST] = kernel.NONE
    instances[:, kernel.BOOKED] = pool.free_at_ns
    place = np.full(len(state.number), -1, np.int64)
    if len(state.number) and len(pool.number):
        at = np.minimum(np.searchsorted(pool.number, state.number), len(pool.number) - 1)
        known = (pool.number[at] == state.number) & (pool.free_at_ns[at] == state.free_ns)
        place[known] = at[known]
        columns = (kernel.BOOKED, kernel.STUCK)
        instances[at[known][:, None], columns] = state.instances[known][:, columns]
    bookings = state.bookings.copy()
    bookings[:, kernel.PLACE] = place[bookings[:, kernel.PLACE]]
    return instances, np.ascontiguousarray(bookings[bookings[:, kernel.PLACE] >= 0])


def _sizes(pool: Pool) -> NDArray[np.int64]:
    """Return the sizes of batches: powers of two."""
    value = pool.parameters.get("largest_batch", LARGEST_BATCH)
    if isinstance(value, (str, bool)) or not 1 <= value <= MOST or value != int(value):
        text = f"{value!r} is no whole number from 1 to {MOST}"
        raise ConfigError(text, key="discipline.largest_batch", value=value)
    return 2 ** np.arange(int(value).bit_length(), dtype=np.int64)


def _time_ns(pool: Pool, key: str, default_ms: float) -> int:
    value = pool.parameters.get(key, default_ms)
    if isinstance(value, (str, bool)) or not 0 <= value <= LONGEST_MS:
        raise ConfigError(f"{value!r} is no time from 0 ms to a day", key=f"discipline.{key}", value=value)
    return round(value * 1e6)
