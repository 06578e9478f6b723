"""What can go wrong with the log of requests while a controller turns: nothing of it takes capacity away."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash.house import runtime
from crash.town import Running, Town, cluster_file, controller, freeze, until

from partita.client import AsyncRequestLog
from partita.store.connection import connect
from partita.store.live_batch import GOOD, NO_BATCH, NO_REPLICA, Batch, Pen, Requests

BUSY = {"a": 30.0, "b": 30.0, "c": 30.0}
"""Requests a second that keep all three GPUs, each of which carries fewer than 50: one request takes 20 ms."""
QUIET = {"a": 0.0, "b": 0.0, "c": 0.0}


@contextmanager
def gateway(dsn: str, writer: str, rates_rps: Mapping[str, float]) -> Iterator[Running]:
    """Run a gateway until the block ends."""
    entry = Path(__file__).with_name("gateway_entry.py")
    words = json.dumps({"dsn": dsn, "writer": writer, "rates_rps": rates_rps})
    process = subprocess.Popen([sys.executable, str(entry), words], stdout=subprocess.PIPE)
    try:
        yield Running(writer, process, entry)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def goodbye(running: Running) -> Counter[str]:
    """End a gateway, and return how much it recorded."""
    running.signal(signal.SIGCONT)
    running.signal(signal.SIGTERM)
    said, _ = await asyncio.to_thread(running.process.communicate, None, 60)
    return Counter(json.loads(said))


def on(dsn: str, folder: Path, body: Callable[[Town, Running], Awaitable[None]], **missing: float) -> None:
    """Run a test on a controller that gives GPUs back as soon as it may."""
    with runtime(folder, model_load_s=0.1, repartition_s=0.1) as house:
        service = {"slo_ms": 400, "memory_gib": 2, "latency": {"alpha_ms": 20, "beta_ms": 30}}
        path = cluster_file(
            folder,
            house,
            services=[{"name": name, **service} for name in "abc"],
            policy={"name": "symphony", "options": {"stabilisation_s": 2}},
            control={"near_s": 1, "epoch_s": 60, "rehearse_s": 10},
            discipline={"name": "deferred"},
            missing=missing,
        )
        with controller(path, dsn, "only") as only:
            asyncio.run(body(Town(dsn, house), only))
            only.check_calm()


async def decisions(town: Town, since_tick: int = 0) -> list[dict[str, Any]]:
    return await town.fetch(
        "SELECT run, tick, action, reason, offered_rps, gpus_held, gpus_wanted FROM decision WHERE tick > $1"
        " ORDER BY run, tick",
        since_tick,
    )


async def holds(town: Town, gpus: int, turns: int = 5) -> int:
    """Wait until the controller has seen load for some turns and holds so many GPUs; return the last tick."""

    async def look() -> int:
        last = [d for d in await decisions(town) if d["offered_rps"] > 0][-turns:]
        is_so = len(last) == turns and all(d["gpus_held"] == gpus == d["gpus_wanted"] for d in last)
        return last[-1]["tick"] if is_so and await town.is_settled() else 0

    return await until(f"{gpus} GPUs held under load", look)


async def gives_back(town: Town, gpus: int) -> None:
    """Wait until so few GPUs are held."""

    async def look() -> bool:
        return len((await town.executor.observe()).held) <= gpus

    await until(f"{gpus} GPUs held", look)


async def rolled_up(town: Town) -> Counter[str]:
    rows = await town.fetch(
        "SELECT s.name, sum(r.requests)::bigint AS requests FROM request_rollup r JOIN service s ON s.id = r.service"
        " GROUP BY s.name"
    )
    return Counter({row["name"]: row["requests"] for row in rows})


async def counted(town: Town, wanted: Mapping[str, int]) -> None:
    """Wait until the roll-up holds what was recorded, and make sure that it stays so."""

    async def look() -> bool:
        return +await rolled_up(town) == +Counter(wanted)

    try:
        await until("every request in the roll-up", look, limit_s=30.0)
    except AssertionError:
        assert +await rolled_up(town) == +Counter(wanted)
    await asyncio.sleep(3.0)
    assert +await rolled_up(town) == +Counter(wanted)


def stops(dsn: str, folder: Path, *, for_s: float, **missing: float) -> None:
    """Freeze the only gateway, and see that nothing is given back while its log is missing; but when it says quiet."""

    async def body(town: Town, only: Running) -> None:
        with gateway(dsn, "first", BUSY) as first:
            await holds(town, 3)
            freeze(first)
            status = await town.status("only", lambda s: "log" in s["missing"], "the log's absence in the status")
            assert any("log" in problem and "behind" in problem for problem in status["problems"])
            since = status["decision"]["tick"] - 1
            await asyncio.sleep(for_s)
            while_missing = await decisions(town, since)
            assert len(while_missing) >= for_s / 4
            assert {d["action"] for d in while_missing} == {"hold"}
            assert {d["gpus_held"] for d in while_missing} == {d["gpus_wanted"] for d in while_missing} == {3}
            assert all("behind" in d["reason"] for d in while_missing)
            assert len((await town.executor.observe()).held) == 3
            with gateway(dsn, "second", QUIET) as second:
                recorded = await goodbye(first)
                await gives_back(town, 1)
                await town.status("only", lambda s: not s["missing"], "the log's return in the status")
                await counted(town, recorded + await goodbye(second))

    on(dsn, folder, body, **missing)


@pytest.mark.slow
def test_a_log_that_stops_takes_no_capacity_away(pg_dsn: str, tmp_path: Path) -> None:
    stops(pg_dsn, tmp_path, for_s=12.0, log_s=4.0)


@pytest.mark.slow
def test_a_log_that_stops_for_two_minutes(pg_dsn: str, tmp_path: Path) -> None:
    stops(pg_dsn, tmp_path, for_s=120.0)


def requests(count: int, at_s: float) -> Requests:
    """Return good requests of the first service named."""
    nothing = np.full(count, np.nan, np.float32)
    return Requests(
        service=np.zeros(count, np.int32),
        at_us=np.full(count, round(at_s * 1e6), np.int64),
        size=nothing,
        latency_s=np.full(count, 0.05, np.float32),
        queue_s=nothing,
        batch=np.full(count, NO_BATCH, np.int32),
        status=np.full(count, GOOD, np.int16),
        replica=np.full(count, NO_REPLICA, np.int32),
    )


async def send_twice(dsn: str) -> Counter[str]:
    """Send a batch twice under the same number, as a gateway does whose answer was lost."""
    async with connect(dsn) as connection:
        pen = Pen("forgetful")
        number = await pen.open(connection)
        batch = Batch(number, time.time(), ("a",), (), requests(7, time.time() - 1))
        assert [(await pen.write(connection, batch)).fresh for _ in range(2)] == [True, False]
        await pen.close(connection, number)
    return Counter({"a": 7})


def test_odd_rows_are_named_and_change_nothing(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, only: Running) -> None:
        with gateway(pg_dsn, "steady", BUSY) as steady:
            await holds(town, 3)
            recorded = await send_twice(pg_dsn)
            async with AsyncRequestLog(pg_dsn, writer="odd", flush_s=0.2, lag_s=0.5) as log:
                for n in range(5):
                    now_s = time.time()
                    log.record("a", arrived_s=now_s - 30, latency_s=0.1)  # late
                    log.record("b", arrived_s=now_s - 3600 + n, latency_s=0.1)  # a clock that was set back
                    log.record("c", arrived_s=now_s + 3600, latency_s=0.1)  # one that was set forward
                    log.record("stranger", arrived_s=now_s, latency_s=0.1)
                    for garbage in (float("nan"), 1e300, "yesterday", None, -5):
                        log.record("a", arrived_s=garbage, latency_s=0.1)  # type: ignore[arg-type]
                    log.record("", arrived_s=now_s)
                    log.record("a", arrived_s=now_s, latency_s=float("-inf"))
                    recorded += Counter(a=1, b=1, stranger=1)
                    await asyncio.sleep(0.5)
                named = ("stranger", "refused", "late", "twice")
                status = await town.status(
                    "only", lambda s: all(any(w in p for p in s["problems"]) for w in named), "everything named"
                )
            tick = status["decision"]["tick"]
            await town.status("only", lambda s: s["decision"]["tick"] > tick + 3, "further turns")
            assert {d["gpus_wanted"] for d in await decisions(town)} == {3}
            assert not await town.fetch("SELECT 1 FROM command WHERE verb IN ('Drain', 'Release', 'DestroyInstance')")
            recorded += await goodbye(steady)
        # With every gateway gone, the log goes no further by itself; a last one that says so lets it be complete.
        with gateway(pg_dsn, "last", QUIET):
            await counted(town, recorded)

    on(pg_dsn, tmp_path, body, log_s=5.0)
