"""The order of time inside a trace: checked over the ends of blocks, or made where rows come a little late."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from partita.errors import TraceError
from partita.ports import Rows
from partita.traces.blocks import join_rows, pick
from partita.traces.csv_blocks import Block

LATE_NS = 3_600_000_000_000
"""How late a row may come: logs are written when a request ends, and one that takes longer than this is rare."""


class RisingTimes:
    """Remembers the last instant of the block before."""

    def __init__(self) -> None:
        self._last: int | None = None

    def check(self, at_ns: NDArray[np.int64], block: Block, column: str, *, strictly: bool = False) -> None:
        """Raise TraceError at the first instant that is earlier than (`strictly`: not later than) the one before."""
        if not at_ns.size:
            return
        before = np.concatenate([[at_ns[0] - 1 if self._last is None else self._last], at_ns[:-1]])
        wrong = at_ns <= before if strictly else at_ns < before
        if wrong.any():
            at = int(np.argmax(wrong))
            message = "is not later than" if strictly else "is earlier than"
            raise block.fail(f"{block.columns[column][at]!r} {message} the row before", at, column)
        self._last = int(at_ns[-1])


class LateRows:
    """Puts the rows of a log that is written when requests end into the order in which they began.

    What is held back is what began in the last LATE_NS; whatever the blocks, the same rows come out in the same order.
    """

    def __init__(self) -> None:
        self._held: list[Rows] = []
        self._sorted = 0
        self._newest = -(2**63) + LATE_NS

    def first_too_late(self, at_ns: NDArray[np.int64]) -> int | None:
        """Return which of the next rows began more than LATE_NS before one that was written earlier, None if none."""
        before = np.maximum.accumulate(np.concatenate([[self._newest], at_ns]))[:-1]
        wrong = at_ns < before - LATE_NS
        return int(np.argmax(wrong)) if wrong.any() else None

    def add(self, rows: Rows) -> Rows:
        """Take more rows, none of them too late, and return what nothing later can come before any more."""
        if not rows.at_ns.size:
            return rows
        self._newest = max(self._newest, int(rows.at_ns.max()))
        self._held.append(rows)
        # Sorting all that is held for every few rows would take most of the time.
        if 4 * sum(part.at_ns.size for part in self._held[1:]) < self._sorted:
            return pick(rows, slice(0))
        whole = _sorted(self._held)
        cut = int(np.searchsorted(whole.at_ns, self._newest - LATE_NS))
        self._held, self._sorted = [pick(whole, slice(cut, None))], whole.at_ns.size - cut
        return pick(whole, slice(cut))

    def rest(self) -> Iterator[Rows]:
        """Yield what is still held."""
        if self._held:
            yield _sorted(self._held)
        self._held = []


def _sorted(parts: list[Rows]) -> Rows:
    whole = join_rows(parts)
    return pick(whole, np.argsort(whole.at_ns, kind="stable"))


def too_late(file: str, row: int, column: str, value: object) -> TraceError:
    """Make the error for a row that comes too late to be put into its place."""
    text = f"{value!r} is more than {LATE_NS // 3_600_000_000_000} h earlier than a row before it: sort the file by it"
    return TraceError(text, file=file, row=row, column=column)
