"""Imports: exactly once, all or nothing, and the same coming out as went in."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partita.errors import StoreError, TraceError
from partita.ports import Counts, Rows, TraceInfo
from partita.store import imports, reading
from partita.store.connection import Connection, connect
from partita.store.imports import begin_import, content_hash, read_imports
from partita.store.reading import read_requests, read_rollup, read_span, read_watermark

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = 1_704_067_200 * SECOND
"""2024-01-01 00:00 UTC."""

REQUESTS = TraceInfo("test", "requests")


def on(dsn: str, work: Callable[[Connection], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with connect(dsn) as connection:
            return await work(connection)

    return asyncio.run(run())


def some_rows(number: int, *, seed: int = 1, mean_gap_ns: int = SECOND, services: int = 5) -> Rows:
    rng = np.random.default_rng(seed)
    at_us = START // 1000 + np.cumsum(rng.exponential(mean_gap_ns / 1000, number)).astype(np.int64)
    names = np.array([f"service {i}" for i in range(services)], object)
    size = rng.integers(1, 5000, number).astype(np.float32)
    output_size = np.where(rng.random(number) < 0.5, size, np.nan).astype(np.float32)
    return Rows(at_us * 1000, names[rng.integers(0, services, number)], size, output_size)


def cut(rows: Rows, *at: int) -> list[Rows]:
    edges = [0, *at, len(rows.at_ns)]
    return [Rows(rows.at_ns[a:b], rows.service[a:b], rows.size[a:b], rows.output_size[a:b]) for a, b in pairwise(edges)]


def bring(*blocks: Rows, file: str = "a.csv", sha256: str = "aa", options: dict[str, Any] | None = None) -> Any:
    async def work(connection: Connection) -> Any:
        async with begin_import(connection, file=file, sha256=sha256, info=REQUESTS, options=options) as opened:
            if not opened.done_before:
                for block in blocks:
                    await opened.write_rows(block)
        return opened

    return work


async def collect(blocks: AsyncIterator[Any]) -> dict[str, Any]:
    found = [block async for block in blocks]
    names = type(found[0]).__dataclass_fields__ if found else ()
    return {name: np.concatenate([getattr(block, name) for block in found]) for name in names}


async def table_of(connection: Connection, name: str) -> list[tuple[Any, ...]]:
    rows = await connection.fetch(f"SELECT t.*::text FROM {name} t ORDER BY 1")
    return [tuple(row) for row in rows]


def test_requests_come_back_as_they_went_in(pg_dsn: str) -> None:
    rows = some_rows(20_000, mean_gap_ns=20 * SECOND)  # about four and a half days
    opened = on(pg_dsn, bring(*cut(rows, 1, 7, 5000, 5001, 19_999)))
    assert (opened.record.rows, opened.record.requests, opened.record.state) == (20_000, 20_000, "done")
    found = on(pg_dsn, lambda connection: collect(read_requests(connection, opened.record.id)))
    for name in ("at_ns", "service", "size", "output_size"):
        np.testing.assert_array_equal(found[name], getattr(rows, name))


def test_many_rows_pass_in_several_chunks_and_windows(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows(250_000, mean_gap_ns=SECOND // 100)
    opened = on(pg_dsn, bring(*cut(rows, 120_000)))
    monkeypatch.setattr(reading, "WINDOW_ROWS", 30_000)

    async def sizes(connection: Connection) -> list[int]:
        return [len(block.at_ns) async for block in read_requests(connection, opened.record.id)]

    found = on(pg_dsn, sizes)
    assert sum(found) == 250_000
    assert max(found) <= 30_000
    assert len(found) > 8


def test_a_part_of_the_time_can_be_read(pg_dsn: str) -> None:
    rows = some_rows(5_000)
    opened = on(pg_dsn, bring(rows))
    start = datetime(2024, 1, 1, 0, 10, 0, 500, UTC)
    end = start + timedelta(minutes=20, seconds=7)
    found = on(pg_dsn, lambda c: collect(read_requests(c, opened.record.id, start=start, end=end)))
    low, high = START + 600 * SECOND + 500_000, START + (600 + 1207) * SECOND + 500_000
    np.testing.assert_array_equal(found["at_ns"], rows.at_ns[(rows.at_ns >= low) & (rows.at_ns < high)])


def test_the_roll_up_counts_every_row_by_second_and_service(pg_dsn: str) -> None:
    rows = some_rows(30_000, mean_gap_ns=SECOND // 7)
    opened = on(pg_dsn, bring(*cut(rows, 3, 10_000, 10_001, 10_002, 29_000)))
    in_sql = """
        SELECT count(*) FROM (
            SELECT date_trunc('second', ts), source, service, count(*) FROM request_log GROUP BY 1, 2, 3
            EXCEPT SELECT ts, source, service, requests FROM request_rollup) AS missing"""
    assert on(pg_dsn, lambda c: c.fetchval(in_sql)) == 0
    found = on(pg_dsn, lambda c: collect(read_rollup(c, opened.record.id)))
    assert found["requests"].sum() == 30_000
    assert set(found["law"].tolist()) == {""}
    assert np.all(np.diff(found["at_ns"]) >= 0)
    span = on(pg_dsn, lambda c: read_span(c, opened.record.id))
    until = on(pg_dsn, lambda c: read_watermark(c, opened.record.id))
    last_second = int(rows.at_ns[-1] // SECOND)
    assert span.end == until == opened.record.end_ts == datetime.fromtimestamp(last_second + 1, UTC)
    assert span.requests == 30_000


def test_counts_come_back_as_they_went_in(pg_dsn: str) -> None:
    counts = Counts(
        np.array([START, START, START + 600 * SECOND, START + 30 * DAY]),
        np.array(["b", "a", "a", "b"], object),
        np.array([3, 0, 2**40, 9]),
        np.array(["gamma", "even", "weibull", "poisson"], object),
        np.array([0.3, 1.0, 0.7, np.nan]),
    )

    async def work(connection: Connection) -> Any:
        info = TraceInfo("test", "counts", 600.0)
        async with begin_import(connection, file="c.csv", sha256="cc", info=info) as opened:
            await opened.write_counts(counts)
        return opened.record, await collect(read_rollup(connection, opened.record.id))

    record, found = on(pg_dsn, work)
    assert (record.rows, record.requests) == (4, 12 + 2**40)
    assert record.end_ts == datetime(2024, 1, 31, 0, 10, tzinfo=UTC)
    order = [1, 0, 2, 3] if found["service"][0] == "a" else [0, 1, 2, 3]
    for name, there in (
        ("at_ns", "at_ns"),
        ("service", "service"),
        ("count", "requests"),
        ("law", "law"),
        ("shape", "shape"),
    ):
        np.testing.assert_array_equal(found[there], getattr(counts, name)[order])
    np.testing.assert_array_equal(found["bin_s"], 600)


def test_importing_twice_adds_nothing_and_says_so(pg_dsn: str) -> None:
    rows = some_rows(1_000)
    first = on(pg_dsn, bring(rows, options={"services": {"*": "x"}, "b": 1}))
    again = on(pg_dsn, bring(rows, file="renamed.csv", options={"b": 1, "services": {"*": "x"}}))
    assert again.done_before
    assert again.record == first.record
    assert on(pg_dsn, lambda c: c.fetchval("SELECT count(*) FROM request_log")) == 1_000
    other = on(pg_dsn, bring(rows, options={"b": 2}))
    assert other.record.id != first.record.id, "read with other options it is another trace"
    assert [r.options for r in on(pg_dsn, read_imports)] == [{"services": {"*": "x"}, "b": 1}, {"b": 2}]


def test_an_empty_trace_is_an_import_too(pg_dsn: str) -> None:
    opened = on(pg_dsn, bring())
    assert (opened.record.state, opened.record.rows, opened.record.first_ts) == ("done", 0, None)
    assert on(pg_dsn, lambda c: read_watermark(c, opened.record.id)) is None
    with pytest.raises(StoreError, match="holds nothing of source"):
        on(pg_dsn, lambda c: read_span(c, opened.record.id))


def nothing_is_kept(dsn: str) -> bool:
    async def work(connection: Connection) -> bool:
        tables = ("request_log", "request_rollup", "watermark", "trace_import", "service")
        return [await table_of(connection, name) for name in tables] == [[]] * len(tables)

    return bool(on(dsn, work))


def test_an_error_in_mid_file_leaves_nothing(pg_dsn: str) -> None:
    async def work(connection: Connection) -> None:
        async with begin_import(connection, file="a.csv", sha256="aa", info=REQUESTS) as opened:
            await opened.write_rows(some_rows(150_000))
            raise TraceError("not a number", file="a.csv", row=17)

    with pytest.raises(TraceError, match=r"a.csv, row 17: not a number"):
        on(pg_dsn, work)
    assert nothing_is_kept(pg_dsn)


def test_rows_that_go_back_in_time_are_refused(pg_dsn: str) -> None:
    first, second = cut(some_rows(100), 50)
    with pytest.raises(TraceError, match=r"a.csv: time goes backwards"):
        on(pg_dsn, bring(second, first))
    with pytest.raises(TraceError, match=r"a.csv: time goes backwards"):
        on(pg_dsn, bring(Rows(first.at_ns[::-1], first.service, first.size, first.output_size)))
    assert nothing_is_kept(pg_dsn)


@pytest.mark.parametrize(
    ("services", "laws", "message"),
    [
        (["a", "a"], ["even", "even"], r"c.csv: two counts for the same service and bin"),
        (["a", "b"], ["even", "odd"], r"c.csv: law 'odd' is none of even, poisson, gamma, weibull"),
    ],
)
def test_counts_that_make_no_sense_are_refused(pg_dsn: str, services: list[str], laws: list[str], message: str) -> None:
    async def work(connection: Connection) -> None:
        info = TraceInfo("test", "counts", 60.0)
        async with begin_import(connection, file="c.csv", sha256="cc", info=info) as opened:
            at_ns = np.array([START, START])
            count, shape = np.array([1, 2]), np.ones(2)
            await opened.write_counts(Counts(at_ns, np.array(services, object), count, np.array(laws, object), shape))

    with pytest.raises(TraceError, match=message):
        on(pg_dsn, work)
    assert nothing_is_kept(pg_dsn)


def test_the_same_file_from_two_clients_is_imported_by_one(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "LOCK_WAIT_S", 0.1)

    async def work(connection: Connection) -> None:
        async with (
            connect(pg_dsn) as other,
            begin_import(connection, file="a.csv", sha256="aa", info=REQUESTS) as opened,
        ):
            await opened.write_rows(some_rows(10))
            with pytest.raises(StoreError, match=r"a.csv is being imported by another client"):
                await bring(some_rows(10))(other)
        assert (await bring(some_rows(10))(connection)).done_before

    on(pg_dsn, work)
    assert on(pg_dsn, lambda c: c.fetchval("SELECT count(*) FROM request_log")) == 10


def test_a_client_that_was_there_first_is_waited_for(pg_dsn: str) -> None:
    async def work(connection: Connection) -> Any:
        async with connect(pg_dsn) as other:
            async with begin_import(connection, file="a.csv", sha256="aa", info=REQUESTS) as opened:
                second = asyncio.create_task(bring(some_rows(10))(other))
                await asyncio.sleep(0.2)
                await opened.write_rows(some_rows(10))
            return opened, await second

    first, second = on(pg_dsn, work)
    assert second.done_before
    assert second.record == first.record


KILLED = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_store_import import bring, connect, cut, some_rows
from partita.store import binarycopy, imports

copies = 0
original = imports.copy_rows

async def copy_rows(*arguments):
    global copies
    if copies == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    copies += 1
    await original(*arguments)

imports.copy_rows = copy_rows

async def main():
    async with connect(sys.argv[1]) as connection:
        await bring(*cut(some_rows(250_000), 100_000, 200_000))(connection)

asyncio.run(main())
"""


@pytest.mark.parametrize("copies", [0, 2, 4])
def test_killed_in_mid_import_and_imported_again_is_as_undisturbed(pg_dsn: str, copies: int) -> None:
    here = str(Path(__file__).parent)
    client = subprocess.run([sys.executable, "-c", KILLED, pg_dsn, here, str(copies)], check=False, capture_output=True)
    assert client.returncode == -9, client.stderr
    rows = some_rows(250_000)
    opened = on(pg_dsn, bring(rows))
    assert (opened.record.state, opened.record.rows) == ("done", 250_000)
    found = on(pg_dsn, lambda c: collect(read_requests(c, opened.record.id)))
    for name in ("at_ns", "service", "size", "output_size"):
        np.testing.assert_array_equal(found[name], getattr(rows, name))
    assert on(pg_dsn, lambda c: c.fetchval("SELECT sum(requests)::bigint FROM request_rollup")) == 250_000


def test_the_database_going_away_is_one_sentence(pg_dsn: str) -> None:
    async def work(connection: Connection) -> None:
        async with (
            connect(pg_dsn) as other,
            begin_import(connection, file="a.csv", sha256="aa", info=REQUESTS) as opened,
        ):
            first, second = cut(some_rows(200_010), 10)
            await opened.write_rows(first)
            await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            await opened.write_rows(second)

    with pytest.raises(StoreError, match=r"the database went away, so the import of a.csv was given up"):
        on(pg_dsn, work)
    assert on(pg_dsn, lambda c: c.fetchval("SELECT count(*) FROM request_log")) == 0


FULL = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from partita.errors import StoreError
from partita.store import embedded
from partita.store.migrate import migrate
from test_store_import import bring, cut, nothing_is_kept, on, some_rows
with embedded.running(Path(sys.argv[1])) as dsn:
    on(dsn, migrate)
    try:
        on(dsn, bring(*cut(some_rows(2_000_000), *range(100_000, 2_000_000, 100_000))))
    except StoreError as problem:
        print(problem)
with embedded.running(Path(sys.argv[1])) as dsn:
    print(nothing_is_kept(dsn))
"""


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    inside = f'mount -t tmpfs -o size=150m tmpfs "{tmp_path}" && exec "$0" "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", inside]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    here = str(Path(__file__).parent)
    arguments = [sys.executable, "-c", FULL, str(tmp_path / "data"), here]
    done = subprocess.run([*command, *arguments], check=False, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "the database's disk is full, so the import of a.csv was given up and nothing of it was kept",
        "True",
    ], done.stderr
    assert done.returncode == 0


def test_content_is_known_by_its_hash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert content_hash(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
