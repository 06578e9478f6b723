"""A target-utilisation scaler with the rules of Kubernetes' HPA v2, on what the log measured last.

Utilisation is the GPU need of the measured rates (staggered rule) over the GPUs held. Within `tolerance` of the target
nothing changes. Up at once, at most to double or by 4 a tick, whichever is more; down to the highest recommendation of
the last `stabilisation_s`. Like the HPA it never scales down on measurements that are missing, here a stale log, nor
while requests are missing their SLO; up is always allowed. HPA's pace is per 15 s, ours is per tick.

Options: ``target``, ``tolerance``, ``stabilisation_s``, ``window_s`` (how long rates are averaged over), ``stale_s``
(how far the log may lie behind).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import sqrt
from typing import Any

from partita.hookspecs import hookimpl
from partita.model.cluster import Gpu
from partita.model.load import Load, Observation
from partita.model.plan import Capacity, OptionValue, Plan, Proposal
from partita.model.service import Service
from partita.model.staggered import Overheads
from partita.plugins.options import ABOVE_ZERO, complaint, read_numbers
from partita.plugins.sizing import gpus_busy, slicing, whole_gpus

SURE_SIGMA = 3.0
"""Standard errors by which an attainment must miss its target before it counts as missed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's options.

    The target lies below the utilisation that a peak is planned for, since it is set against load that is past already:
    with the tolerance it reacts above 0.77.
    """

    target: float = 0.7
    tolerance: float = 0.1
    stabilisation_s: float = 300.0
    window_s: float = 60.0
    stale_s: float = 60.0

    @classmethod
    def read(cls, options: Mapping[str, OptionValue]) -> Settings:
        """Read options; ConfigError for one that does not exist or is out of range."""
        return read_numbers(cls, options, {"target": (ABOVE_ZERO, 1.0)})


@dataclass(frozen=True, slots=True)
class Sample:
    """Arrivals by service, counted over `span_s` seconds up to `end_s`."""

    end_s: float
    span_s: float
    counts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Advice:
    """How many GPUs the utilisation alone asked for at a time."""

    at_s: float
    gpus: int


@hookimpl
def check_options(options: Mapping[str, OptionValue]) -> str | None:
    """Say what is wrong with the options."""
    return complaint(lambda: Settings.read(options))


@hookimpl
def propose_capacity(
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    observation: Observation,
    standing: Plan,
    overheads: Overheads,
    options: Mapping[str, OptionValue],
    memory: object,
) -> Proposal:
    """Scale so that the load of the last minute fills the target share of the GPUs."""
    settings = Settings.read(options)
    now_s, watermark_s = observation.now_s, observation.watermark_s
    samples, past = _recall(memory)
    samples = _measured(samples, observation.load, watermark_s, settings.window_s)
    held = max(1, len(standing.gpus) or len(observation.cluster.held))
    if not samples:
        return Proposal(Capacity(_within(held, inventory), firm=True), f"no load is measured yet: hold {held}", memory)

    busy = gpus_busy(services, _rates_rps(samples, services), slicing(standing), overheads)
    utilisation = busy / held
    steady = abs(utilisation / settings.target - 1) <= settings.tolerance
    raw = held if steady else whole_gpus(busy / settings.target)
    past = [a for a in past or [Advice(now_s, held)] if a.at_s > now_s - settings.stabilisation_s]
    past.append(Advice(now_s, raw))

    stale = now_s - watermark_s > settings.stale_s
    wanted, why = _limited(raw, held, past, stale=stale, missed=_missed(services, observation), settings=settings)
    gpus = _within(wanted, inventory)
    span_s = sum(s.span_s for s in samples)
    share = f"{utilisation * 100:.0f} %, target {settings.target * 100:.0f} %"
    seen = f"the load of {span_s:g} s keeps {busy:.2f} of {held} GPUs busy ({share})"
    limit = f", the cluster has {len(inventory)}" if wanted > gpus else ""
    return Proposal(Capacity(gpus, firm=True), f"{seen}: {why}{limit}", _remembered(samples, past))


def _limited(
    raw: int, held: int, past: Sequence[Advice], *, stale: bool, missed: str, settings: Settings
) -> tuple[int, str]:
    """Return the number of GPUs that pace, stabilisation and distrust leave of `raw`, and why."""
    if raw > held:
        pace = max(2 * held, held + 4)
        return (pace, f"up to {pace} now, {raw} are needed") if raw > pace else (raw, f"up to {raw}")
    if raw == held:
        return held, f"hold {held}"
    if stale:
        return held, f"{raw} would do, but the log is over {settings.stale_s:g} s behind: hold {held}"
    if missed:
        return held, f"{raw} would do, but {missed}: hold {held}"
    safest = min(held, max(a.gpus for a in past))
    if safest == held:
        return held, f"{raw} would do, but {held} were needed within the last {settings.stabilisation_s:g} s: hold"
    return safest, f"down to {safest}, the most needed within the last {settings.stabilisation_s:g} s"


def _missed(services: Sequence[Service], observation: Observation) -> str:
    """Name the first service whose requests surely miss its attainment, empty if there is none."""
    for service in services:
        outcome = observation.outcomes.get(service.name)
        if outcome is None:
            continue
        bad = outcome.late + outcome.dropped
        answered = bad + outcome.good
        share = 1 - service.attainment
        if bad > answered * share + SURE_SIGMA * sqrt(answered * share * (1 - share)):
            reached, target = outcome.good / answered * 100, service.attainment * 100
            return f"{service.name} answers {reached:.1f} % in time, not {target:.1f} %"
    return ""


def _measured(samples: Sequence[Sample], load: Load, watermark_s: float, window_s: float) -> list[Sample]:
    """Add the newest steps of the load, no more than the window holds, and forget what has left it."""
    kept = [s for s in samples if s.end_s > watermark_s - window_s + 1e-9]
    steps = min(load.counts.shape[1], max(1, round(window_s / load.step_s)))
    if steps and (not samples or load.end_s > samples[-1].end_s):
        counts = load.counts[:, load.counts.shape[1] - steps :].sum(axis=1)
        total = {name: float(c) for name, c in zip(load.services, counts, strict=True) if c > 0}
        kept.append(Sample(load.end_s, steps * load.step_s, total))
    return kept or list(samples[-1:])


def _rates_rps(samples: Sequence[Sample], services: Sequence[Service]) -> list[float]:
    span_s = sum(s.span_s for s in samples)
    return [sum(sample.counts.get(s.name, 0.0) for sample in samples) / span_s for s in services]


def _within(gpus: int, inventory: Sequence[Gpu]) -> int:
    return max(1, min(gpus, len(inventory)))


def _recall(memory: Any) -> tuple[list[Sample], list[Advice]]:
    if memory is None:
        return [], []
    return [Sample(*s) for s in memory["samples"]], [Advice(*a) for a in memory["advice"]]


def _remembered(samples: Sequence[Sample], past: Sequence[Advice]) -> dict[str, object]:
    """Make plain data of what the next tick needs; of equal advice in a row the first and the last suffice."""
    runs = [list(run) for _, run in groupby(past, key=lambda a: a.gpus)]
    ends = [a for run in runs for a in ((run[0], run[-1]) if len(run) > 1 else run)]
    return {
        "samples": [[s.end_s, s.span_s, dict(s.counts)] for s in samples],
        "advice": [[a.at_s, a.gpus] for a in ends],
    }
