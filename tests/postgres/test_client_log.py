"""The client: nothing lost or counted twice by faults, nothing dropped in silence, memory bounded."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partita.client import AsyncRequestLog, RequestLog, Status, sender
from partita.client.buffer import COLUMNS, Buffer
from partita.errors import ConfigError
from partita.store import embedded
from partita.store.connection import Connection, connect
from partita.store.line import Line
from partita.store.live_log import LiveLog
from partita.store.migrate import migrate

SOON_S = 60.0
"""Far more than anything here takes."""


def ask(dsn: str, statement: str) -> Any:
    async def run() -> Any:
        async with connect(dsn) as connection:
            return await connection.fetchval(statement)

    return asyncio.run(run())


async def totals(dsn: str, *services: str) -> tuple[int, int, int]:
    """Fold, and return requests in the roll-up, rows in the log, and requests that the writers' rows speak of."""
    log = LiveLog(Line(dsn), services)
    await log.read(time.time(), 0)
    await log.close()
    async with connect(dsn) as connection:
        row = await connection.fetchrow(
            "SELECT (SELECT coalesce(sum(requests), 0) FROM request_rollup), (SELECT count(*) FROM request_log),"
            " (SELECT sum(rows) FROM log_writer)"
        )
        return (int(row[0]), row[1], int(row[2]))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SOON_S):
        while not await condition():
            await asyncio.sleep(0.02)


# What is recorded is what is in the database --------------------------------------------------------------------------


def test_every_field_of_a_request_is_kept(pg_dsn: str) -> None:
    now = float(int(time.time()))

    async def run() -> list[tuple[Any, ...]]:
        async with AsyncRequestLog(pg_dsn, writer="gw") as log:
            log.record(
                "llama",
                arrived_s=now + 0.125,
                latency_s=0.5,
                size=700,
                queue_s=0.25,
                batch=8,
                status="late",
                replica="llama-0",
            )
            log.record("llama", arrived_s=now, status=Status.DROPPED)
            log.record("bert", arrived_s=now)
        async with connect(pg_dsn) as connection:
            return [
                tuple(row)
                for row in await connection.fetch(
                    "SELECT extract(epoch FROM ts)::float8, name, size, latency_s, queue_s, batch, status, replica"
                    " FROM request_log JOIN service ON id = service ORDER BY ts, name"
                )
            ]

    assert asyncio.run(run()) == [
        (now, "bert", None, None, None, None, None, None),
        (now, "llama", None, None, None, None, 2, None),
        (now + 0.125, "llama", 700.0, 0.5, 0.25, 8, 1, "llama-0"),
    ]


def test_columns_are_kept_as_single_requests_are(pg_dsn: str) -> None:
    now = float(int(time.time()))
    rng = np.random.default_rng(3)
    rows = 500
    columns = {
        "service": np.array(["a", "b"], object)[rng.integers(0, 2, rows)],
        "arrived_s": now - rng.integers(0, 8, rows) / 8,
        "latency_s": rng.integers(0, 8, rows) / 8,
        "size": rng.integers(1, 9, rows),
        "queue_s": rng.integers(0, 8, rows) / 16,
        "batch": rng.integers(1, 5, rows),
        "status": rng.integers(0, 3, rows),
        "replica": np.array(["r1", "r10"], object)[rng.integers(0, 2, rows)],
    }
    lists = {name: column.tolist() for name, column in columns.items()}

    async def run() -> list[int]:
        async with AsyncRequestLog(pg_dsn, writer="gw") as log:
            log.record_many(**columns)
            log.record_many(**lists)
            for row in zip(*lists.values(), strict=True):
                log.record(**dict(zip(lists, row, strict=True)))
        async with connect(pg_dsn) as connection:
            return [
                row[0]
                for row in await connection.fetch(
                    "SELECT count(*) % 3 FROM request_log"
                    " GROUP BY ts, service, latency_s, size, queue_s, batch, status, replica"
                )
            ]

    assert set(asyncio.run(run())) == {0}
    assert ask(pg_dsn, "SELECT count(*) FROM request_log") == 3 * rows


def test_a_status_follows_from_latency_and_slo(pg_dsn: str) -> None:
    async def run() -> dict[str, Any]:
        async with AsyncRequestLog(pg_dsn, writer="gw", slo_s={"a": 0.1}) as log:
            now = time.time()
            log.record_many(
                "a", arrived_s=[now] * 4, latency_s=[0.1, 0.11, None, 0.2], status=[None, None, None, "good"]
            )
            log.record("b", arrived_s=now, latency_s=0.1)
        live = LiveLog(Line(pg_dsn), ("a", "b"))
        view = await live.read(now - 10, 0)
        await live.close()
        return {name: (o.good, o.late, o.dropped) for name, o in view.outcomes.items()}

    assert asyncio.run(run()) == {"a": (2, 1, 0), "b": (0, 0, 0)}


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"service": ""}, "service"),
        ({"service": None}, "service"),
        ({"service": 7}, "service"),
        ({"service": ["a"]}, "service"),
        ({"service": "a\0b"}, "service"),
        ({"service": "\ud800"}, "service"),
        ({"service": "s" * 201}, "service"),
        ({"arrived_s": None}, "arrival"),
        ({"arrived_s": "yesterday"}, "arrival"),
        ({"arrived_s": Odd()}, "arrival"),
        ({"arrived_s": float("nan")}, "arrival"),
        ({"arrived_s": 10**400}, "arrival"),
        ({"arrived_s": 1e300}, "future"),
        ({"arrived_s": -1e300}, "old"),
        ({"arrived_s": 0}, "old"),
        ({"latency_s": float("nan")}, "latency"),
        ({"latency_s": float("inf"), "status": "dropped"}, "latency"),
        ({"latency_s": -0.1}, "latency"),
        ({"latency_s": 1e300}, "latency"),
        ({"queue_s": "long"}, "queue"),
        ({"size": -1}, "size"),
        ({"size": {}}, "size"),
        ({"batch": 0}, "batch"),
        ({"batch": 1.5}, "batch"),
        ({"batch": 2**31}, "batch"),
        ({"status": 3}, "status"),
        ({"status": "fine"}, "status"),
        ({"status": []}, "status"),
        ({"replica": ""}, "replica"),
        ({"replica": "\ud800"}, "replica"),
        ({"replica": 3}, "replica"),
    ],
)
def test_a_garbage_row_is_refused_and_those_beside_it_are_not(pg_dsn: str, given: dict[str, Any], reason: str) -> None:
    async def run() -> None:
        async with AsyncRequestLog(pg_dsn, writer="gw") as log:
            good = {"service": "a", "arrived_s": time.time()}
            for row in (good, {**good, **given}, good):
                log.record(**row)
            assert await log.flush(SOON_S)
            assert log.report().rejected == {reason: 1}
            assert log.report().written == 2
        async with connect(pg_dsn) as connection:
            assert [tuple(r) for r in await connection.fetch("SELECT reason, rows FROM log_reject")] == [(reason, 1)]

    asyncio.run(run())


def test_a_dropped_request_needs_no_latency(pg_dsn: str) -> None:
    async def run() -> None:
        async with AsyncRequestLog(pg_dsn, writer="gw") as log:
            nan = np.array([np.nan, np.nan])
            log.record_many("a", arrived_s=np.full(2, time.time()), latency_s=nan, status=np.array([2, 0]))
            assert await log.flush(SOON_S)
            assert log.report().rejected == {"latency": 1}

    asyncio.run(run())


def test_columns_of_unequal_length(pg_dsn: str) -> None:
    with (
        RequestLog(pg_dsn) as log,
        pytest.raises(ValueError, match="latency_s has 1 entries, but arrived_s has 2"),
    ):
        log.record_many("a", arrived_s=[1, 2], latency_s=[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dsn": "mysql://here"}, "must begin with postgresql://"),
        ({"writer": ""}, "writer: '' must have 1 to 200 characters"),
        ({"flush_s": 0}, "flush_s: must be at least 0.01, not 0"),
        ({"lag_s": float("nan")}, "lag_s: must be at least 0, not nan"),
        ({"max_rows": 1}, "max_rows: must be at least 4, not 1"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AsyncRequestLog(**{"dsn": "postgresql:///x", **settings})


# Promises -------------------------------------------------------------------------------------------------------------


def test_without_traffic_the_watermark_goes_on_and_zero_is_zero(pg_dsn: str) -> None:
    async def run() -> None:
        live = LiveLog(Line(pg_dsn), ("a",))
        async with AsyncRequestLog(pg_dsn, writer="gw", flush_s=0.05, lag_s=0.0) as log:
            log.record("a", arrived_s=time.time())
            assert await log.flush(SOON_S)
            begin = (await live.read(time.time(), 0)).watermark_s

            async def moved() -> bool:
                return (await live.read(begin, 0)).watermark_s >= begin + 3

            await until(moved)
            assert np.nansum((await live.history(begin)).counts[:, 1:]) == 0
            assert not np.isnan((await live.history(begin)).counts[:, 2:]).any()
        assert (await live.health()).writers[0].state == "closed"
        await live.close()

    asyncio.run(run())


def test_the_promise_is_behind_by_the_lag_and_catches_up_at_the_end(pg_dsn: str) -> None:
    async def run() -> None:
        live = LiveLog(Line(pg_dsn), ("a",))
        begun = time.time()
        async with AsyncRequestLog(pg_dsn, writer="gw", lag_s=100) as log:
            log.record("a", arrived_s=begun - 50)
            assert await log.flush(SOON_S)
            promised = (await live.health()).writers[0].until_s
            assert promised is not None
            assert begun - 100.1 <= promised <= time.time() - 100
        view = await live.read(begun - 60, 0)
        assert view.watermark_s >= int(begun)
        assert (np.nansum(view.load.counts), (await live.health()).late) == (1, {})
        await live.close()

    asyncio.run(run())


def test_a_clock_set_back_by_an_hour_stops_nothing(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time

    async def run() -> None:
        live = LiveLog(Line(pg_dsn), ("a",))
        async with AsyncRequestLog(pg_dsn, writer="gw", flush_s=0.05, lag_s=0.0) as log:
            assert await log.flush(SOON_S)
            begin = (await live.read(real(), 0)).watermark_s
            monkeypatch.setattr(time, "time", lambda: real() - 3600)
            log.record("a", arrived_s=time.time())

            async def moved() -> bool:
                return (await live.read(begin, 0)).watermark_s >= begin + 2

            await until(moved)
            assert (await live.health()).late == {"a": 1}
            assert np.nansum((await live.history(begin - 4000)).counts) == 1
        await live.close()

    asyncio.run(run())


# Faults ---------------------------------------------------------------------------------------------------------------


def test_connections_cut_again_and_again_lose_and_double_nothing(pg_dsn: str) -> None:
    async def run() -> None:
        async with AsyncRequestLog(pg_dsn, writer="gw", flush_s=0.01, batch_rows=500) as log:
            recorded = 0
            async with connect(pg_dsn) as connection:
                for _ in range(40):
                    for _ in range(5):
                        log.record_many("a", arrived_s=np.full(300, time.time()))
                        recorded += 300
                        await asyncio.sleep(0.01)
                    await connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                    )
            assert await log.flush(SOON_S)
            report = log.report()
            assert (report.written, report.lost, report.thinned) == (recorded, 0, 0)
            assert await totals(pg_dsn, "a") == (recorded, recorded, recorded)

    asyncio.run(run())


KILLED = """
import sys, time
import numpy as np
from partita.client import RequestLog
log = RequestLog(sys.argv[1], writer="killed", flush_s=0.01, batch_rows=5000)
print("ready", flush=True)
while True:
    log.record_many("a", arrived_s=np.full(20000, time.time()))
    time.sleep(0.01)
"""


@pytest.mark.parametrize("written", [20_000, 50_000, 80_000])
def test_a_client_killed_in_the_middle_leaves_whole_batches(pg_dsn: str, written: int) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, pg_dsn], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        give_up = time.monotonic() + SOON_S
        while (ask(pg_dsn, "SELECT max(rows) FROM log_writer") or 0) < written:
            assert time.monotonic() < give_up
        client.kill()
    asyncio.run(until(lambda: quiet(pg_dsn)))
    rolled_up, rows, told = asyncio.run(totals(pg_dsn, "a"))
    assert rolled_up == rows == told >= written
    # Its successor takes its place at once, with numbers of its own.
    with RequestLog(pg_dsn, writer="killed") as log:
        log.record("a", arrived_s=time.time())
        assert log.flush(SOON_S)
    assert asyncio.run(totals(pg_dsn, "a")) == (rolled_up + 1,) * 3


async def quiet(dsn: str) -> bool:
    """Say whether nobody else is connected any more."""
    async with connect(dsn) as connection:
        others: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        return others == 0


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder with a migrated database, whose server is stopped at the end."""

    async def prepare(dsn: str) -> None:
        async with connect(dsn) as connection:
            await migrate(connection)

    try:
        asyncio.run(prepare(embedded.ensure_running(tmp_path / "data")))
        yield tmp_path / "data"
    finally:
        embedded.stop(tmp_path / "data")


def test_a_server_killed_in_the_middle_loses_and_doubles_nothing(data_dir: Path) -> None:
    async def run() -> None:
        dsn = embedded.ensure_running(data_dir)
        async with AsyncRequestLog(dsn, writer="gw", flush_s=0.01, batch_rows=2000) as log:
            done, recorded = asyncio.Event(), 0

            async def record() -> None:
                nonlocal recorded
                while not done.is_set():
                    log.record_many("a", arrived_s=np.full(500, time.time()))
                    recorded += 500
                    await asyncio.sleep(0.01)

            recording = asyncio.create_task(record())
            for _ in range(3):
                before = log.report().written

                async def went_on(before: int = before) -> bool:
                    return log.report().written > before + 5000

                await until(went_on)
                server = embedded.status(data_dir).pid
                assert server is not None
                os.kill(server, signal.SIGKILL)
                assert await asyncio.to_thread(embedded.ensure_running, data_dir) == dsn
            done.set()
            await recording
            assert await log.flush(SOON_S)
            assert (log.report().lost, log.report().thinned) == (0, 0)
            assert await totals(dsn, "a") == (recorded, recorded, recorded)

    asyncio.run(run())


def test_a_gateway_starts_while_the_database_is_away(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    dsn = embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    with RequestLog(dsn, writer="gw") as log, caplog.at_level(logging.WARNING, "partita.client"):
        for _ in range(100):
            log.record("a", arrived_s=time.time())
        assert not log.flush(0.5)
        assert "the request log waits: no database answers" in caplog.text
        assert (log.report().waiting, log.report().problem is None) == (100, False)
        embedded.ensure_running(data_dir)
        assert log.flush(SOON_S)
    assert ask(dsn, "SELECT count(*) FROM request_log") == 100


def test_closing_says_what_could_not_be_written(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    dsn = embedded.ensure_running(data_dir)
    embedded.stop(data_dir)
    log = RequestLog(dsn, writer="gw")
    log.record("a", arrived_s=time.time())
    report = log.close(0.3)
    assert (report.written, report.waiting) == (0, 1)
    assert "closed the request log with 1 requests not written: no database answers" in caplog.text


def test_without_anybody_who_writes_flush_says_so() -> None:
    async def run() -> None:
        log = AsyncRequestLog("postgresql://127.0.0.1:1/nowhere", writer="gw")
        async with asyncio.timeout(SOON_S):
            assert await log.flush(), "nothing was recorded"
            log.record("a", arrived_s=time.time())
            assert not await log.flush(), "not open yet"
            async with log:
                waiting = asyncio.create_task(log.flush())
                await asyncio.sleep(0)
                await log.close(0.01)
                assert not await waiting, "closed meanwhile"
            assert not await log.flush(), "closed"

    asyncio.run(run())


def test_flush_after_close_from_plain_code(pg_dsn: str) -> None:
    log = RequestLog(pg_dsn, writer="gw")
    log.record("a", arrived_s=time.time())
    log.close()
    assert log.flush()
    log.record("a", arrived_s=time.time())
    assert not log.flush()


def test_closing_tries_at_once_a_database_that_is_back(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_WAIT_S", 3600.0)
    dsn = embedded.ensure_running(data_dir)
    embedded.stop(data_dir)

    async def run() -> None:
        log = await AsyncRequestLog(dsn, writer="gw", flush_s=0.01).open()
        log.record("a", arrived_s=time.time())

        async def failed() -> bool:
            return log.report().problem is not None

        await until(failed)
        await asyncio.to_thread(embedded.ensure_running, data_dir)
        report = await log.close(SOON_S)
        assert (report.written, report.waiting) == (1, 0)

    asyncio.run(run())


# Memory ---------------------------------------------------------------------------------------------------------------


async def blocked(dsn: str, connection: Connection) -> Any:
    """Make the database too slow for ever, until the returned transaction ends."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE log_writer IN ACCESS EXCLUSIVE MODE")
    return transaction


def test_when_memory_is_full_counts_are_kept(pg_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with connect(pg_dsn) as connection:
            transaction = await blocked(pg_dsn, connection)
            async with AsyncRequestLog(pg_dsn, writer="gw", flush_s=0.01, max_rows=1000) as log:
                now = float(int(time.time()))
                for n in range(10_000):
                    log.record("ab"[n % 2], arrived_s=now - n % 5, status="good")
                report = log.report()
                assert (report.lost, report.waiting) == (0, 10_000)
                assert 9000 <= report.thinned <= 10_000
                assert not await log.flush(0.1)  # what is cut off while the database does not answer
                assert "the request log is full" in caplog.text
                await transaction.rollback()
                assert await log.flush(SOON_S)
                thinned = log.report().thinned
                assert await totals(pg_dsn, "a", "b") == (10_000, 10_000 - thinned, 10_000)
                row = await connection.fetchrow("SELECT sum(thinned) AS thinned, sum(lost) AS lost FROM log_writer")
                assert tuple(row) == (thinned, 0)
                assert await connection.fetchval("SELECT sum(good) FROM request_rollup") == 10_000

    asyncio.run(run())


def test_when_memory_is_full_of_counts_the_oldest_are_lost_and_told(pg_dsn: str) -> None:
    async def run() -> None:
        async with connect(pg_dsn) as connection:
            transaction = await blocked(pg_dsn, connection)
            async with AsyncRequestLog(pg_dsn, writer="gw", flush_s=0.01, max_rows=100) as log:
                now = float(int(time.time()))
                for n in range(10_000):
                    log.record(f"service-{n % 50}", arrived_s=now - n // 10)  # hardly two in the same second
                report = log.report()
                assert report.lost >= 9_800
                assert report.waiting + report.lost == 10_000
                await transaction.rollback()
                assert await log.flush(SOON_S)
                log.record("a", arrived_s=now)
                assert await log.flush(SOON_S)
                lost = log.report().lost
                assert (await totals(pg_dsn, "a"))[0] == 10_001 - lost
                assert await connection.fetchval("SELECT lost FROM log_writer") == lost

    asyncio.run(run())


def test_a_long_wait_does_not_fill_memory_with_small_chunks() -> None:
    """A request every half second while the database is away for hours; then the buffer is emptied."""
    buffer = Buffer(max_rows=1000, batch_rows=100, slo_s=None, counts_only=False)
    now = float(int(time.time()))
    for n in range(5000):
        buffer.add(("a", now + n / 2, None, None, None, None, None, None))
        buffer.add(("", now, None, None, None, None, None, None))
        number = buffer.cut(now + n / 2)
    assert buffer.waiting + buffer.lost == 5000
    batches = written = refused = 0
    while (chunk := buffer.take()) is not None:
        batches += 1
        written += chunk.holds
        refused += chunk.refused["service"].rows if chunk.refused else 0
        assert buffer.still_holds(number)
        promised = chunk.until_s
        buffer.settle({})
    assert not buffer.still_holds(number)
    assert (written + buffer.lost, promised) == (5000, now + 2499.5)
    assert batches <= 20
    assert 0 < refused <= 5000
    assert buffer.rejected == {"service": 5000}


@pytest.mark.parametrize("columns", [False, True])
def test_names_of_refused_rows_are_not_kept(columns: bool) -> None:
    buffer = Buffer(max_rows=1000, batch_rows=100, slo_s=None, counts_only=False)
    now = time.time()
    for n in range(1000):
        if columns:
            names = [f"nobody-{n}", "a", "b"]
            buffer.add_columns(
                {
                    **dict.fromkeys(COLUMNS),
                    "service": names,
                    "arrived_s": [now] * 3,
                    "batch": [0, 1, 0],
                    "replica": [f"nowhere-{n}", "r", None],
                }
            )
        else:
            buffer.add((f"nobody-{n}", now, None, None, None, 0, None, f"nowhere-{n}"))
            buffer.add(("a", now, None, None, None, 1, None, "r"))
        buffer.cut(now)
    kept: list[tuple[str, ...]] = []
    while (chunk := buffer.take()) is not None:
        kept += [chunk.services, chunk.replicas]
        if chunk.requests is not None:
            assert (set(chunk.requests.service.tolist()), set(chunk.requests.replica.tolist())) == ({0}, {0})
        buffer.settle({})
    assert set(kept) <= {("a",), ("r",), ()}
    assert buffer.rejected == {"batch": 2000 if columns else 1000}


def test_counts_only(pg_dsn: str) -> None:
    with RequestLog(pg_dsn, counts_only=True) as log:
        log.record_many("a", arrived_s=np.full(1000, time.time()))
    assert asyncio.run(totals(pg_dsn, "a")) == (1000, 0, 1000)
    report = log.report()
    assert (report.written, report.thinned, report.lost) == (1000, 0, 0)


# Other trouble --------------------------------------------------------------------------------------------------------


def test_a_batch_that_the_database_will_never_take_holds_nobody_up(
    pg_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask(pg_dsn, "SELECT ensure_partitions(now(), now())")
    ask(pg_dsn, "ALTER TABLE request_log ADD CHECK (size < 100)")
    with RequestLog(pg_dsn, writer="gw") as log:
        log.record("a", arrived_s=time.time(), size=200)
        assert log.flush(SOON_S)
        log.record("a", arrived_s=time.time(), size=20)
        assert log.flush(SOON_S)
        assert log.report().rejected == {"database": 1}
    assert "the database refused 1 requests" in caplog.text
    assert ask(pg_dsn, "SELECT count(*) FROM request_log") == 1
    assert "check constraint" in ask(pg_dsn, "SELECT example FROM log_reject")


def test_two_processes_of_one_name_lose_nothing(pg_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    with RequestLog(pg_dsn, writer="gw") as older, RequestLog(pg_dsn, writer="gw") as newer:
        older.record("a", arrived_s=time.time())
        assert older.flush(SOON_S)
        for log in (newer, older, newer, older):
            log.record("a", arrived_s=time.time())
            assert log.flush(SOON_S)
        names = {older.writer, newer.writer}
        assert len(names) == 2
        assert "another process logs as gw" in caplog.text
    assert asyncio.run(totals(pg_dsn, "a")) == (5, 5, 5)


def test_many_threads_record_at_once(pg_dsn: str) -> None:
    with RequestLog(pg_dsn, batch_rows=100) as log:

        def record() -> None:
            for _ in range(2000):
                log.record("a", arrived_s=time.time())

        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert asyncio.run(totals(pg_dsn, "a")) == (8000, 8000, 8000)


FORGETFUL = """
import sys, time
from partita.client import RequestLog
log = RequestLog(sys.argv[1], writer="gw")
log.record("a", arrived_s=time.time())
"""


def test_a_program_that_forgets_to_close_writes_at_its_end(pg_dsn: str) -> None:
    command = [sys.executable, "-c", FORGETFUL, pg_dsn]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SOON_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert ask(pg_dsn, "SELECT count(*) FROM request_log") == 1
    assert ask(pg_dsn, "SELECT closed FROM log_writer")
