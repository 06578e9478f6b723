"""What is asked of the servers: requests of two services whose rates change, the same instants in every run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partita.controller.tracefiles import choose_reader
from partita.errors import TraceError
from partita.model.load import Arrivals
from partita.ports import Rows
from partita.traces.services import ServiceMap
from partita.traces.summary import open_arrivals, summarise
from partita.traces.writers import write_trace

EPOCH_NS = 1_700_000_000_000_000_000
"""Where a written trace begins: traces bear dates, and a replay counts from its first request."""
PEAK_RPS = 190.0
"""What the busiest minute of a trace is brought to by playing it faster, or slower."""
FEWEST = 200


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Requests in the order of their instants (seconds from the beginning), each of a service given by its number."""

    services: tuple[str, ...]
    at_s: NDArray[np.float64]
    service: NDArray[np.int64]
    span_s: float

    def arrivals(self) -> Arrivals:
        """Return the requests service by service, as disciplines take them."""
        at_ns = np.rint(self.at_s * 1e9).astype(np.int64)
        order = np.lexsort((at_ns, self.service))
        counts = np.bincount(self.service, minlength=len(self.services))
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        return Arrivals(at_ns[order], offsets, np.ones(len(order), np.float32))

    def write(self, path: Path, *, after_s: float = 0.0) -> None:
        """Write it as a trace of Partita's own, its beginning `after_s` after EPOCH_NS."""
        order = np.argsort(self.at_s, kind="stable")
        names = np.array(self.services, object)[self.service[order]]
        at_ns = EPOCH_NS + np.rint((self.at_s[order] + after_s) * 1e9).astype(np.int64)
        sizes = np.full(len(order), np.nan, np.float32)
        write_trace(path, [Rows(at_ns, names, sizes, sizes)])


@dataclass(frozen=True, slots=True)
class Step:
    """A point that the rates pass through: when, and how much of each service by then."""

    at: float
    rates_rps: tuple[float, ...]


def make_load(services: tuple[str, ...], steps: tuple[Step, ...], *, span_s: float, seed: int) -> Load:
    """Draw requests whose rates go in straight lines from step to step; `at` of a step is a share of `span_s`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    corners = np.array([step.at * span_s for step in steps])
    drawn = [_draw(corners, np.array([step.rates_rps[n] for step in steps]), rng) for n in range(len(services))]
    at_s = np.concatenate(drawn)
    number = np.repeat(np.arange(len(services)), [len(part) for part in drawn])
    order = np.argsort(at_s, kind="stable")
    return Load(services, at_s[order], number[order], span_s)


def _draw(corners: NDArray[np.float64], rates: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw instants of one service: exponential gaps, stretched to the rates."""
    fine = np.linspace(corners[0], corners[-1], 20_000)
    rate = np.interp(fine, corners, rates)
    expected = np.concatenate(([0.0], np.cumsum(np.diff(fine) * (rate[1:] + rate[:-1]) / 2)))
    reached = np.cumsum(rng.exponential(size=round(expected[-1] + 6 * np.sqrt(expected[-1]) + 10)))
    found: NDArray[np.float64] = np.interp(reached[reached < expected[-1]], expected, fine)
    return found


def load_of_trace(path: Path, services: tuple[str, ...], *, span_s: float, seed: int) -> tuple[Load, float]:
    """Read the busiest part of a trace, sped up to our peak, and return it with the speed.

    The trace's services are dealt out over ours, the busiest first; of a trace with one service every second request
    is one of the other. TraceError if it holds too little.
    """
    reader = choose_reader(path)
    summary = summarise(reader, path)
    order = np.argsort(-summary.requests, kind="stable")
    ours = np.empty(len(order), np.int64)
    ours[order] = np.arange(len(order)) % len(services)
    speed = float(f"{PEAK_RPS / float(summary.busiest_minute_rps.sum()):.3g}")
    arrivals, _ = open_arrivals(reader, path, ServiceMap(), speed=speed, seed=seed)
    best, begin_s = Arrivals.empty(len(order)), 0.0
    for part in range(max(1, int(arrivals.span_ns / 1e9 // span_s))):
        found = arrivals.until(round((part + 1) * span_s * 1e9))
        if len(found) > len(best):
            best, begin_s = found, part * span_s
    if len(best) < FEWEST:
        raise TraceError(f"holds only {len(best)} requests in its busiest {span_s * speed:.0f} s", file=str(path))
    at_s = best.ns / 1e9 - begin_s
    number = np.repeat(ours, np.diff(best.offsets))
    by_time = np.argsort(at_s, kind="stable")
    at_s, number = at_s[by_time], number[by_time]
    if len(order) == 1:
        number = np.arange(len(number)) % len(services)
    return Load(services, at_s, number, span_s), speed
