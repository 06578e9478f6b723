"""Measure how long a device takes for a batch, as the latency curve that a service needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate
from statistics import median

from partita.executors.local import devices
from partita.executors.local.settings import Device
from partita.model.plain import to_plain
from partita.model.service import WHOLE_GPU, LatencyCurve


def measure(device: Device, batches: Sequence[int], *, repeats: int = 20, profile: str = WHOLE_GPU) -> LatencyCurve:
    """Run each batch size (rising) `repeats` times on a torch device and return the curve of the medians.

    A median that lies below one of a smaller batch is raised to it, since a curve must not fall.
    """
    here = devices.device(to_plain(device), None)
    here.load("measured", ())
    medians = [median(_seconds(here, size) for _ in range(repeats)) for size in batches]
    return LatencyCurve(profile, tuple(zip(batches, accumulate(medians, max), strict=True)))


def _seconds(here: devices.Device, size: int) -> float:
    began = time.perf_counter()
    here.run("measured", size)
    return time.perf_counter() - began
