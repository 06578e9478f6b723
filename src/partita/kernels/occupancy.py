"""Adding up, by interval, what ran where."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def add_spans(
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    start: NDArray[np.int64],
    finish: NDArray[np.int64],
    width_ns: int,
    until_ns: int,
    totals: NDArray[np.int64],
) -> None:
    """Add each span, cut at the edges of the intervals, to ``totals[row, interval, column]``, in ns.

    Intervals are `width_ns` wide and begin at instant 0; what lies before it or from `until_ns` on, the end of the last
    interval at most, is left out.
    """
    for k in range(row.shape[0]):
        at, end = max(0, start[k]), min(finish[k], until_ns)
        while at < end:
            interval = at // width_ns
            edge = min(end, (interval + 1) * width_ns)
            totals[row[k], interval, column[k]] += edge - at
            at = edge
