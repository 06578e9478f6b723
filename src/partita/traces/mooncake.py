"""Mooncake's traces: one JSON object a request, with its token counts and an instant on a coarse grid.

Source: github.com/kvcache-ai/Mooncake (Qin et al., FAST 2025). `timestamp` is milliseconds after the trace's start,
`input_length` and `output_length` are tokens; `hash_ids` (prefix blocks) are passed over. Where all instants lie on
steps of seconds, many requests seem to come at once: the requests of a step are spread over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import gcd
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from partita.ports import Counts, Rows, TraceInfo
from partita.traces.azure_llm import ONE_SERVICE
from partita.traces.blocks import join_rows, pick
from partita.traces.draw import Bins, bin_keys, draw_even, draw_poisson, service_key
from partita.traces.json_blocks import JsonBlock, first_record, read_json_blocks

KEYS = ("timestamp", "input_length", "output_length")
MS = 1_000_000

Spread = Literal["poisson", "even", "none"]
SPREADS: tuple[Spread, ...] = ("poisson", "even", "none")
"""Independent uniform instants in the step, equal gaps, or all at its start."""


@dataclass(frozen=True, slots=True)
class MooncakeReader:
    """Reads requests on a grid of `grid_s` seconds, by default the one that the file's first block shows.

    The requests of a step keep their order. Each step is drawn by `spread` from the seed and its own instant, so that a
    part of a file has the same requests as the whole.
    """

    grid_s: float | None = None
    spread: Spread = "poisson"
    seed: int = 0

    name = "mooncake"

    def seeded(self, seed: int) -> Self:
        """Return the reader that draws from another seed."""
        return replace(self, seed=seed)

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the first object has the three keys, or two of them with the prefix blocks."""
        record = first_record(head)
        if record is None:
            return False
        found = sum(key in record for key in KEYS)
        return found == len(KEYS) or (found == 2 and "hash_ids" in record)

    def info(self, path: Path) -> TraceInfo:
        """Describe the file; TraceError if its first block is broken."""
        spread = self.spread != "none"
        return TraceInfo(self.name, "requests", grid_s=self._grid_ms(path) / 1000 if spread else None)

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the requests, whole steps of the grid at a time."""
        grid_ms, rising, held = self._grid_ms(path), _RisingMs(), list[Rows]()
        for block in read_json_blocks(path):
            at_ms = block.whole_numbers("timestamp")
            rising.check(at_ms, block)
            self._check_grid(at_ms, grid_ms, block)
            # The last step waits: the next block may go on with it.
            whole = join_rows([*held, _rows(at_ms, block)])
            cut = int(np.searchsorted(whole.at_ns, whole.at_ns[-1]))
            held = [pick(whole, slice(cut, None))]
            yield self._spread(pick(whole, slice(cut)), grid_ms)
        for rows in held:
            yield self._spread(rows, grid_ms)

    def _grid_ms(self, path: Path) -> int:
        if self.grid_s is not None:
            return max(1, round(self.grid_s * 1000))
        first = next(islice(read_json_blocks(path), 1), None)
        return gcd(*first.whole_numbers("timestamp").tolist()) or 1 if first is not None else 1

    def _check_grid(self, at_ms: NDArray[np.int64], grid_ms: int, block: JsonBlock) -> None:
        if self.spread == "none" or not (wrong := at_ms % grid_ms != 0).any():
            return
        at = int(np.argmax(wrong))
        shown = "given" if self.grid_s is not None else "of the file's beginning"
        raise block.fail(f"{at_ms[at]} is not on the grid {shown}, {grid_ms} ms; give --grid", at, "timestamp")

    def _spread(self, rows: Rows, grid_ms: int) -> Rows:
        if self.spread == "none" or not rows.at_ns.size:
            return rows
        starts, count = np.unique(rows.at_ns, return_counts=True)
        keys = bin_keys(service_key(self.seed, ONE_SERVICE), starts)
        bins = Bins(starts, starts + grid_ms * MS, count, keys)
        drawn = draw_even(bins) if self.spread == "even" else draw_poisson(bins)
        return replace(rows, at_ns=np.sort(drawn))


class _RisingMs:
    """Remembers the last timestamp of the block before."""

    def __init__(self) -> None:
        self._last = 0

    def check(self, at_ms: NDArray[np.int64], block: JsonBlock) -> None:
        before = np.concatenate([[self._last], at_ms[:-1]])
        if (wrong := at_ms < before).any():
            at = int(np.argmax(wrong))
            raise block.fail(f"{at_ms[at]} is earlier than the row before", at, "timestamp")
        self._last = int(at_ms[-1])


def _rows(at_ms: NDArray[np.int64], block: JsonBlock) -> Rows:
    sizes = (block.whole_numbers(key).astype(np.float32) for key in ("input_length", "output_length"))
    return Rows(at_ms * MS, np.full(at_ms.size, ONE_SERVICE, object), *sizes)
