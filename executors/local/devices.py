"""What a worker process computes on: a device that only takes its time, or a real network on torch.

Imported in the worker, which starts quicker without numpy; torch is imported only where it is asked for.
"""

from __future__ import annotations

import fcntl
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

Points = Sequence[tuple[int, float]]
"""Measured (batch, seconds) pairs in rising batch order."""


class Device(Protocol):
    """Loads models and runs batches on them."""

    def load(self, service: str, points: Points) -> None:
        """Make room for a service's model; `points` are its latency curve here, empty if it has none."""
        ...

    def unload(self, service: str) -> None:
        """Give a model's memory back."""
        ...

    def run(self, service: str, size: int) -> None:
        """Run a batch to its end."""
        ...


def device(settings: Mapping[str, Any], lock: str | None) -> Device:
    """Make the device that `settings` (the fields of `settings.Device`) describe."""
    turns = _turns(lock)
    if settings["kind"] == "torch":
        return TorchDevice(settings["where"], settings["width"], settings["layers"], settings["threads"], turns)
    return EmulatedDevice(turns)


Turns = Callable[[], Any]
"""Returns a context in which the device is held alone."""


def _turns(lock: str | None) -> Turns:
    if lock is None:
        return _alone
    file = open(lock, "a")  # noqa: SIM115 - held open for the whole life of the worker

    @contextmanager
    def taken() -> Iterator[None]:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    return taken


@contextmanager
def _alone() -> Iterator[None]:
    yield


class EmulatedDevice:
    """Takes as long as the latency curve says, and computes nothing."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._points: dict[str, Points] = {}

    def load(self, service: str, points: Points) -> None:
        """Keep the curve; ValueError if there is none."""
        if not points:
            raise ValueError(f"service {service} has no latency curve here")
        self._points[service] = points

    def unload(self, service: str) -> None:
        """Forget the curve."""
        self._points.pop(service, None)

    def run(self, service: str, size: int) -> None:
        """Hold the device for as long as a batch of this size takes."""
        with self._turns():
            until_ns = time.monotonic_ns() + round(latency_s(self._points[service], size) * 1e9)
            sleep_until(until_ns)


class TorchDevice:
    """A network of square layers, one copy a service, with a real forward pass for each batch."""

    def __init__(self, where: str, width: int, layers: int, threads: int, turns: Turns) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch, self._where, self._width, self._layers = torch, torch.device(where), width, layers
        self._turns = turns
        self._models: dict[str, Any] = {}

    def load(self, service: str, points: Points) -> None:
        """Build the service's network and run it once, since the first run is slower."""
        torch = self._torch
        square = [
            torch.nn.Sequential(torch.nn.Linear(self._width, self._width), torch.nn.ReLU()) for _ in range(self._layers)
        ]
        self._models[service] = torch.nn.Sequential(*square).to(self._where).eval()
        self.run(service, 1)

    def unload(self, service: str) -> None:
        """Forget the network."""
        self._models.pop(service, None)

    def run(self, service: str, size: int) -> None:
        """Do a forward pass on a batch of this size, and wait for its end."""
        torch = self._torch
        with self._turns(), torch.inference_mode():
            answer = self._models[service](torch.ones(size, self._width, device=self._where))
            float(answer.sum())  # reading a number waits for the device


def latency_s(points: Points, size: int) -> float:
    """Return how long a batch takes: linear between two points, the last piece going on beyond them."""
    if size <= points[0][0] or len(points) == 1:
        return points[0][1]
    right = min(bisect_left(points, size, key=lambda p: p[0]), len(points) - 1)
    (b, s), (c, t) = points[right - 1], points[right]
    return s + (t - s) * (size - b) / (c - b)


def sleep_until(instant_ns: int) -> None:
    """Return at an instant of the monotonic clock, or at once if that has passed."""
    while (left_ns := instant_ns - time.monotonic_ns()) > 0:
        time.sleep(left_ns / 1e9)
