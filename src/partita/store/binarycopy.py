"""PostgreSQL's binary COPY format, as numpy structured arrays: no Python runs for a row.

A row is the number of its fields, then for each field its length and its bytes, all big-endian; so rows whose columns
all have a fixed width and are never null are one packed structured dtype. Source: PostgreSQL documentation, COPY,
"Binary Format".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.store.connection import Connection

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01, from which PostgreSQL counts microseconds, in unix time."""

Layout = Mapping[str, str]
"""Column -> numpy type code: i2, i4, i8, f4, f8, or S1 for "char"."""


def row_dtype(layout: Layout) -> np.dtype[np.void]:
    """Return the packed dtype of one row; the length of field x stands in x_len."""
    fields = [("fields", ">i2")]
    for name, code in layout.items():
        fields += [(f"{name}_len", ">i4"), (name, code if code.startswith("S") else f">{code}")]
    return np.dtype(fields)


def encode_rows(layout: Layout, columns: Mapping[str, NDArray[Any] | float]) -> bytes:
    """Encode equally long columns (single values are repeated) as rows.

    Bytes and not an array, since numpy's concatenate would turn big-endian fields into the machine's order.
    """
    dtype = row_dtype(layout)
    rows = np.empty(max(len(c) for c in columns.values() if isinstance(c, np.ndarray)), dtype)
    rows["fields"] = len(layout)
    for name in layout:
        rows[f"{name}_len"] = dtype[name].itemsize
        rows[name] = columns[name]
    return rows.tobytes()


async def copy_rows(connection: Connection, table: str, columns: Sequence[str], rows: Sequence[bytes]) -> None:
    """Send encoded rows into these columns of a table."""
    await connection.copy_to_table(table, source=_stream(rows), columns=list(columns), format="binary")


async def fetch_rows(connection: Connection, query: str, layout: Layout, *arguments: object) -> NDArray[np.void]:
    """Run a query whose columns match `layout` and are never null, and return its rows."""
    buffer = bytearray()

    async def collect(data: bytes) -> None:
        buffer.extend(data)

    await connection.copy_from_query(query, *arguments, output=collect, format="binary")
    dtype = row_dtype(layout)
    return np.frombuffer(
        buffer, dtype, count=(len(buffer) - len(SIGNATURE) - len(TRAILER)) // dtype.itemsize, offset=len(SIGNATURE)
    )


async def _stream(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    yield SIGNATURE
    for part in parts:
        yield part
    yield TRAILER


def from_unix_ns(at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Convert unix nanoseconds to PostgreSQL's microseconds, rounding down."""
    return at_ns // 1000 - POSTGRES_EPOCH_US


def to_unix_ns(ts: NDArray[Any]) -> NDArray[np.int64]:
    """Convert PostgreSQL's microseconds to unix nanoseconds."""
    return (ts.astype(np.int64) + POSTGRES_EPOCH_US) * 1000
