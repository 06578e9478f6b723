"""Options of a policy that are all numbers: read into a dataclass of floats, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from math import inf, nextafter
from typing import Any, TypeVar

from partita.errors import ConfigError
from partita.model.plan import OptionValue

T = TypeVar("T")

ABOVE_ZERO = nextafter(0.0, 1.0)
"""Lower bound of an option that must not be 0."""
BELOW_ONE = nextafter(1.0, 0.0)
"""Upper bound of an option that must not be 1."""


def read_numbers(kind: type[T], options: Mapping[str, OptionValue], limits: Mapping[str, tuple[float, float]]) -> T:
    """Make a `kind` of the options given; ConfigError for one that does not exist, is no number or is out of range.

    `limits` are the lowest and highest value of some options; others may be anything finite from 0 on.
    """
    known = sorted(f.name for f in fields(kind))  # type: ignore[arg-type]
    numbers: dict[str, Any] = {}
    for key, value in sorted(options.items()):
        if key not in known:
            raise ConfigError(f"there is no such option; there are: {', '.join(known)}", key=key, value=value)
        low, high = limits.get(key, (0.0, inf))
        if isinstance(value, (bool, str)) or not low <= value <= high or value == inf:
            raise ConfigError(f"{value!r} is not a number {_range(low, high)}", key=key, value=value)
        numbers[key] = float(value)
    return kind(**numbers)


def complaint(read: Callable[[], object]) -> str | None:
    """Return what is wrong with options that `read` cannot read, as `check_options` does; None if it can."""
    try:
        read()
    except ConfigError as problem:
        return str(problem)
    return None


def _range(low: float, high: float) -> str:
    lowest = "above 0" if low == ABOVE_ZERO else f"of at least {low:g}"
    if high == inf:
        return lowest
    return f"{lowest} and below 1" if high == BELOW_ONE else f"{lowest} and at most {high:g}"
