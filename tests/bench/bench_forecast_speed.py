"""Speed of the forecasters that the loop uses, on one core: `python tests/bench/bench_forecast_speed.py`.

A near forecast of 1,000 services (steps of 10 s, 18 ahead) at each of 60 ticks in a row, so that every part of the
services learns twice; a far one of 1,000 and of 10,000 series (two weeks of 10 min, a day ahead), the first and one
10 min later. Processor time; it passes if nine of ten ticks stay under 100 ms (more than one in four learns; the rest
is left to the noise of a busy machine), the far forecast of 1,000 under 5 s and that of 10,000 under ten times that.
A forecast of smoothing, the plain model, is timed in the same run.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable
from datetime import date
from time import process_time

import numpy as np

from partita.forecasting import BLEND, BLEND_NEAR, LEVELS, Smoothing
from partita.model.load import Load
from partita.ports import Forecaster

TICK_S, FAR_S, TIMES = 0.1, 5.0, 10
MOST_TICKS = 0.9


def main() -> int:
    """Measure, print a line each, return 1 if one takes too long."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}")
    near, ahead = random_load(1_000, 560, 10.0), 18
    BLEND_NEAR.forecast(until(near, 500), steps=ahead, levels=LEVELS)  # compiles, and learns once
    ticks = [timed(BLEND_NEAR, until(near, end), ahead) for end in range(501, 561)]
    plain = min(timed(Smoothing(), until(near, end), ahead) for end in range(501, 506))
    most, usual = np.quantile(ticks, MOST_TICKS), np.median(ticks)
    spread = f"median {usual * 1e3:.0f} ms, {MOST_TICKS:.0%} under {most * 1e3:.0f} ms, most {max(ticks) * 1e3:.0f} ms"
    told("near, 1,000 services", spread)
    told("  smoothing", f"{plain * 1e3:.0f} ms")
    warm = random_load(10, 2016, 600.0)
    BLEND.forecast(warm, steps=144, levels=LEVELS)
    took = {}
    for number in (1_000, 10_000):
        far = random_load(number, 2017, 600.0)
        took[number] = timed(BLEND, until(far, 2016), 144)
        later = timed(BLEND, far, 144)
        told(f"far, {number:,} series", f"{took[number]:.2f} s, a step later {later:.2f} s")
    return 0 if most < TICK_S and took[1_000] < FAR_S and took[10_000] < TIMES * FAR_S else 1


def random_load(services: int, steps: int, step_s: float) -> Load:
    """Draw Poisson counts around a daily wave times a slow random walk."""
    rng = np.random.default_rng(1)
    time = 2 * np.pi * np.arange(steps) * step_s / 86_400.0 + rng.uniform(0, 6, (services, 1))
    walk = np.exp(rng.normal(0, 0.006, (services, steps)).cumsum(axis=1))
    counts = rng.poisson(rng.uniform(5, 500, (services, 1)) * (1.2 + np.sin(time)) * walk).astype(np.float64)
    return Load(tuple(f"s{i}" for i in range(services)), 0.0, step_s, counts)


def until(load: Load, end: int) -> Load:
    """Return the first steps."""
    return Load(load.services, load.start_s, load.step_s, load.counts[:, :end])


def timed(model: Forecaster, history: Load, steps: int, clock: Callable[[], float] = process_time) -> float:
    """Return what one forecast takes."""
    began = clock()
    model.forecast(history, steps=steps, levels=LEVELS)
    return clock() - began


def told(what: str, took: str) -> None:
    """Print a line, with the most memory that was ever held."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:22} {took}; most memory so far {memory:.2f} GiB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
