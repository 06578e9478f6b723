"""Joining and cutting of columns that are grouped by service (rows ``offsets[s]:offsets[s + 1]`` belong to s)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Instants in ns, offsets, sizes."""


@njit(cache=True)
def splice(
    old_ns: NDArray[np.int64],
    old_offsets: NDArray[np.int64],
    old_size: NDArray[np.float32],
    new_ns: NDArray[np.int64],
    new_offsets: NDArray[np.int64],
    new_size: NDArray[np.float32],
) -> Columns:
    """Put the new rows of each service behind its old ones."""
    services = old_offsets.shape[0] - 1
    ns = np.empty(old_ns.shape[0] + new_ns.shape[0], np.int64)
    size = np.empty(ns.shape[0], np.float32)
    offsets = np.empty(services + 1, np.int64)
    at = 0
    for s in range(services):
        offsets[s] = at
        for row in range(old_offsets[s], old_offsets[s + 1]):
            ns[at], size[at] = old_ns[row], old_size[row]
            at += 1
        for row in range(new_offsets[s], new_offsets[s + 1]):
            ns[at], size[at] = new_ns[row], new_size[row]
            at += 1
    offsets[services] = at
    return ns, offsets, size


@njit(cache=True)
def cut(
    ns: NDArray[np.int64], offsets: NDArray[np.int64], size: NDArray[np.float32], first: NDArray[np.int64]
) -> Columns:
    """Keep the rows of each service from row `first` on."""
    services = offsets.shape[0] - 1
    kept_offsets = np.zeros(services + 1, np.int64)
    for s in range(services):
        kept_offsets[s + 1] = kept_offsets[s] + offsets[s + 1] - first[s]
    kept_ns = np.empty(kept_offsets[services], np.int64)
    kept_size = np.empty(kept_offsets[services], np.float32)
    at = 0
    for s in range(services):
        for row in range(first[s], offsets[s + 1]):
            kept_ns[at], kept_size[at] = ns[row], size[row]
            at += 1
    return kept_ns, kept_offsets, kept_size
