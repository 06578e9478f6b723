"""Tables of measured latencies: what is read, what is refused, and the curves that come of it."""

from __future__ import annotations

import gzip
import os
from math import inf
from pathlib import Path

import polars as pl
import pytest

from partita.errors import ConfigError, TraceError
from partita.model.service import Bucket, LatencyCurve, label
from partita.traces.latency_tables import Measurement, read_latency_table

REFERENCE = "PARTITA_REFERENCE_DIR"
needs_reference = pytest.mark.skipif(REFERENCE not in os.environ, reason=f"{REFERENCE} is not set")

OWN = """\
model,profile,gpu_percent,bucket,batch,latency_ms
a,whole,,128,1,10
a,whole,,128,4,16
a,whole,,512,1,20
a,whole,,512,4,oom
a,whole,50,512,1,31
b,3g.40gb,,,2,5
"""


def written(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_a_row_of_our_own_format_in_each_kind_of_file(tmp_path: Path) -> None:
    plain = read_latency_table(written(tmp_path, OWN))
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress(OWN.encode()))
    parquet = tmp_path / "table.parquet"
    pl.read_csv(tmp_path / "table.csv", schema_overrides={"latency_ms": pl.String}).write_parquet(parquet)
    assert plain.models() == ("a", "b")
    assert Measurement("a", "whole", 50.0, 512.0, 1, 100.0, 1, 0.031) in plain.rows
    assert plain.rows == read_latency_table(packed).rows == read_latency_table(parquet).rows


def test_curves_by_bucket_and_share_end_before_what_failed(tmp_path: Path) -> None:
    table = read_latency_table(written(tmp_path, OWN))
    assert table.curves("a").curves == (
        LatencyCurve("whole", ((1, 0.031),), Bucket(128, 512), 50.0),
        LatencyCurve("whole", ((1, 0.010), (4, 0.016)), Bucket(0, 128)),
        LatencyCurve("whole", ((1, 0.020),), Bucket(128, 512)),
    )
    assert table.curves("b").curves == (LatencyCurve("3g.40gb", ((2, 0.005),)),)
    # One bucket only: it then begins at 0.
    assert [c.bucket for c in table.curves("a", buckets=[512]).curves] == [Bucket(0, 512)] * 2


@pytest.mark.parametrize(("unit", "value"), [("ms", 12.5), ("s", 0.0125), ("us", 12500)])
def test_units_become_seconds(tmp_path: Path, unit: str, value: float) -> None:
    table = read_latency_table(written(tmp_path, f"batch,latency_{unit}\n1,{value}\n", "net.csv"))
    [curve] = table.curves().curves
    assert curve.latency_s(1) == pytest.approx(0.0125)
    assert table.models() == ("net",)


@pytest.mark.parametrize("failed", ["", "0", "oom", "OOM", "failed", "nan", "0.0"])
def test_nothing_is_interpolated_across_a_failure(tmp_path: Path, failed: str) -> None:
    text = f"batch,latency_ms\n16,40\n1,10\n2,12\n4,{failed}\n8,20\n"
    curves = read_latency_table(written(tmp_path, text, "net.csv")).curves()
    assert curves.curves == (LatencyCurve("whole", ((1, 0.010), (2, 0.012))),)
    assert curves.curves[0].latency_s(3) == inf
    assert curves.remarks == ("net on whole: batch 4 failed, so batch 8, 16 beyond it is left out",)


def test_a_latency_that_falls_is_raised_and_said(tmp_path: Path) -> None:
    text = "batch,latency_ms\n1,10\n2,9\n4,9.5\n8,12\n"
    curves = read_latency_table(written(tmp_path, text, "net.csv")).curves()
    assert curves.curves[0].points == ((1, 0.010), (2, 0.010), (4, 0.010), (8, 0.012))
    assert curves.remarks == (
        "net on whole: batch 2 took 9 ms, less than batch 1: raised to its 10 ms",
        "net on whole: batch 4 took 9.5 ms, less than batch 2: raised to its 10 ms",
    )


PARVA = """\
Mig instance,Batch size,Workload Number,Throughput,Latency
1,1,1,200,0.005
1,2,1,250,0.008
1,4,1,0,0
7,1,1,250,0.004
7,1,2,125,0.008
"""


def test_parvagpu_slices_become_profiles_and_latency_is_batch_over_throughput(tmp_path: Path) -> None:
    table = read_latency_table(written(tmp_path, PARVA.replace("\n", "\r\n"), "net.csv"))
    assert (table.format, table.models(), table.processes()) == ("parvagpu", ("net",), (1, 2))
    assert table.curves().curves == (
        LatencyCurve("1g.10gb", ((1, 1 / 200), (2, 2 / 250))),
        LatencyCurve("7g.80gb", ((1, 1 / 250),)),
    )
    assert table.curves(processes=2).curves == (LatencyCurve("7g.80gb", ((1, 1 / 125),)),)


HAS = """\
model,sm_pct,time_quota_pct,batch,latency_ms
n,50,100,1,20
n,50,100,2,22
n,100,100,1,12
n,100,50,1,25
"""


def test_hasgpu_shares_become_gpu_percents(tmp_path: Path) -> None:
    table = read_latency_table(written(tmp_path, HAS))
    assert (table.format, table.time_quotas_percent()) == ("hasgpu", (50.0, 100.0))
    assert {label(c.profile, c.gpu_percent): c.points for c in table.curves("n").curves} == {
        "whole@50%": ((1, 0.020), (2, 0.022)),
        "whole": ((1, 0.012),),
    }
    assert table.curves("n", time_quota_percent=50).curves == (LatencyCurve("whole", ((1, 0.025),)),)


PROBLEMS = {
    "no batch": ("size,latency_ms\n1,1\n", "row 1: the column batch is missing (found: size, latency_ms)"),
    "no latency": ("batch\n1\n", "the column latency_ms, latency_s or latency_us is missing"),
    "two latencies": ("batch,latency_ms,latency_s\n1,1,1\n", "must be one, not latency_ms and latency_s"),
    "unknown column": ("batch,latency_ms,sms\n1,1,1\n", "the column 'sms' is not known; known are batch, bucket, "),
    "two alike": ("batch,batch,latency_ms\n1,1,1\n", "row 1: there are two columns 'batch'"),
    "no number": ("batch,latency_ms\n1,fast\n", "row 2, column latency_ms: 'fast' is no latency (empty, 0, oom or"),
    "negative": ("batch,latency_ms\n1,-4\n", "row 2, column latency_ms: '-4' is no latency"),
    "half a batch": ("batch,latency_ms\n1,1\n2.5,3\n", "row 3, column batch: 2.5 is no whole number"),
    "no batch size": ("batch,latency_ms\n,1\n", "row 2, column batch: '' is no number above 0"),
    "too much": ("batch,gpu_percent,latency_ms\n1,101,1\n", "row 2, column gpu_percent: 101 is above 100"),
    "twice": ("batch,latency_ms\n1,1\n2,2\n1,3\n", "row 4: measures the same as row 2"),
    "short row": ("batch,latency_ms\n1\n", "row 2: has 1 fields, the header has 2"),
    "nothing": ("batch,latency_ms\n", "holds no measurements"),
    "empty": ("", "the file is empty"),
    "slices": (PARVA.replace("7,1,1", "5,1,1"), "row 5, column Mig instance: no profile has 5 compute slices, only 1,"),
}


@pytest.mark.parametrize(("text", "sentence"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(TraceError) as problem:
        read_latency_table(written(tmp_path, text))
    assert sentence in str(problem.value)
    assert str(problem.value).startswith(str(tmp_path / "table.csv"))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        read_latency_table(tmp_path / "nowhere.csv")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(TraceError, match="cannot be read as Parquet"):
        read_latency_table(tmp_path / "bad.parquet")
    with pytest.raises(TraceError, match="there is no format 'csv'; known are parvagpu, hasgpu, partita"):
        read_latency_table(written(tmp_path, OWN), format="csv")
    with pytest.raises(TraceError, match="the column sm_pct is missing"):
        read_latency_table(written(tmp_path, OWN), format="hasgpu")


def test_what_a_table_does_not_hold_is_said(tmp_path: Path) -> None:
    table = read_latency_table(written(tmp_path, OWN))
    with pytest.raises(ConfigError, match="holds several models: choose one of a, b"):
        table.curves()
    with pytest.raises(ConfigError, match="holds no model 'c': choose one of a, b"):
        table.curves("c")
    with pytest.raises(ConfigError, match="was not measured with processes 2"):
        table.curves("a", processes=2)
    with pytest.raises(ConfigError, match="not measured for the bucket 256; there are 128, 512"):
        table.curves("a", buckets=[256])
    dead = read_latency_table(written(tmp_path, "batch,latency_ms\n1,oom\n", "dead.csv"))
    with pytest.raises(ConfigError, match="no batch of dead ran"):
        dead.curves()


@needs_reference
def test_the_published_parvagpu_tables() -> None:
    """Every row is read; resnet50 on one slice: 1 / 196.762 a second, and out of memory beyond 64 at one process."""
    folder = Path(os.environ[REFERENCE]) / "profiles" / "parvagpu_a100" / "prof_data"
    tables = {path.stem: read_latency_table(path) for path in sorted(folder.glob("*.csv"))}
    assert len(tables) == 11
    assert sum(len(table.rows) for table in tables.values()) == 2475
    failed = sum(row.latency_s is None for table in tables.values() for row in table.rows)
    assert failed == 728
    first = next(c for c in tables["resnet50"].curves().curves if c.profile == "1g.10gb")
    assert first.latency_s(1) == pytest.approx(1 / 196.762)
    assert first.latency_s(first.max_batch + 1) == inf
    for table in tables.values():
        for processes in table.processes():
            for curve in table.curves(processes=processes).curves:
                rows = [r for r in table.rows if (r.profile, r.processes) == (curve.profile, processes)]
                assert all(curve.latency_s(r.batch) >= (r.latency_s or 0) - 1e-12 for r in rows)


@needs_reference
def test_the_published_hasgpu_table() -> None:
    path = Path(os.environ[REFERENCE]) / "profiles" / "hasgpu_v100" / "profiles.csv.gz"
    table = read_latency_table(path)
    assert (len(table.rows), len(table.models())) == (3200, 4)
    curves = table.curves("resnet50").curves
    assert sorted(c.gpu_percent for c in curves) == [float(p) for p in range(5, 101, 5)]
    at_20 = next(c for c in curves if c.gpu_percent == 20)
    # As listed: 19.8, 20.9 and 32.0 ms at batches of 1, 4 and 8.
    assert [round(at_20.latency_s(b) * 1e3, 1) for b in (1, 4, 8)] == [19.8, 20.9, 32.0]
