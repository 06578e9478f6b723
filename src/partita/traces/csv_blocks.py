"""CSV files as a stream of blocks of text columns, every broken row named."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from partita.errors import TraceError
from partita.traces.files import decode, read_chunks
from partita.traces.times import LARGEST_NS, to_ns


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a CSV file, every column as text; `first_row` is the file's line (from 1) of the first one."""

    path: Path
    first_row: int
    columns: pl.DataFrame

    def __len__(self) -> int:
        return self.columns.height

    def fail(self, message: str, at: int, column: str | None = None) -> TraceError:
        """Make the error for the row `at` of this block."""
        return TraceError(message, file=str(self.path), row=self.first_row + at, column=column)

    def text(self, column: str) -> NDArray[np.object_]:
        """Return a column of names; none may be empty."""
        self._refuse(self.columns[column].is_null(), column, "the field is empty")
        return self.columns[column].to_numpy()

    def times(self, column: str) -> NDArray[np.int64]:
        """Return a column of instants as unix nanoseconds; none may be empty."""
        found = to_ns(self.columns[column])
        self._refuse(found.is_null(), column, "{value!r} is not a time")
        return found.to_numpy()

    def numbers(self, column: str, *, empty: float | None = None) -> NDArray[np.float64]:
        """Return a column of finite numbers; an empty field becomes `empty`, or is an error where that is None."""
        raw = self.columns[column]
        found = raw.str.strip_chars().cast(pl.Float64, strict=False)
        wrong = ~found.is_finite().fill_null(value=False)
        if empty is not None:
            wrong &= raw.is_not_null()
            found = found.fill_null(empty)
        self._refuse(wrong, column, "{value!r} is not a number")
        return found.to_numpy()

    def counts(self, column: str) -> NDArray[np.int64]:
        """Return a column of whole numbers of requests; an empty field is missing and becomes -1."""
        found = self.numbers(column, empty=-1.0)
        given = self.columns[column].is_not_null().to_numpy()
        wrong = given & ((found < 0) | (found != np.rint(found)) | (found > LARGEST_NS))
        self._refuse(pl.Series(wrong), column, "{value!r} is not a whole number of requests")
        return found.astype(np.int64)

    def _refuse(self, wrong: pl.Series, column: str, message: str) -> None:
        if wrong.any():
            at = int(np.argmax(wrong.to_numpy()))
            value = self.columns[column][at]
            text = "the field is empty" if value is None else message.format(value=value)
            raise self.fail(text, at, column)


def split_header(line: str) -> list[str]:
    """Split a header line into column names."""
    return [name.strip() for name in next(csv.reader([line]), [])]


def read_csv_blocks(path: Path, *, need: Sequence[str] = (), header: Sequence[str] | None = None) -> Iterator[Block]:
    """Yield the file as blocks of text columns, of about the size of a chunk.

    The first line holds the names unless `header` gives them. TraceError for a missing column of `need` and for a row
    with another number of fields than the header.
    """
    names = list(header) if header is not None else None
    rest, row = b"", 1
    for chunk in read_chunks(path):
        rest += chunk
        # Blank lines wait with the last line: at the end of the file they mean nothing, before a row they do.
        body = rest[: rest.rfind(b"\n") + 1].rstrip(b"\r\n")
        if not body:
            continue
        rest = rest[rest.index(b"\n", len(body)) + 1 :]
        if names is None:
            line, _, body = body.partition(b"\n")
            names, row = _check_header(decode(line, path, 1), path, need), 2
        if body:
            block = _parse(body, names, path, row)
            row += len(block)
            yield block
    if body := rest.rstrip():
        if names is None:
            _check_header(decode(body, path, 1), path, need)
        else:
            yield _parse(body, names, path, row)


def _check_header(line: str, path: Path, need: Sequence[str]) -> list[str]:
    names = split_header(line)
    for name in need:
        if name not in names:
            raise TraceError(f"the column {name} is missing (found: {', '.join(names)})", file=str(path), row=1)
    if len(set(names)) < len(names):
        raise TraceError("two columns have the same name", file=str(path), row=1)
    return names


def _parse(body: bytes, names: Sequence[str], path: Path, row: int) -> Block:
    body = body.removeprefix(b"\xef\xbb\xbf") if row == 1 else body
    lines = body.count(b"\n") + 1
    # Counting separators is far cheaper than parsing twice; only a suspicious block is looked at line by line.
    if body.count(b",") != lines * (len(names) - 1) or b'"' in body or b"\0" in body:
        _check_rows(body, names, path, row)
    # A row of our own before the others, since blank lines at the very beginning would be passed over.
    header = ",".join("x" * len(names)).encode() + b"\n"
    try:
        columns = pl.read_csv(io.BytesIO(header + body), has_header=False, infer_schema=False, new_columns=list(names))
    except pl.exceptions.PolarsError as problem:
        _check_rows(body, names, path, row)
        raise TraceError(f"cannot be read as CSV ({str(problem).splitlines()[0]})", file=str(path), row=row) from None
    return Block(path, row, columns[1:])


def _check_rows(body: bytes, names: Sequence[str], path: Path, row: int) -> None:
    for at, line in enumerate(body.split(b"\n"), start=row):
        text = decode(line, path, at)
        try:
            found = len(next(csv.reader([text], strict=True), []))
        except csv.Error:
            raise TraceError(f"{text[:80]!r} has a quote that is not closed", file=str(path), row=at) from None
        if found != len(names) and (text or len(names) > 1):
            raise TraceError(f"{text[:80]!r} has {found} fields, not {len(names)}", file=str(path), row=at)
