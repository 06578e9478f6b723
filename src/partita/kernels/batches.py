"""Columns that every discipline's kernel fills: what became of requests, and which batches ran."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DROPPED, QUEUED = -1, 0
"""What `finish` says of a request that got no batch."""


START, FINISH = 0, 1
"""Columns of a request's account, in ns."""


class Batches(NamedTuple):
    """One entry a batch, in the order granted; `instance` is its place in the pool, times are in ns."""

    instance: NDArray[np.int32]
    service: NDArray[np.int32]
    size: NDArray[np.int32]
    start: NDArray[np.int64]
    finish: NDArray[np.int64]


def empty_batches(at_most: int) -> Batches:
    """Make room for this many batches."""
    return Batches(
        np.empty(at_most, np.int32),
        np.empty(at_most, np.int32),
        np.empty(at_most, np.int32),
        np.empty(at_most, np.int64),
        np.empty(at_most, np.int64),
    )
