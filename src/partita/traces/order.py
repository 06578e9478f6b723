"""The order of time inside a trace, checked over the ends of blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.traces.csv_blocks import Block


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
