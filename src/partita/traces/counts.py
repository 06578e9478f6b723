"""Requests per second, minute or hour as CSV: a time column, then one column of counts for each service.

Without a header and with one whole number a line, the lines are seconds. A bin without a row and an empty field are
missing: no entry stands for them, which is not the same as a count of 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from partita.errors import TraceError
from partita.ports import Counts, TraceInfo
from partita.traces.azure_llm import ONE_SERVICE
from partita.traces.csv_blocks import Block, read_csv_blocks, split_header
from partita.traces.files import read_head
from partita.traces.order import RisingTimes
from partita.traces.times import to_ns

BARE = "count"
"""Name of the one column of a file that holds nothing but a number a line."""


class CountsReader:
    """Reads counts; `bin_s` is the width of a bin in seconds, by default the commonest step of the file's head."""

    name = "counts"

    def __init__(self, bin_s: float | None = None) -> None:
        self.bin_s = bin_s

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the first line with data is a whole number, or a time followed by numbers."""
        lines = head.splitlines()
        if not lines:
            return False
        if _is_bare(lines[0]):
            return True
        fields = split_header(lines[1]) if len(lines) > 1 else []
        return len(fields) > 1 and to_ns(pl.Series(fields[:1]))[0] is not None and all(map(_is_number, fields[1:]))

    def info(self, path: Path) -> TraceInfo:
        """Describe the file; TraceError where the width of a bin cannot be told."""
        return TraceInfo(self.name, "counts", self._layout(path).bin_s)

    def blocks(self, path: Path) -> Iterator[Counts]:
        """Yield the bins, each with an even Poisson spread inside."""
        layout, rising = self._layout(path), RisingTimes()
        width, end = round(layout.bin_s * 1e9), None
        for block in read_csv_blocks(path, header=layout.header):
            if layout.header is not None:
                starts = (np.arange(len(block)) + block.first_row - 1) * width
            else:
                starts = block.times(block.columns.columns[0])
                rising.check(starts, block, block.columns.columns[0], strictly=True)
                end = _check_steps(starts, end, width, block)
            yield _spread(block, starts, layout.services)

    def _layout(self, path: Path) -> _Layout:
        head = read_head(path)
        lines = head.splitlines()
        if not lines:
            raise TraceError("this is not text", file=str(path), row=1)
        if _is_bare(lines[0]):
            return _Layout((BARE,), {BARE: ONE_SERVICE}, self.bin_s or 1.0)
        names = split_header(lines[0])
        if len(names) < 2:
            raise TraceError(
                f"expected a time and a count, or one whole number a line, found {lines[0][:80]!r}",
                file=str(path),
                row=1,
            )
        services = {name: name for name in names[1:]} if len(names) > 2 else {names[1]: ONE_SERVICE}
        layout = _Layout(None, services, self.bin_s or 0.0)
        return layout if self.bin_s else replace(layout, bin_s=_commonest_step_s(lines[1:], path))


@dataclass(frozen=True, slots=True)
class _Layout:
    header: tuple[str, ...] | None
    services: dict[str, str]
    bin_s: float


def _spread(block: Block, starts: NDArray[np.int64], services: dict[str, str]) -> Counts:
    counts = np.stack([block.counts(column) for column in services], axis=1)
    at_ns = np.repeat(starts, len(services))
    names = np.tile(np.array(list(services.values()), object), len(block))
    given = counts.ravel() >= 0
    size = int(given.sum())
    return Counts(
        at_ns[given], names[given], counts.ravel()[given], np.full(size, "poisson", object), np.ones(size, np.float64)
    )


def _check_steps(starts: NDArray[np.int64], end: int | None, width: int, block: Block) -> int:
    ends = np.concatenate([[starts[0] if end is None else end], starts[:-1] + width])
    if (wrong := starts < ends).any():
        at, column = int(np.argmax(wrong)), block.columns.columns[0]
        text = f"this bin begins before the one before it ends, {width / 1e9:g} s after its start; give --bin"
        raise block.fail(text, at, column)
    return int(starts[-1]) + width


def _commonest_step_s(lines: list[str], path: Path) -> float:
    times = to_ns(pl.Series([line.split(",")[0].strip('"') for line in lines], dtype=pl.String)).drop_nulls().to_numpy()
    steps = np.diff(times)
    steps = steps[steps > 0]
    if not steps.size:
        raise TraceError("the width of a bin cannot be told from the times; give --bin", file=str(path))
    values, often = np.unique(steps, return_counts=True)
    return float(values[np.argmax(often)]) / 1e9


def _is_bare(line: str) -> bool:
    return line.strip().isdecimal()


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True
