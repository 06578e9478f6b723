"""Partita's own trace tables, as Parquet or CSV: one row a request, or one row a bin.

Requests have the columns ts, service, size, output_size; counts have ts, service, count, bin_s, law, shape. Sizes, law
and shape may be missing. `bin_s` is the same in every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from partita.errors import TraceError
from partita.ports import Counts, Rows, TraceInfo
from partita.traces.csv_blocks import Block, read_csv_blocks, split_header
from partita.traces.draw import LAWS
from partita.traces.files import PARQUET_MAGIC, read_head, report_reading
from partita.traces.order import RisingTimes

ROW_COLUMNS = ("ts", "service", "size", "output_size")
COUNT_COLUMNS = ("ts", "service", "count", "bin_s", "law", "shape")
METADATA_KEY, VERSION = "partita.trace", "1"
ROWS_AT_ONCE = 1 << 17


def kind_of(names: Sequence[str], path: Path) -> str:
    """Say whether a table with these columns holds "requests" or "counts"; TraceError for a missing column."""
    need = ("ts", "service", "count", "bin_s") if "count" in names else ("ts", "service")
    for name in need:
        if name not in names:
            raise TraceError(f"the column {name} is missing (found: {', '.join(names)})", file=str(path), row=1)
    return "counts" if "count" in names else "requests"


def to_block(columns: Block, info: TraceInfo, rising: RisingTimes) -> Rows | Counts:
    """Turn a block of a table into a block of a trace; TraceError names the row that is wrong."""
    at_ns, service, names = columns.times("ts"), columns.text("service"), columns.columns.columns
    rising.check(at_ns, columns, "ts")
    if info.kind == "requests":
        sizes = [
            columns.numbers(name, empty=np.nan) if name in names else np.full(len(columns), np.nan)
            for name in ("size", "output_size")
        ]
        return Rows(at_ns, service, *(s.astype(np.float32) for s in sizes))
    if (other := columns.numbers("bin_s") != info.bin_s).any():
        raise columns.fail(f"all bins must be {info.bin_s} s wide", int(np.argmax(other)), "bin_s")
    count = columns.counts("count")
    law = columns.text("law") if "law" in names else np.full(len(columns), "poisson", object)
    if (unknown := ~np.isin(law.astype(str), LAWS)).any():
        at = int(np.argmax(unknown))
        raise columns.fail(f"{law[at]!r} is not one of {', '.join(LAWS)}", at, "law")
    shape = columns.numbers("shape", empty=1.0) if "shape" in names else np.ones(len(columns))
    if (small := shape <= 0).any():
        at = int(np.argmax(small))
        raise columns.fail(f"{shape[at]:g} is not above 0", at, "shape")
    given = count >= 0
    return Counts(at_ns[given], service[given], count[given], law[given], shape[given])


class TableCsvReader:
    """Reads our own tables as CSV."""

    name = "csv"

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the header begins with ts and service."""
        return split_header(head.partition("\n")[0])[:2] == ["ts", "service"]

    def info(self, path: Path) -> TraceInfo:
        """Describe the file; TraceError if its header lacks a column."""
        lines = read_head(path).splitlines()
        names = split_header(lines[0]) if lines else []
        kind = kind_of(names, path)
        if kind == "requests":
            return TraceInfo(self.name, kind)
        first = dict(zip(names, split_header(lines[1]) if len(lines) > 1 else [], strict=False))
        return TraceInfo(self.name, kind, _width_s(first.get("bin_s"), path, row=2))

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the file's rows."""
        info, rising = self.info(path), RisingTimes()
        for block in read_csv_blocks(path):
            yield to_block(block, info, rising)


class ParquetReader:
    """Reads our own tables as Parquet."""

    name = "parquet"

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the file begins as Parquet does."""
        with path.open("rb") as file:
            return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC

    def info(self, path: Path) -> TraceInfo:
        """Describe the file; TraceError if a column is missing or of the wrong type, or its version is not known."""
        schema = _schema(path)
        kind = kind_of(list(schema), path)
        if kind == "requests":
            return TraceInfo(self.name, kind)
        first = pl.scan_parquet(path).select("bin_s").head(1).collect()
        return TraceInfo(self.name, kind, _width_s(first["bin_s"][0] if len(first) else None, path, row=1))

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the file's rows, some row groups at a time."""
        info = self.info(path)
        names = [name for name in _schema(path) if name in ROW_COLUMNS + COUNT_COLUMNS]
        rows, size, row, rising = _rows(path), path.stat().st_size, 1, RisingTimes()
        frames = pl.scan_parquet(path).select(names).collect_batches(chunk_size=ROWS_AT_ONCE, maintain_order=True)
        for frame in frames:
            yield to_block(_ParquetBlock(path, row, frame), info, rising)
            row += frame.height
            report_reading(size * row // (rows + 1), size)


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
    for name in schema.keys() & {*ROW_COLUMNS, *COUNT_COLUMNS}:
        found = schema[name]
        match name:
            case "ts":
                right, what = isinstance(found, pl.Datetime), "a timestamp"
            case "service" | "law":
                right, what = isinstance(found, _TEXT), "text"
            case _:
                right, what = found.is_numeric(), "a number"
        if not right:
            raise TraceError(f"must be {what}, not {found}", file=str(path), column=name)
    return schema


def _rows(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


def _width_s(given: object, path: Path, *, row: int) -> float:
    try:
        width = float(str(given))
    except ValueError:
        width = 0.0
    if not 0.0 < width < np.inf:
        raise TraceError(f"{given!r} is not the width of a bin", file=str(path), row=row, column="bin_s")
    return width
