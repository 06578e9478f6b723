"""What is made of a run: the measured figures, beside those that replay gives, and whether the claims hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.controller.live_demo.case import NAMES, SLOS_S
from partita.controller.live_demo.gateway import Played
from partita.replay.score import Score


@dataclass(frozen=True, slots=True)
class Figures:
    """How a run went. `lateness_ms` is the 99th percentile of how late requests were sent."""

    offered: int
    goodput_rps: float
    attainment: float
    by_service: Mapping[str, float]
    p99_ms: float
    mean_batch: float
    lateness_ms: float
    cpu_share: float = 0.0


def measure(played: Played) -> Figures:
    """Sum a run up; every request that was sent counts."""
    good, service = _good(played), played.load.service
    served = played.status == 200
    latency_s = played.latency_s()[served]
    inside = served & ~(played.began_s >= played.load.span_s)
    return Figures(
        offered=len(good),
        goodput_rps=float(good.sum() / played.load.span_s),
        attainment=float(good.mean()),
        by_service={name: float(good[service == n].mean()) for n, name in enumerate(NAMES)},
        p99_ms=float(np.quantile(latency_s, 0.99) * 1e3) if len(latency_s) else float("nan"),
        mean_batch=float(inside.sum() / np.sum(1 / played.batch[inside])) if inside.any() else float("nan"),
        lateness_ms=float(np.quantile(played.sent_s - played.load.at_s, 0.99) * 1e3),
    )


def course(played: Played) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what was offered and what was good, by second of sending."""
    seconds = int(np.ceil(played.load.span_s))
    at = np.minimum(played.sent_s.astype(np.int64), seconds - 1)
    counted = [np.bincount(at[rows], minlength=seconds).astype(np.float64) for rows in (..., _good(played))]
    return counted[0], counted[1]


def _good(played: Played) -> NDArray[np.bool_]:
    slo_s = np.array(SLOS_S)[played.load.service]
    good: NDArray[np.bool_] = (played.status == 200) & (played.latency_s() < slo_s)
    return good


@dataclass(frozen=True, slots=True)
class Prediction:
    """What replay gave, and how far from the measurement it is."""

    attainment: float
    mean_batch: float
    off_points: float
    off_batch: float

    @classmethod
    def of(cls, score: Score, measured: Figures) -> Prediction:
        """Compare a score with what was measured; attainment in points, the batch in shares."""
        return cls(
            score.attainment,
            score.mean_batch,
            (score.attainment - measured.attainment) * 100,
            score.mean_batch / measured.mean_batch - 1.0,
        )

    def holds(self) -> bool:
        """Say whether it is within 3 points and 10 %."""
        return abs(self.off_points) <= 3.0 and abs(self.off_batch) <= 0.10
