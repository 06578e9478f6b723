"""Partita's own trace tables, as Parquet or CSV: one row a request, or one row a bin.

Requests have the columns ts, service, size, output_size; counts have ts, service, count, bin_s, law, shape. Sizes, law
and shape may be missing. `bin_s` is the same in every row. A table with other names is read through a map of columns,
in which the service, too, may be missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from partita.errors import TraceError
from partita.ports import Counts, Rows, TraceInfo
from partita.traces.azure_llm import ONE_SERVICE
from partita.traces.column_map import OURS, ColumnMap
from partita.traces.csv_blocks import Block, read_csv_blocks, split_header
from partita.traces.draw import LAWS
from partita.traces.files import PARQUET_MAGIC, read_head, report_reading
from partita.traces.order import RisingTimes

METADATA_KEY, VERSION = "partita.trace", "1"
ROWS_AT_ONCE = 1 << 17


def kind_of(names: Collection[str], path: Path) -> str:
    """Say whether a table with these columns holds "requests" or "counts"; TraceError for a missing column."""
    need = ("ts", "service", "count", "bin_s") if "count" in names else ("ts", "service")
    for name in need:
        if name not in names:
            raise TraceError(f"the column {name} is missing (found: {', '.join(names)})", file=str(path), row=1)
    return "counts" if "count" in names else "requests"


def to_block(columns: Block, info: TraceInfo, rising: RisingTimes, shape: TableShape) -> Rows | Counts:
    """Turn a block of a table into a block of a trace; TraceError names the row that is wrong."""
    theirs = shape.columns.theirs
    at_ns = shape.columns.instants(columns)
    service = columns.text(theirs["service"]) if "service" in theirs else np.full(len(columns), ONE_SERVICE, object)
    rising.check(at_ns, columns, theirs["ts"])
    if info.kind == "requests":
        sizes = [
            columns.numbers(theirs[name], empty=np.nan) if name in theirs else np.full(len(columns), np.nan)
            for name in ("size", "output_size")
        ]
        return Rows(at_ns, service, *(s.astype(np.float32) for s in sizes))
    if "bin_s" in theirs and (other := columns.numbers(theirs["bin_s"]) != info.bin_s).any():
        raise columns.fail(f"all bins must be {info.bin_s} s wide", int(np.argmax(other)), theirs["bin_s"])
    return _counts(columns, at_ns, service, theirs)


def _counts(
    columns: Block, at_ns: NDArray[np.int64], service: NDArray[np.object_], theirs: Mapping[str, str]
) -> Counts:
    count = columns.counts(theirs["count"])
    law = columns.text(theirs["law"]) if "law" in theirs else np.full(len(columns), "poisson", object)
    if (unknown := ~np.isin(law.astype(str), LAWS)).any():
        at = int(np.argmax(unknown))
        raise columns.fail(f"{law[at]!r} is not one of {', '.join(LAWS)}", at, theirs["law"])
    shape = columns.numbers(theirs["shape"], empty=1.0) if "shape" in theirs else np.ones(len(columns))
    if (small := shape <= 0).any():
        at = int(np.argmax(small))
        raise columns.fail(f"{shape[at]:g} is not above 0", at, theirs["shape"])
    given = count >= 0
    return Counts(at_ns[given], service[given], count[given], law[given], shape[given])


@dataclass(frozen=True, slots=True)
class TableShape:
    """Where a table has which column, and how wide its bins are if no column says it."""

    columns: ColumnMap
    bin_s: float | None = None

    @classmethod
    def of(cls, names: Sequence[str], path: Path, given: ColumnMap | None, bin_s: float | None) -> TableShape:
        """Find the columns of a table; TraceError if one is missing."""
        if given is None:
            kind_of(names, path)
            return cls(ColumnMap({name: name for name in OURS if name in names}))
        for name in given.theirs.values():
            if name not in names:
                raise TraceError(f"the column {name} is missing (found: {', '.join(names)})", file=str(path), row=1)
        if "count" in given.theirs and "bin_s" not in given.theirs and bin_s is None:
            raise TraceError("counts need the width of their bins; give --bin, or bin_s in --columns", file=str(path))
        return cls(given, bin_s)

    @property
    def kind(self) -> str:
        """Either "requests" or "counts"."""
        return "counts" if "count" in self.columns.theirs else "requests"


class TableCsvReader:
    """Reads our own tables as CSV, and others whose columns are given; `bin_s` is for counts that tell no width."""

    name = "csv"

    def __init__(self, columns: ColumnMap | None = None, bin_s: float | None = None) -> None:
        self.columns, self.bin_s = columns, bin_s

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the header begins with ts and service."""
        return split_header(head.partition("\n")[0])[:2] == ["ts", "service"]

    def info(self, path: Path) -> TraceInfo:
        """Describe the file; TraceError if its header lacks a column."""
        lines = read_head(path).splitlines()
        names = split_header(lines[0]) if lines else []
        shape = TableShape.of(names, path, self.columns, self.bin_s)
        if shape.kind == "requests":
            return TraceInfo(self.name, shape.kind)
        if (column := shape.columns.theirs.get("bin_s")) is None:
            return TraceInfo(self.name, shape.kind, shape.bin_s)
        first = dict(zip(names, split_header(lines[1]) if len(lines) > 1 else [], strict=False))
        return TraceInfo(self.name, shape.kind, _width_s(first.get(column), path, row=2, column=column))

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the file's rows."""
        info, rising = self.info(path), RisingTimes()
        for block in read_csv_blocks(path):
            shape = TableShape.of(block.columns.columns, path, self.columns, self.bin_s)
            yield to_block(block, info, rising, shape)


class ParquetReader:
    """Reads our own tables as Parquet, and others whose columns are given, as in CSV."""

    name = "parquet"

    def __init__(self, columns: ColumnMap | None = None, bin_s: float | None = None) -> None:
        self.columns, self.bin_s = columns, bin_s

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the file begins as Parquet does."""
        with path.open("rb") as file:
            return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC

    def info(self, path: Path) -> TraceInfo:
        """Describe the file; TraceError if a column is missing or of the wrong type, or its version is not known."""
        shape = self._shape(path)
        if shape.kind == "requests":
            return TraceInfo(self.name, shape.kind)
        if (column := shape.columns.theirs.get("bin_s")) is None:
            return TraceInfo(self.name, shape.kind, shape.bin_s)
        first = pl.scan_parquet(path).select(column).head(1).collect()
        width = _width_s(first[column][0] if len(first) else None, path, row=1, column=column)
        return TraceInfo(self.name, shape.kind, width)

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the file's rows, some row groups at a time."""
        info, shape = self.info(path), self._shape(path)
        names = list(dict.fromkeys(shape.columns.theirs.values()))
        rows, size, row, rising = _rows(path), path.stat().st_size, 1, RisingTimes()
        frames = pl.scan_parquet(path).select(names).collect_batches(chunk_size=ROWS_AT_ONCE, maintain_order=True)
        for frame in frames:
            yield to_block(_ParquetBlock(path, row, frame), info, rising, shape)
            row += frame.height
            report_reading(size * row // (rows + 1), size)

    def _shape(self, path: Path) -> TableShape:
        schema = _schema(path)
        shape = TableShape.of(list(schema), path, self.columns, self.bin_s)
        for ours, theirs in shape.columns.theirs.items():
            _check_type(schema[theirs], ours, theirs, shape.columns.unit, path)
        return shape


class _ParquetBlock(Block):
    """Typed columns; the row is counted from 1, since Parquet has no lines."""

    def times(self, column: str) -> NDArray[np.int64]:
        """Return a column of instants as unix nanoseconds."""
        self._refuse(self.columns[column].is_null(), column, "")
        return self.columns[column].dt.epoch("ns").to_numpy()

    def text(self, column: str) -> NDArray[np.object_]:
        """Return a column of names."""
        self._refuse(self.columns[column].is_null(), column, "")
        return self.columns[column].cast(pl.String).to_numpy()

    def numbers(self, column: str, *, empty: float | None = None) -> NDArray[np.float64]:
        """Return a column of numbers."""
        found = self.columns[column].cast(pl.Float64)
        if empty is None:
            self._refuse(~found.is_finite().fill_null(value=False), column, "{value!r} is not a number")
        return found.to_numpy() if empty is None else found.fill_null(empty).to_numpy()


_TEXT = (pl.String, pl.Categorical, pl.Enum)


def _schema(path: Path) -> dict[str, pl.DataType]:
    try:
        schema = dict(pl.read_parquet_schema(path))
        version = pl.read_parquet_metadata(path).get(METADATA_KEY, VERSION)
    except FileNotFoundError:
        raise TraceError("no such file", file=str(path)) from None
    except (pl.exceptions.PolarsError, OSError) as problem:
        reason = str(problem).splitlines()[0]
        raise TraceError(f"cannot be read as Parquet ({reason})", file=str(path)) from None
    if version != VERSION:
        raise TraceError(f"has version {version} of our table format, this program knows {VERSION}", file=str(path))
    return schema


def _check_type(found: pl.DataType, ours: str, theirs: str, unit: str | None, path: Path) -> None:
    match ours:
        case "ts" if unit is None:
            right, what = isinstance(found, pl.Datetime), "a timestamp"
        case "service" | "law":
            right, what = isinstance(found, _TEXT), "text"
        case _:
            right, what = found.is_numeric(), "a number"
    if not right:
        raise TraceError(f"must be {what}, not {found}", file=str(path), column=theirs)


def _rows(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


def _width_s(given: object, path: Path, *, row: int, column: str) -> float:
    try:
        width = float(str(given))
    except ValueError:
        width = 0.0
    if not 0.0 < width < np.inf:
        raise TraceError(f"{given!r} is not the width of a bin", file=str(path), row=row, column=column)
    return width
