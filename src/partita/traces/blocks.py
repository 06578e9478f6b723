"""Parts of blocks, and blocks put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from partita.ports import Counts, Rows

Block = TypeVar("Block", Rows, Counts, Rows | Counts)


def pick(block: Block, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Block:
    """Return some rows of a block."""
    if isinstance(block, Rows):
        return Rows(block.at_ns[rows], block.service[rows], block.size[rows], block.output_size[rows])
    return Counts(block.at_ns[rows], block.service[rows], block.count[rows], block.law[rows], block.shape[rows])


def join_rows(blocks: Sequence[Rows]) -> Rows:
    """Put request blocks one after the other."""
    return Rows(
        np.concatenate([b.at_ns for b in blocks]),
        np.concatenate([b.service for b in blocks]),
        np.concatenate([b.size for b in blocks]),
        np.concatenate([b.output_size for b in blocks]),
    )


def join_counts(blocks: Sequence[Counts]) -> Counts:
    """Put count blocks one after the other."""
    return Counts(
        np.concatenate([b.at_ns for b in blocks]),
        np.concatenate([b.service for b in blocks]),
        np.concatenate([b.count for b in blocks]),
        np.concatenate([b.law for b in blocks]),
        np.concatenate([b.shape for b in blocks]),
    )


def join(blocks: Sequence[Rows | Counts]) -> Rows | Counts:
    """Put blocks of one kind one after the other."""
    rows = [block for block in blocks if isinstance(block, Rows)]
    return join_rows(rows) if rows else join_counts([block for block in blocks if isinstance(block, Counts)])
