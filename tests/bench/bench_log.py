"""Hold the live request log at a rate, with a follower reading it every second, then find the rate it can hold.

    python tests/bench/bench_log.py [--rate 100000] [--seconds 60] [--services 20] [--no-search]

One gateway process records requests of many services in columns, every 20 ms those that arrived since; an embedded
PostgreSQL takes them; a follower in a third process reads the log once a second as the controller does, with a window
of 60 s. Exit code 1 if a request is lost, by the sum of the roll-up, or if a tick takes a second or more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from partita.client import AsyncRequestLog
from partita.store import embedded
from partita.store.connection import connect
from partita.store.line import Line
from partita.store.live_log import LiveLog
from partita.store.migrate import migrate

STEP_S = 0.02
WINDOW_S = 60.0
TICK_LIMIT_S = 1.0


@dataclass(frozen=True)
class Logged:
    """What the gateway did."""

    recorded: int
    written: int
    lost: int
    thinned: int
    waiting: int
    behind_s: float
    cpu_s: float
    seconds: float


@dataclass(frozen=True)
class Followed:
    """What the follower saw: how long ticks took, and how far the watermark was behind."""

    tick_s: np.ndarray
    lag_s: np.ndarray
    offered: int
    cpu_s: float


def names(services: int) -> np.ndarray:
    return np.array([f"service-{number:02}" for number in range(services)], object)


async def gateway(dsn: str, rate: float, seconds: float, services: int) -> Logged:
    """Record at a steady rate, in steps of STEP_S; a step that comes late records what arrived meanwhile."""
    rng = np.random.default_rng(7)
    known, replicas = names(services), np.array([f"replica-{number}" for number in range(8)], object)
    log = AsyncRequestLog(dsn, writer="bench", slo_s=0.1, max_rows=4_000_000)
    async with log:
        begin, recorded, behind_s, cpu = time.time(), 0, 0.0, time.process_time()
        last = begin
        while last < begin + seconds:
            await asyncio.sleep(max(0.0, last + STEP_S - time.time()))
            now = min(time.time(), begin + seconds)
            rows = round((now - begin) * rate) - recorded
            latency_s = rng.exponential(0.04, rows)
            log.record_many(
                known[rng.integers(0, services, rows)],
                arrived_s=last + np.sort(rng.random(rows)) * (now - last),
                latency_s=latency_s,
                size=rng.integers(1, 2000, rows).astype(np.float32),
                queue_s=latency_s / 3,
                batch=rng.integers(1, 33, rows),
                replica=replicas[rng.integers(0, len(replicas), rows)],
            )
            recorded += rows
            behind_s = max(behind_s, now - last)
            last = now
        report = log.report()
        waiting = report.waiting
        await log.flush(120)
        took, cpu = time.time() - begin, time.process_time() - cpu
        report = log.report()
    return Logged(recorded, report.written, report.lost, report.thinned, waiting, behind_s, cpu, took)


async def follower(dsn: str, services: int, stop: Pipe) -> Followed:
    """Read once a second until told to stop, then until nothing is left."""
    log = LiveLog(Line(dsn), names(services).tolist())
    tick_s, lag_s, offered, cpu = [], [], 0, time.process_time()
    since = time.time()
    while True:
        begun = time.perf_counter()
        last = stop.poll()
        view = await log.read(since, WINDOW_S)
        offered += sum(outcome.offered for outcome in view.outcomes.values())
        tick_s.append(time.perf_counter() - begun)
        lag_s.append(time.time() - view.watermark_s)
        since = max(since, view.watermark_s)
        if last:
            break
        await asyncio.sleep(max(0.0, 1.0 - tick_s[-1]))
    await log.close()
    return Followed(np.array(tick_s), np.array(lag_s[3:] or lag_s), offered, time.process_time() - cpu)


def run_gateway(pipe: Pipe, dsn: str, rate: float, seconds: float, services: int) -> None:
    pipe.send(asyncio.run(gateway(dsn, rate, seconds, services)))


def run_follower(pipe: Pipe, dsn: str, services: int) -> None:
    pipe.send(asyncio.run(follower(dsn, services, pipe)))


async def prepare(dsn: str) -> None:
    async with connect(dsn) as connection:
        await migrate(connection)


async def rolled_up(dsn: str) -> int:
    """Return how many requests the roll-up holds."""
    async with connect(dsn) as connection:
        held: int = await connection.fetchval("SELECT coalesce(sum(requests), 0)::bigint FROM request_rollup")
        return held


def hold(dsn: str, rate: float, seconds: float, services: int) -> tuple[Logged, Followed, int]:
    """Log for a while, and return also how many requests came to the roll-up."""
    before = asyncio.run(rolled_up(dsn))
    context = get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    reading = context.Process(target=run_follower, args=(pipes[1][1], dsn, services))
    writing = context.Process(target=run_gateway, args=(pipes[0][1], dsn, rate, seconds, services))
    try:
        reading.start()
        writing.start()
        logged = received(pipes[0][0], writing)
        pipes[1][0].send("stop")
        followed = received(pipes[1][0], reading)
        return logged, followed, asyncio.run(rolled_up(dsn)) - before
    finally:
        for process in (writing, reading):
            process.join(5)
            if process.is_alive():
                process.kill()


def received(pipe: Pipe, process: BaseProcess) -> Any:
    while not pipe.poll(0.5):
        if not process.is_alive():
            raise SystemExit(f"{process.name} ended early")
    return pipe.recv()


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def row(rate: float, logged: Logged, followed: Followed, came: int) -> str:
    ticks = followed.tick_s
    return (
        f"{rate:9,.0f} {logged.recorded:12,} {came / max(1, logged.recorded):9.6f} {logged.lost:7,}"
        f" {logged.thinned:9,} {logged.waiting:9,} {np.percentile(ticks, 50):8.3f} {np.percentile(ticks, 99):8.3f}"
        f" {ticks.max():8.3f} {followed.lag_s.max():8.2f} {logged.cpu_s / logged.seconds:8.2f}"
    )


def holds(logged: Logged, followed: Followed, came: int, rate: float) -> bool:
    """Nothing lost, no rows given up, less than two seconds of rows waiting at the end, ticks under a second."""
    kept = came == logged.recorded and not logged.lost and not logged.thinned
    return kept and logged.waiting < 2 * rate and float(followed.tick_s.max()) < TICK_LIMIT_S


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100_000, help="requests a second to hold")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--services", type=int, default=20)
    parser.add_argument("--search-seconds", type=float, default=15, help="length of each run of the search")
    parser.add_argument("--no-search", action="store_true", help="do not look for the highest rate")
    given = parser.parse_args()
    load = f"load average {os.getloadavg()[0]:.1f} before"
    print(f"{cpu_name()}, {os.cpu_count()} cores, {load}; {given.services} services, window {WINDOW_S:g} s")
    print(
        f"{'rate/s':>9} {'recorded':>12} {'rolled up':>9} {'lost':>7} {'thinned':>9} {'waiting':>9}"
        f" {'tick p50':>8} {'tick p99':>8} {'tick max':>8} {'lag max':>8} {'gateway':>8}"
    )
    with tempfile.TemporaryDirectory() as folder, embedded.running(Path(folder) / "data") as dsn:
        asyncio.run(prepare(dsn))
        asked = hold(dsn, given.rate, given.seconds, given.services)
        print(row(given.rate, *asked), flush=True)
        lossless = asked[2] == asked[0].recorded
        quick = float(asked[1].tick_s.max()) < TICK_LIMIT_S
        best, rate = (given.rate if holds(*asked, given.rate) else 0.0), given.rate * 1.25
        while not given.no_search and best and rate < 20 * given.rate:
            tried = hold(dsn, rate, given.search_seconds, given.services)
            print(row(rate, *tried), flush=True)
            if not holds(*tried, rate):
                break
            best, rate = rate, rate * 1.25
    print(f"rolled up / recorded      {asked[2] / max(1, asked[0].recorded):.6f}  (must be 1)")
    print(f"longest tick / interval   {asked[1].tick_s.max() / TICK_LIMIT_S:.3f}  (must be below 1)")
    if best:
        print(f"highest rate held / asked {best / given.rate:.2f}  ({best:,.0f} requests/s)")
    return 0 if lossless and quick else 1


if __name__ == "__main__":
    sys.exit(main())
