"""What is kept of a run for figures: load and GPUs by interval and, where asked for, who ran what on which GPU.

A day may hold millions of batches, so they are added up by interval, GPU and service as they come; single batches are
kept only of one short window, which begins with the busiest interval of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from partita.kernels.occupancy import add_spans
from partita.model.cluster import Gpu
from partita.model.occupancy import BatchWindow, Occupancy, Outage
from partita.ports import Served
from partita.replay.cluster import INSTANCES_A_GPU

MOST_ROWS = 128
"""A figure cannot show more; a row stands for several GPUs where there are more of them."""

MOST_INTERVALS = 240
MOST_CELLS = 12_000_000
"""Rows x intervals x services that are added up, 8 bytes each."""

MOST_BATCHES = 800
MOST_ROWS_OF_BATCHES = 64
LEADERS = 3
WIDTHS_S = tuple(
    [step * 10.0**power for power in (-3, -2, -1) for step in (1, 2, 5)]
    + [float(step * unit) for unit in (1, 60, 3600) for step in (1, 2, 5, 10, 15, 30)]
)
"""Widths of an interval that people count in."""


class Timeline:
    """What happened in each interval of the run."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, float, float, float]] = []

    def add(self, at_s: float, span_s: float, offered: int, good: int, gpus: int) -> None:
        """Note one interval that ends at `at_s`."""
        self._rows.append((at_s, offered / span_s, good / span_s, float(gpus)))

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Return t_s, offered_rps, good_rps and gpus_held as parallel arrays."""
        table = np.array(self._rows, np.float64).reshape(-1, 4)
        names = ("t_s", "offered_rps", "good_rps", "gpus_held")
        return {name: table[:, n].copy() for n, name in enumerate(names)}


class OccupancyRecorder:
    """Adds up who ran on which GPU while a run goes; its memory does not grow with the run."""

    def __init__(self, inventory: Sequence[Gpu], services: Sequence[str], span_s: float) -> None:
        self._services = tuple(services)
        self._rows = _Rows(inventory)
        self._span_ns = round(span_s * 1e9)
        room = max(1, MOST_CELLS // (MOST_ROWS * len(services)))
        self._width_s = _width_s(span_s, min(MOST_INTERVALS, max(24, room)))
        intervals = max(1, ceil(span_s / self._width_s - 1e-9))
        self._busy = np.zeros((self._rows.count, intervals, len(services)), np.int64)
        self._ready = np.zeros((self._rows.count, intervals, 1), np.int64)
        self._until_ns = 0
        self._longest_ns = 0
        self._highest_rate = -1.0
        self._running = np.empty((5, 0), np.int64)
        self._window = _no_batches()
        self._numbers = np.empty(0, np.int64)
        self._outages: list[tuple[int, int, int]] = []

    def note(self, accounts: Sequence[tuple[NDArray[np.int64], Served]], arrived: int, until_ns: int) -> None:
        """Take note of what happened until then: the numbers of each group's instances, and its account."""
        since_ns, self._until_ns = self._until_ns, until_ns
        if since_ns >= self._span_ns:
            return  # what was left in the queues at the end
        for number, served in accounts:
            self._add(number, served, since_ns, until_ns)
        length_ns, rate = until_ns - since_ns, arrived / max(until_ns - since_ns, 1)
        self._longest_ns = max(self._longest_ns, length_ns)
        # Of a short interval between two long ones a high rate says little.
        if rate > self._highest_rate and 2 * length_ns > self._longest_ns:
            self._highest_rate = rate
            ran = [self._running, *(_columns(served, since_ns) for _, served in accounts)]
            self._window = self._batches(np.concatenate(ran, axis=1), since_ns, until_ns)
        still = self._running[:, self._running[-1] > until_ns]
        self._running = np.concatenate([still, *(_columns(served, until_ns) for _, served in accounts)], axis=1)

    def note_failure(self, numbers: Sequence[int], at_ns: int, back_ns: int) -> None:
        """Take note that instances with these numbers were gone between two instants."""
        if at_ns < self._span_ns:
            self._outages += [(number, at_ns, min(back_ns, self._span_ns)) for number in numbers]

    def _add(self, number: NDArray[np.int64], served: Served, since_ns: int, until_ns: int) -> None:
        ready, ran = self._rows.of(number), self._rows.of(served.batch_instance)
        self._make_room()
        begin, finish = served.batch_start_ns, served.batch_finish_ns
        add_spans(ran, served.batch_service, begin, finish, self._ns, self._span_ns, self._busy)
        begin, finish = np.full(len(ready), since_ns), np.full(len(ready), until_ns)
        add_spans(ready, np.zeros_like(ready), begin, finish, self._ns, self._span_ns, self._ready)

    @property
    def _ns(self) -> int:
        return round(self._width_s * 1e9)

    def _make_room(self) -> None:
        short = self._rows.count - len(self._busy)
        if short > 0:
            self._busy, self._ready = (
                np.concatenate((kept, np.zeros((max(short, len(kept)), *kept.shape[1:]), np.int64)))
                for kept in (self._busy, self._ready)
            )

    def _batches(self, columns: NDArray[np.int64], since_ns: int, until_ns: int) -> BatchWindow:
        shown = np.unique(columns[0])[:MOST_ROWS_OF_BATCHES]
        columns = columns[:, np.isin(columns[0], shown)]
        order = np.argsort(columns[3], kind="stable")
        instance, service, size, start, finish = columns[:, order[:MOST_BATCHES]]
        end_ns = until_ns if len(order) <= MOST_BATCHES else int(start[-1])
        self._numbers, row = np.unique(instance, return_inverse=True)
        return BatchWindow((since_ns / 1e9, end_ns / 1e9), row, service, size, start / 1e9, finish / 1e9, ())

    def occupancy(self) -> Occupancy:
        """Return what was added up."""
        names, order = self._rows.named()
        busy, ready = self._busy[order], self._ready[order]
        total_ns = busy.sum(axis=2)
        ready_ns = np.maximum(ready[:, :, 0], total_ns)  # what still ran when its instance was taken away counts too
        most = min(LEADERS, busy.shape[2])
        leaders = np.argsort(-busy, axis=2, kind="stable")[:, :, :most]
        width_ns = np.full(busy.shape[1], self._ns, np.float64)
        width_ns[-1] = max(1, self._span_ns - self._ns * (len(width_ns) - 1))
        return Occupancy(
            self._services,
            names,
            self._width_s,
            _ratio(total_ns, ready_ns),
            leaders,
            _ratio(np.take_along_axis(busy, leaders, axis=2), ready_ns[:, :, None]),
            busy.sum(axis=0).T / width_ns,
            ready_ns.sum(axis=0) / width_ns,
            replace(self._window, rows=self._rows.names(self._numbers)),  # now it is known who stood beside whom
            self._gone(order),
        )

    def _gone(self, order: NDArray[np.int64]) -> tuple[Outage, ...]:
        """Return the failures by row; what was never ready has none."""
        place = {row: n for n, row in enumerate(order.tolist())}
        found = ((self._rows.seen(number), at_ns, back_ns) for number, at_ns, back_ns in self._outages)
        return tuple(
            dict.fromkeys(Outage(place[row], at / 1e9, back / 1e9) for row, at, back in found if row is not None)
        )


class _Rows:
    """Which row of the figure an instance's number belongs to.

    A few GPUs have a row for each of their instances, made when it is first seen; more have a row each; more than
    MOST_ROWS share rows.
    """

    def __init__(self, inventory: Sequence[Gpu]) -> None:
        self._ids = tuple(gpu.id for gpu in inventory)
        places = np.arange(len(inventory) * INSTANCES_A_GPU) // INSTANCES_A_GPU
        self._together = ceil(len(inventory) / MOST_ROWS)
        self._apart = len(inventory) * 8 <= MOST_ROWS
        self._row = np.full(len(places), -1) if self._apart else places // self._together
        self._seen = np.zeros(len(places), bool)
        self.count = 0 if self._apart else int(self._row[-1]) + 1

    def of(self, number: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each number."""
        self._seen[number] = True
        if self._apart:
            for fresh in np.unique(number[self._row[number] < 0]).tolist():
                self._row[fresh] = self.count
                self.count += 1
        return self._row[number]

    def seen(self, number: int) -> int | None:
        """Return the row of a number that was seen; None of one that was not."""
        return int(self._row[number]) if self._seen[number] else None

    def named(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Name the rows that were used, in the order of the GPUs, and say where each of them is."""
        used = np.flatnonzero(self._seen)
        rows, first = np.unique(self._row[used], return_index=True)
        order = np.argsort(first)
        numbers = used[first[order]]
        if self._apart:
            return self.names(numbers), rows[order]
        begins = (numbers // INSTANCES_A_GPU // self._together * self._together).tolist()
        return tuple(self._span(begin) for begin in begins), rows[order]

    def _span(self, begin: int) -> str:
        last = min(begin + self._together, len(self._ids)) - 1
        return self._ids[begin] if last == begin else f"{self._ids[begin]}–{self._ids[last]}"

    def names(self, numbers: NDArray[np.int64]) -> tuple[str, ...]:
        """Name instances after their GPU, and after where they stand on it if others have stood there beside them."""
        places = np.flatnonzero(self._seen) // INSTANCES_A_GPU
        alone = np.bincount(places, minlength=len(self._ids)) == 1
        told = zip(*np.divmod(numbers, INSTANCES_A_GPU), strict=True)
        return tuple(self._ids[place] if alone[place] else f"{self._ids[place]}@{start}" for place, start in told)


def _width_s(span_s: float, most: int) -> float:
    return next((width for width in WIDTHS_S if span_s / width <= most), ceil(span_s / most / 86_400) * 86_400.0)


def _columns(served: Served, after_ns: int) -> NDArray[np.int64]:
    """Return instance, service, size, start and finish of the batches that end after an instant."""
    late = served.batch_finish_ns > after_ns
    columns = (
        served.batch_instance, served.batch_service, served.batch_size, served.batch_start_ns, served.batch_finish_ns
    )  # fmt: skip
    return np.stack([column[late] for column in columns])


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    part, whole = np.broadcast_arrays(part, whole)
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _no_batches() -> BatchWindow:
    none = np.empty(0, np.int64)
    return BatchWindow((0.0, 0.0), none, none, none, none.astype(np.float64), none.astype(np.float64), ())
