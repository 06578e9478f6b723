"""Columns that every discipline's kernel fills: what became of requests, and which batches ran."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partita.kernels import inlined

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


@inlined
def note(log: Batches, logged: int, instance: int, service: int, size: int, start: int, finish: int) -> int:
    """Enter a batch into the log; return the number of batches logged."""
    log.instance[logged] = instance
    log.service[logged] = service
    log.size[logged] = size
    log.start[logged] = start
    log.finish[logged] = finish
    return logged + 1


@inlined
def answer(account: NDArray[np.int64], first: int, size: int, start: int, finish: int) -> None:
    """Enter into the account that the requests from row `first` on rode in a batch of this size."""
    for row in range(first, first + size):
        account[row, START] = start
        account[row, FINISH] = finish
