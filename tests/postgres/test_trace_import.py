"""Traces into the database: the right content, once, whole or not at all, and back out again."""

from __future__ import annotations

import asyncio
import csv
import gzip
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partita.controller.tracefiles import (
    Imported,
    ImportOptions,
    choose_import,
    choose_reader,
    export_trace,
    exported_blocks,
    import_trace,
)
from partita.errors import StoreError, TraceError
from partita.ports import Counts, Rows
from partita.store.connection import connect
from partita.traces import detect
from partita.traces.select import Selection
from partita.traces.services import ServiceMap
from partita.traces.summary import open_arrivals
from partita.traces.synth import SynthSpec, synthesise
from partita.traces.writers import write_trace

REFERENCE = "PARTITA_REFERENCE_DIR"

CONTENT = """
SELECT md5(string_agg(part, ' ' ORDER BY part)) FROM (
    SELECT 'log' || md5(string_agg(concat_ws(',', ts, name, size, output_size), ' ' ORDER BY ts, name, size)) AS part
    FROM request_log JOIN service ON service.id = request_log.service
    UNION ALL
    SELECT 'rollup' || md5(string_agg(concat_ws(',', ts, name, bin_s, requests, law, shape), ' ' ORDER BY ts, name))
    FROM request_rollup JOIN service ON service.id = request_rollup.service
    UNION ALL
    SELECT 'import' || md5(string_agg(concat_ws(',', sha256, state, rows, requests, first_ts, end_ts), ' '))
    FROM trace_import
    UNION ALL
    SELECT 'watermark' || string_agg(until::text, ' ') FROM watermark
) AS parts
"""
"""One number for all that an import writes, without the numbers that the database gave."""


def ask(dsn: str, statement: str) -> Any:
    async def run() -> Any:
        async with connect(dsn) as connection:
            return await connection.fetchval(statement)

    return asyncio.run(run())


def bring(dsn: str, path: Path, **options: Any) -> Imported:
    settings = ImportOptions(**options)
    return asyncio.run(import_trace(dsn, path, choose_reader(path, bin_s=settings.bin_s), settings))


def counts_file(path: Path) -> Path:
    path.write_text("minute,a,b\n0,5,1\n60,,2\n120,0,3\n")
    return path


def test_a_file_that_changes_while_it_is_read_is_not_imported(pg_dsn: str, tmp_path: Path) -> None:
    """What is recorded is the hash of the file as it was before: with it goes that content or none."""
    path = counts_file(tmp_path / "counts.csv")

    def replace(_rows: int) -> None:
        other = tmp_path / "other.csv"
        other.write_text("minute,a,b\n0,7,7\n60,7,7\n")
        other.rename(path)

    with pytest.raises(TraceError, match="changed while it was read"):
        asyncio.run(import_trace(pg_dsn, path, choose_reader(path), watch=replace))
    assert ask(pg_dsn, "SELECT count(*) FROM request_rollup") == 0
    assert ask(pg_dsn, "SELECT count(*) FROM trace_import") == 0
    assert bring(pg_dsn, path).added


def test_importing_twice_adds_nothing_and_says_so(pg_dsn: str, tmp_path: Path) -> None:
    path = counts_file(tmp_path / "counts.csv")
    first, content = bring(pg_dsn, path), ask(pg_dsn, CONTENT)
    assert (first.added, first.record.rows, first.record.requests) == (True, 5, 11)
    again = bring(pg_dsn, path)
    assert (again.added, again.record.id) == (False, first.record.id)
    elsewhere = tmp_path / "copy.csv"
    elsewhere.write_bytes(path.read_bytes())
    assert not bring(pg_dsn, elsewhere).added
    assert ask(pg_dsn, CONTENT) == content


def test_counts_stay_counts_and_what_is_missing_stays_missing(pg_dsn: str, tmp_path: Path) -> None:
    record = bring(pg_dsn, counts_file(tmp_path / "counts.csv")).record
    [(block, bin_s)] = exported_blocks(pg_dsn, record)
    assert isinstance(block, Counts)
    assert bin_s == 60.0
    rows = sorted(zip((block.at_ns // 10**9).tolist(), block.service, block.count.tolist(), strict=True))
    assert rows == [(0, "a", 5), (0, "b", 1), (60, "b", 2), (120, "a", 0), (120, "b", 3)]
    assert ask(pg_dsn, "SELECT count(*) FROM request_log") == 0


def test_raw_draws_the_requests_that_a_replay_would_draw(pg_dsn: str, tmp_path: Path) -> None:
    path = counts_file(tmp_path / "counts.csv")
    record = bring(pg_dsn, path, raw=True, seed=3).record
    assert (record.kind, record.rows) == ("requests", 11)
    [(block, _)] = exported_blocks(pg_dsn, record)
    assert isinstance(block, Rows)
    arrivals, _ = open_arrivals(detect(path), path, ServiceMap(), seed=3)
    drawn = arrivals.until(arrivals.span_ns)
    # The database keeps microseconds.
    assert block.at_ns.tolist() == sorted((drawn.ns // 1000 * 1000).tolist())
    assert Counter(block.service.tolist()) == {"a": 5, "b": 6}


def test_another_seed_or_part_is_another_import(pg_dsn: str, tmp_path: Path) -> None:
    path = counts_file(tmp_path / "counts.csv")
    options: list[dict[str, Any]] = [
        {},
        {"raw": True},
        {"raw": True, "seed": 1},
        {"begin": "1m"},
        {"services": {"a": "x"}},
    ]
    assert [bring(pg_dsn, path, **o).added for o in options] == [True] * 5
    assert [bring(pg_dsn, path, **o).added for o in options] == [False] * 5


def test_services_are_renamed_left_out_or_joined(pg_dsn: str, tmp_path: Path) -> None:
    path = counts_file(tmp_path / "counts.csv")
    found = bring(pg_dsn, path, services={"b": "only"}, begin="60", end="120")
    assert (found.record.rows, found.record.requests, found.left_out) == (1, 2, 0)
    found = bring(pg_dsn, path, services={"b": "only"})
    assert (found.record.requests, found.left_out) == (6, 5)
    joined = bring(pg_dsn, path, services={"*": "both"}).record
    [(block, _)] = exported_blocks(pg_dsn, joined)
    assert isinstance(block, Counts)
    assert block.count.tolist() == [6, 2, 3]


def test_joined_bins_keep_the_law_of_the_largest_over_blocks() -> None:
    def block(*rows: tuple[int, str, int, str, float]) -> Counts:
        columns = list(zip(*rows, strict=True))
        kinds = (np.int64, object, np.int64, object, np.float64)
        return Counts(*(np.array(c, k) for c, k in zip(columns, kinds, strict=True)))  # type: ignore[arg-type]

    first = block((0, "x/1", 3, "gamma", 0.5), (0, "y", 1, "even", 1.0), (10, "x/1", 2, "gamma", 0.5))
    second = block((10, "x/2", 9, "weibull", 0.7), (20, "x/2", 4, "poisson", 1.0))
    found = list(Selection([first, second], ServiceMap({"x/*": "x", "*": "*"})))
    rows = [
        tuple(row)
        for b in found
        if isinstance(b, Counts)
        for row in zip(b.at_ns.tolist(), b.service, b.count.tolist(), b.law, b.shape.tolist(), strict=True)
    ]
    assert rows == [
        (0, "x", 3, "gamma", 0.5),
        (0, "y", 1, "even", 1.0),
        (10, "x", 11, "weibull", 0.7),
        (20, "x", 4, "poisson", 1.0),
    ]


def test_a_broken_row_leaves_nothing(pg_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partita.traces.files.CHUNK_BYTES", 200)
    path = tmp_path / "requests.csv"
    path.write_text("ts,service,size\n" + "".join(f"{n},a,1\n" for n in range(100)) + "100,a,big\n")
    before = ask(pg_dsn, CONTENT)
    with pytest.raises(TraceError, match="row 102, column size: 'big' is not a number"):
        bring(pg_dsn, path)
    with pytest.raises(TraceError, match="nothing in it is in the time and of the services asked for"):
        bring(pg_dsn, counts_file(tmp_path / "counts.csv"), services={"q": "x"})
    assert ask(pg_dsn, CONTENT) == before
    assert ask(pg_dsn, "SELECT count(*) FROM trace_import") == 0


@pytest.mark.parametrize("suffix", [".parquet", ".csv.zst"])
def test_what_is_exported_and_imported_again_is_the_same(pg_dsn: str, tmp_path: Path, suffix: str) -> None:
    made, out = tmp_path / "made.parquet", tmp_path / f"out{suffix}"
    write_trace(made, synthesise(SynthSpec(services=3, days=0.05, rate_rps=5), 1))
    record = bring(pg_dsn, made).record
    assert export_trace(pg_dsn, record, out) == record.rows
    blocks = [b for b in detect(out).blocks(out) if isinstance(b, Rows)]
    there = [b for b in detect(made).blocks(made) if isinstance(b, Rows)]
    for column in ("service", "size", "output_size"):
        found, wanted = (np.concatenate([getattr(b, column) for b in part]) for part in (blocks, there))
        assert found.tolist() == wanted.tolist()
    at, wanted_at = (np.concatenate([b.at_ns for b in part]) for part in (blocks, there))
    assert at.tolist() == (wanted_at // 1000 * 1000).tolist()


def test_which_import_is_exported(pg_dsn: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing was imported yet"):
        asyncio.run(choose_import(pg_dsn, None))
    path = counts_file(tmp_path / "counts.csv")
    first, second = bring(pg_dsn, path).record, bring(pg_dsn, path, begin="1m").record
    assert asyncio.run(choose_import(pg_dsn, None)).id == second.id
    assert asyncio.run(choose_import(pg_dsn, first.id)).id == first.id
    with pytest.raises(StoreError, match=rf"there is no import 99 \(there are: {first.id}, {second.id}\)"):
        asyncio.run(choose_import(pg_dsn, 99))
    with pytest.raises(StoreError, match="holds nothing in the part asked for"):
        export_trace(pg_dsn, first, tmp_path / "out.csv", begin="1h")
    assert export_trace(pg_dsn, first, tmp_path / "out.csv", begin="1m", end="2m") == 1


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from partita.controller.tracefiles import choose_reader, import_trace
from partita.traces import files

files.CHUNK_BYTES = 50_000
path, target = Path(sys.argv[2]), int(sys.argv[3])

def watch(rows):
    if rows >= target:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(import_trace(sys.argv[1], path, choose_reader(path), watch=watch))
"""
ROWS = 120_000
KILL_POINTS = sorted(np.random.default_rng(20).integers(1, ROWS, 10).tolist())


EMPTY = "TRUNCATE request_log, request_rollup, trace_import, watermark"
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@pytest.mark.slow
def test_killed_anywhere_and_imported_again_is_as_undisturbed(pg_dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    rng = np.random.default_rng(1)
    at, size = np.cumsum(rng.exponential(0.5, ROWS)), rng.integers(1, 2000, ROWS)
    rows = (f"{t:.6f},service {n % 7},{n},\n" for t, n in zip(at, size, strict=True))
    path.write_text("ts,service,size,output_size\n" + "".join(rows))
    bring(pg_dsn, path)
    undisturbed = ask(pg_dsn, CONTENT)
    for target in KILL_POINTS:
        ask(pg_dsn, EMPTY)
        command = [sys.executable, "-c", KILLED, pg_dsn, str(path), str(target)]
        client = subprocess.run(command, check=False, capture_output=True, text=True)
        assert client.returncode == -9, client.stderr
        while ask(pg_dsn, OTHERS):
            """The server takes a moment to notice."""
        assert ask(pg_dsn, "SELECT count(*) FROM request_log") == 0
        assert ask(pg_dsn, CONTENT) != undisturbed
        assert bring(pg_dsn, path).added
        assert ask(pg_dsn, CONTENT) == undisturbed, f"killed after {target} rows"
        assert not bring(pg_dsn, path).added


def reference(name: str) -> Path:
    folder = os.environ.get(REFERENCE)
    if not folder:
        pytest.skip(f"{REFERENCE} is not set")
    return Path(folder) / "traces" / name


def test_the_azure_conversation_trace_has_19366_requests(pg_dsn: str) -> None:
    path = reference("azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz")
    record = bring(pg_dsn, path, services={"*": "chat"}).record
    assert (record.format, record.rows) == ("azure-llm", 19_366)
    assert ask(pg_dsn, "SELECT min(ts)::text FROM request_log") == "2023-11-16 18:15:46.68059+00"
    assert ask(pg_dsn, "SELECT max(ts)::text FROM request_log").startswith("2023-11-16 19:14:08.40")
    assert not bring(pg_dsn, path, services={"*": "chat"}).added
    assert ask(pg_dsn, "SELECT sum(requests)::bigint FROM request_rollup") == 19_366


def test_a_day_of_servegen_is_the_sum_of_its_rates(pg_dsn: str) -> None:
    path = reference("servegen/client_rates_600s.csv.gz")
    with gzip.open(path, "rt", newline="") as file:
        day = [row for row in csv.DictReader(file) if row["model"] == "m-small" and int(row["t"]) < 86_400]
    expected = Counter({f"m-small/{row['client']}": 0 for row in day})
    for row in day:
        expected[f"m-small/{row['client']}"] += round(float(row["rate"] or 0) * 600)
    record = bring(pg_dsn, path, services={"m-small/*": "*"}, end="1d").record
    assert record.requests == expected.total()
    blocks = [b for b, _ in exported_blocks(pg_dsn, record) if isinstance(b, Counts)]
    found = Counter[str]()
    for block in blocks:
        for name, count in zip(block.service.tolist(), block.count.tolist(), strict=True):
            found[name] += count
    assert found == expected
