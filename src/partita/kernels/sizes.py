"""Sizes of inputs: where they count, a batch takes as long as its largest input does.

A size is told by its *place* among the edges for which latencies are known: 0 up to the first one, 1.5 half-way from
the second to the third. Between two edges latency is linear.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partita.kernels import inlined

ANY = -1.0
"""The place of a request whose size does not count."""


class Sizes(NamedTuple):
    """The place of each request of an advance, and what batches take by their largest one, in ns.

    `place` is empty where no size counts. `took` is ``(tables, services, edges, batches)``.
    """

    place: NDArray[np.float64]
    took: NDArray[np.int64]


NO_SIZES = Sizes(np.empty(0), np.empty((0, 0, 0, 0), np.int64))


@inlined
def place_of(z: Sizes, row: int) -> float:
    """Return the place of a request."""
    return z.place[row] if z.place.shape[0] > 0 else ANY


@inlined
def largest_place(z: Sizes, first: int, count: int) -> float:
    """Return the place of the largest of so many requests from row `first` on."""
    place = ANY
    if z.place.shape[0] > 0:
        for row in range(first, first + count):
            place = max(place, z.place[row])
    return place


@inlined
def at_place(z: Sizes, table: int, s: int, b: int, place: float) -> int:
    """Return what a batch takes whose largest input has this place, which must count."""
    edge = int(place)
    below = z.took[table, s, edge, b]
    part = place - edge
    if part == 0.0:
        return below
    return below + int((z.took[table, s, edge + 1, b] - below) * part)
