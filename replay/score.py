"""The score of a run: always the same record, whatever was replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.kernels.tally import (
    CLASSES,
    DROPPED_COUNT,
    FLOOR_NS,
    GOOD,
    LATE,
    OFFERED,
    PER_OCTAVE,
    busy_ns,
    tally,
)
from partita.model.service import Service
from partita.model.staggered import Overheads, fluid_rps, staggered_rps
from partita.ports import Served


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of a time in milliseconds, each within 2.2 % (the histogram's class), and the largest class met."""

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Score:
    """How a run went. Only requests that arrived in the counted span are in it; offered = good + late + dropped.

    `bound_staggered_rps` and `bound_fluid_rps` are what the mean number of GPUs held could carry at best at this mix.
    `reconfiguration_gpu_hours` is time that held GPUs were away to drain, repartition or load. `unplaced` counts
    requests of services that no instance held, `lost` those that were running when a failure struck (both are dropped).
    """

    offered: int
    good: int
    late: int
    dropped: int
    duration_s: float
    goodput_rps: float
    attainment: float
    attainment_by_service: dict[str, float]
    offered_by_service: dict[str, int]
    good_by_service: dict[str, int]
    worst_service: str
    worst_attainment: float
    bad_rate: float
    gpus_held_mean: float
    gpus_held_peak: int
    gpu_hours: float
    utilisation: float
    mean_batch: float
    batches: int
    latency_ms: Spread
    queue_ms: Spread
    reconfigurations: int
    reconfiguration_gpu_hours: float
    bound_staggered_rps: float
    bound_fluid_rps: float
    unplaced: int
    lost: int


@dataclass(frozen=True, slots=True)
class Holding:
    """What the simulated cluster says of the counted span: GPUs held, what changing them cost, what they are cut into.

    Where profiles or MPS shares are mixed, `profile` and `gpu_percent` are those of the most frequent kind.
    """

    gpu_seconds: float
    peak: int
    changes: int
    away_gpu_seconds: float
    profile: str
    instances_per_gpu: float
    gpu_percent: float = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class Histograms:
    """Answered requests of the counted span by their time to answer and in the queue, and batches by their size.

    The classes of a time are those that `class_edges_ms` bounds; `batch_size` has an entry for every size from 0 on.
    """

    latency: NDArray[np.int64]
    queueing: NDArray[np.int64]
    batch_size: NDArray[np.int64]


def class_edges_ms() -> NDArray[np.float64]:
    """Return the upper edge of each class of time; the first class holds everything below its own."""
    edges: NDArray[np.float64] = FLOOR_NS / 1e6 * 2 ** (np.arange(1, CLASSES + 1) / PER_OCTAVE)
    return edges


class Tally:
    """Adds up what became of requests over a run, as it goes."""

    def __init__(self, services: Sequence[Service], counted_from_ns: int, counted_to_ns: int) -> None:
        self._services = tuple(services)
        self._slo_ns = np.array([round(s.slo_s * 1e9) for s in services], np.int64)
        self._from, self._to = counted_from_ns, counted_to_ns
        self._counts = np.zeros((len(services), 4), np.int64)
        self._latencies = np.zeros(CLASSES, np.int64)
        self._queueing = np.zeros(CLASSES, np.int64)
        self._batches = np.zeros(1, np.int64)
        self._busy_ns = self.unplaced = 0

    def add(self, served: Served) -> NDArray[np.int64]:
        """Count one account; return all that it settled, ``(services, 4)``, whether in the counted span or not.

        A batch that was cut short (of size 0) is none, but the time it took was busy.
        """
        settled = np.zeros_like(self._counts)
        arrivals = served.arrivals
        tally(
            arrivals.ns,
            arrivals.offsets,
            served.start_ns,
            served.finish_ns,
            self._slo_ns,
            self._from,
            self._to,
            settled,
            self._counts,
            self._latencies,
            self._queueing,
        )
        inside = (served.batch_start_ns >= self._from) & (served.batch_start_ns < self._to) & (served.batch_size > 0)
        by_size = np.bincount(served.batch_size[inside], minlength=len(self._batches))
        by_size[: len(self._batches)] += self._batches
        self._batches = by_size
        self._busy_ns += busy_ns(served.batch_start_ns, served.batch_finish_ns, self._from, self._to)
        return settled

    def drop(self, ns: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        """Book requests as dropped that no instance ever took."""
        counted = (ns >= self._from) & (ns < self._to)
        by_service = np.add.reduceat(np.append(counted, False), offsets[:-1]) * (np.diff(offsets) > 0)
        self._counts[:, OFFERED] += by_service
        self._counts[:, DROPPED_COUNT] += by_service

    def histograms(self) -> Histograms:
        """Return what has been counted so far."""
        return Histograms(self._latencies, self._queueing, self._batches)

    def score(
        self,
        holding: Holding,
        overheads: Overheads,
        *,
        lost: int = 0,
        by_bucket: tuple[Sequence[Service], NDArray[np.int64]] | None = None,
    ) -> Score:
        """Close the account.

        `lost` is how many of the dropped ones a failure has taken. `by_bucket` are the lanes with what was offered of
        each, where the bounds are to know what each bucket of sizes takes.
        """
        offered, good = self._counts[:, OFFERED], self._counts[:, GOOD]
        total, answered = int(offered.sum()), int(good.sum())
        duration_s = (self._to - self._from) / 1e9
        gpus = holding.gpu_seconds / duration_s
        shares = np.where(offered > 0, good / np.maximum(offered, 1), 1.0)
        worst = int(np.argmin(np.where(offered > 0, shares, np.inf))) if total else 0
        names = [s.name for s in self._services]
        bounds = _bounds(by_bucket or (self._services, offered), gpus, holding, overheads)
        batches = int(self._batches.sum())
        batched = int(self._batches @ np.arange(len(self._batches)))
        return Score(
            offered=total,
            good=answered,
            late=int(self._counts[:, LATE].sum()),
            dropped=int(self._counts[:, DROPPED_COUNT].sum()),
            duration_s=duration_s,
            goodput_rps=answered / duration_s,
            attainment=answered / total if total else 1.0,
            attainment_by_service={n: float(a) for n, a in zip(names, shares, strict=True)},
            offered_by_service={n: int(o) for n, o in zip(names, offered, strict=True)},
            good_by_service={n: int(g) for n, g in zip(names, good, strict=True)},
            worst_service=names[worst],
            worst_attainment=float(shares[worst]),
            bad_rate=1.0 - answered / total if total else 0.0,
            gpus_held_mean=gpus,
            gpus_held_peak=holding.peak,
            gpu_hours=holding.gpu_seconds / 3600,
            utilisation=self._busy_ns / 1e9 / (holding.gpu_seconds * holding.instances_per_gpu)
            if holding.gpu_seconds
            else 0.0,
            mean_batch=batched / batches if batches else 0.0,
            batches=batches,
            latency_ms=_spread(self._latencies),
            queue_ms=_spread(self._queueing),
            reconfigurations=holding.changes,
            reconfiguration_gpu_hours=holding.away_gpu_seconds / 3600,
            bound_staggered_rps=bounds[0],
            bound_fluid_rps=bounds[1],
            unplaced=self.unplaced,
            lost=lost,
        )


def _bounds(
    offered: tuple[Sequence[Service], NDArray[np.int64]], gpus: float, holding: Holding, overheads: Overheads
) -> tuple[float, float]:
    """Return the staggered and the fluid bound of so many GPUs for what was offered of each service, or lane."""
    services, counts = offered
    if not counts.any():
        return 0.0, 0.0
    mix, instances = (counts / counts.sum()).tolist(), gpus * holding.instances_per_gpu
    profile, percent = holding.profile, holding.gpu_percent
    return (
        staggered_rps(services, mix, instances, profile=profile, gpu_percent=percent, overheads=overheads),
        fluid_rps(services, mix, instances, profile=profile, gpu_percent=percent),
    )


def _spread(histogram: NDArray[np.int64]) -> Spread:
    """Read percentiles off a histogram, each at the middle of its class."""
    total = int(histogram.sum())
    if total == 0:
        return Spread(0.0, 0.0, 0.0, 0.0)
    reached = np.cumsum(histogram)

    def at(share: float) -> float:
        k = int(np.searchsorted(reached, share * total))
        return float(FLOOR_NS / 1e6 * 2 ** ((k + 0.5) / PER_OCTAVE))

    return Spread(at(0.5), at(0.9), at(0.99), at(1.0))
