"""The demonstration: a trace in the database, and models sized so that it keeps a handful of GPUs busy.

A trace says when requests come, not what serves them. The demonstration's six models are made up; their times are
stretched by one factor, SLOs included, until the trace's busiest minute needs about GPUS_AT_PEAK GPUs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np

from partita.controller.config import Scenario
from partita.controller.wording import span
from partita.errors import ConfigError
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import gpus_needed
from partita.ports import TraceInfo
from partita.store.connection import connect
from partita.store.imports import ImportRecord, begin_import
from partita.traces.summary import TraceSummary
from partita.traces.synth import SynthSpec, synthesise

GPUS_AT_PEAK = 10.0
PLAYED_S = 7200.0
"""A longer trace is played faster, so that it takes no longer than this; a shorter one is played as it was."""

MOST_REQUESTS = 6_000_000
"""Of a trace with more, only the beginning is played."""

MOST_GPUS = 1000
LONGEST_STRETCH = 150.0
"""Models of seconds a batch; a trace that keeps fewer GPUs busy even with those is played on fewer."""

SPEC = SynthSpec(services=6, days=1.0, rate_rps=12.0, skew=0.8, burstiness=0.5, burst_size=1.5)
SEED = 1


@dataclass(frozen=True, slots=True)
class Model:
    """A made-up model, before its times are stretched."""

    name: str
    alpha_ms: float
    beta_ms: float
    slo_ms: float
    memory_gib: float

    def service(self) -> Service:
        """Return the service with its times as they are here."""
        curve = LatencyCurve.linear(self.alpha_ms, self.beta_ms)
        return Service(self.name, self.slo_ms / 1e3, 0.99, self.memory_gib, (curve,))


MODELS = (
    Model("detect", 2.0, 12.0, 120.0, 4.0),
    Model("classify", 0.8, 6.0, 80.0, 2.0),
    Model("transcribe", 4.0, 20.0, 180.0, 8.0),
    Model("translate", 3.0, 15.0, 150.0, 6.0),
    Model("embed", 0.6, 6.0, 80.0, 3.0),
    Model("caption", 4.0, 24.0, 200.0, 10.0),
)


def describe_law() -> str:
    """Say how the made-up trace is drawn."""
    return (
        f"{SPEC.services} services over {SPEC.days:g} day, {SPEC.rate_rps:g} requests a second in a week's mean, "
        f"service k with the share k^-{SPEC.skew:g}, nights are {SPEC.day * 100:.0f} % deep, "
        f"{SPEC.burstiness:g} bursts a day and service"
    )


async def import_made_up(dsn: str, watch: Callable[[int, int], None]) -> tuple[ImportRecord, bool]:
    """Bring the made-up trace into the database unless it is there; return its import and whether it was added."""
    options = {**asdict(SPEC), "seed": SEED}
    sha256 = hashlib.sha256(json.dumps(["made up by partita demo", options], sort_keys=True).encode()).hexdigest()
    info, expected = TraceInfo("synth", "requests"), round(SPEC.rate_rps * SPEC.days * 86_400)
    done = 0
    async with (
        connect(dsn) as connection,
        begin_import(connection, file="made up by partita demo", sha256=sha256, info=info, options=options) as opened,
    ):
        added = not opened.done_before
        for rows in synthesise(SPEC, SEED) if added else ():
            await opened.write_rows(rows)
            done += rows.at_ns.size
            watch(done, max(done, expected))
    return opened.record, added


def describe_pace(played: TraceSummary, speed: float) -> str:
    """Say how long the played part of a trace is, how long playing it takes on the simulated clock, and the rate."""
    rate = f"about {played.mean_rps.sum() * speed:,.3g} requests a second"
    if speed == 1.0:
        return f"{span(played.span_s)}, played as fast as they were: {rate}"
    return f"{span(played.span_s)}, played in {span(played.span_s / speed)}: {speed:g} × as fast, so {rate}"


def describe_models(services: Sequence[Service]) -> str:
    """Say how far the made-up models were stretched, and within which times they have to answer."""
    plain = {model.name: model.slo_ms / 1e3 for model in MODELS}
    factor = services[0].slo_s / plain[services[0].name]
    slos = ", ".join(f"{service.name} {span(service.slo_s)}" for service in services)
    return (
        f"The models are made up, all their times multiplied by {float(f'{factor:.2g}'):g} to keep the GPUs busy. "
        f"Each has to answer {services[0].attainment * 100:g} % of its requests within its SLO: {slos}"
    )


def playable_part(summary: TraceSummary) -> float | None:
    """Return after how many seconds of a trace to stop; None: play it all."""
    part = MOST_REQUESTS / int(summary.requests.sum())
    return None if part >= 1.0 else part * summary.span_s


def make_scenario(number: int, played: TraceSummary, *, to_s: float | None, policies: Sequence[str]) -> Scenario:
    """Make the demonstration's scenario for the played part of an import: its services dealt out over the models.

    ConfigError if the trace is too busy for any cluster.
    """
    order = np.argsort(-played.requests, kind="stable")
    rules = {played.services[at]: MODELS[place % len(MODELS)].name for place, at in enumerate(order)}
    used = MODELS[: len(rules)]
    speed = float(f"{max(1.0, played.span_s / PLAYED_S):.3g}")
    peaks = {model.name: 0.0 for model in used}
    for name, peak in zip(played.services, played.peak_minute_rps.tolist(), strict=True):
        peaks[rules[name]] += peak * speed
    factor, gpus = _stretch(used, list(peaks.values()))
    if gpus > MOST_GPUS:
        busiest = sum(peaks.values())
        raise ConfigError(
            f"a trace of {busiest:,.0f} requests a second needs more than {MOST_GPUS} GPUs: too many for a demo"
        )
    log: dict[str, Any] = {"import": number, "services": {_literal(k): v for k, v in rules.items()}, "speed": speed}
    return Scenario.model_validate(
        {
            "cluster": [{"gpu": "A100-80GB", "count": gpus}],
            "services": [_entry(model, factor) for model in used],
            # Services that first come after the part that is played are nobody's.
            "load": {"log": {**log, "services": {**log["services"], "*": None}, "to": to_s}},
            "policies": list(policies),
            "seed": SEED,
        }
    )


def _stretch(models: Sequence[Model], peaks_rps: Sequence[float]) -> tuple[float, int]:
    """Return the factor for all times, and how many GPUs the cluster gets: half as many again as the peak needs.

    Times that are longer by a factor need the GPUs of rates that are higher by it.
    """
    services = [model.service() for model in models]
    factors = np.geomspace(0.25, LONGEST_STRETCH, 200)
    needed = [gpus_needed(services, [rate * factor for rate in peaks_rps]) for factor in factors]
    at = min(int(np.searchsorted(np.maximum.accumulate(needed), GPUS_AT_PEAK)), len(factors) - 1)
    return float(f"{factors[at]:.2g}"), max(2, ceil(1.5 * needed[at]))


def _entry(model: Model, factor: float) -> dict[str, Any]:
    times = {name: float(f"{getattr(model, name) * factor:.4g}") for name in ("alpha_ms", "beta_ms", "slo_ms")}
    latency = {"alpha_ms": times["alpha_ms"], "beta_ms": times["beta_ms"]}
    return {"name": model.name, "slo_ms": times["slo_ms"], "memory_gib": model.memory_gib, "latency": latency}


def _literal(name: str) -> str:
    """Write a service's name as a pattern that matches only itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
