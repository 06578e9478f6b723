"""The tournament tree against a plain list."""

from __future__ import annotations

import numpy as np
import pytest

from partita.kernels import NEVER, callable_from_python, tournament
from partita.kernels.tournament import grow

first_within, put, smallest, next_within = map(
    callable_from_python, (tournament.first_within, tournament.put, tournament.smallest, tournament.next_within)
)


@pytest.mark.parametrize("leaves", [1, 2, 3, 7, 8, 9, 33])
def test_it_answers_like_a_list_after_any_changes(leaves: int) -> None:
    rng = np.random.default_rng(leaves)
    keys = rng.integers(0, 6, leaves)  # few values, so that ties are common
    tree = grow(keys)
    for _ in range(200):
        # Of equal keys the lowest leaf wins: list.index and the first hit of a scan.
        assert smallest(tree) == list(keys).index(keys.min())
        for bound in range(-1, 7):
            assert first_within(tree, bound) == next((k for k, key in enumerate(keys) if key <= bound), -1)
            since = int(rng.integers(leaves + 2))
            later = (k for k in range(since, leaves) if keys[k] <= bound)
            assert next_within(tree, since, bound) == next(later, -1)
        assert tree[1] == keys.min()
        leaf = int(rng.integers(leaves))
        keys[leaf] = rng.choice([0, 1, 2, 3, 4, 5, NEVER])
        put(tree, leaf, int(keys[leaf]))


def test_a_tree_over_nothing_finds_nothing() -> None:
    tree = grow(np.empty(0, np.int64))
    assert tree[1] == NEVER
    assert first_within(tree, NEVER - 1) == -1
    assert next_within(tree, 0, NEVER - 1) == -1
