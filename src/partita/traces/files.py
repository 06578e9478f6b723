"""Trace files as streams of bytes: plain, gzip or zstandard, recognised by their first bytes."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import zstandard

from partita.errors import TraceError

GZIP_MAGIC, ZSTD_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
CHUNK_BYTES = 4 << 20
HEAD_BYTES = 64 << 10

_on_read: ContextVar[Callable[[int, int], None] | None] = ContextVar("on_read", default=None)


@contextmanager
def watch_reading(on_read: Callable[[int, int], None]) -> Iterator[None]:
    """Call `on_read(bytes so far, bytes of the file)` while files are read inside this context."""
    token = _on_read.set(on_read)
    try:
        yield
    finally:
        _on_read.reset(token)


def report_reading(done: int, total: int) -> None:
    """Tell whoever watches how much of a file has been read."""
    if on_read := _on_read.get():
        on_read(done, total)


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the file's content, decompressed, in pieces of about CHUNK_BYTES; TraceError if it cannot be read."""
    with _open(path) as (stream, raw, size):
        empty = True
        while chunk := stream.read(CHUNK_BYTES):
            empty = False
            report_reading(min(raw.tell(), size), size)
            yield chunk
        if empty:
            raise TraceError("the file is empty", file=str(path))


def open_text(path: Path) -> Iterator[str]:
    """Yield the lines of a plain, gzip or zstandard text file, without their ends; TraceError if it is not text."""
    rest, row = b"", 0
    for chunk in read_chunks(path):
        *lines, rest = (rest + chunk).split(b"\n")
        for at, line in enumerate(lines, start=row + 1):
            yield decode(line, path, at)
        row += len(lines)
    if rest:
        yield decode(rest, path, row + 1)


def decode(line: bytes, path: Path, row: int) -> str:
    """Turn one line into text; TraceError if it is not text."""
    try:
        text = line.decode("utf-8-sig" if row == 1 else "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise TraceError("this is not text", file=str(path), row=row)
    return text.rstrip("\r")


def read_head(path: Path) -> str:
    """Return the first lines of the file (at most HEAD_BYTES), or "" if it is not text; TraceError if unreadable."""
    with _open(path) as (stream, _, _):
        head = stream.read(HEAD_BYTES)
    if not head:
        raise TraceError("the file is empty", file=str(path))
    whole = head if len(head) < HEAD_BYTES else head.rpartition(b"\n")[0]
    try:
        text = whole.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text else text


@contextmanager
def _open(path: Path) -> Iterator[tuple[io.BufferedIOBase, io.BufferedReader, int]]:
    try:
        with path.open("rb") as raw:
            yield _decompress(raw, path), raw, path.stat().st_size
    except FileNotFoundError:
        raise TraceError("no such file", file=str(path)) from None
    except (gzip.BadGzipFile, zlib.error, EOFError, zstandard.ZstdError) as problem:
        raise TraceError(f"the compressed data is damaged or cut off ({problem})", file=str(path)) from None
    except OSError as problem:
        raise TraceError(f"cannot be read: {problem.strerror or problem}", file=str(path)) from None


def _decompress(raw: io.BufferedReader, path: Path) -> io.BufferedIOBase:
    start = raw.peek(4)[:4]
    if start.startswith(GZIP_MAGIC):
        return gzip.GzipFile(fileobj=raw)
    if start == ZSTD_MAGIC:
        return io.BufferedReader(_Zstd(raw), CHUNK_BYTES)
    if start and path.suffix in {".gz", ".zst"}:
        raise TraceError(f"is named {path.suffix} but is not compressed that way", file=str(path))
    return raw


class _Zstd(io.RawIOBase):
    """A zstandard stream that raises EOFError inside a cut-off frame; the library's own reader ends in silence."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw, self._frame, self._ready = raw, zstandard.ZstdDecompressor().decompressobj(), b""
        self._begun = False

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, into: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with what comes next; 0 at the end."""
        while not self._ready:
            if self._frame.eof:
                packed, self._begun = self._frame.unused_data, False
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            else:
                packed = b""
            packed = packed or self._raw.read(64 << 10)
            if not packed:
                if self._begun:
                    raise EOFError("the file ends inside a frame")
                return 0
            self._begun = True
            self._ready = self._frame.decompress(packed)
        count = min(len(into), len(self._ready))
        into[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
