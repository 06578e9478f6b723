"""Tables of measured latencies: over profile or GPU%, batch and bucket of input sizes, from CSV or Parquet.

Our own format has a row a measurement and the columns

| column | meaning |
|---|---|
| `batch` | batch size, from 1 |
| `latency_ms`, `latency_s` or `latency_us` | what a batch takes; empty, 0, nan, oom or failed: it does not run |
| `model` | which model; left out: the file's name |
| `profile` | MIG profile; left out or empty: whole |
| `gpu_percent` | share of the profile under MPS; left out or empty: 100 |
| `bucket` | upper edge of the input sizes measured; left out or empty: any size |
| `processes` | MPS processes of the model that ran side by side; left out or empty: 1 |
| `time_quota_percent` | share of the time that was granted; left out or empty: 100 |

in any order. Read besides are the tables of ParvaGPU (github.com/MunQ-Lee/ParvaGPU_SC24: compute slices of an
A100-80GB, samples a second of each process, 0 where a batch did not run) and of HAS-GPU (github.com/KontonGu/HAS-GPU,
its profiles as one table: SM share and time quota in percent, milliseconds).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import inf, isfinite, nan
from pathlib import Path
from typing import NamedTuple

import polars as pl

from partita.errors import ConfigError, TraceError
from partita.model.service import WHOLE_GPU, Bucket, LatencyCurve, label
from partita.traces.files import PARQUET_MAGIC, open_text

UNITS_S = {"latency_ms": 1e-3, "latency_s": 1.0, "latency_us": 1e-6}
FAILED = frozenset({"", "oom", "failed", "fail", "error", "nan", "null", "none", "inf", "n/a"})
"""What a table may say of a batch that did not run, besides 0."""

A100_SLICES = {1: "1g.10gb", 2: "2g.20gb", 3: "3g.40gb", 4: "4g.40gb", 7: "7g.80gb"}
"""Profile of an A100-80GB with so many compute slices."""

MOST_ROWS = 1_000_000


class Measurement(NamedTuple):
    """One row: what a batch takes, None where it does not run; `bucket` is the upper edge of its input sizes."""

    model: str
    profile: str
    gpu_percent: float
    bucket: float
    processes: int
    time_quota_percent: float
    batch: int
    latency_s: float | None


class Curves(NamedTuple):
    """The curves of one model, and a sentence for each thing that was done to the measurements."""

    curves: tuple[LatencyCurve, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """A table as read: sorted by model, profile, share, bucket, processes, quota and batch, each of them once."""

    path: Path
    format: str
    rows: tuple[Measurement, ...]

    def models(self) -> tuple[str, ...]:
        """List the models measured."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    def processes(self) -> tuple[int, ...]:
        """List the numbers of processes measured."""
        return tuple(sorted({row.processes for row in self.rows}))

    def time_quotas_percent(self) -> tuple[float, ...]:
        """List the time quotas measured."""
        return tuple(sorted({row.time_quota_percent for row in self.rows}))

    def only_model(self, model: str | None = None) -> str:
        """Return the model of this name, or the only one there is; ConfigError if that says none or several."""
        models = self.models()
        if model is None and len(models) == 1:
            return models[0]
        if model not in models:
            named = "holds several models" if model is None else f"holds no model {model!r}"
            raise ConfigError(f"{named}: choose one of {_few(models)}", file=str(self.path), key="model", value=model)
        return model

    def curves(
        self,
        model: str | None = None,
        *,
        processes: int = 1,
        time_quota_percent: float = 100.0,
        buckets: Sequence[float] = (),
    ) -> Curves:
        """Return the curves of a model, of these buckets only if some are given; ConfigError if there are none.

        A curve ends before the first batch that failed, whatever ran beyond it. A latency that falls as the batch rises
        is raised to that of the smaller batch.
        """
        model = self.only_model(model)
        chosen = [
            row
            for row in self.rows
            if (row.model, row.processes, row.time_quota_percent) == (model, processes, time_quota_percent)
        ]
        if not chosen:
            counts, quotas = _few(self.processes()), _few(self.time_quotas_percent())
            asked = f"processes {processes}, time quota {time_quota_percent:g} %"
            raise ConfigError(
                f"{model} was not measured with {asked}; there are processes {counts} and time quotas {quotas}",
                file=str(self.path),
            )
        edges = sorted({row.bucket for row in chosen})
        if unknown := [edge for edge in buckets if edge not in edges]:
            raise ConfigError(
                f"{model} was not measured for the bucket {unknown[0]:g}; there are {_few(edges)}", file=str(self.path)
            )
        kept = sorted(buckets or edges)
        ranges = {edge: Bucket(over, edge) for over, edge in pairwise([0.0, *kept])}
        curves, remarks = list[LatencyCurve](), list[str]()
        by_curve = groupby(chosen, key=lambda row: (row.profile, row.gpu_percent, row.bucket))
        for (profile, percent, edge), rows in by_curve:
            if edge not in ranges:
                continue
            points, said = _points(list(rows))
            where = f"{model} on {label(profile, percent)}" + (f" up to size {edge:g}" if edge < inf else "")
            remarks += [f"{where}: {sentence}" for sentence in said]
            if points:
                curves.append(LatencyCurve(profile, points, ranges[edge], percent))
        if not curves:
            raise ConfigError(f"no batch of {model} ran", file=str(self.path))
        return Curves(tuple(curves), tuple(remarks))


def _points(rows: Sequence[Measurement]) -> tuple[tuple[tuple[int, float], ...], list[str]]:
    """Return the points of one curve that can be used, by batch, and what was done to get them."""
    points, remarks = list[tuple[int, float]](), list[str]()
    for n, row in enumerate(rows):
        if row.latency_s is None:
            if beyond := [later.batch for later in rows[n:] if later.latency_s is not None]:
                remarks.append(f"batch {row.batch} failed, so batch {_few(beyond)} beyond it is left out")
            break
        if points and row.latency_s < points[-1][1]:
            before, longer = points[-1]
            text = f"batch {row.batch} took {row.latency_s * 1e3:.4g} ms, less than batch {before}"
            remarks.append(f"{text}: raised to its {longer * 1e3:.4g} ms")
            points.append((row.batch, longer))
        else:
            points.append((row.batch, row.latency_s))
    return tuple(points), remarks


def _few(values: Sequence[object], limit: int = 12) -> str:
    texts = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")


# Reading -------------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """A row with the number it is known by: its line in a CSV file, its place from 1 in a Parquet file."""

    path: Path
    number: int
    cells: Mapping[str, object]

    def text(self, column: str, default: str) -> str:
        return str(self.cells.get(column) or "").strip() or default

    def number_in(self, column: str, default: float | None = None) -> float:
        """Return a number above 0; `default`, if there is one, where the cell is empty or the column is missing."""
        text = str("" if self.cells.get(column) is None else self.cells[column]).strip()
        if not text and default is not None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = nan
        if not (isfinite(value) and value > 0):
            raise TraceError(f"{text!r} is no number above 0", file=str(self.path), row=self.number, column=column)
        return value

    def count(self, column: str, default: float | None = None) -> int:
        value = self.number_in(column, default)
        if value != int(value):
            raise TraceError(f"{value:g} is no whole number", file=str(self.path), row=self.number, column=column)
        return int(value)

    def percent(self, column: str) -> float:
        value = self.number_in(column, 100.0)
        if value > 100.0:
            raise TraceError(f"{value:g} is above 100", file=str(self.path), row=self.number, column=column)
        return value

    def seconds(self, column: str, unit_s: float) -> float | None:
        text = str("" if self.cells.get(column) is None else self.cells[column]).strip().lower()
        if text in FAILED:
            return None
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (isfinite(value) and value >= 0):
            what = f"{text!r} is no latency (empty, 0, oom or failed say that a batch does not run)"
            raise TraceError(what, file=str(self.path), row=self.number, column=column)
        return value * unit_s or None


def _own(row: _Row, name: str) -> Measurement:
    unit = next(column for column in UNITS_S if column in row.cells)
    return Measurement(
        row.text("model", name),
        row.text("profile", WHOLE_GPU),
        row.percent("gpu_percent"),
        row.number_in("bucket", inf),
        row.count("processes", 1),
        row.percent("time_quota_percent"),
        row.count("batch"),
        row.seconds(unit, UNITS_S[unit]),
    )


def _parvagpu(row: _Row, name: str) -> Measurement:
    slices = row.count("Mig instance")
    if slices not in A100_SLICES:
        known = _few(list(A100_SLICES))
        raise TraceError(
            f"no profile has {slices} compute slices, only {known}",
            file=str(row.path),
            row=row.number,
            column="Mig instance",
        )
    batch, throughput = row.count("Batch size"), row.seconds("Throughput", 1.0)
    return Measurement(
        name,
        A100_SLICES[slices],
        100.0,
        inf,
        row.count("Workload Number"),
        100.0,
        batch,
        batch / throughput if throughput else None,  # as `Latency`, which is rounded to whole milliseconds
    )


def _hasgpu(row: _Row, name: str) -> Measurement:
    return Measurement(
        row.text("model", name),
        WHOLE_GPU,
        row.percent("sm_pct"),
        inf,
        1,
        row.percent("time_quota_pct"),
        row.count("batch"),
        row.seconds("latency_ms", 1e-3),
    )


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    columns: tuple[str, ...]
    measurement: Callable[[_Row, str], Measurement]


FORMATS = (
    _Format("parvagpu", ("Mig instance", "Batch size", "Workload Number", "Throughput", "Latency"), _parvagpu),
    _Format("hasgpu", ("sm_pct", "time_quota_pct", "batch", "latency_ms"), _hasgpu),
    _Format("partita", ("batch",), _own),
)
"""The formats that are read, the most particular first."""

OWN_COLUMNS = frozenset(
    {"model", "profile", "gpu_percent", "bucket", "processes", "time_quota_percent", "batch", *UNITS_S}
)


def read_latency_table(path: Path, *, format: str | None = None) -> LatencyTable:
    """Read a table of latencies; TraceError if it cannot be used.

    `format` is one of partita, parvagpu and hasgpu; left out, the columns tell.
    """
    columns, cells = _parquet(path) if _is_parquet(path) else _csv(path)
    found = _choose(path, columns, format)
    name = path.name.partition(".")[0]
    first: dict[Measurement, int] = {}
    rows = []
    for number, row in cells:
        measured = found.measurement(_Row(path, number, row), name)
        key = measured._replace(latency_s=None)
        if key in first:
            raise TraceError(f"measures the same as row {first[key]}", file=str(path), row=number)
        first[key] = number
        rows.append(measured)
    if not rows:
        raise TraceError("holds no measurements", file=str(path))
    return LatencyTable(path, found.name, tuple(sorted(rows, key=lambda row: row[:-1])))


def _choose(path: Path, columns: Sequence[str], forced: str | None) -> _Format:
    names = [f.name for f in FORMATS]
    if forced is not None and forced not in names:
        raise TraceError(f"there is no format {forced!r}; known are {', '.join(names)}", file=str(path))
    fitting = [f for f in FORMATS if set(f.columns) <= set(columns)]
    found = next((f for f in fitting if forced in (None, f.name)), None)
    if found is None:
        needed = next((f.columns for f in FORMATS if f.name == forced), ("batch", "latency_ms"))
        missing = next((c for c in needed if c not in columns), needed[0])
        raise TraceError(f"the column {missing} is missing (found: {_few(columns)})", file=str(path), row=1)
    if found.name == "partita":
        _check_own(path, columns)
    return found


def _check_own(path: Path, columns: Sequence[str]) -> None:
    units = [column for column in columns if column in UNITS_S]
    if len(units) != 1:
        what = "is missing" if not units else f"must be one, not {' and '.join(units)}"
        raise TraceError(f"the column latency_ms, latency_s or latency_us {what}", file=str(path), row=1)
    if unknown := [column for column in columns if column not in OWN_COLUMNS]:
        known = ", ".join(sorted(OWN_COLUMNS))
        raise TraceError(f"the column {unknown[0]!r} is not known; known are {known}", file=str(path), row=1)


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except FileNotFoundError:
        raise TraceError("no such file", file=str(path)) from None
    except OSError as problem:
        raise TraceError(f"cannot be read: {problem.strerror or problem}", file=str(path)) from None


Cells = Iterator[tuple[int, Mapping[str, object]]]


def _csv(path: Path) -> tuple[list[str], Cells]:
    lines = csv.reader(open_text(path))
    header = [name.strip() for name in next(lines, [])]
    if twice := next((name for n, name in enumerate(header) if name in header[:n]), None):
        raise TraceError(f"there are two columns {twice!r}", file=str(path), row=1)

    def cells() -> Cells:
        for number, values in enumerate(lines, 2):
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(header):
                what = f"has {len(values)} fields, the header has {len(header)}"
                raise TraceError(what, file=str(path), row=number)
            _bound(path, number)
            yield number, dict(zip(header, values, strict=True))

    return header, cells()


def _parquet(path: Path) -> tuple[list[str], Cells]:
    try:
        frame = pl.read_parquet(path, n_rows=MOST_ROWS + 1)
    except (pl.exceptions.PolarsError, OSError) as problem:
        raise TraceError(f"cannot be read as Parquet ({str(problem).splitlines()[0]})", file=str(path)) from None
    _bound(path, frame.height)
    return frame.columns, ((number, row) for number, row in enumerate(frame.iter_rows(named=True), 1))


def _bound(path: Path, rows: int) -> None:
    if rows > MOST_ROWS:
        raise TraceError(f"holds more than {MOST_ROWS} rows: it is no table of latencies", file=str(path))
