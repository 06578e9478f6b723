"""PostgreSQL's binary COPY format, as numpy structured arrays: no Python runs for a row.

A row is the number of its fields, then for each field its length and its bytes, all big-endian; so rows whose columns
all have a fixed width and are never null are one packed structured dtype. Rows of any other shape are put together
field by field. Source: PostgreSQL documentation, COPY, "Binary Format", and the binary form of arrays.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.store.connection import Connection

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
BOOL_OID, TEXT_OID, FLOAT4_OID, FLOAT8_OID = 16, 25, 700, 701
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


def pack_row(fields: Sequence[bytes | None]) -> bytes:
    """Put the encoded fields of one row together; None is null."""
    parts = [len(fields).to_bytes(2, "big")]
    for field in fields:
        parts += [NULL] if field is None else [len(field).to_bytes(4, "big"), field]
    return b"".join(parts)


def pack_int4(value: int) -> bytes:
    """Encode an integer."""
    return value.to_bytes(4, "big", signed=True)


def pack_int8(value: int) -> bytes:
    """Encode a bigint."""
    return value.to_bytes(8, "big", signed=True)


def pack_float8(value: float) -> bytes:
    """Encode a double precision."""
    return struct.pack(">d", value)


def pack_jsonb(text: str) -> bytes:
    """Encode a jsonb, given as JSON."""
    return b"\1" + text.encode()


def pack_floats(values: NDArray[np.floating[Any]]) -> bytes:
    """Encode an array of real (float32) or double precision (float64), of any dimensions."""
    width = values.dtype.itemsize
    elements = np.empty(values.size, np.dtype([("length", ">i4"), ("value", f">f{width}")]))
    elements["length"], elements["value"] = width, values.ravel()
    return _array_header({4: FLOAT4_OID, 8: FLOAT8_OID}[width], values.shape) + elements.tobytes()


def pack_bools(values: NDArray[np.bool_]) -> bytes:
    """Encode an array of boolean."""
    elements = np.empty(values.size, np.dtype([("length", ">i4"), ("value", "u1")]))
    elements["length"], elements["value"] = 1, values.ravel()
    return _array_header(BOOL_OID, values.shape) + elements.tobytes()


def pack_texts(values: Sequence[str]) -> bytes:
    """Encode an array of text."""
    encoded = [value.encode() for value in values]
    return _array_header(TEXT_OID, (len(values),)) + b"".join(pack_int4(len(e)) + e for e in encoded)


def _array_header(element_oid: int, shape: tuple[int, ...]) -> bytes:
    dimensions = shape if 0 not in shape else ()
    sizes = b"".join(struct.pack(">ii", size, 1) for size in dimensions)
    return struct.pack(">iii", len(dimensions), 0, element_oid) + sizes


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
