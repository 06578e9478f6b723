"""Measure the runtime on emulated devices: requests a second of its CPU time, and how late batches start.

Run as ``python tests/local/live_load.py``; it takes half a minute and both cores of a small machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from local.harness import Running, brought_up, play, poisson, running, service, settings, whole

from partita.executors.local.settings import Settings
from partita.model.cluster import Batching

CONNECTIONS, SPAN_S = 128, 4.0
RATES_RPS = (100, 400, 800)


async def closed_loop(runtime: Running) -> int:
    """Let each connection send one request after the other; return how many were answered."""
    host, port = runtime.url.removeprefix("http://").split(":")
    until, answered = time.monotonic() + SPAN_S, 0

    async def one(name: str) -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection(host, int(port))
        call = f"POST /v1/services/{name} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode()
        while time.monotonic() < until:
            writer.write(call)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
            answered += 1
        writer.close()

    await asyncio.gather(*(one("ab"[n % 2]) for n in range(CONNECTIONS)))
    return answered


async def open_loop(runtime: Running, rate_rps: float) -> int:
    """Send Poisson arrivals; return how many were good, late or dropped."""
    each = (poisson(rate_rps / 2, SPAN_S, name, n) for n, name in enumerate("ab"))
    return len(await play(runtime.url, sorted(request for requests in each for request in requests)))


def measure(what: str, how: Settings, discipline: str, rate_rps: float | None) -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), how) as runtime:
        cpu = psutil.Process(runtime.process.pid)

        async def story() -> None:
            await runtime.executor.apply(brought_up(whole(how.inventory), "ab", Batching(discipline)))
            before = sum(cpu.cpu_times()[:2])
            answered = await (closed_loop(runtime) if rate_rps is None else open_loop(runtime, rate_rps))
            spent = sum(cpu.cpu_times()[:2]) - before
            async with aiohttp.ClientSession() as session, session.get(f"{runtime.url}/metrics") as metrics:
                late = start_lateness(await metrics.text())
            print(
                f"{what}, {discipline}: {answered / SPAN_S:.0f} requests/s, {answered / spent:.0f} a CPU second; {late}"
            )

        asyncio.run(story())
        runtime.stop()
        endings = [row["status"] for row in runtime.finished()]
        print("   ", json.dumps({ending: endings.count(ending) for ending in sorted(set(endings))}))


def start_lateness(metrics: str) -> str:
    """Say which share of batches started within 1 ms of their time."""
    rows = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    name = "partita_runtime_start_lateness_seconds"
    within, total = (float(rows[f"{name}_{key}"]) for key in ('bucket{le="0.001"}', "count"))
    return f"{within / total:.1%} of {total:.0f} batches started within 1 ms of their time"


def main() -> None:
    quick = settings([service(name, alpha_ms=0.1, beta_ms=2.0) for name in "ab"])
    for discipline in ("eager", "deferred"):
        measure("128 connections, L(b) = 0.1 b + 2 ms", quick, discipline, None)
    for rate_rps in RATES_RPS:
        measure("Poisson, L(b) = b + 10 ms, SLO 100 ms", settings([service(n) for n in "ab"]), "deferred", rate_rps)


if __name__ == "__main__":
    main()
