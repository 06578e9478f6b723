"""Each built-in reader on a small file of its own making."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zstandard

from partita.ports import Counts, Rows, TraceInfo, TraceReader
from partita.traces import READERS, detect
from partita.traces.azure_llm import AzureLlmReader
from partita.traces.blocks import join_counts
from partita.traces.counts import CountsReader
from partita.traces.files import open_text, watch_reading
from partita.traces.litellm import SpendLogsReader
from partita.traces.mooncake import MooncakeReader
from partita.traces.request_log import RequestLogReader
from partita.traces.servegen import ServeGenReader
from partita.traces.table import ParquetReader, TableCsvReader

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51,879,55"""
SECOND = 1_000_000_000
SERVEGEN = """model,client,t,rate,cv,pat,p1,p2
m-mid,0,0,,,,,
m-mid,0,600,0.01,1.0,Gamma,0.25,4
m-small,7,0,1.2499999,2,Weibull,0.5,1
m-small,7,600,0.5,,,,
"""


def write(path: Path, text: str) -> Path:
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        case ".zst":
            path.write_bytes(zstandard.compress(text.encode()))
        case _:
            path.write_bytes(text.encode())
    return path


def read_rows(reader: TraceReader, path: Path) -> Rows:
    blocks = [b for b in reader.blocks(path) if isinstance(b, Rows)]
    columns = ("at_ns", "service", "size", "output_size")
    return Rows(*(np.concatenate([getattr(b, column) for b in blocks]) for column in columns))


def read_counts(reader: TraceReader, path: Path) -> Counts:
    blocks = list(reader.blocks(path))
    assert all(isinstance(b, Counts) for b in blocks)
    return join_counts([b for b in blocks if isinstance(b, Counts)])


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst"])
def test_azure_llm_requests(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, AZURE)
    reader = detect(path)
    assert reader.info(path) == TraceInfo("azure-llm", "requests")
    block = read_rows(reader, path)
    # 1700158546 is 2023-11-16 18:15:46 UTC; the seven decimals are kept.
    assert block.at_ns.tolist() == [1700158546_680590000, 1700158550_995169000, 1700158551_000000000]
    assert block.service.tolist() == ["*"] * 3
    assert block.size.tolist() == [374, 396, 879]
    assert block.output_size.tolist() == [44, 109, 55]


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + AZURE.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    assert read_rows(detect(path), path).size.tolist() == [374, 396, 879]


def test_two_gzip_members_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"1\n2\n") + gzip.compress(b"3\n"))
    assert list(open_text(path)) == ["1", "2", "3"]
    assert read_counts(detect(path), path).count.tolist() == [1, 2, 3]


def test_two_zstandard_frames_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"1\n2\n") + zstandard.compress(b"3\n"))
    assert list(open_text(path)) == ["1", "2", "3"]


def test_numbers_alone_are_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "rates.txt", "157\n0\n158\n")
    assert detect(path).info(path) == TraceInfo("counts", "counts", 1.0)
    found = read_counts(detect(path), path)
    assert found.at_ns.tolist() == [0, SECOND, 2 * SECOND]
    assert found.count.tolist() == [157, 0, 158]
    assert CountsReader(bin_s=60).info(path).bin_s == 60


@pytest.mark.parametrize(
    ("first", "second", "bin_s", "start"),
    [
        ("1998-04-30T21:30", "1998-04-30T21:31", 60, 893971800),
        ("1998-04-30 21:30:00+02:00", "1998-04-30 21:30:01+02:00", 1, 893964600),
        ("1998-04-30T21:30:00Z", "1998-04-30T22:30:00Z", 3600, 893971800),
        ("1998-04-30T21", "1998-04-30T22", 3600, 893970000),
        ("1998-04-30", "1998-05-01", 86400, 893894400),
        ("893971800", "893971860", 60, 893971800),
        ("0.5", "1.5", 1, 0.5),
    ],
)
def test_times_of_counts(tmp_path: Path, first: str, second: str, bin_s: float, start: float) -> None:
    path = write(tmp_path / "counts.csv", f"when,requests\n{first},2\n{second},11\n")
    assert detect(path).info(path) == TraceInfo("counts", "counts", bin_s)
    found = read_counts(detect(path), path)
    assert found.at_ns.tolist() == [int(start * SECOND), int((start + bin_s) * SECOND)]
    assert found.service.tolist() == ["*", "*"]


def test_blank_lines_are_missing_seconds_but_mean_nothing_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rates.txt", "5\n\n\n6\n\n")
    for chunk in (1, 2, 3, 100):
        monkeypatch.setattr("partita.traces.files.CHUNK_BYTES", chunk)
        found = read_counts(detect(path), path)
        assert (found.at_ns // SECOND).tolist() == [0, 3]
        assert found.count.tolist() == [5, 6]


def test_missing_bins_and_empty_fields_have_no_entry(tmp_path: Path) -> None:
    # Minutes 1 and 3 are absent or empty, minute 2 has no request: only the last is a count of 0.
    path = write(tmp_path / "counts.csv", "minute,requests\n0,5\n60,\n120,0\n240,7\n300,1\n")
    found = read_counts(detect(path), path)
    assert (found.at_ns // SECOND).tolist() == [0, 120, 240, 300]
    assert found.count.tolist() == [5, 0, 7, 1]


def test_each_count_column_is_a_service(tmp_path: Path) -> None:
    path = write(tmp_path / "counts.csv", 'hour,views,"bytes, sent"\n2008-10-01T00,1,10\n2008-10-01T01,,20\n')
    found = read_counts(detect(path), path)
    assert list(zip(found.service.tolist(), found.count.tolist(), strict=True)) == [
        ("views", 1),
        ("bytes, sent", 10),
        ("bytes, sent", 20),
    ]


def test_servegen_counts_and_laws(tmp_path: Path) -> None:
    path = write(tmp_path / "rates.csv.gz", SERVEGEN)
    assert detect(path).info(path) == TraceInfo("servegen", "counts", 600.0)
    found = read_counts(detect(path), path)
    # 1.2499999 x 600 = 750 - 0.00006, and 0.01 x 600 = 6; an empty rate is 0. Ordered by window, then as in the file.
    rows = zip(found.at_ns // SECOND, found.service, found.count, found.law, found.shape, strict=True)
    assert [tuple(r) for r in rows] == [
        (0, "m-mid/0", 0, "poisson", 1.0),
        (0, "m-small/7", 750, "weibull", 0.5),
        (600, "m-mid/0", 6, "gamma", 0.25),
        (600, "m-small/7", 300, "poisson", 1.0),
    ]


def test_our_csv_of_requests_and_of_counts(tmp_path: Path) -> None:
    requests = write(tmp_path / "r.csv", "ts,service,size,output_size\n1970-01-01T00:00:01.000000007,a,3,\n2.5,b,4,1\n")
    block = read_rows(detect(requests), requests)
    assert block.at_ns.tolist() == [SECOND + 7, 2_500_000_000]
    assert np.isnan(block.output_size[0])
    assert block.output_size[1] == 1
    counts = write(tmp_path / "c.csv", "ts,service,count,bin_s\n0,a,3,10\n0,b,4,10\n10,a,,10\n")
    assert detect(counts).info(counts) == TraceInfo("csv", "counts", 10.0)
    assert read_counts(detect(counts), counts).count.tolist() == [3, 4]


def test_parquet_made_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    ts = pl.Series([5, 6]).cast(pl.Datetime("us", "UTC"))
    pl.DataFrame({"ts": ts, "service": pl.Series(["a", "b"]).cast(pl.Categorical), "extra": [1, 2]}).write_parquet(path)
    block = read_rows(detect(path), path)
    assert block.at_ns.tolist() == [5000, 6000]
    assert block.service.tolist() == ["a", "b"]
    assert np.isnan(block.size).all()


def test_a_format_can_be_forced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", AZURE)
    assert isinstance(detect(path, forced="counts"), CountsReader)


def test_the_readers_are_told_apart() -> None:
    kinds: list[type] = [ParquetReader, TableCsvReader, AzureLlmReader, ServeGenReader]
    kinds += [SpendLogsReader, MooncakeReader, RequestLogReader, CountsReader]
    assert [type(r) for r in READERS] == kinds
    assert len({r.name for r in READERS}) == len(READERS)


def test_a_file_longer_than_a_chunk_is_read_in_blocks_with_the_right_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partita.traces.files.CHUNK_BYTES", 64)
    lines = [f"{60 * k},{k}" for k in range(100)]
    path = write(tmp_path / "counts.csv.gz", "time,n\n" + "\n".join(lines))
    seen: list[tuple[int, int]] = []
    with watch_reading(lambda done, total: seen.append((done, total))):
        blocks = list(detect(path).blocks(path))
    assert len(blocks) > 5
    assert np.concatenate([b.at_ns for b in blocks]).tolist() == [60 * k * SECOND for k in range(100)]
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
