"""Sizes of inputs: where they count, a batch takes as long as its largest input does.

A size is told by its *place* among the edges for which latencies are known: 0 up to the first one, 1.5 half-way from
the second to the third. Between two edges latency is linear, and infeasible where it is at the upper one. Tables of
latencies, ``(rows, batches)``, have a row a service; where sizes count, there follows a row a service for the first
edge, then one for the second, and so on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.kernels import INFEASIBLE_NS, inlined

ANY = -1.0
"""The place of a request whose size does not count."""

NO_PLACES = np.empty(0)
"""The places of requests where no size counts."""


@inlined
def place_of(places: NDArray[np.float64], row: int) -> float:
    """Return the place of a request."""
    return places[row] if places.shape[0] > 0 else ANY


@inlined
def largest_place(places: NDArray[np.float64], first: int, count: int) -> float:
    """Return the place of the largest of so many requests from row `first` on."""
    place = ANY
    if places.shape[0] > 0:
        for row in range(first, first + count):
            place = max(place, places[row])
    return place


@inlined
def at_place(table: NDArray[np.int64], services: int, s: int, b: int, place: float) -> int:
    """Return what a batch takes whose largest input has this place, which must count."""
    edge = int(place)
    row, part = services * (1 + edge) + s, place - edge
    below = table[row, b]
    if part == 0.0:
        return below
    above = table[row + services, b]
    return above if above >= INFEASIBLE_NS else below + int((above - below) * part)
