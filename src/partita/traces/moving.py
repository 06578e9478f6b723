"""A trace at other times: played faster or slower, and moved to another start."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError, TraceError
from partita.ports import Counts, Rows
from partita.traces.times import LARGEST_NS, parse_instant

FINEST = 10_000
"""A speed is taken as the nearest fraction with up to this denominator, so that instants are exact."""


def parse_shift(text: str, *, origin_ns: int, key: str) -> int:
    """Return by how many ns "+2d", "-90" or "2024-01-01" (where it shall begin) moves a trace that begins at an origin.

    ConfigError otherwise.
    """
    if match := re.fullmatch(r"\s*([+-])\s*(\S+)\s*", text):
        by_ns = parse_instant(match[2], origin_ns=0, key=key)
        return by_ns if match[1] == "+" else -by_ns
    if re.fullmatch(r"\s*[\d.]+\s*[smhd]?\s*", text):
        raise ConfigError(
            f"{text!r} is no shift: give a date to begin at, or a time with its sign like +{text}", key=key
        )
    return parse_instant(text, origin_ns=0, key=key) - origin_ns


def moved(
    blocks: Iterable[Rows | Counts], *, origin_ns: int, speed: Fraction, to_ns: int, file: str
) -> Iterator[Rows | Counts]:
    """Yield blocks played `speed` times as fast from `origin_ns` on, which comes to lie at `to_ns`."""
    for block in blocks:
        if not all(_fits(int(at_ns) - origin_ns, speed, to_ns) for at_ns in (*block.at_ns[:1], *block.at_ns[-1:])):
            raise TraceError("is moved beyond the years 1678 to 2262", file=file)
        yield replace(block, at_ns=to_ns + scaled(block.at_ns - origin_ns, speed))


def _fits(after_ns: int, speed: Fraction, to_ns: int) -> bool:
    played_ns = after_ns * speed.denominator // speed.numerator
    return all(abs(ns) < LARGEST_NS for ns in (after_ns, played_ns, to_ns + played_ns))


def scaled(after_ns: NDArray[np.int64], speed: Fraction) -> NDArray[np.int64]:
    """Divide times by a speed, rounded down, without leaving 64 bits."""
    whole, rest = np.divmod(after_ns, speed.numerator)
    found: NDArray[np.int64] = whole * speed.denominator + rest * speed.denominator // speed.numerator
    return found


def as_fraction(speed: float) -> Fraction:
    """Return a speed as a fraction; ConfigError unless it is above 0."""
    found = Fraction(speed).limit_denominator(FINEST) if 0.0 < speed < np.inf else Fraction(0)
    if not 0 < found <= 1_000_000:
        raise ConfigError(f"{speed:g} is not a speed between 0.0001 and 1,000,000", key="speed", value=speed)
    return found
