"""LiteLLM's spend logs out of a PostgreSQL that holds its table."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partita.controller.spend_database import open_spend_logs
from partita.controller.tracefiles import ImportOptions, import_traces
from partita.errors import ConfigError
from partita.ports import Rows
from partita.store.connection import connect
from partita.traces.blocks import join_rows
from partita.traces.litellm import SpendLogsReader

TABLE = """
CREATE TABLE "LiteLLM_SpendLogs" (
    request_id text PRIMARY KEY, call_type text NOT NULL, spend double precision NOT NULL DEFAULT 0,
    prompt_tokens integer NOT NULL DEFAULT 0, completion_tokens integer NOT NULL DEFAULT 0,
    "startTime" timestamp(3) NOT NULL, "endTime" timestamp(3) NOT NULL,
    model text NOT NULL DEFAULT '', model_group text DEFAULT '', cache_hit text DEFAULT '', status text,
    metadata jsonb DEFAULT '{}'
)
"""
"""The columns of LiteLLM's table that matter here, of the types that its migrations give them."""

INSERT = """
INSERT INTO "LiteLLM_SpendLogs" (request_id, call_type, prompt_tokens, completion_tokens, "startTime", "endTime",
                                 model, model_group, cache_hit, status)
VALUES ($1, 'acompletion', $2, $3, $4, $5, $6, $7, $8, $9)
"""
START = datetime(2024, 5, 1, 10)


def fill(dsn: str, rows: list[tuple[Any, ...]], *, first: int = 0) -> None:
    async def work() -> None:
        async with connect(dsn) as connection:
            await connection.execute(TABLE.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
            await connection.executemany(INSERT, [(f"id-{first + n}", *row) for n, row in enumerate(rows)])

    asyncio.run(work())


def row(
    at_s: float,
    tokens: int = 10,
    model: str = "azure/gpt",
    group: str = "chat",
    hit: str = "",
    status: str | None = None,
) -> tuple[Any, ...]:
    at = START + timedelta(seconds=at_s)
    return tokens, tokens // 10, at, at + timedelta(seconds=5), model, group, hit, status


MIXED = [
    row(4, 40, status="failure"),
    row(0.25, 10, status="success"),
    row(1, 20, group="", status="success"),
    row(2, 30, hit="True", status="success"),
    row(3, 0, model="", group="", status="failure"),
]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from partita.controller.cli import main; main()", "trace"]
    return subprocess.run([*command, *map(str, arguments)], check=False, capture_output=True, text=True)


def read(dsn: str, **options: Any) -> Rows:
    with open_spend_logs(dsn, **options) as (reader, path):
        return join_rows(list(reader.blocks(path)))


def test_rows_come_in_the_order_of_time_as_from_a_csv_export(empty_pg_dsn: str, tmp_path: Path) -> None:
    fill(empty_pg_dsn, MIXED)
    found = read(empty_pg_dsn)
    assert found.size.tolist() == [10, 20, 40]
    assert found.output_size.tolist() == [1, 2, 4]
    assert found.service.tolist() == ["chat", "azure/gpt", "chat"]
    # 1714557600 is 2024-05-01 10:00:00 UTC.
    assert (found.at_ns // 1_000_000 - 1714557600_000).tolist() == [250, 1000, 4000]
    assert read(empty_pg_dsn, service_by="model").service.tolist() == ["azure/gpt"] * 3
    assert read(empty_pg_dsn, status="success").size.tolist() == [10, 20]
    path = tmp_path / "spend.csv"

    async def export() -> None:
        async with connect(empty_pg_dsn) as connection:
            await connection.copy_from_table("LiteLLM_SpendLogs", output=path, format="csv", header=True)

    asyncio.run(export())
    again = join_rows([block for block in SpendLogsReader().blocks(path) if isinstance(block, Rows)])
    for column in Rows.__slots__:
        assert getattr(again, column).tolist() == getattr(found, column).tolist()


def test_a_long_table_is_read_in_blocks(empty_pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partita.store.spend_logs.ROWS_AT_ONCE", 100)
    at = np.random.default_rng(1).permutation(950)
    fill(empty_pg_dsn, [row(float(s), int(s)) for s in at])
    with open_spend_logs(empty_pg_dsn) as (reader, path):
        blocks = list(reader.blocks(path))
    assert [block.at_ns.size for block in blocks] == [100] * 9 + [50]
    assert join_rows(blocks).size.tolist() == list(range(950))


def test_what_a_proxy_adds_meanwhile_is_not_seen(empty_pg_dsn: str) -> None:
    fill(empty_pg_dsn, [row(0), row(1)])
    with open_spend_logs(empty_pg_dsn) as (reader, path):
        digest = reader.digest()
        fill(empty_pg_dsn, [row(2)], first=2)
        assert join_rows(list(reader.blocks(path))).at_ns.size == 2
        assert reader.digest() == digest
    with open_spend_logs(empty_pg_dsn) as (reader, path):
        assert join_rows(list(reader.blocks(path))).at_ns.size == 3
        assert reader.digest() != digest


def test_imported_once_and_again_when_there_is_more(empty_pg_dsn: str, pg_dsn: str) -> None:
    fill(empty_pg_dsn, MIXED)

    def bring(**options: Any) -> tuple[bool, int]:
        with open_spend_logs(empty_pg_dsn) as member:
            found = asyncio.run(import_traces(pg_dsn, [member], ImportOptions(**options)))
        return found.added, found.record.rows

    assert bring() == (True, 3)
    assert bring() == (False, 3)
    assert bring(services={"chat": "x"}) == (True, 2)
    fill(empty_pg_dsn, [row(9)], first=9)
    assert bring() == (True, 4)


@pytest.mark.parametrize(
    ("table", "status", "said"),
    [
        ("Absent", None, "the database has no table Absent"),
        ("public.LiteLLM_SpendLogs", "success", ""),
        ("other", None, "other lacks the column request_id of the spend logs"),
        ('x"; DROP TABLE other; --', None, "the database has no table"),
    ],
)
def test_tables_that_are_not_there(empty_pg_dsn: str, table: str, status: str | None, said: str) -> None:
    fill(empty_pg_dsn, MIXED)

    async def make() -> None:
        async with connect(empty_pg_dsn) as connection:
            await connection.execute("CREATE TABLE other (n integer)")

    asyncio.run(make())
    if not said:
        assert read(empty_pg_dsn, table=table, status=status).at_ns.size == 2
        return
    with pytest.raises(ConfigError, match=said):
        read(empty_pg_dsn, table=table, status=status)


def test_a_table_of_an_older_litellm_lacks_some_columns(empty_pg_dsn: str) -> None:
    fill(empty_pg_dsn, MIXED)

    async def drop() -> None:
        async with connect(empty_pg_dsn) as connection:
            for column in ("model_group", "status", "cache_hit"):
                await connection.execute(f'ALTER TABLE "LiteLLM_SpendLogs" DROP COLUMN {column}')

    asyncio.run(drop())
    assert read(empty_pg_dsn).service.tolist() == ["azure/gpt"] * 4
    with pytest.raises(ConfigError, match="lacks the column status"):
        read(empty_pg_dsn, status="success")


def test_from_the_command_line(empty_pg_dsn: str, pg_dsn: str, tmp_path: Path) -> None:
    fill(empty_pg_dsn, MIXED)
    told = json.loads(run("info", empty_pg_dsn, "--json", "--service-by", "model").stdout)
    assert (told["format"], told["rows"], list(told["services"])) == ("litellm", 3, ["azure/gpt"])
    done = run("import", empty_pg_dsn, "--dsn", pg_dsn)
    assert "3 requests added (format litellm, import 1)" in done.stdout, done.stderr
    out = tmp_path / "out.csv"
    assert run("export", out, empty_pg_dsn, "--quiet").returncode == 0
    assert json.loads(run("info", out, "--json").stdout)["requests"] == 3
    missing = run("info", empty_pg_dsn, "--table", "absent")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "Error: --table: the database has no table absent\n"
    assert "--columns is for files" in run("info", empty_pg_dsn, "--columns", "ts=x").stderr
