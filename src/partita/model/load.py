"""Load as measured and as expected, and what the loop is shown at each tick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from partita.kernels.splice import splice
from partita.model.cluster import ClusterState
from partita.model.plan import Command, Plan


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Arrivals by service and time step: `counts` has shape ``(services, steps)``, the first step begins at `start_s`.

    NaN is a step that was not measured: it says nothing, least of all zero.
    """

    services: tuple[str, ...]
    start_s: float
    step_s: float
    counts: NDArray[np.float64]

    @property
    def end_s(self) -> float:
        """End of the last step."""
        return self.start_s + self.step_s * int(self.counts.shape[1])

    def rate_rps(self) -> NDArray[np.float64]:
        """Mean rate by service over the steps measured, requests a second; zero where none was."""
        measured = ~np.isnan(self.counts)
        seconds = np.maximum(measured.sum(axis=1), 1) * self.step_s
        rates: NDArray[np.float64] = np.where(measured, self.counts, 0.0).sum(axis=1) / seconds
        return rates

    def surely_rps(self, errors: float = 3.0) -> NDArray[np.float64]:
        """Rate by service that is at least there: the measured one less so many standard errors of its count."""
        seconds = max(self.end_s - self.start_s, 1e-9)
        counted = self.rate_rps() * seconds
        surely: NDArray[np.float64] = np.maximum(counted - errors * np.sqrt(counted), 0.0) / seconds
        return surely


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Expected rate by service: `rps` has shape ``(services, levels, steps)``.

    The steps of `step_s` seconds begin at `made_at_s`; `levels` are the quantile levels (0..1, rising). Quantiles are
    finite, never negative and never cross. `history_s` says how much log the forecast rests on, `version` of which
    version the model is, where it has one of its own.
    """

    services: tuple[str, ...]
    made_at_s: float
    step_s: float
    levels: tuple[float, ...]
    rps: NDArray[np.float64]
    model: str
    history_s: float
    version: str = ""

    def quantile(self, level: float) -> NDArray[np.float64]:
        """Rates at one level, interpolated between the stored ones; shape ``(services, steps)``."""
        low = int(np.clip(np.searchsorted(self.levels, level) - 1, 0, max(0, len(self.levels) - 2)))
        high = min(low + 1, len(self.levels) - 1)
        span = self.levels[high] - self.levels[low]
        weight = float(np.clip((level - self.levels[low]) / span, 0.0, 1.0)) if span > 0 else 0.0
        mixed: NDArray[np.float64] = (1 - weight) * self.rps[:, low, :] + weight * self.rps[:, high, :]
        return mixed

    def lasting(self, level: float) -> NDArray[np.float64]:
        """Quantile of the mean rate over the whole horizon, by service; shape ``(services,)``.

        The chance of arrivals (Poisson: variance rate / step) is independent from step to step and shrinks in the mean;
        the rest of the spread is taken to last. Use it where arrivals bring their own chance, as in a rehearsal.
        """
        steps = self.rps.shape[2]
        middle, upper = self.quantile(0.5).mean(axis=1), self.quantile(level).mean(axis=1)
        z = NormalDist().inv_cdf(min(max(level, 1e-6), 1 - 1e-6))
        chance = z * z * middle / self.step_s * (1 - 1 / steps)
        spread: NDArray[np.float64] = np.sqrt(np.maximum((upper - middle) ** 2 - chance, 0.0))
        lasting: NDArray[np.float64] = np.maximum(middle + np.copysign(spread, level - 0.5), 0.0)
        return lasting

    def peak(self, level: float) -> NDArray[np.float64]:
        """Highest rate over the horizon at one level, by service; shape ``(services,)``."""
        highest: NDArray[np.float64] = self.quantile(level).max(axis=1)
        return highest


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What came of the forecast that turn `tick` made at a horizon ("near" or "far"), and of a naive one beside it.

    Of what `model` said: `wape` by service, `pinball` (requests a second) and `coverage`, ``(services, levels)``;
    `naive_wape` and `naive_pinball` of what `naive` said of the same steps. NaN where nothing was measured. `truth_rps`
    has shape ``(services, steps)``. `in_charge` says by service whether the model's forecast was the one that counted.
    """

    tick: int
    horizon: str
    model: str
    naive: str
    services: tuple[str, ...]
    levels: tuple[float, ...]
    truth_rps: NDArray[np.float64]
    wape: NDArray[np.float64]
    pinball: NDArray[np.float64]
    coverage: NDArray[np.float64]
    naive_wape: NDArray[np.float64]
    naive_pinball: NDArray[np.float64]
    in_charge: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Requests as columns, grouped by service: those of service s are ``ns[offsets[s]:offsets[s + 1]]``, rising.

    `ns` is the instant in nanoseconds, `size` the input size; `offsets` has one entry more than there are services.
    """

    ns: NDArray[np.int64]
    offsets: NDArray[np.int64]
    size: NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.ns.shape[0])

    @classmethod
    def empty(cls, services: int) -> Arrivals:
        """Return no requests at all for this many services."""
        return cls(np.empty(0, np.int64), np.zeros(services + 1, np.int64), np.empty(0, np.float32))

    def followed_by(self, newer: Arrivals) -> Arrivals:
        """Return these with the newer ones of each service behind its own."""
        if not len(self):
            return newer
        if not len(newer):
            return self
        return Arrivals(*splice(self.ns, self.offsets, self.size, newer.ns, newer.offsets, newer.size))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the requests of one service fared since the last tick."""

    offered: int = 0
    good: int = 0
    late: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """How far the last plan has been carried out, and what must be left alone for now.

    `left` are the commands of decision `tick` that are not done yet. A plan that could not be carried out is undone:
    `failed` says why, and is told until the next decision that acts; `failures` counts them. `quarantine` names what
    failed (a GPU, or the signature of a command) with the reason; no plan should need it. `good` is the last plan that
    was seen in place, None where nobody keeps track of it.
    """

    tick: int = 0
    left: tuple[Command, ...] = ()
    failed: str = ""
    failures: int = 0
    quarantine: Mapping[str, str] = field(default_factory=dict)
    good: Plan | None = None


@dataclass(frozen=True, slots=True)
class Orders:
    """What the operator has asked for: to change nothing (`paused` says why), or to go back to a plan."""

    paused: str = ""
    plan: Plan | None = None
    plan_reason: str = ""


NO_WORK, NO_ORDERS = Work(), Orders()


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Everything one tick may know.

    `watermark_s` is how far the log is complete: nothing after it may be read as zero load. `load` covers the time from
    the previous watermark to this one. `recent` holds the requests of the last rehearsal window, all before the
    watermark. `outcomes` counts what was answered since the last tick. `missing` names each signal that could not be
    read, with the reason: what stands in its place is the last that was known, and nothing may be scaled down on it.
    """

    now_s: float
    watermark_s: float
    load: Load
    cluster: ClusterState
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    recent: Arrivals | None = None
    recent_span_s: tuple[float, float] = (0.0, 0.0)
    missing: Mapping[str, str] = field(default_factory=dict)
    work: Work = NO_WORK
    orders: Orders = NO_ORDERS
