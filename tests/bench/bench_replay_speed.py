"""Measure how many requests a second the disciplines replay on one core: `python tests/bench/bench_replay_speed.py`.

Poisson arrivals, handed over in chunks of ten seconds as the simulated world does; timed is `Discipline.advance` alone,
as CPU time after compilation. Load is the offered rate over the staggered bound of the instances.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from time import process_time

import numpy as np

from partita.model.load import Arrivals
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import staggered_rps
from partita.ports import Discipline, Pool
from partita.replay.disciplines import Deferred, Eager, Timeout

CHUNK_S = 10.0
REQUESTS = 10_000_000


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    discipline: Discipline
    services: int
    gpus: int
    load: float


CASES = (
    Case(Deferred(), 100, 64, 0.8),
    Case(Deferred(), 100, 64, 1.2),
    Case(Deferred(), 1, 8, 0.8),
    Case(Deferred(), 1, 8, 1.2),
    Case(Eager(), 100, 64, 0.8),
    Case(Eager(), 1, 8, 0.8),
    Case(Timeout(), 100, 64, 0.8),
    Case(Timeout(), 1, 8, 0.6),
)


@dataclass(frozen=True)
class Speed:
    """What a case took, and what came of its requests, so that it can be seen to have done the work."""

    requests: int
    cpu_s: float
    bad_rate: float
    mean_batch: float


def make_services(count: int) -> list[Service]:
    """Make services from the small to the large: 0.3 to 2 ms a request, 1 to 8 ms a batch, SLO 25 to 100 ms."""
    if count == 1:
        return [Service("s0", 0.025, 0.99, 1.0, (LatencyCurve.linear(1.053, 5.072),))]
    rng = np.random.default_rng(1)
    alpha, beta, slo = rng.uniform(0.3, 2, count), rng.uniform(1, 8, count), rng.uniform(0.025, 0.1, count)
    return [
        Service(f"s{n}", float(slo[n]), 0.99, 1.0, (LatencyCurve.linear(float(alpha[n]), float(beta[n])),))
        for n in range(count)
    ]


def make_pool(services: list[Service], case: Case) -> Pool:
    """Make the pool; timeout batching may use half of the SLO for a batch, the others all of it."""
    share = 0.5 if case.discipline.name == "timeout" else 1.0
    largest = [max(1, s.largest_batch("whole", share * s.slo_s)) for s in services]
    return Pool(
        active=np.arange(len(services)),
        slo_ns=np.array([round(s.slo_s * 1e9) for s in services]),
        max_batch=np.array(largest),
        latency_ns=np.stack([s.curves[0].table_ns(max(largest)) for s in services]),
        number=np.arange(case.gpus),
        free_at_ns=np.zeros(case.gpus, np.int64),
        control_ns=100_000,
        data_ns=50_000,
        response_ns=2_000_000,
        jitter_ns=100_000,
        parameters={"timeout_ms": 1.0, "queue_policy": "reject"},
    )


def chunks(rates_rps: np.ndarray, requests: int) -> Iterator[tuple[Arrivals, int]]:
    """Draw arrivals chunk by chunk, and give the end of each."""
    rng = np.random.default_rng(2)
    begin = 0
    while requests > 0:
        end = begin + round(CHUNK_S * 1e9)
        counts = rng.poisson(rates_rps * CHUNK_S)
        ns = np.concatenate([np.sort(rng.integers(begin, end, count)) for count in counts])
        yield Arrivals(ns, np.concatenate(([0], np.cumsum(counts))), np.ones(len(ns), np.float32)), end
        requests -= len(ns)
        begin = end


def measure(case: Case, requests: int) -> Speed:
    """Replay about this many requests; whole chunks are played."""
    services = make_services(case.services)
    shares = 1 / np.arange(1, case.services + 1) ** 0.9  # Zipf
    rate_rps = case.load * staggered_rps(services, shares.tolist(), case.gpus)
    pool, state = make_pool(services, case), case.discipline.initial_state(case.services)
    offered = bad = batches = sizes = 0
    cpu_s = 0.0
    for arrivals, end in chunks(rate_rps * shares / shares.sum(), requests):
        began = process_time()
        state, served = case.discipline.advance(state, arrivals, pool, end)
        cpu_s += process_time() - began
        settled = served.finish_ns != 0
        deadline = served.arrivals.ns + np.repeat(pool.slo_ns, np.diff(served.arrivals.offsets))
        offered += len(arrivals)
        bad += int((settled & ((served.finish_ns < 0) | (served.finish_ns >= deadline))).sum())
        batches, sizes = batches + len(served.batch_size), sizes + int(served.batch_size.sum())
    return Speed(offered, cpu_s, bad / offered, sizes / batches)


def main(requests: int = REQUESTS) -> None:
    """Print the machine and the table."""
    print(f"{_cpu()}, {os.cpu_count()} cores, {date.today()}; {' '.join([Path(sys.executable).name, *sys.argv])}")
    print("discipline  services  GPUs  load    requests  CPU s  million requests/s  bad %  mean batch")
    for case in CASES:
        measure(case, 1)
        speed = measure(case, requests)
        print(
            f"{case.discipline.name:10}  {case.services:8}  {case.gpus:4}  {case.load:4}  {speed.requests:10}"
            f"  {speed.cpu_s:5.2f}  {speed.requests / speed.cpu_s / 1e6:18.1f}"
            f"  {100 * speed.bad_rate:5.2f}  {speed.mean_batch:10.2f}",
            flush=True,
        )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def test_replay_speed() -> None:
    main()


if __name__ == "__main__":
    main()
