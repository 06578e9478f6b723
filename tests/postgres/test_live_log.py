"""The live log as gateways write it and the loop reads it: every request once, and a missing log never read as zero."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest

from partita.client.columns import Names, judged
from partita.errors import StoreError
from partita.model.load import Outcome
from partita.store import live_log
from partita.store.connection import Connection, connect
from partita.store.line import Lent, Line
from partita.store.live_batch import UNKNOWN, Batch, Pen, Requests
from partita.store.live_log import LiveLog

SECOND = timedelta(seconds=1)
FIRST_BATCH = (1 << 32) + 1


def on(dsn: str, body: Callable[[Connection, LiveLog], Awaitable[None]], *services: str, **settings: Any) -> None:
    """Run a test with a connection and a follower of these services."""

    async def run() -> None:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(connect(dsn))
            log = LiveLog(Line(dsn), services or ("a", "b"), **settings)
            stack.push_async_callback(log.close)
            await body(connection, log)

    asyncio.run(run())


async def opened(connection: Connection, writer: str = "gw", *, ago_s: float = 3600) -> int:
    """Open a writer that says it has been logging for an hour, and return its first batch number."""
    first: int = await connection.fetchval("SELECT log_open($1)", writer)
    await connection.execute(
        "UPDATE log_writer SET since = since - $2 * interval '1 second' WHERE writer = $1", writer, ago_s
    )
    return first


async def send(
    connection: Connection,
    batch: int,
    rows: Sequence[tuple[str, datetime]] = (),
    *,
    writer: str = "gw",
    until: datetime | None = None,
    status: Sequence[int | None] | None = None,
) -> int:
    taken: int = await connection.fetchval(
        "SELECT log_requests($1, $2, $3, $4, $5, status => $6)",
        writer,
        batch,
        until,
        [service for service, _ in rows],
        [at for _, at in rows],
        status,
    )
    return taken


async def start_of_minute(connection: Connection) -> datetime:
    """Return a whole second, a minute ago by the database's clock."""
    at: datetime = await connection.fetchval("SELECT date_trunc('second', clock_timestamp()) - interval '1 minute'")
    return at


def unix(at: datetime) -> float:
    return at.timestamp()


# What is read is what was logged --------------------------------------------------------------------------------------


def test_load_outcomes_and_recent_requests_are_those_logged(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        rows = [
            ("b", at + 0.25 * SECOND),
            ("a", at + 2.5 * SECOND),
            ("a", at + 2.125 * SECOND),
            ("a", at),
            ("b", at + 2 * SECOND),
            ("a", at + 5 * SECOND),
        ]
        assert await send(connection, first, rows, until=at + 4 * SECOND, status=[0, 1, 2, 0, None, 0]) == 6
        view = await log.read(unix(at - SECOND), 60)
        assert view.watermark_s == unix(at) + 4
        assert (view.load.services, view.load.start_s, view.load.step_s) == (("a", "b"), unix(at) - 1, 1.0)
        np.testing.assert_array_equal(view.load.counts, [[0, 1, 0, 2, 0], [0, 1, 0, 1, 0]])
        # The request of unknown fate is load, but neither good nor bad; the one after the watermark was answered too.
        assert view.outcomes == {"a": Outcome(4, 2, 1, 1), "b": Outcome(1, 1, 0, 0)}
        assert view.recent is not None
        assert view.recent_span_s == (unix(at) - 56, unix(at) + 4)
        seconds = (view.recent.ns - round(unix(at)) * 1_000_000_000) / 1e9
        assert (seconds.tolist(), view.recent.offsets.tolist()) == ([0, 2.125, 2.5, 0.25, 2], [0, 3, 5])

        await send(connection, first + 1, until=at + 6 * SECOND)
        view = await log.read(view.watermark_s, 60)
        np.testing.assert_array_equal(view.load.counts, [[0, 1], [0, 0]])
        assert view.outcomes == {"a": Outcome(), "b": Outcome()}

    on(pg_dsn, body)


def test_nobody_ever_logged(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        view = await log.read(1000.7, 60)
        assert (view.watermark_s, view.load.counts.shape, len(view.recent or ())) == (1000.0, (2, 0), 0)
        assert (await log.history(0)).counts.shape == (2, 0)
        assert (await log.health()).watermark_s is None

    on(pg_dsn, body)


def test_recent_requests_are_as_many_whole_seconds_as_fit(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        rows = [("a", at + second * SECOND + n * SECOND / 10) for second in range(6) for n in range(4)]
        await send(connection, first, rows, until=at + 6 * SECOND)
        view = await log.read(unix(at), 60)
        # 10 requests hold two seconds of 4, not three.
        assert view.recent_span_s == (unix(at) + 4, unix(at) + 6)
        assert view.recent is not None
        assert len(view.recent) == 8
        # A single second that does not fit is still one.
        await send(connection, first + 1, [("a", at + 6 * SECOND)] * 11, until=at + 7 * SECOND)
        view = await log.read(view.watermark_s, 60)
        assert (view.recent_span_s, len(view.recent or ())) == ((unix(at) + 6, unix(at) + 7), 11)

    on(pg_dsn, body, recent_requests=10)


def test_requests_of_which_only_counts_are_logged_are_drawn(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        await send(connection, first, [("a", at + 0.5 * SECOND)])
        taken = await connection.fetchval(
            "SELECT log_counts('gw', $1, $2, $3, $4, $5, good => $6)",
            first + 1,
            at + 3 * SECOND,
            ["a", "b", "b"],
            [at, at + SECOND, at + 1.5 * SECOND],
            [9, 3, 2],
            [9, 1, 1],
        )
        assert taken == 14
        view = await log.read(unix(at), 3)
        np.testing.assert_array_equal(view.load.counts, [[10, 0, 0], [0, 5, 0]])
        assert view.outcomes == {"a": Outcome(9, 9), "b": Outcome(2, 2)}
        recent = view.recent
        assert recent is not None
        assert recent.offsets.tolist() == [0, 10, 15]
        second = recent.ns // 1_000_000_000 - round(unix(at))
        assert second.tolist() == [0] * 10 + [1] * 5
        assert np.all(np.diff(recent.ns[:10]) >= 0)
        again = (await log.read(view.watermark_s, 3)).recent
        assert again is not None
        assert again.ns.tolist() == recent.ns.tolist(), "drawn the same way each time"

    on(pg_dsn, body)


def test_history_by_steps_begins_where_the_log_does(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        first = await opened(connection, ago_s=60)
        rows = [("a", at + second * SECOND) for second in range(1, 10)]
        await send(connection, first, rows, until=at + 10 * SECOND)
        await log.read(unix(at), 0)
        seconds = await log.history(0)
        # The log begins at `since`, in the second of `at` or the next, or with its first request.
        assert seconds.start_s - unix(at) in (0, 1)
        assert seconds.end_s == unix(at) + 10
        assert np.nansum(seconds.counts) == 9
        begin = unix(at) + 1
        by_three = await log.history(begin, 3)
        np.testing.assert_array_equal(by_three.counts, [[3, 3, 3], [0, 0, 0]])
        assert (by_three.start_s, by_three.step_s) == (begin, 3.0)

    on(pg_dsn, body)


# Every request once ---------------------------------------------------------------------------------------------------


async def contents(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the log holds, without clocks, examples and numbers of services."""
    asked = {
        "log": "SELECT ts, s.name, size, latency_s, queue_s, batch, status, replica FROM request_log l"
        " JOIN service s ON s.id = l.service ORDER BY ts, s.name, latency_s, size, queue_s, batch, status, replica",
        "delta": "SELECT ts, s.name, sum(requests), sum(good), sum(late), sum(dropped) FROM rollup_delta d"
        " JOIN service s ON s.id = d.service GROUP BY ts, s.name ORDER BY ts, s.name",
        "late": "SELECT s.name, rows FROM log_late l JOIN service s ON s.id = l.service ORDER BY s.name",
        "reject": "SELECT reason, rows FROM log_reject ORDER BY reason",
        "writer": "SELECT until, rows, rejected, lost, thinned, last_batch & 4294967295 FROM log_writer",
        "batch": "SELECT batch & 4294967295, taken FROM log_batch ORDER BY batch",
        "service": "SELECT name FROM service ORDER BY name",
    }
    return {name: [tuple(row) for row in await connection.fetch(statement)] for name, statement in asked.items()}


def test_a_batch_sent_twice_changes_nothing(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        rows = [("a", at), ("", at), ("b", at)]
        assert await send(connection, first, rows, until=at) == 2
        before = await contents(connection)
        assert await send(connection, first, rows, until=at + SECOND) == 2
        assert await contents(connection) == before
        assert (await log.health()).duplicates == 1

    on(pg_dsn, body)


def test_old_batch_numbers_are_forgotten_and_still_refused(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        numbers = range(first, first + 2100)
        for number in numbers:
            await send(connection, number, [("a", at)])
        assert await connection.fetchval("SELECT count(*) FROM log_batch") < 1100
        for number in (first, first + 1000, numbers[-1000], numbers[-1]):
            await send(connection, number, [("a", at)])
        assert await connection.fetchval("SELECT count(*) FROM request_log") == 2100

    on(pg_dsn, body)


def test_batches_of_an_earlier_life_are_known_while_they_could_be_taken(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        older = await opened(connection)
        assert await send(connection, older, [("a", at)]) == 1
        newer = await opened(connection)
        for number in range(newer, newer + 70):
            await send(connection, number, [("a", at)])
        assert await send(connection, older, [("a", at)]) == 1, "it was frozen since before it heard of its batch"
        assert await connection.fetchval("SELECT count(*) FROM request_log") == 71
        await log.read(unix(at), 0)
        assert await connection.fetchval("SELECT count(*) FROM log_batch") == 71
        await connection.execute("UPDATE log_batch SET written_at = written_at - interval '26 hours'")
        later = LiveLog(connection, ("a",))
        await later.read(unix(at), 0)
        assert await connection.fetchval("SELECT min(batch) FROM log_batch") == newer

    on(pg_dsn, body)


def test_batches_may_come_in_another_order(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        assert [await send(connection, first + n, [("a", at)]) for n in (5, 1, 3)] == [1, 1, 1]

    on(pg_dsn, body)


def test_the_same_batch_at_the_same_time_is_written_once(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        async with connect(pg_dsn) as other:
            transaction = connection.transaction()
            await transaction.start()
            assert await send(connection, first, [("a", at)]) == 1
            second = asyncio.create_task(send(other, first, [("a", at)]))
            while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not second.done()
                await asyncio.sleep(0.01)
            await transaction.commit()
            assert await second == 1
        assert await connection.fetchval("SELECT count(*) FROM request_log") == 1

    on(pg_dsn, body)


def test_followers_at_the_same_time_fold_every_request_once_and_all_are_told(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        begun, done = asyncio.Barrier(4), asyncio.Event()

        async def follow() -> int:
            follower = LiveLog(Line(pg_dsn), ("a",))
            told = (await follower.read(unix(at), 10)).outcomes["a"].offered
            await begun.wait()
            while True:
                last = done.is_set()
                told += (await follower.read(unix(at), 10)).outcomes["a"].offered
                if last:
                    break
            await follower.close()
            return told

        async def write() -> int:
            await begun.wait()
            for number in range(200):
                await send(connection, first + number, [("a", at)] * 5, until=at + SECOND, status=[0] * 5)
            done.set()
            return 1000

        assert set(await asyncio.gather(write(), follow(), follow(), follow())) == {1000}
        assert (await log.history(unix(at))).counts[0].tolist() == [1000]

    on(pg_dsn, body)


def test_outcomes_are_told_once_as_time_goes_on(pg_dsn: str) -> None:
    """Over half an hour, a batch every minute, some of requests that are minutes old."""

    async def body(connection: Connection, log: LiveLog) -> None:
        first = await opened(connection, ago_s=7200)
        at = await start_of_minute(connection) - timedelta(minutes=30)
        for minute in range(30):
            now = at + timedelta(minutes=minute)
            rows = [("a", now), ("a", now - timedelta(minutes=minute % 9)), ("b", now)]
            await send(connection, first + minute, rows, until=now + SECOND, status=[0, 1, 2])
            outcomes = (await log.read(unix(now), 0)).outcomes
            assert outcomes == {"a": Outcome(2, 1, 1, 0), "b": Outcome(1, 0, 0, 1)}

    on(pg_dsn, body)


def test_after_a_long_time_without_a_follower_folding_goes_by_parts(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_log, "FOLD_ROWS", 3)

    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        for number in range(11):
            rows = [("a", at + number * SECOND)] * 2
            await send(connection, first + number, rows, status=[0, 1], until=at + (number + 1) * SECOND)
        view = await log.read(unix(at), 0)
        assert view.load.counts[0].tolist() == [2] * 11
        assert view.outcomes["a"] == Outcome(22, 11, 11, 0)
        assert await connection.fetchval("SELECT count(*) FROM rollup_delta") == 0

    on(pg_dsn, body)


def test_a_first_read_that_fails_halfway_costs_no_outcome(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_log, "FOLD_ROWS", 3)

    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        for number in range(4):
            await send(connection, first + number, [("a", at)] * 2, status=[0, 1], until=at + SECOND)
        async with connection.transaction():
            await connection.execute("LOCK TABLE watermark IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.create_task(log.read(unix(at), 0))
            while not await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_locks"
                " WHERE NOT granted AND relation = 'watermark'::regclass"
            ):
                await asyncio.sleep(0.01)
            with pytest.raises(StoreError, match="the database went away"):
                await reading
        assert await connection.fetchval("SELECT count(*) FROM rollup_delta") == 1, "the first part was committed"
        assert (await log.read(unix(at), 0)).outcomes["a"] == Outcome(8, 4, 4, 0)
        assert (await log.read(unix(at), 0)).outcomes["a"] == Outcome()

    on(pg_dsn, body)


def test_what_a_follower_may_not_prepare_costs_no_outcome(pg_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """A follower whose role owns nothing reads, and says once what it cannot do."""
    role = f"follower_{uuid.uuid4().hex}"

    async def body(connection: Connection, _: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        await send(connection, first, [("a", at)], status=[0], until=at + SECOND)
        await connection.execute(f"CREATE ROLE {role}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        try:
            await connection.execute(f"SET ROLE {role}")
            log = LiveLog(connection, ("a",))
            assert (await log.read(unix(at), 0)).outcomes["a"] == Outcome(1, 1)
            assert (await log.read(unix(at), 0)).outcomes["a"] == Outcome()
        finally:
            await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
        assert caplog.text.count("the live log is read, but not prepared for what comes: permission denied") == 1

    with caplog.at_level(logging.WARNING, "partita.store"):
        on(pg_dsn, body)


def test_writers_of_long_ago_are_forgotten(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        for writer, days in (("month", 31), ("day", 2), ("now", 0)):
            await send(connection, await opened(connection, writer), [("a", at), ("", at)], writer=writer)
            await connection.execute(
                "UPDATE log_writer SET seen_at = seen_at - $1 * interval '1 day' WHERE writer = $2", days, writer
            )
        await log.read(unix(at), 0)
        for table, left in (("log_writer", ["day", "now"]), ("log_reject", ["day", "now"]), ("log_batch", ["now"])):
            assert [row[0] for row in await connection.fetch(f"SELECT writer FROM {table} ORDER BY writer")] == left

    on(pg_dsn, body)


def test_a_follower_that_dies_within_a_fold_loses_nothing(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        await send(connection, first, [("a", at)] * 7, until=at + SECOND)
        async with connect(pg_dsn) as dying:
            transaction = dying.transaction()
            await transaction.start()
            assert await dying.fetch("DELETE FROM rollup_delta RETURNING *")
            dying.terminate()
        assert (await log.read(unix(at), 0)).load.counts[0].tolist() == [7]

    on(pg_dsn, body)


def test_both_ways_of_writing_give_the_same_tables(pg_dsn: str) -> None:
    """Random rows, many of them garbage, by the SQL function and by binary COPY."""
    nan, inf = float("nan"), float("inf")
    rng = np.random.default_rng(5)

    def any_of(*values: Any, rows: int = 3000) -> list[Any]:
        return [values[place] for place in rng.integers(0, len(values), rows)]

    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        rows = {
            "service": any_of("a", "b", "ü", "a", "b", "", None, "x" * 201),
            "ts": any_of(
                *(at + n * SECOND / 7 for n in range(20)), None, at - timedelta(days=2), at + timedelta(hours=1)
            ),
            "size": any_of(None, 1.5, 0.0, nan, -1.0, inf, 7.0, 8.0, 9.0),
            "latency_s": any_of(None, 0.25, 1.0, nan, -1.0, inf, 2.0, 3.0, 4.0),
            "queue_s": any_of(None, 0.125, 1.0, nan, -1.0, inf, 2.0, 3.0),
            "batch": any_of(None, 1, 8, 0, -3, 2**31 - 1, 4),
            "status": any_of(None, 0, 1, 2, 2, 3, -1),
            "replica": any_of(None, "r", "replica-7", "é", "", "y" * 201, "r2", "r3"),
        }
        await connection.execute("INSERT INTO watermark VALUES (0, $1)", at + SECOND)
        until = at + 5 * SECOND

        first = await opened(connection)
        for number in (first, first + 1):
            await connection.fetchval(
                "SELECT log_requests('gw', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", number, until, *rows.values()
            )
        by_sql = await contents(connection)
        await connection.execute(
            "TRUNCATE request_log, rollup_delta, log_late, log_reject, log_writer, log_batch, service"
        )

        pen = Pen("gw")
        first = await pen.open(connection)
        for number in (first, first + 1):
            services, replicas = Names(), Names()
            columns = {"arrived_s": [t and unix(t) for t in rows["ts"]], **{k: v for k, v in rows.items() if k != "ts"}}
            requests, refused = judged(columns, services, replicas, None)
            batch = Batch(
                number, unix(until), tuple(services.places), tuple(replicas.places), requests, refused=refused
            )
            await pen.write(connection, batch)
        by_copy = await contents(connection)
        for table, expected in by_sql.items():
            assert by_copy[table] == expected, table
        assert {reason for reason, _ in by_sql["reject"]} == {
            *("service", "arrival", "old", "future", "latency", "queue", "size", "batch", "status", "replica")
        }
        assert len(by_sql["log"]) > 100
        assert by_sql["late"]

    on(pg_dsn, body)


# How far the log is complete ------------------------------------------------------------------------------------------


def test_heartbeats_tell_silence_from_a_missing_log(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        await send(connection, first, [("a", at)], until=at + SECOND)
        assert (await log.read(unix(at), 0)).watermark_s == unix(at) + 1
        assert (await log.read(unix(at), 0)).watermark_s == unix(at) + 1, "nothing heard, nothing known"
        await send(connection, first + 1, until=at + 4.9 * SECOND)
        view = await log.read(unix(at) + 1, 0)
        assert (view.watermark_s, view.load.counts.tolist()) == (unix(at) + 4, [[0, 0, 0], [0, 0, 0]])

    on(pg_dsn, body)


def test_a_batch_without_a_promise_moves_nothing(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        await send(connection, first, [("a", at)])
        assert (await log.health()).writers[0].until_s is None
        assert (await log.health()).watermark_s is None
        assert (await log.read(unix(at), 0)).watermark_s == unix(at)

    on(pg_dsn, body)


def test_the_slowest_writer_holds_the_watermark_until_it_is_lost(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        slow, fast = await opened(connection, "slow"), await opened(connection, "fast")
        await send(connection, slow, until=at + SECOND, writer="slow")
        await send(connection, fast, until=at + 9 * SECOND, writer="fast")
        for silent_s, watermark, state in ((0, 1, "live"), (590, 1, "live"), (610, 9, "lost")):
            await connection.execute(
                "UPDATE log_writer SET seen_at = clock_timestamp() - $1 * interval '1 s' WHERE writer = 'slow'",
                silent_s,
            )
            assert (await log.read(unix(at), 0)).watermark_s == unix(at) + watermark
            health = await log.health()
            assert {w.name: w.state for w in health.writers} == {"fast": "live", "slow": state}
            assert health.holding is not None
            assert health.holding.name == ("fast" if state == "lost" else "slow")

        # It comes back: what it logs before the watermark is late, but counted.
        await send(connection, slow + 1, [("a", at + 2 * SECOND)], until=at + 20 * SECOND, writer="slow")
        await send(connection, fast + 1, until=at + 20 * SECOND, writer="fast")
        assert (await log.read(unix(at), 0)).load.counts[0].sum() == 1
        health = await log.health()
        assert (health.late, {w.state for w in health.writers}) == ({"a": 1}, {"live"})

    on(pg_dsn, body)


def test_when_every_writer_is_lost_the_watermark_stands(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        await send(connection, first, until=at + SECOND)
        await log.read(unix(at), 0)
        await send(connection, first + 1, until=at + 5 * SECOND)
        await connection.execute("UPDATE log_writer SET seen_at = seen_at - interval '1 hour'")
        assert (await log.read(unix(at), 0)).watermark_s == unix(at) + 1

    on(pg_dsn, body)


def test_a_time_in_which_nobody_logged_is_not_zero(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        first = await opened(connection)
        await send(connection, first, [("a", at)], until=at + 2 * SECOND)
        await connection.execute("SELECT log_close('gw', $1)", first)
        assert (await log.read(unix(at), 0)).load.counts[0].tolist() == [1, 0]
        # The next process starts four seconds later; its log begins then.
        first = await opened(connection)
        await connection.execute("UPDATE log_writer SET since = $1", at + 6 * SECOND)
        await send(connection, first, [("a", at + 7 * SECOND)], until=at + 9 * SECOND)
        view = await log.read(unix(at) + 2, 0)
        np.testing.assert_array_equal(view.load.counts[0], [np.nan] * 4 + [0, 1, 0])
        np.testing.assert_array_equal((await log.history(unix(at), 3)).counts[0], [np.nan, np.nan, 1])

    on(pg_dsn, body)


async def told(connection: Connection, writer: str, begin: datetime, end: datetime, *, goodbye: bool = True) -> None:
    """Log one request as a process that lived from `begin` to `end` does."""
    first = await opened(connection, writer)
    await connection.execute("UPDATE log_writer SET since = $1 WHERE writer = $2", begin, writer)
    await send(connection, first, [("a", begin)], writer=writer, until=end)
    if goodbye:
        await connection.execute("SELECT log_close($1, $2)", writer, first)


@pytest.mark.parametrize("followed", [True, False])
def test_between_two_writers_while_nobody_followed_is_not_zero(pg_dsn: str, followed: bool) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        await told(connection, "one", at, at + 2 * SECOND)
        if followed:
            assert (await log.read(unix(at), 0)).load.counts[0].tolist() == [1, 0]
        await told(connection, "two", at + 6 * SECOND, at + 8.5 * SECOND)
        view = await log.read(unix(at), 0)
        np.testing.assert_array_equal(view.load.counts[0], [1, 0, *[np.nan] * 4, 1, 0])

    on(pg_dsn, body)


def test_earlier_lives_of_a_writer_that_nobody_followed_are_no_gap(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        await told(connection, "gw", at, at + 3 * SECOND, goodbye=False)
        await told(connection, "gw", at + 4.5 * SECOND, at + 6 * SECOND)
        await told(connection, "gw", at + 5.5 * SECOND, at + 9 * SECOND)
        view = await log.read(unix(at), 0)
        # Second 3 is missing; 4 and 5 are not, since parts of them were logged.
        np.testing.assert_array_equal(view.load.counts[0], [1, 0, 0, np.nan, 1, 1, 0, 0, 0])
        # What the watermark has passed need not be remembered.
        await opened(connection)
        assert await connection.fetchval("SELECT isempty(earlier) FROM log_writer")

    on(pg_dsn, body)


def test_a_writer_that_has_promised_nothing_yet_holds_the_watermark_where_it_began(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        first, second = await opened(connection), await opened(connection, "new")
        await connection.execute("UPDATE log_writer SET since = $1 WHERE writer = 'new'", at + 5 * SECOND)
        await send(connection, second, [("a", at + 6 * SECOND)], writer="new")
        assert (await log.read(unix(at), 0)).watermark_s == unix(at), "it holds, but moves nothing by itself"
        await send(connection, first, until=at + 9 * SECOND)
        assert (await log.read(unix(at), 0)).watermark_s == unix(at) + 5
        health = await log.health()
        assert health.holding is not None
        assert health.holding.name == "new"
        await send(connection, second + 1, [("a", at + 7 * SECOND)], writer="new", until=at + 9 * SECOND)
        view = await log.read(unix(at) + 5, 0)
        assert view.load.counts[0].tolist() == [0, 1, 1, 0]
        assert (await log.health()).late == {}

    on(pg_dsn, body)


def test_a_writer_may_say_that_it_counts_as_lost_sooner(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        first, second = await opened(connection), await connection.fetchval("SELECT log_open('quick', 30)")
        await send(connection, second, writer="quick", until=at + SECOND)
        await send(connection, first, until=at + 9 * SECOND)
        for silent_s, watermark, state in ((20, 1, "live"), (40, 9, "lost")):
            await connection.execute(
                "UPDATE log_writer SET seen_at = clock_timestamp() - $1 * interval '1 s'", float(silent_s)
            )
            assert (await log.read(unix(at), 0)).watermark_s == unix(at) + watermark
            assert {w.name: w.state for w in (await log.health()).writers} == {"gw": "live", "quick": state}
        # A follower that waits less does so for it too.
        await connection.execute("UPDATE log_writer SET lost_s = 1e6")
        impatient = LiveLog(connection, ("a",), lost_writer_s=30)
        assert {w.state for w in (await impatient.health()).writers} == {"lost"}

    on(pg_dsn, body)


@pytest.mark.parametrize("lost_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_after_which_a_writer_is_lost_must_make_sense(pg_dsn: str, lost_s: float) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="must be a positive number of seconds"):
            await connection.fetchval("SELECT log_open('gw', $1)", lost_s)

    on(pg_dsn, body)


def test_after_the_last_goodbye_the_log_is_complete(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        one, two = await opened(connection, "one"), await opened(connection, "two")
        await send(connection, one, until=at + 9 * SECOND, writer="one")
        await send(connection, two, until=at + 3 * SECOND, writer="two")
        await connection.execute("SELECT log_close('one', $1)", one)
        assert (await log.read(unix(at), 0)).watermark_s == unix(at) + 3
        await connection.execute("SELECT log_close('two', $1)", two)
        assert (await log.read(unix(at), 0)).watermark_s == unix(at) + 9
        assert {w.state for w in (await log.health()).writers} == {"closed"}

    on(pg_dsn, body)


def test_a_clock_set_back_does_not_move_the_watermark_back(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        await send(connection, first, [("a", at + SECOND)], until=at + 9 * SECOND)
        assert (await log.read(unix(at), 0)).watermark_s == unix(at) + 9
        await send(connection, first + 1, [("a", at), ("b", at), ("a", at)], until=at - 3000 * SECOND)
        view = await log.read(unix(at), 0)
        assert view.watermark_s == unix(at) + 9
        assert view.load.counts[:, 0].tolist() == [2, 1], "late rows count"
        assert (await log.health()).late == {"a": 2, "b": 1}

    on(pg_dsn, body)


def test_a_clock_ahead_does_not_move_the_watermark_past_the_present(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first = await opened(connection)
        await send(connection, first, until=datetime.now(UTC) + timedelta(hours=3))
        now_s = await log.now_s()
        assert 0 <= now_s - (await log.read(now_s - 5, 0)).watermark_s < 60

    on(pg_dsn, body)


# Names, garbage, faults -----------------------------------------------------------------------------------------------


def test_a_service_that_nobody_configured_is_logged_and_named(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        await send(connection, first, [("new", at)] * 30 + [("a", at)], until=at + SECOND)
        view = await log.read(unix(at), 60)
        assert (view.load.counts.tolist(), set(view.outcomes), len(view.recent or ())) == ([[1], [0]], {"a", "b"}, 1)
        assert (await log.health()).unconfigured == {"new": 0.5}
        assert await connection.fetchval("SELECT sum(requests) FROM request_rollup") == 31

    on(pg_dsn, body)


def test_garbage_rows_are_refused_by_reason_and_good_ones_kept(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        rows = [("a", at), (None, at), ("", at), ("a", None), ("a", at - timedelta(days=9)), ("a", at)]
        assert await send(connection, first, rows, status=[0, 0, 0, 0, 0, 9]) == 1
        rejected = (await log.health()).rejected
        assert {reason: entry.rows for reason, entry in rejected.items()} == {
            **{"service": 2, "arrival": 1, "old": 1, "status": 1}
        }
        assert "status=9" in rejected["status"].example
        assert (await log.health()).writers[0].rejected == 5

    on(pg_dsn, body)


@pytest.mark.parametrize(
    ("requests", "good", "dropped"), [(-1, None, None), (None, None, None), (5, 4, 2), (5, -1, None), (2**62, 0, 0)]
)
def test_garbage_counts_are_refused(pg_dsn: str, requests: int | None, good: int | None, dropped: int | None) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        taken = await connection.fetchval(
            "SELECT log_counts('gw', $1, null, $2, $3, $4, good => $5, dropped => $6)",
            first,
            ["a", "b"],
            [at, at],
            [requests, 3],
            [good, None],
            [dropped, None],
        )
        assert taken == 3
        assert {reason: entry.rows for reason, entry in (await log.health()).rejected.items()} == {"counts": 1}

    on(pg_dsn, body)


@pytest.mark.parametrize("writer", ["", None, "w" * 201])
def test_a_writer_needs_a_name(pg_dsn: str, writer: str | None) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="a writer needs a name"):
            await connection.fetchval("SELECT log_open($1)", writer)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="a writer needs a name"):
            await send(connection, 1, writer=writer)  # type: ignore[arg-type]

    on(pg_dsn, body)


def test_columns_of_unequal_length_are_refused(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="equally long"):
            await send(connection, await opened(connection), [("a", at)], status=[0, 1])
        assert await connection.fetchval("SELECT count(*) FROM log_batch") == 0

    on(pg_dsn, body)


def test_an_older_process_of_the_same_name_is_refused_but_not_its_repetitions(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        at = await start_of_minute(connection)
        older = await opened(connection)
        assert await send(connection, older, [("a", at)]) == 1
        newer = await opened(connection)
        assert await send(connection, newer, [("a", at)]) == 1
        with pytest.raises(asyncpg.ObjectInUseError, match="another process has opened the log as writer gw"):
            await send(connection, older + 1, [("a", at)])
        assert await send(connection, older, [("a", at)]) == 1, "what it had written before was written"
        await connection.execute("SELECT log_close('gw', $1)", older)
        assert (await log.health()).writers[0].state == "live"
        assert await connection.fetchval("SELECT count(*) FROM request_log") == 2

    on(pg_dsn, body)


def test_the_follower_says_that_the_database_is_away_and_comes_back(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        first, at = await opened(connection), await start_of_minute(connection)
        await send(connection, first, [("a", at)], until=at + SECOND)
        async with connection.transaction():
            await connection.execute("LOCK TABLE log_gap IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.create_task(log.read(unix(at), 0))
            while not await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_locks"
                " WHERE NOT granted AND relation = 'log_gap'::regclass"
            ):
                await asyncio.sleep(0.01)
            with pytest.raises(StoreError, match="the database went away, so reading the live log was given up"):
                await reading
        assert (await log.read(unix(at), 0)).load.counts[0].tolist() == [1]

    on(pg_dsn, body)


@pytest.mark.parametrize("lent", [False, True])
def test_an_answer_that_takes_too_long_is_given_up_with_the_limit(pg_dsn: str, lent: bool) -> None:
    async def body(connection: Connection, _: LiveLog) -> None:
        line = Lent(connection) if lent else Line(pg_dsn)
        with pytest.raises(StoreError, match=r"did not answer within 0\.1 s, so counting sheep was given up"):
            async with line.held("counting sheep", within_s=0.1) as held:
                await held.execute("SELECT pg_sleep(60)")
        async with line.held("counting on") as held:
            assert await held.fetchval("SELECT 1") == 1
        await line.close()

    on(pg_dsn, body)


def test_a_database_without_the_tables_is_refused_with_the_remedy(empty_pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        with pytest.raises(StoreError, match="partita db migrate"):
            await log.read(0, 0)

    on(empty_pg_dsn, body)


def test_a_lent_connection_is_used_and_left_open(pg_dsn: str) -> None:
    async def body(connection: Connection, _: LiveLog) -> None:
        log = LiveLog(connection, ("a",))
        results = await asyncio.gather(log.read(5, 0), log.health(), log.now_s(), log.history(0))
        assert results[0].watermark_s == 5
        await log.close()
        assert abs(await connection.fetchval("SELECT extract(epoch FROM now())::float8") - results[2]) < 60

    on(pg_dsn, body)


def test_the_latest_requests_are_found_without_reading_the_day(pg_dsn: str) -> None:
    """After many requests in earlier hours, those of the last minutes take a small part of the pages."""

    async def body(connection: Connection, log: LiveLog) -> None:
        now = await connection.fetchval("SELECT clock_timestamp()")
        begin = now - timedelta(hours=20)
        await connection.execute("SELECT ensure_partitions($1, $2)", begin, now)
        number = await connection.fetchval("INSERT INTO service (name) VALUES ('a') RETURNING id")
        await connection.execute(
            "INSERT INTO request_log (ts, service)"
            " SELECT $1::timestamptz + i * interval '0.24 s', $2 FROM generate_series(0, 299999) i",
            begin,
            number,
        )
        await connection.execute("INSERT INTO watermark VALUES (0, $1)", now - 5 * SECOND)
        pages = await connection.fetchval(
            "SELECT sum(pg_relation_size(inhrelid)) / 8192 FROM pg_inherits WHERE inhparent = 'request_log'::regclass"
        )

        async def read() -> int:
            """Read once over a connection of its own, and return the pages of the log looked at so far."""
            follower = LiveLog(Line(pg_dsn), ("a",))
            view = await follower.read(unix(now), 10)
            await follower.close()
            assert 0 < len(view.recent or ()) < 100
            await until_alone(connection)
            looked: int = await connection.fetchval(
                "SELECT sum(heap_blks_read + heap_blks_hit)::bigint FROM pg_statio_user_tables"
                " WHERE relname LIKE 'request_log_%'"
            )
            return looked

        await connection.execute("SELECT pg_stat_force_next_flush()")
        first = await read()  # summarises
        assert await read() - first < pages / 10

    on(pg_dsn, body)


async def until_alone(connection: Connection) -> None:
    """Wait for other sessions to end, which is when they report what they did."""
    async with asyncio.timeout(60):
        while await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        ):
            await asyncio.sleep(0.02)


def test_partitions_are_made_ahead(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        await log.read(0, 0)
        assert await connection.fetchval(
            "SELECT bool_and(to_regclass('request_log_' || to_char((now() + n * interval '1 day') AT TIME ZONE 'UTC',"
            " 'YYYYMMDD')) IS NOT NULL) FROM generate_series(0, 1) n"
        )

    on(pg_dsn, body)


@pytest.mark.parametrize("lock", ["LOCK TABLE {today} IN SHARE UPDATE EXCLUSIVE MODE", "LOCK TABLE log_reject"])
def test_nothing_in_the_way_of_other_work_keeps_tomorrow_from_being_prepared(pg_dsn: str, lock: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        await connection.execute("SELECT ensure_partitions(now(), now())")
        today, tomorrow = await connection.fetchrow(
            "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'),"
            " to_char((now() + interval '1 day') AT TIME ZONE 'UTC', 'YYYYMMDD')"
        )
        async with connection.transaction():
            await connection.execute(lock.format(today=f"request_log_{today}"))
            await log.read(0, 0)
            assert await connection.fetchval("SELECT to_regclass($1)", f"request_log_{tomorrow}") is not None

    on(pg_dsn, body)


def test_counts_of_a_batch_need_no_rows(pg_dsn: str) -> None:
    async def body(connection: Connection, log: LiveLog) -> None:
        pen = Pen("py")
        first = await pen.open(connection)
        now_us = round(time.time() * 1e6)
        one = np.ones(3, np.float32)
        requests = Requests(
            np.zeros(3, np.int32),
            np.full(3, now_us),
            one,
            one,
            one,
            np.ones(3, np.int32),
            np.array([0, 1, UNKNOWN], np.int16),
            np.full(3, -1, np.int32),
        )
        assert (await pen.write(connection, Batch(first, None, ("a",), (), requests))).taken == 3
        assert first == FIRST_BATCH
        row = await connection.fetchrow("SELECT requests, good, late, dropped FROM rollup_delta")
        assert tuple(row) == (3, 1, 1, 0)

    on(pg_dsn, body)


def test_a_gateway_needs_few_rights(pg_dsn: str) -> None:
    """What the documentation says that a gateway's role must be granted is enough, if a follower makes partitions."""
    role = f"gateway_{uuid.uuid4().hex}"

    async def body(connection: Connection, log: LiveLog) -> None:
        await log.read(0, 0)
        await connection.execute(
            f"CREATE ROLE {role};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON log_writer, log_batch, log_reject, log_late, rollup_delta,"
            f" service TO {role};"
            f"GRANT INSERT ON request_log TO {role}; GRANT SELECT ON watermark TO {role}"
        )
        try:
            now = await connection.fetchval("SELECT date_trunc('second', clock_timestamp())")
            await connection.execute(f"SET ROLE {role}")
            first = await opened(connection)
            assert await send(connection, first, [("a", now), ("", now)], until=now) == 1
            pen = Pen("py")
            batch = Batch(await pen.open(connection), services=("b",), requests=one_request(now))
            assert (await pen.write(connection, batch)).taken == 1
            await connection.execute("SELECT log_close('gw', $1)", first)
        finally:
            await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")

    on(pg_dsn, body)


def one_request(at: datetime) -> Requests:
    half = np.full(1, 0.5, np.float32)
    return Requests(
        np.zeros(1, np.int32),
        np.array([round(unix(at) * 1e6)]),
        half,
        half,
        half,
        np.ones(1, np.int32),
        np.zeros(1, np.int16),
        np.full(1, -1, np.int32),
    )
