"""Speed and memory of the global model: `OMP_NUM_THREADS=1 python tests/bench/bench_forecast_global.py [SERIES …]`.

For each number of series (default: 1000 10000), two weeks of 10 min: training, going on with a day more, and a
forecast a day ahead with its calibration, in processor time; and the most memory that the process has used.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable
from datetime import date
from time import process_time
from typing import TypeVar

from bench_forecast_speed import random_load

from partita.forecasting import GLOBAL, LEVELS
from partita.model.load import Load

DAYS, DAY = 14, 144
Found = TypeVar("Found")


def timed(what: str, work: Callable[[], Found]) -> Found:
    began = process_time()
    found = work()
    took = process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  {what:24} {took:7.2f} s of processor time; most memory so far {memory:.2f} GiB", flush=True)
    return found


def measure(series: int) -> None:
    print(f"{series:,} series", flush=True)
    whole = random_load(series, (DAYS + 1) * DAY, 600.0)
    history = Load(whole.services, whole.start_s, whole.step_s, whole.counts[:, : DAYS * DAY])
    model = timed("trained", lambda: GLOBAL.fitted(history))
    further = timed("trained on, a day later", lambda: model.refitted(whole))
    timed("forecast a day ahead", lambda: further.forecast(whole, steps=DAY, levels=LEVELS))


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}")
    for series in [int(text) for text in sys.argv[1:]] or [1_000, 10_000]:
        measure(series)


if __name__ == "__main__":
    main()
