"""How moments, times and numbers are written wherever people read them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

DATES_FROM_S = 1e8
"""Moments from here on are live ones, counted from 1970."""


def moment(at_s: float) -> str:
    """Write a moment of a run as h:mm:ss, or as a date if it was a live one."""
    if at_s >= DATES_FROM_S:
        return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    minutes, rest = divmod(round(at_s), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def span(seconds: float) -> str:
    """Write how long something takes, in the unit that reads best: ``17 s``, ``2 hours``."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if float(f"{seconds / size:.3g}") >= 2:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def gpus(number: int) -> str:
    """Write a number of GPUs."""
    return f"{number:,} GPU" if number == 1 else f"{number:,} GPUs"


def percent(share: float, digits: int = 2) -> str:
    """Write a share as ``99.00 %``."""
    return f"{share * 100:.{digits}f} %"


def of_target(share: float, target: float) -> str:
    """Write a share that misses its target beside it, with as many digits as tell them apart."""
    digits = next((d for d in range(2, 9) if percent(share, d) != percent(target, d)), 9)
    return f"{percent(share, digits)} of {target * 100:g} %"


def because(decision: Mapping[str, Any]) -> str:
    """Write what a decision chose and why, naming it once."""
    chosen, reason = str(decision["chosen"]), str(decision["reason"])
    return reason if chosen in reason else f"{chosen}: {reason}"
