"""Readers held to what they promise, whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from partita.errors import PartitaError, PluginError
from partita.ports import Counts, Rows, TraceReader

HOOK = "register_trace_readers"


def read_blocks(reader: TraceReader, path: Path) -> Iterator[Rows | Counts]:
    """Yield a reader's blocks; PluginError where it raises what it should not, or breaks the form of a block."""
    blocks, last = iter(reader.blocks(path)), -(2**63)
    while True:
        try:
            block = next(blocks, None)
        except PartitaError:
            raise
        except Exception as problem:
            raise PluginError(f"reading {path} failed: {problem!r}", plugin=reader.name, hook=HOOK) from problem
        if block is None:
            return
        if broken := _what_is_broken(block, last):
            raise PluginError(f"gave a bad block of {path}: {broken}", plugin=reader.name, hook=HOOK)
        if block.at_ns.size:
            last = int(block.at_ns[-1])
            yield block


def recognises(reader: TraceReader, path: Path, head: str) -> bool:
    """Ask a reader whether a file is its own; PluginError if it raises."""
    try:
        return bool(reader.recognises(path, head))
    except PartitaError:
        raise
    except Exception as problem:
        raise PluginError(f"looking at {path} failed: {problem!r}", plugin=reader.name, hook=HOOK) from problem


def _what_is_broken(block: object, last: int) -> str:
    match block:
        case Rows():
            columns: tuple[object, ...] = (block.at_ns, block.service, block.size, block.output_size)
        case Counts():
            columns = (block.at_ns, block.service, block.count, block.law, block.shape)
        case _:
            return f"{type(block).__name__} is neither Rows nor Counts"
    if not all(isinstance(c, np.ndarray) and c.ndim == 1 for c in columns):
        return "a column is not an array of one dimension"
    if len({len(c) for c in columns if isinstance(c, np.ndarray)}) > 1:
        return "its columns differ in length"
    if block.at_ns.dtype != np.int64:
        return f"at_ns is {block.at_ns.dtype}, not int64"
    if block.at_ns.size and (block.at_ns[0] < last or (np.diff(block.at_ns) < 0).any()):
        return "time goes backwards"
    if isinstance(block, Counts) and (block.count < 0).any():
        return "a count is negative"
    return ""
