"""What is wrong with a trace is said in one sentence that names file, row, column and value."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zstandard

from partita.errors import ConfigError, PluginError, TraceError
from partita.ports import Counts, Rows, TraceInfo, TraceReader
from partita.traces import READERS, detect
from partita.traces.services import ServiceMap
from partita.traces.summary import open_arrivals, summarise
from partita.traces.writers import write_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = [f"2023-11-16 18:15:{s:02d}.5,{s},1" for s in range(30)]


def read(path: Path) -> TraceError:
    with pytest.raises(TraceError) as caught:
        summarise(detect(path), path)
    assert "\n" not in str(caught.value)
    assert caught.value.file == str(path)
    assert caught.value.exit_code == 2
    return caught.value


def azure(tmp_path: Path, lines: list[str], header: str = HEADER) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(header + "\n".join(lines) + "\n")
    return path


def with_row_17(line: str) -> list[str]:
    # Line 1 is the header, so line 17 of the file is the 16th request.
    return [*GOOD[:15], line, *GOOD[16:]]


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in str(read(tmp_path / "absent.csv"))


def test_folder(tmp_path: Path) -> None:
    assert "cannot be read" in str(read(tmp_path))


@pytest.mark.parametrize("name", ["empty.csv", "empty.csv.gz", "empty.csv.zst"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    packed = {".gz": gzip.compress(b""), ".zst": zstandard.compress(b"")}.get(path.suffix, b"")
    path.write_bytes(packed)
    assert "the file is empty" in str(read(path))


def test_header_alone(tmp_path: Path) -> None:
    assert "holds no requests" in str(read(azure(tmp_path, [])))


def noise(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_cut_off_file(tmp_path: Path, suffix: str) -> None:
    # Digits at random do not pack well, so the cut lies far behind what detection looks at.
    text = HEADER + "\n".join(f"2023-11-16 18:15:00,{n},1" for n in noise(1, 300_000))
    packed = gzip.compress(text.encode()) if suffix == ".gz" else zstandard.compress(text.encode())
    path = tmp_path / f"trace.csv{suffix}"
    path.write_bytes(packed[: len(packed) * 9 // 10])
    assert "damaged or cut off" in str(read(path))


def test_cut_off_at_once(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(HEADER.encode())[:20])
    assert "damaged or cut off" in str(read(path))


def test_flipped_bytes_inside_gzip(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress((HEADER + "\n".join(GOOD * 1000)).encode()))
    packed[len(packed) // 2] ^= 0xFF
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(packed)
    read(path)


@pytest.mark.parametrize("name", ["noise.csv", "noise.csv.gz", "noise.csv.zst", "noise.parquet"])
def test_random_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(noise(2, 100_000))
    assert "compressed" in str(read(path)) or "neither text nor Parquet" in str(read(path))


def test_random_bytes_after_the_magic_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    path.write_bytes(b"PAR1" + noise(3, 1000))
    assert "cannot be read as Parquet" in str(read(path))


def test_binary_after_good_rows(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(HEADER.encode() + b"2023-11-16 18:15:00,1,1\n" * 5000 + b"\xff\xfe,\xff,1\n")
    assert read(path).row == 5002


def test_unknown_text(tmp_path: Path) -> None:
    path = tmp_path / "letter.csv"
    path.write_text("name,city\nAda,London\n")
    assert "its format is not known" in str(read(path))


def test_unknown_format_forced(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no format 'nonsense'; known are parquet, csv"):
        detect(tmp_path / "any", forced="nonsense")


@pytest.mark.parametrize(
    ("line", "column", "value"),
    [
        ("2023-11-16 18:15:15.5,many,1", "ContextTokens", "'many'"),
        ("2023-11-16 18:15:15.5,inf,1", "ContextTokens", "'inf'"),
        ("2023-11-16 18:15:15.5,,1", "ContextTokens", "the field is empty"),
        ("2023-11-16 18:75:15.5,15,1", "TIMESTAMP", "'2023-11-16 18:75:15.5'"),
        ("2023-11-16 18:15:15.5,15", None, "2 fields, not 3"),
        ("2023-11-16 18:15:15.5,15,1,9", None, "4 fields, not 3"),
        ('2023-11-16 18:15:15.5,"15,1', None, "has a quote that is not closed"),
        ('2023-11-16 18:15:15.5,15,"1', None, "has a quote that is not closed"),
        ("", None, "0 fields, not 3"),
    ],
)
def test_broken_row_17(tmp_path: Path, line: str, column: str | None, value: str) -> None:
    error = read(azure(tmp_path, with_row_17(line)))
    assert (error.row, error.column) == (17, column)
    assert value in str(error)


def test_broken_row_is_counted_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partita.traces.files.CHUNK_BYTES", 100)
    assert read(azure(tmp_path, with_row_17("2023-11-16 18:15:15.5,x,1"))).row == 17


def test_missing_column(tmp_path: Path) -> None:
    path = azure(tmp_path, ["2023-11-16 18:15:15.5,15"], "TIMESTAMP,ContextTokens\n")
    error = read(path)
    assert "the column GeneratedTokens is missing" in str(error)
    assert error.row == 1


def test_timestamps_out_of_order(tmp_path: Path) -> None:
    error = read(azure(tmp_path, with_row_17("2023-11-16 18:15:13.9,15,1")))
    assert (error.row, error.column) == (17, "TIMESTAMP")
    assert "'2023-11-16 18:15:13.9' is earlier than the row before" in str(error)


def test_timestamps_out_of_order_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partita.traces.files.CHUNK_BYTES", 30)
    assert read(azure(tmp_path, with_row_17("2023-11-16 18:15:13.9,15,1"))).row == 17


@pytest.mark.parametrize(
    ("text", "row", "column", "said"),
    [
        ("m,n\n0,1\n60,2\n60,3\n", 4, "m", "'60' is not later than the row before"),
        ("m,n\n0,1\n60,2\n30,3\n", 4, "m", "'30' is not later"),
        ("m,n\n0,1\n60,2\n90,3\n150,1\n210,1\n", 4, "m", "begins before the one before it ends"),
        ("m,n\n0,1\n60,2\n120,3\n179,1\n240,1\n", 5, "m", "begins before the one before it ends"),
        ("m,n\n0,1\n60,2.5\n", 3, "n", "'2.5' is not a whole number of requests"),
        ("m,n\n0,1\n60,-2\n", 3, "n", "'-2' is not a whole number of requests"),
        ("m,n\n0,1\n60,1e300\n", 3, "n", "'1e300' is not a whole number of requests"),
        ("m,n\n0,1\n60,1\n,2\n", 4, "m", "the field is empty"),
        ("m,n\n0,1\n", None, None, "give --bin"),
        ("m,n\n0,1\n60,1\n\n120,1\n", 4, None, "0 fields, not 2"),
        ("1\n2\nx\n", 3, "count", "'x' is not a number"),
        ("m,n,n\n0,1,1\n60,1,1\n", 1, None, "two columns have the same name"),
        ("m,n\n2000-01-01,1\n2000-01-02,1\n2300-01-01,1\n", 4, "m", "'2300-01-01' is not a time"),
        ("m,n\n0,1\n60,1\n1700000000000,1\n", 4, "m", "'1700000000000' is not a time"),
    ],
)
def test_bad_counts(tmp_path: Path, text: str, row: int | None, column: str | None, said: str) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(text)
    error = read(path)
    assert (error.row, error.column) == (row, column)
    assert said in str(error)


@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        ("m,0,600,1,1,Gamma,0.5,1", "t", "window 600 of client m/0 is not later"),
        ("m,0,1100,1,1,Gamma,0.5,1", "t", "'1100' is not a multiple of 600 s"),
        ("m,0,1200,-1,1,Gamma,0.5,1", "rate", "'-1' is too small"),
        ("m,0,1200,1,1,Gamma,0,1", "p1", "'0' is too small"),
        ("m,0,1200,1,1,Pareto,0.5,1", "pat", "'Pareto' is not Gamma or Weibull"),
        (",0,1200,1,1,Gamma,0.5,1", "model", "the field is empty"),
    ],
)
def test_bad_servegen(tmp_path: Path, line: str, column: str, said: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(f"model,client,t,rate,cv,pat,p1,p2\nm,0,0,,,,,\nm,0,600,1,1,Gamma,0.5,1\n{line}\n")
    error = read(path)
    assert (error.row, error.column) == (4, column)
    assert said in str(error)


@pytest.mark.parametrize(
    ("text", "row", "column", "said"),
    [
        ("ts,service,count\n0,a,1\n", 1, None, "the column bin_s is missing"),
        ("ts,service,count,bin_s\n0,a,1,x\n", 2, "bin_s", "'x' is not the width of a bin"),
        ("ts,service,count,bin_s\n0,a,1,10\n10,a,1,20\n", 3, "bin_s", "all bins must be 10.0 s wide"),
        ("ts,service,count,bin_s,law,shape\n0,a,1,10,cauchy,1\n", 2, "law", "'cauchy' is not one of even"),
        ("ts,service,count,bin_s,law,shape\n0,a,1,10,gamma,0\n", 2, "shape", "0 is not above 0"),
        ("ts,service,size\n0,a,1\n0,,1\n", 3, "service", "the field is empty"),
        ("ts,service,size\n1,a,1\n0,a,1\n", 3, "ts", "'0' is earlier than the row before"),
    ],
)
def test_bad_table(tmp_path: Path, text: str, row: int, column: str | None, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    error = read(path)
    assert (error.row, error.column) == (row, column)
    assert said in str(error)


def parquet(path: Path, **columns: pl.Series) -> Path:
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_bad_parquet(tmp_path: Path) -> None:
    ts, names = pl.Series([5, 4]).cast(pl.Datetime("ns")), pl.Series(["a", "b"])
    assert read(parquet(tmp_path / "a.parquet", ts=ts, service=names)).row == 2
    assert "must be a timestamp, not Int64" in str(
        read(parquet(tmp_path / "b.parquet", ts=ts.cast(int), service=names))
    )
    assert "column service is missing" in str(read(parquet(tmp_path / "c.parquet", ts=ts)))
    error = read(parquet(tmp_path / "d.parquet", ts=ts.sort(), service=pl.Series(["a", None])))
    assert (error.row, error.column) == (2, "service")
    pl.DataFrame({"ts": ts, "service": names}).write_parquet(tmp_path / "e.parquet", metadata={"partita.trace": "9"})
    assert "has version 9 of our table format, this program knows 1" in str(read(tmp_path / "e.parquet"))
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "f.parquet").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as Parquet" in str(read(tmp_path / "f.parquet"))


class OddReader:
    name = "odd"

    def __init__(self, block: object) -> None:
        self.block = block

    def recognises(self, path: Path, head: str) -> bool:
        raise KeyError("oops")

    def info(self, path: Path) -> TraceInfo:
        return TraceInfo("odd", "requests")

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        if isinstance(self.block, Exception):
            raise self.block
        yield self.block  # type: ignore[misc]
        if isinstance(self.block, Rows):
            yield replace(self.block, at_ns=self.block.at_ns - 1)


ints, words, floats = np.array([2, 1]), np.array(["a", "b"], object), np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (RuntimeError("boom"), "boom"),
        ("text", "str is neither Rows nor Counts"),
        (Rows(ints, words, floats, floats), "time goes backwards"),
        (Rows(ints[::-1], words, floats, floats), "time goes backwards"),
        (Rows(ints[:1], words, floats, floats), "its columns differ in length"),
        (Rows(ints.astype(float), words, floats, floats), "at_ns is float64, not int64"),
        (Counts(ints[::-1], words, -ints, words, floats), "a count is negative"),
    ],
)
def test_a_foreign_reader_that_misbehaves(tmp_path: Path, block: object, said: str) -> None:
    reader: TraceReader = OddReader(block)
    with pytest.raises(PluginError, match=f"plugin odd, hook register_trace_readers: .*{said}"):
        summarise(reader, tmp_path)
    path = azure(tmp_path, GOOD)
    with pytest.raises(PluginError, match=r"odd.*looking at .*oops"):
        detect(path, (reader, *READERS))


def test_bounds_that_are_no_instants_or_hold_nothing(tmp_path: Path) -> None:
    path = azure(tmp_path, GOOD)
    with pytest.raises(ConfigError, match=r"trace\.from: 'soon' is not an instant"):
        open_arrivals(detect(path), path, ServiceMap(), begin="soon")
    with pytest.raises(TraceError, match="holds no requests in the part asked for"):
        open_arrivals(detect(path), path, ServiceMap(), begin="1h")
    with pytest.raises(ConfigError, match="speed"):
        open_arrivals(detect(path), path, ServiceMap(), speed=0)


def test_mapping_to_a_service_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"unknown service \(known: a, b\)"):
        ServiceMap({"*": "c"}, ["a", "b"])


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    def broken() -> Iterator[Rows]:
        yield Rows(np.array([1]), np.array(["a"], object), floats[:1], floats[:1])
        raise TraceError("the source is gone", file="source")

    for name in ("t.parquet", "t.csv", "t.csv.gz", "t.csv.zst"):
        with pytest.raises(TraceError, match="the source is gone"):
            write_trace(tmp_path / name, broken())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TraceError, match=r"must end in one of \.parquet"):
        write_trace(tmp_path / "t.xlsx", broken())
    with pytest.raises(TraceError, match="folder does not exist"):
        write_trace(tmp_path / "absent" / "t.csv", broken())
