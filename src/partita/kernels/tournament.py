"""A tournament tree over int64 keys: smallest key, and first key below a bound, in O(log n).

The tree is one array: leaf i stands at ``width + i``, the winner (minimum) of nodes 2k and 2k + 1 at k, width being the
number of leaves rounded up to a power of two. Among equal keys the lowest leaf wins.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, inlined, lean


@njit(cache=True)
def grow(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Build the tree over `keys`."""
    width = 1
    while width < keys.shape[0]:
        width *= 2
    tree = np.full(2 * width, NEVER, np.int64)
    for leaf in range(keys.shape[0]):  # a slice assigned at once would take two seconds more to compile
        tree[width + leaf] = keys[leaf]
    for node in range(width - 1, 0, -1):
        tree[node] = min(tree[2 * node], tree[2 * node + 1])
    return tree


def empty_trees(count: int, leaves: int) -> NDArray[np.int64]:
    """Make so many trees, ``(trees, nodes)``, without a key; from Python, which need not be compiled for it."""
    return np.full((count, 2 << max(0, leaves - 1).bit_length()), NEVER)


@inlined
def put(tree: NDArray[np.int64], leaf: int, key: int) -> None:
    """Give a leaf a new key."""
    node = tree.shape[0] // 2 + leaf
    if tree[node] == key:
        return
    tree[node] = key
    node //= 2
    while node >= 1:
        winner = min(tree[2 * node], tree[2 * node + 1])
        if tree[node] == winner:
            break
        tree[node] = winner
        node //= 2


@inlined
def smallest(tree: NDArray[np.int64]) -> int:
    """Return the leaf with the smallest key."""
    width = tree.shape[0] // 2
    node = 1
    while node < width:
        node *= 2
        if tree[node] > tree[node + 1]:
            node += 1
    return node - width


@inlined
def first_within(tree: NDArray[np.int64], bound: int) -> int:
    """Return the lowest leaf whose key is at most `bound`, or -1."""
    if tree[1] > bound:
        return -1
    width = tree.shape[0] // 2
    node = 1
    while node < width:
        node *= 2
        if tree[node] > bound:
            node += 1
    return node - width


@lean
def next_within(tree: NDArray[np.int64], leaf: int, bound: int) -> int:
    """Return the lowest leaf from `leaf` on whose key is at most `bound`, or -1."""
    width = tree.shape[0] // 2
    if leaf >= width:
        return -1
    node = width + leaf
    while tree[node] > bound:
        while node % 2 == 1:  # a right child: what follows it lies under an uncle
            node //= 2
            if node <= 1:
                return -1
        node += 1
    while node < width:
        node *= 2
        if tree[node] > bound:
            node += 1
    return node - width
