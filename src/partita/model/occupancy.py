"""Who ran on which GPU over a run, added up by interval, and the single batches of one short window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class BatchWindow:
    """Every batch that ran on some instances in a short window, as parallel arrays in the order of their start.

    `row` is a place in `rows`, the names of the instances, `service` one in the occupancy's `services`; a batch that
    was cut short has size 0.
    """

    span_s: tuple[float, float]
    row: NDArray[np.int64]
    service: NDArray[np.int64]
    size: NDArray[np.int64]
    start_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outage:
    """Something of a row, a place in the occupancy's `rows`, was gone by a failure between two instants."""

    row: int
    at_s: float
    back_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Occupancy:
    """Who ran on which GPU, by interval of `width_s` from the start on.

    A row of `busy`, ``(rows, intervals)``, is an instance, a GPU or several, named in `rows`: the share of the time in
    which it was ready that batches ran, nan where it never was ready. `leaders` are the services with most of that
    time, the first first, ``(rows, intervals, n)``, and `shares` is what they had of it. `working`,
    ``(services, intervals)``, is how many instances ran each service in the mean, `ready` how many there were.
    """

    services: tuple[str, ...]
    rows: tuple[str, ...]
    width_s: float
    busy: NDArray[np.float64]
    leaders: NDArray[np.int64]
    shares: NDArray[np.float64]
    working: NDArray[np.float64]
    ready: NDArray[np.float64]
    batches: BatchWindow
    outages: tuple[Outage, ...] = ()
