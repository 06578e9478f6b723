"""Joining, cutting and choosing of columns grouped by service (rows ``offsets[s]:offsets[s + 1]`` belong to s)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import entrance

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Instants in ns, offsets, sizes."""


def splice(
    old_ns: NDArray[np.int64],
    old_offsets: NDArray[np.int64],
    old_size: NDArray[np.float32],
    new_ns: NDArray[np.int64],
    new_offsets: NDArray[np.int64],
    new_size: NDArray[np.float32],
) -> Columns:
    """Put the new rows of each service behind its old ones."""
    ns = np.empty(old_ns.shape[0] + new_ns.shape[0], np.int64)
    size = np.empty(ns.shape[0], np.float32)
    offsets = old_offsets + new_offsets
    _copy(old_ns, old_size, old_offsets[:-1], np.diff(old_offsets), ns, size, offsets[:-1])
    _copy(new_ns, new_size, new_offsets[:-1], np.diff(new_offsets), ns, size, offsets[:-1] + np.diff(old_offsets))
    return ns, offsets, size


def cut(
    ns: NDArray[np.int64], offsets: NDArray[np.int64], size: NDArray[np.float32], first: NDArray[np.int64]
) -> Columns:
    """Keep the rows of each service from row `first` on."""
    rows = offsets[1:] - first
    kept_offsets = np.concatenate(([0], np.cumsum(rows)))
    kept_ns, kept_size = np.empty(kept_offsets[-1], np.int64), np.empty(kept_offsets[-1], np.float32)
    _copy(ns, size, first, rows, kept_ns, kept_size, kept_offsets[:-1])
    return kept_ns, kept_offsets, kept_size


@entrance
def _copy(
    ns: NDArray[np.int64],
    size: NDArray[np.float32],
    first: NDArray[np.int64],
    rows: NDArray[np.int64],
    to_ns: NDArray[np.int64],
    to_size: NDArray[np.float32],
    to: NDArray[np.int64],
) -> None:
    """Copy so many rows of each service from `first` on to the place `to`."""
    for s in range(rows.shape[0]):
        for k in range(rows[s]):
            to_ns[to[s] + k], to_size[to[s] + k] = ns[first[s] + k], size[first[s] + k]


@njit(cache=True)
def select(
    ns: NDArray[np.int64], offsets: NDArray[np.int64], size: NDArray[np.float32], keep: NDArray[np.bool_]
) -> Columns:
    """Keep the rows of some services."""
    services = offsets.shape[0] - 1
    kept_offsets = np.zeros(services + 1, np.int64)
    for s in range(services):
        kept_offsets[s + 1] = kept_offsets[s] + (offsets[s + 1] - offsets[s] if keep[s] else 0)
    kept_ns = np.empty(kept_offsets[services], np.int64)
    kept_size = np.empty(kept_offsets[services], np.float32)
    at = 0
    for s in range(services):
        if keep[s]:
            for row in range(offsets[s], offsets[s + 1]):
                kept_ns[at], kept_size[at] = ns[row], size[row]
                at += 1
    return kept_ns, kept_offsets, kept_size


@njit(cache=True)
def regroup(
    ns: NDArray[np.int64], size: NDArray[np.float32], offsets: NDArray[np.int64], since: int, until: int
) -> Columns:
    """Put the rows in ``[since, until)`` of several groupings, ``(groupings, services + 1)``, together by service.

    The groupings follow one another in time, and the rows of a service rise.
    """
    groupings, services = offsets.shape[0], offsets.shape[1] - 1
    found = 0
    for g in range(groupings):
        found += offsets[g, services] - offsets[g, 0]
    found_ns = np.empty(found, np.int64)
    found_size = np.empty(found, np.float32)
    found_offsets = np.empty(services + 1, np.int64)
    at = 0
    for s in range(services):
        found_offsets[s] = at
        for g in range(groupings):
            for row in range(offsets[g, s], offsets[g, s + 1]):
                if since <= ns[row] < until:
                    found_ns[at], found_size[at] = ns[row], size[row]
                    at += 1
    found_offsets[services] = at
    return found_ns[:at], found_offsets, found_size[:at]


@njit(cache=True)
def take_before(
    ns: NDArray[np.int64], offsets: NDArray[np.int64], size: NDArray[np.float32], taken: NDArray[np.int64], until: int
) -> Columns:
    """Return the rows of each service from row `taken` on that are before `until`, and move `taken` behind them."""
    services = offsets.shape[0] - 1
    found_offsets = np.zeros(services + 1, np.int64)
    for s in range(services):
        low, high = taken[s], offsets[s + 1]
        while low < high:
            middle = (low + high) // 2
            if ns[middle] < until:
                low = middle + 1
            else:
                high = middle
        found_offsets[s + 1] = found_offsets[s] + low - taken[s]
    found_ns = np.empty(found_offsets[services], np.int64)
    found_size = np.empty(found_offsets[services], np.float32)
    for s in range(services):
        first = taken[s] - found_offsets[s]
        for at in range(found_offsets[s], found_offsets[s + 1]):
            found_ns[at], found_size[at] = ns[first + at], size[first + at]
        taken[s] = first + found_offsets[s + 1]
    return found_ns, found_offsets, found_size
