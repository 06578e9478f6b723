"""Measure how many requests a second the disciplines replay on one core: `make bench`.

Poisson arrivals, handed over in chunks of ten seconds as the simulated world does; timed is `Discipline.advance` alone,
as CPU time after compilation. Load is the offered rate over the staggered bound of the instances.

Deferred batching is also measured against the same rules in plain C (``deferred.c``, compiled here by gcc -O3): both
are handed the same arrays in turns, must give the same account, and are timed without what surrounds them in
`advance`. It fails if compiled Python is below half of C's speed, or below the rates that ``LEAST`` names.

Before that, so that slow C or a slow machine is seen as such, plain C serves one log by the bare rule alone
(``simple.c``): no time outside the instances, no meter, no target, no log of batches. With the settings that leave
nothing else of deferred batching, ours must give the same account.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest has it, for what tests share

from bench.in_c import BareRule, SameRules

from partita.kernels.batches import DROPPED, QUEUED
from partita.model.load import Arrivals
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import staggered_rps
from partita.ports import Discipline, Pool
from partita.replay.disciplines import DISCIPLINES, Deferred
from partita.replay.disciplines import deferred as wrapper

CHUNK_S = 10.0
REQUESTS = 10_000_000


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    discipline: Discipline
    services: int
    gpus: int
    load: float


SIZES = ((1, 8), (100, 64), (1000, 10_000))
LOADS = (0.8, 1.2)
CASES = tuple(Case(d, *size, load) for d in DISCIPLINES for size in SIZES[:2] for load in LOADS)
LEAST = {"deferred": 10e6, "adaptive": 10e6}
"""Requests a second that must be replayed at load 0.8; of the others, 3 million."""
LEAST_AT_SCALE = 20e6
"""Requests a second of deferred batching with 1,000 services on 10,000 GPUs at load 0.8."""

BARE = {"drop": "timeout", "order": "deadline"}
"""Parameters of deferred batching that make it the bare rule, where no time passes outside the instances."""
COMPARED = 300_000
"""Requests whose account by the bare rule is compared with ours."""
BARE_REACHED = {
    (1, 8, 0.8): 390e6,
    (1, 8, 1.2): 90e6,
    (100, 64, 0.8): 125e6,
    (100, 64, 1.2): 22e6,
    (1000, 10_000, 0.8): 117e6,
    (1000, 10_000, 1.2): 19e6,
}
"""What the bare rule reached in requests a second, to be seen beside this run: the middle of docs/measurements.md."""


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
    """Make the pool; batching that looks at no deadline may use half of the SLO for a batch, the others all of it."""
    share = 0.5 if getattr(case.discipline, "blind", False) else 1.0
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
        parameters={"timeout_ms": 1.0, "queue_policy": "reject"}
        if case.discipline.name in ("timeout", "triton")
        else {},
    )


def offered_rps(services: list[Service], case: Case) -> np.ndarray:
    """Return the rate of each service; their shares follow Zipf's law."""
    shares = 1 / np.arange(1, case.services + 1) ** 0.9
    rates_rps: np.ndarray = case.load * staggered_rps(services, shares.tolist(), case.gpus) * shares / shares.sum()
    return rates_rps


def chunks(rates_rps: np.ndarray, requests: int, chunk_s: float = CHUNK_S) -> Iterator[tuple[Arrivals, int]]:
    """Draw arrivals chunk by chunk, and give the end of each."""
    rng = np.random.default_rng(2)
    begin = 0
    while requests > 0:
        end = begin + round(chunk_s * 1e9)
        counts = rng.poisson(rates_rps * chunk_s)
        ns = np.concatenate([np.sort(rng.integers(begin, end, count)) for count in counts])
        yield Arrivals(ns, np.concatenate(([0], np.cumsum(counts))), np.ones(len(ns), np.float32)), end
        requests -= len(ns)
        begin = end


def measure(case: Case, requests: int) -> Speed:
    """Replay about this many requests; whole chunks are played."""
    services = make_services(case.services)
    pool, state = make_pool(services, case), case.discipline.initial_state(case.services)
    offered = bad = batches = sizes = 0
    cpu_s = 0.0
    for arrivals, end in chunks(offered_rps(services, case), requests):
        began = process_time()
        state, served = case.discipline.advance(state, arrivals, pool, end)
        cpu_s += process_time() - began
        settled = served.finish_ns != 0
        deadline = served.arrivals.ns + np.repeat(pool.slo_ns, np.diff(served.arrivals.offsets))
        offered += len(arrivals)
        bad += int((settled & ((served.finish_ns < 0) | (served.finish_ns >= deadline))).sum())
        batches, sizes = batches + len(served.batch_size), sizes + int(served.batch_size.sum())
    return Speed(offered, cpu_s, bad / offered, sizes / batches)


@dataclass(frozen=True)
class Duel:
    """Deferred batching by compiled Python and by C: requests a second, and whether the account was the same."""

    python: float
    c: float
    same: bool


def duel(case: Case, requests: int, in_c: SameRules) -> Duel:
    """Let both serve the same requests, chunk by chunk in turns."""
    compiled, spent, same = wrapper.kernel.serve, {"python": 0.0, "c": 0.0}, True

    def both(
        w: Any, active: Any, q: Any, p: Any, free_at: Any, r: Any, since: int, until: int, log: Any, _: int
    ) -> int:
        nonlocal same
        for fresh in (w.account, *log):  # neither shall be charged for memory that is touched for the first time
            fresh.fill(0)
        other_w = w._replace(account=w.account.copy(), state=w.state.copy())
        other_free, other_log = free_at.copy(), type(log)(*(column.copy() for column in log))
        began = process_time()
        in_c(other_w, other_free, r, since, until, other_log)
        between = process_time()
        logged = compiled(w, active, q, p, free_at, r, since, until, log, 0)
        spent["c"] += between - began
        spent["python"] += process_time() - between
        pairs = ((w.account, other_w.account), (w.state, other_w.state), (free_at, other_free))
        same = same and all(np.array_equal(mine, other) for mine, other in pairs)
        return int(logged)

    measure(case, 1)
    wrapper.kernel.serve = both
    try:
        speed = measure(case, requests)
    finally:
        wrapper.kernel.serve = compiled
    return Duel(speed.requests / spent["python"], speed.requests / spent["c"], same)


@dataclass(frozen=True)
class Calibration:
    """The bare rule in C: requests a second, what came of them, and whether ours gives the same account."""

    rps: float
    dropped: float
    mean_batch: float
    same: bool


def calibrate(case: Case, requests: int, bare: BareRule) -> Calibration:
    """Let C serve one log of all requests, the best of three times, and both a small one."""
    services = make_services(case.services)
    rates_rps = offered_rps(services, case)
    pool = replace(make_pool(services, case), control_ns=0, data_ns=0, response_ns=0, jitter_ns=0, parameters=BARE)
    [(arrivals, end), *_] = chunks(rates_rps, 1, COMPARED / rates_rps.sum())
    finish = np.zeros(len(arrivals), np.int64)
    bare(arrivals, pool, finish)
    _, served = case.discipline.advance(
        case.discipline.initial_state(case.services), arrivals, pool, end + int(2 * pool.slo_ns.max())
    )
    # Ours leaves for the next advance what came too late to be served alone by the end.
    same = np.array_equal(np.where(served.finish_ns == QUEUED, DROPPED, served.finish_ns), finish)
    [(arrivals, _), *_] = chunks(rates_rps, 1, requests / rates_rps.sum())
    finish, took = np.zeros(len(arrivals), np.int64), []
    for _ in range(3):
        began = process_time()
        batches = bare(arrivals, pool, finish)
        took.append(process_time() - began)
    answered = int((finish > 0).sum())
    return Calibration(len(arrivals) / min(took), 1 - answered / len(arrivals), answered / batches, same)


def main(requests: int = REQUESTS) -> int:
    """Print the machine and the tables; return 1 if a bar is missed."""
    print(f"{_cpu()}, {os.cpu_count()} cores, {date.today()}; {' '.join([Path(sys.executable).name, *sys.argv])}")
    missed = 0
    if shutil.which("gcc"):
        with TemporaryDirectory() as folder:
            missed += print_calibration(requests, BareRule(Path(folder)))
            missed += print_duels(requests, SameRules(Path(folder)))
    else:
        print("There is no gcc, so there is no kernel in C to compare with.")
    return min(missed + print_disciplines(requests // 2), 1)


def print_calibration(requests: int, bare: BareRule) -> int:
    """Print what the bare rule in C reaches on this machine; return in how many cases its account is another."""
    print("bare rule in C: services   GPUs  load  million requests/s  documented  dropped %  mean batch")
    missed = 0
    for services, gpus in SIZES:
        for load in LOADS:
            found = calibrate(Case(Deferred(), services, gpus, load), requests, bare)
            missed += not found.same
            print(
                f"                {services:8}  {gpus:5}  {load:4}  {found.rps / 1e6:18.0f}"
                f"  {BARE_REACHED[services, gpus, load] / 1e6:10.0f}  {100 * found.dropped:9.2f}"
                f"  {found.mean_batch:10.2f}{'' if found.same else '  ANOTHER ACCOUNT'}",
                flush=True,
            )
    return missed


def print_duels(requests: int, in_c: SameRules) -> int:
    """Print how compiled Python does beside the same rules in C; return in how many cases too badly."""
    print("deferred: services   GPUs  load  million requests/s  in C  ratio")
    missed = 0
    for services, gpus in SIZES:
        for load in LOADS:
            found = duel(Case(Deferred(), services, gpus, load), requests, in_c)
            slow = gpus == 10_000 and load < 1 and found.python < LEAST_AT_SCALE
            bad = slow or not found.same or found.python < 0.5 * found.c
            missed += bad
            print(
                f"          {services:8}  {gpus:5}  {load:4}  {found.python / 1e6:18.1f}"
                f"  {found.c / 1e6:4.0f}  {found.python / found.c:5.2f}"
                f"{'' if found.same else '  ANOTHER ACCOUNT'}{'  MISSED' if bad else ''}",
                flush=True,
            )
    return missed


def print_disciplines(requests: int) -> int:
    """Print the speed of every discipline; return how many are too slow."""
    print("discipline  services  GPUs  load    requests  CPU s  million requests/s  bad %  mean batch")
    missed = 0
    for case in CASES:
        measure(case, 1)
        speed = measure(case, requests)
        rate = speed.requests / speed.cpu_s
        bad = case.load < 1 and rate < LEAST.get(case.discipline.name, 3e6)
        missed += bad
        print(
            f"{case.discipline.name:10}  {case.services:8}  {case.gpus:4}  {case.load:4}  {speed.requests:10}"
            f"  {speed.cpu_s:5.2f}  {rate / 1e6:18.1f}  {100 * speed.bad_rate:5.2f}  {speed.mean_batch:10.2f}"
            f"{'  MISSED' if bad else ''}",
            flush=True,
        )
    return missed


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def test_replay_speed() -> None:
    assert main() == 0


if __name__ == "__main__":
    sys.exit(main())
