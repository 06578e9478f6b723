"""Writes traces as our own tables: Parquet, or CSV that may be compressed, by the file's suffix."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl
import zstandard

from partita.errors import TraceError
from partita.ports import Counts, Rows
from partita.traces.table import METADATA_KEY, VERSION

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".csv.zst")
ROW_GROUP = 1 << 17
ROWS_A_PART = 1 << 21
_METADATA = {METADATA_KEY: VERSION}


def check_target(path: Path) -> str:
    """Return the suffix that says how to write; TraceError if there is none or the folder is missing."""
    suffix = next((s for s in SUFFIXES if path.name.endswith(s)), None)
    if suffix is None:
        raise TraceError(f"its name must end in one of {', '.join(SUFFIXES)}", file=str(path))
    if not path.parent.is_dir():
        raise TraceError("its folder does not exist", file=str(path))
    return suffix


def write_trace(path: Path, blocks: Iterable[Rows | Counts], *, bin_s: float | None = None) -> int:
    """Write blocks in the order of time and return how many rows; the file appears when it is whole, or not at all."""
    suffix, folder = check_target(path), None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        frames = (_frame(block, bin_s) for block in blocks)
        rows = _write_parquet(folder, frames) if suffix == ".parquet" else _write_csv(folder, suffix, frames)
        os.replace(folder / "whole", path)
    except OSError as problem:
        raise TraceError(f"cannot be written: {problem.strerror or problem}", file=str(path)) from None
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return rows


def _frame(block: Rows | Counts, bin_s: float | None) -> pl.DataFrame:
    columns: dict[str, object] = {
        "ts": pl.Series(block.at_ns).cast(pl.Datetime("ns")),
        "service": pl.Series(block.service.tolist(), dtype=pl.String),
    }
    match block:
        case Rows():
            for name, sizes in (("size", block.size), ("output_size", block.output_size)):
                columns[name] = pl.Series(sizes, dtype=pl.Float32).fill_nan(None)
        case Counts():
            columns |= {
                "count": block.count,
                "bin_s": pl.Series([bin_s], dtype=pl.Float64).new_from_index(0, block.count.size),
                "law": pl.Series(block.law.tolist(), dtype=pl.String),
                "shape": block.shape,
            }
    return pl.DataFrame(columns)


def _write_parquet(folder: Path, frames: Iterator[pl.DataFrame]) -> int:
    """Write parts, then join them as a stream: a Parquet file cannot grow by a block at a time."""
    rows, parts, held = 0, list[Path](), list[pl.DataFrame]()

    def flush() -> None:
        parts.append(folder / f"part-{len(parts):06d}")
        pl.concat(held).write_parquet(parts[-1], row_group_size=ROW_GROUP, metadata=_METADATA)
        held.clear()

    for frame in frames:
        rows += frame.height
        held.append(frame)
        if sum(f.height for f in held) >= ROWS_A_PART:
            flush()
    if held:
        flush()
    if not parts:
        raise TraceError("there is nothing to write", file=str(folder.parent))
    if len(parts) == 1:
        parts[0].rename(folder / "whole")
    else:
        pl.scan_parquet(parts).sink_parquet(folder / "whole", row_group_size=ROW_GROUP, metadata=_METADATA)
    return rows


def _write_csv(folder: Path, suffix: str, frames: Iterator[pl.DataFrame]) -> int:
    rows = 0
    with _compress(folder / "whole", suffix) as stream:
        for at, frame in enumerate(frames):
            frame.write_csv(stream, include_header=at == 0, datetime_format="%Y-%m-%dT%H:%M:%S%.9f")
            rows += frame.height
    return rows


@contextmanager
def _compress(path: Path, suffix: str) -> Iterator[BinaryIO]:
    with path.open("wb") as raw:
        if suffix == ".csv.gz":
            # No name and no time inside, so that the same trace gives the same bytes.
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as stream:
                yield cast(BinaryIO, stream)
        elif suffix == ".csv.zst":
            with zstandard.ZstdCompressor(level=6).stream_writer(raw, closefd=False) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield raw
