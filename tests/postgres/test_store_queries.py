"""The statements: all are used and valid, and the hot ones touch what they must and no more."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import partita.store
from partita.store.connection import connect
from partita.store.queries import query

DAY = datetime(2024, 1, 1, tzinfo=UTC)


def names() -> list[str]:
    text = Path(partita.store.__file__).with_name("queries.sql").read_text()
    return re.findall(r"^-- name: (\w+)$", text, re.MULTILINE)


def test_names_are_unique_and_each_is_used() -> None:
    sources = "".join(path.read_text() for path in Path(partita.store.__file__).parent.glob("*.py"))
    assert len(names()) == len(set(names()))
    assert [name for name in names() if f'query("{name}")' not in sources] == []


def test_every_statement_is_valid(pg_dsn: str) -> None:
    async def run() -> None:
        async with connect(pg_dsn) as connection:
            for name in names():
                await connection.prepare(query(name))

    asyncio.run(run())


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        query("no_such_statement")


@pytest.fixture(scope="module")
def plans(pg_server: str) -> dict[str, Any]:
    """Plans of the hot queries for one hour out of three days of 300,000 requests each."""
    hour = (DAY + timedelta(hours=30), DAY + timedelta(hours=31))

    async def run() -> dict[str, Any]:
        async with connect(pg_server) as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(query("ensure_partitions"), DAY, DAY + timedelta(days=3, seconds=-1))
            await connection.execute(
                "INSERT INTO request_log (ts, source, service, size)"
                " SELECT $1::timestamptz + i * interval '288 ms', 1, 1, 1 FROM generate_series(0, 899999) i",
                DAY,
            )
            await connection.execute(
                "INSERT INTO request_rollup (ts, source, service, requests)"
                " SELECT $1::timestamptz + i * interval '1 s', source, 1, 3"
                " FROM generate_series(0, 49999) i, generate_series(1, 4) source",
                DAY,
            )
            await connection.execute(query("settle_partitions"), DAY, DAY + timedelta(days=3, seconds=-1))
            await connection.execute("ANALYZE request_rollup")
            found = {}
            for name, source in (("read_requests", 1), ("read_rollup", 2), ("minutes", 2)):
                statement = f"EXPLAIN (ANALYZE, FORMAT JSON) {query(name)}"
                found[name] = json.loads(await connection.fetchval(statement, source, *hour))[0]["Plan"]
            await transaction.rollback()
            return found

    return asyncio.run(run())


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def test_reading_an_hour_touches_one_day_through_its_block_ranges(plans: dict[str, Any]) -> None:
    found = list(nodes(plans["read_requests"]))
    assert {node["Relation Name"] for node in found if "Relation Name" in node} == {"request_log_20240102"}
    (index,) = [node["Index Name"] for node in found if "Index Name" in node]
    assert index == "request_log_20240102_ts_idx"
    (heap,) = [node for node in found if node["Node Type"] == "Bitmap Heap Scan"]
    assert heap["Actual Rows"] == 3_600_000 // 288
    assert heap["Rows Removed by Index Recheck"] < 20_000, "at most two ranges of 32 pages beyond the hour"


@pytest.mark.parametrize("name", ["read_rollup", "minutes"])
def test_the_roll_up_is_read_through_its_key_in_order(plans: dict[str, Any], name: str) -> None:
    found = list(nodes(plans[name]))
    assert [node["Index Name"] for node in found if "Index Name" in node] == ["request_rollup_pkey"]
    assert all(node["Node Type"] != "Seq Scan" for node in found)
    if name == "read_rollup":
        assert all(node["Node Type"] != "Sort" for node in found)


def test_partitions_are_made_once_for_each_day_in_utc(pg_dsn: str) -> None:
    async def run() -> tuple[int, int, list[str]]:
        async with connect(pg_dsn) as connection:
            await connection.execute("SET timezone = 'America/New_York'")
            first = await connection.fetchval(query("ensure_partitions"), DAY, DAY + timedelta(days=1))
            again = await connection.fetchval(query("ensure_partitions"), DAY, DAY + timedelta(days=2))
            made = await connection.fetch("SELECT inhrelid::regclass::text FROM pg_inherits ORDER BY 1")
            for hours in (0, 23.999, 24, 71.999):
                await connection.execute(
                    "INSERT INTO request_log (ts, service) VALUES ($1, 1)", DAY + timedelta(hours=hours)
                )
            return first, again, [row[0] for row in made if not row[0].endswith("_idx")]

    assert asyncio.run(run()) == (2, 1, ["request_log_20240101", "request_log_20240102", "request_log_20240103"])


def test_clients_that_make_the_same_partition_at_once(pg_dsn: str) -> None:
    async def one() -> int:
        async with connect(pg_dsn) as connection:
            return int(await connection.fetchval(query("ensure_partitions"), DAY, DAY + timedelta(days=5)))

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(one() for _ in range(4)))

    assert sorted(asyncio.run(all_at_once())) == [0, 0, 0, 6]
