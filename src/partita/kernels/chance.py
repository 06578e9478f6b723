"""Chance by hash: what is drawn hangs on numbers given alone, so that it is the same however a run is cut.

Words of 64 bits are added and multiplied by their halves, so that nothing overflows where the code runs uncompiled.
"""

from __future__ import annotations

import numpy as np

from partita.kernels import lean


@lean
def _plus(word: np.uint64, other: np.uint64) -> np.uint64:
    """Add modulo 2^64."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    below = (word & low) + (other & low)
    above = (word >> half) + (other >> half) + (below >> half)
    return ((above & low) << half) | (below & low)


@lean
def _times(word: np.uint64, other: np.uint64) -> np.uint64:
    """Multiply modulo 2^64."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    below = (word & low) * (other & low)
    across = (((word >> half) * (other & low)) & low) + (((word & low) * (other >> half)) & low)
    return ((((below >> half) + across) & low) << half) | (below & low)


@lean
def _mix(word: np.uint64) -> np.uint64:
    """Scatter the bits of a word (the finaliser of splitmix64, by S. Vigna, public domain)."""
    word = _times(word ^ (word >> np.uint64(30)), np.uint64(0xBF58476D1CE4E5B9))
    word = _times(word ^ (word >> np.uint64(27)), np.uint64(0x94D049BB133111EB))
    return word ^ (word >> np.uint64(31))


@lean
def normal(key: int, step: int) -> float:
    """Draw from the standard normal law, for two numbers that are not negative."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    word = _mix(_plus(np.uint64(key), _times(golden, np.uint64(step))))
    other = _mix(_plus(word, golden))
    u = (float(word >> np.uint64(11)) + 1.0) / 9007199254740993.0
    v = float(other >> np.uint64(11)) / 9007199254740992.0
    return np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
