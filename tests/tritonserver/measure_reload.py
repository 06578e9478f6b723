"""Measure what a change of batching costs on a real Triton: how long it takes, and what clients notice of it.

Run as a script; it prints one row a change. One model, 5 ms + 0.5 ms a request, 200 requests a second, open loop.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
from tritonserver.conftest import VENV
from tritonserver.rig import SWIFT, WHOLE, ask, executor_on, holding

from partita.executors.triton.api import Endpoint
from partita.executors.triton.emulated_model import EmulatedModel, make_repository
from partita.executors.triton.server import triton_server
from partita.model.cluster import Batching
from partita.model.plan import SetBatching, StartReplicas

RATE_RPS, BEFORE_S, AFTER_S = 200.0, 2.0, 2.0
TWO = (("instances", 2),)
CHANGES = (
    ("timeout 1 ms", Batching("timeout", 0.001, 8)),
    ("timeout 40 ms", Batching("timeout", 0.04, 8)),
    ("timeout 40 ms, batch 16", Batching("timeout", 0.04, 16)),
    ("two model instances only", Batching("timeout", 0.04, 16, TWO)),
    ("timeout 0", Batching("timeout", 0.0, 16, TWO)),
    ("all back", Batching("timeout", 0.02, 8)),
)


async def measure() -> None:
    """Print a table of all changes, made one after the other under one load."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = EmulatedModel("model-a", alpha_ms=0.5, beta_ms=5.0)
        repository = make_repository(folder / "models", [model], device=folder / "device")
        with triton_server(repository, venv=VENV) as server:
            async with executor_on([server.endpoint], folder, models={"a": "model-a"}, patience=SWIFT) as executor:
                start = StartReplicas(WHOLE[0].id, ("a",), (CHANGES[-1][1],), "")
                took = await timed(executor.apply([*holding(WHOLE[0]), start]))
                print(f"first start {took:.2f} s")
                for name, batching in CHANGES:
                    change = SetBatching(WHOLE[0].id, ("a",), (batching,), "")
                    await report(name, server.endpoint, executor.apply([change]))


async def report(name: str, endpoint: Endpoint, change: Awaitable[None]) -> None:
    """Make one change under load and print its row."""
    loop, sent = asyncio.get_running_loop(), list[asyncio.Task[tuple[float, float, bool]]]()
    done = asyncio.Event()

    async def one(session: aiohttp.ClientSession) -> tuple[float, float, bool]:
        at = loop.time()
        answer = await ask(session, endpoint, "model-a")
        return at, loop.time() - at, isinstance(answer, dict)

    async def clients() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            begin = loop.time()
            while not done.is_set():
                sent.append(asyncio.create_task(one(session)))
                await asyncio.sleep(max(0.0, begin + len(sent) / RATE_RPS - loop.time()))
            await asyncio.gather(*sent)

    running = asyncio.create_task(clients())
    await asyncio.sleep(BEFORE_S)
    begin = loop.time()
    took = await timed(change)
    end = loop.time()
    await asyncio.sleep(AFTER_S)
    done.set()
    await running
    rows = [task.result() for task in sent]
    at, latency, good = (np.array(column) for column in zip(*rows, strict=True))
    spans = {"before": at < begin, "during": (at >= begin) & (at < end + 0.3), "after": at >= end + 0.3}
    figures = "  ".join(
        "{} p50 {:5.1f} p99 {:5.1f} ms".format(span, *np.quantile(latency[which], (0.5, 0.99)) * 1e3)
        for span, which in spans.items()
    )
    print(f"{name:26} {took:5.2f} s  {int((~good).sum())} of {len(rows)} failed  {figures}")


async def timed(act: Awaitable[None]) -> float:
    """Return how long something takes, in seconds."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await act
    return loop.time() - begin


if __name__ == "__main__":
    asyncio.run(measure())
