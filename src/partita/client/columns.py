"""Turn what a gateway says of its requests into columns, and set aside, row by row, what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.store.live_batch import DROPPED, GOOD, LATE, NO_BATCH, NO_REPLICA, UNKNOWN, Refused, Requests

LONGEST_NAME = 200
"""Characters of the name of a service, replica or writer."""

_WRONG = -2
_FURTHEST_S = 2.0**42


class Status(IntEnum):
    """What became of a request: answered within its SLO, answered later, or not answered."""

    GOOD = GOOD
    LATE = LATE
    DROPPED = DROPPED


_WORDS: Mapping[object, int] = {"good": GOOD, "late": LATE, "dropped": DROPPED}

Column = Sequence[Any] | NDArray[Any]
Slo = float | Mapping[str, float] | None


class Names:
    """The names in one batch; a name's place is its number."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, values: Column) -> NDArray[np.int32]:
        """Return the place of each name, NO_REPLICA for None, and less for what cannot be a name."""
        names = values.tolist() if isinstance(values, np.ndarray) else values
        try:
            known = {name: self._placed(name) for name in set(names)}
            return np.fromiter(map(known.__getitem__, names), np.int32, len(names))
        except TypeError:  # something that cannot be hashed is no name
            return np.fromiter(map(self._placed, names), np.int32, len(names))

    def take_over(self, others: Names, places: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the places here of names that have `places` among others; those that do not occur are not taken."""
        here = np.full(len(others.places) + 1, NO_REPLICA, np.int32)  # NO_REPLICA is the last place
        occur = np.bincount(places + 1, minlength=len(here))[1:] > 0
        for place, name in enumerate(others.places):
            if occur[place]:
                here[place] = self.places.setdefault(name, len(self.places))
        return here[places]

    def _placed(self, name: object) -> int:
        if name is None:
            return NO_REPLICA
        if not isinstance(name, str) or not is_name(name):
            return _WRONG
        return self.places.setdefault(name, len(self.places))


def is_name(name: str) -> bool:
    """Say whether the database can keep it as the name of something."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return 0 < len(name) <= LONGEST_NAME and "\0" not in name


def judged(
    columns: Mapping[str, Any], services: Names, replicas: Names, slo_s: Slo
) -> tuple[Requests, dict[str, Refused]]:
    """Return the requests that can be logged, and those that cannot, by reason; names are kept of the former only.

    `columns` has the arguments of `AsyncRequestLog.record_many`, equally long; a single `service` or `replica` is that
    of all, and a column that is None was not recorded.
    """
    rows = len(columns["arrived_s"])
    services_here, replicas_here = Names(), Names()
    service = _named(columns["service"], services_here, rows)
    replica = _named(columns["replica"], replicas_here, rows)
    arrived_s, _ = _numbers(columns["arrived_s"], rows)
    status, no_status = _numbers(_worded(columns["status"]), rows)
    batch, no_batch = _numbers(columns["batch"], rows)
    size, no_size = _numbers(columns["size"], rows)
    dropped = status == DROPPED
    latency_s, latency_wrong = _duration(columns["latency_s"], rows, dropped)
    queue_s, queue_wrong = _duration(columns["queue_s"], rows, dropped)
    wrong = {
        "service": service < 0,
        "arrival": ~np.isfinite(arrived_s),
        "latency": latency_wrong,
        "queue": queue_wrong,
        "size": (size < 0) | (size > np.finfo(np.float32).max),
        "batch": ~no_batch & ~((batch >= 1) & (batch < 2**31) & (batch == np.floor(batch))),
        "status": ~no_status & ~np.isin(status, (GOOD, LATE, DROPPED)),
        "replica": replica == _WRONG,
    }
    status = np.where(no_status, _judged_by_slo(latency_s, service, services_here, slo_s), status)
    at_us = np.rint(np.clip(np.nan_to_num(arrived_s), -_FURTHEST_S, _FURTHEST_S) * 1e6)
    good, refused = _sorted_out(wrong, columns, rows)
    chosen = slice(None) if good.all() else good
    return (
        Requests(
            services.take_over(services_here, service[chosen]),
            at_us[chosen].astype(np.int64),
            np.where(no_size, np.nan, size)[chosen].astype(np.float32),
            latency_s[chosen].astype(np.float32),
            queue_s[chosen].astype(np.float32),
            np.where(no_batch, NO_BATCH, batch)[chosen].astype(np.int32),
            status[chosen].astype(np.int16),
            replicas.take_over(replicas_here, replica[chosen]),
        ),
        refused,
    )


def _named(column: Column | str | None, names: Names, rows: int) -> NDArray[np.int32]:
    if column is None or isinstance(column, str):
        return np.repeat(names.place([column]), rows)
    return names.place(column)


def _worded(status: Column | None) -> Column | None:
    if status is None or (isinstance(status, np.ndarray) and status.dtype.kind != "O"):
        return status
    try:
        return [_WORDS.get(value, value) for value in status]
    except TypeError:  # something that cannot be hashed; `_numbers` finds it
        return status


def _numbers(column: Column | None, rows: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a column as numbers, and which of them were not given at all; what is no number is infinite."""
    if column is None:
        return np.full(rows, np.nan), np.ones(rows, np.bool_)
    try:
        numbers = np.asarray(column, np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array([_number(value) for value in column])
    if numbers.ndim != 1:
        numbers = np.full(rows, np.inf)
    if (isinstance(column, np.ndarray) and column.dtype.kind != "O") or not np.isnan(numbers).any():
        return numbers, np.zeros(rows, np.bool_)
    return numbers, np.fromiter((value is None for value in column), np.bool_, rows)


def _number(value: Any) -> float:
    try:
        return np.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return np.inf


def _duration(
    column: Column | None, rows: int, dropped: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a column of seconds, and which of them are wrong; of a dropped request NaN says that there is none."""
    seconds, absent = _numbers(column, rows)
    fits = (seconds >= 0) & (seconds <= np.finfo(np.float32).max)
    return seconds, ~(fits | absent | (dropped & np.isnan(seconds)))


def _judged_by_slo(
    latency_s: NDArray[np.float64], service: NDArray[np.int32], services: Names, slo_s: Slo
) -> NDArray[np.float64]:
    """Return the status by latency and SLO, UNKNOWN where either is not known."""
    if slo_s is None:
        return np.full(len(latency_s), float(UNKNOWN))
    if isinstance(slo_s, Mapping):
        limits = np.array([*(slo_s.get(name, np.nan) for name in services.places), np.nan])
        limit = limits[np.maximum(service, -1)]
    else:
        limit = np.full(len(latency_s), float(slo_s))
    known = ~np.isnan(latency_s) & ~np.isnan(limit)
    return np.where(known, np.where(latency_s <= limit, GOOD, LATE), UNKNOWN)


def _sorted_out(
    wrong: Mapping[str, NDArray[np.bool_]], columns: Mapping[str, Any], rows: int
) -> tuple[NDArray[np.bool_], dict[str, Refused]]:
    """Return which rows are good, and the others by the first reason that holds."""
    good = np.ones(rows, np.bool_)
    refused = {}
    for reason, which in wrong.items():
        new = which & good
        if count := int(np.count_nonzero(new)):
            refused[reason] = Refused(count, _example(columns, int(np.argmax(new))))
            good &= ~new
    return good, refused


def _example(columns: Mapping[str, Any], row: int) -> str:
    shown = []
    for name, column in columns.items():
        value = column if column is None or isinstance(column, str) else column[row]
        if value is not None:
            try:
                text = ascii(value.item() if isinstance(value, np.generic) else value)
            except Exception:  # whatever a stranger's object does
                text = f"a {type(value).__name__}"
            shown.append(f"{name}={text[:60]}")
    return " ".join(shown)[:200]
