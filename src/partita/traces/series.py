"""Regular series from a trace or log: requests by service and step, with what is not known kept apart from zero.

A step counts only once it is whole. The one that the watermark cuts is told apart (`Series.rest`), what lies behind the
watermark is left out and counted (`Series.beyond`), and a step that touches a gap is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.model.load import Load
from partita.ports import Counts, Rows
from partita.traces.services import ServiceMap

STEPS_S = (1.0, 10.0, 60.0, 600.0, 3600.0)
"""Widths that are rolled up to unless another is asked for."""

SECOND_NS = 1_000_000_000
HELD_FRAMES = 64
"""Blocks that are held before they are added up: what bounds memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A regular series and what it does not say.

    `rest` holds the counts of the step that the watermark cuts, by service, and `rest_s` how much of it is known (0:
    the watermark is a step's end). `beyond` are requests after the watermark, left out here. `late` are requests by
    service that came after the log had been called complete where they belong: they are counted, but whoever read the
    log in time has not seen them.
    """

    load: Load
    watermark_s: float
    rest: NDArray[np.float64]
    rest_s: float
    beyond: int = 0
    late: Mapping[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> NDArray[np.int64]:
        """How many steps of each service were not measured."""
        number: NDArray[np.int64] = np.isnan(self.load.counts).sum(axis=1)
        return number


def roll_up(
    blocks: Iterable[Rows | Counts],
    step_s: float,
    *,
    mapping: ServiceMap | None = None,
    bin_s: float | None = None,
    begin_s: float | None = None,
    watermark_s: float | None = None,
    gaps: Sequence[tuple[float, float]] = (),
    late: Mapping[str, int] | None = None,
) -> Series:
    """Count requests by service and step.

    `bin_s` is the width of the bins of a count trace, where a bin without an entry is missing; without it the blocks
    are of requests, where a step without an entry is zero unless it touches one of the `gaps` (begin and end, unix
    seconds, rising). The source is complete up to `watermark_s`, by default up to its last request or bin. Steps begin
    at multiples of their width since 1970, or with the source's first bin where its bins do not fit those. ConfigError
    where steps cannot be made of the bins.
    """
    step_ns, bin_ns = round(step_s * 1e9), round((bin_s or 0.0) * 1e9)
    if bin_ns and step_ns % bin_ns:
        raise ConfigError(f"steps of {step_s:g} s cannot be made of bins of {bin_s:g} s", key="step", value=step_s)
    mapping = mapping or ServiceMap()
    tally = _Tally(step_ns, bin_ns, mapping)
    for block in blocks:
        tally.add(block, None if watermark_s is None else round(watermark_s * 1e9))
    begin = tally.first_ns if begin_s is None else round(begin_s * 1e9)
    end = tally.last_ns if watermark_s is None else round(watermark_s * 1e9)
    if begin is None or end is None:
        begin = end = begin or end or 0
    return _series(tally, begin, end, gaps, late or {})


def coarsened(load: Load, step_s: float) -> Load:
    """Add up whole groups of steps, from the first multiple of the new width on; one unmeasured step makes it NaN."""
    width = round(step_s / load.step_s)
    if width < 1 or abs(width * load.step_s - step_s) > 1e-6 * step_s:
        raise ConfigError(f"steps of {step_s:g} s cannot be made of steps of {load.step_s:g} s", key="step")
    skip = round(-load.start_s / load.step_s) % width
    whole = max(0, load.counts.shape[1] - skip) // width
    counts = load.counts[:, skip : skip + whole * width].reshape(len(load.services), whole, width).sum(axis=2)
    return Load(load.services, load.start_s + skip * load.step_s, step_s, counts)


def dispersion(load: Load, *, window_steps: int = 60) -> NDArray[np.float64]:
    """Return the index of dispersion of counts by service: variance over mean of what arrives in a step.

    It is 1 for Poisson arrivals and what burstiness adds to that; a trend or cycle would add to it too, so variances
    are taken within windows, and their sum is set against the sum of the means. NaN where no window holds two measured
    steps and a request.
    """
    width = min(window_steps, max(1, load.counts.shape[1]))
    whole = load.counts.shape[1] // width
    cut = load.counts[:, : whole * width].reshape(len(load.services), whole, width)
    known = np.isfinite(cut)
    number = known.sum(axis=2)
    total = np.where(known, cut, 0.0).sum(axis=2)
    mean = total / np.maximum(number, 1)
    squares = np.where(known, (cut - mean[:, :, None]) ** 2, 0.0).sum(axis=2)
    counts = number >= 2
    variance = np.where(counts, squares / np.maximum(number - 1, 1), 0.0).sum(axis=1)
    level = np.where(counts, mean, 0.0).sum(axis=1)
    index: NDArray[np.float64] = np.where(level > 0, variance / np.where(level > 0, level, 1.0), np.nan)
    return index


# Counting -----------------------------------------------------------------------------------------------------------


class _Tally:
    """Requests by service and step of the source's own grid, while the blocks pass by."""

    def __init__(self, step_ns: int, bin_ns: int, mapping: ServiceMap) -> None:
        self.step_ns, self.bin_ns, self.mapping = step_ns, bin_ns, mapping
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.origin_ns = 0
        self.beyond = 0
        self._frames: list[pl.DataFrame] = []

    def add(self, block: Rows | Counts, watermark_ns: int | None) -> None:
        """Take a block in."""
        at, service = block.at_ns, self.mapping.indices(block.service)
        if not at.size:
            return
        if self.first_ns is None:
            self.first_ns = int(at[0])
            self.origin_ns = self.first_ns % self.step_ns if self._cuts_a_bin(int(at[0])) else 0
        self.last_ns = int(at[-1]) + max(self.bin_ns, 1)
        count = block.count if isinstance(block, Counts) else np.ones(at.size, np.int64)
        kept = service >= 0
        if watermark_ns is not None:
            within = at + max(self.bin_ns, 1) <= watermark_ns
            self.beyond += int(count[kept & ~within].sum())
            kept &= within
        step = (at[kept] - self.origin_ns) // self.step_ns
        self._frames.append(
            _added(pl.DataFrame({"service": service[kept], "step": step, "count": count[kept], "entries": 1}))
        )
        if len(self._frames) >= HELD_FRAMES:
            self._frames = [_added(pl.concat(self._frames))]

    def frame(self) -> pl.DataFrame:
        """Return service, step (from the grid's origin), count and the number of entries behind it."""
        if not self._frames:
            return pl.DataFrame({name: np.empty(0, np.int64) for name in ("service", "step", "count", "entries")})
        return _added(pl.concat(self._frames))

    def _cuts_a_bin(self, first_ns: int) -> bool:
        return bool(self.bin_ns) and first_ns % self.step_ns % self.bin_ns != 0


def _added(frame: pl.DataFrame) -> pl.DataFrame:
    found = frame.group_by("service", "step").agg(pl.col("count").sum(), pl.col("entries").sum())
    return found.select(pl.all().cast(pl.Int64))


def _series(
    tally: _Tally, begin_ns: int, end_ns: int, gaps: Sequence[tuple[float, float]], late: Mapping[str, int]
) -> Series:
    """Lay the counts out on the grid between the first whole step and the one that the watermark cuts."""
    step, origin = tally.step_ns, tally.origin_ns
    first, last = -((origin - begin_ns) // step), (end_ns - origin) // step
    first, last = min(first, last), max(first, last)
    services = tally.mapping.services
    grid = np.zeros((2, len(services), last - first + 1))
    frame = tally.frame().filter(pl.col("step").is_between(first, last))
    service, place = frame["service"].to_numpy(), frame["step"].to_numpy() - first
    grid[0, service, place] = frame["count"].to_numpy()
    grid[1, service, place] = frame["entries"].to_numpy()
    counts = grid[0]
    if tally.bin_ns:
        counts = np.where(grid[1] >= step // tally.bin_ns, counts, np.nan)
    for begins_s, ends_s in gaps:
        low, high = (round(s * 1e9) - origin for s in (begins_s, ends_s))
        counts[:, max(0, low // step - first) : max(0, -(-high // step) - first)] = np.nan
    start_s = (origin + first * step) / 1e9
    rest_ns = end_ns - (origin + last * step)
    rest = grid[0][:, -1] if rest_ns > 0 else np.zeros(len(services))
    load = Load(services, start_s, step / 1e9, counts[:, :-1])
    return Series(load, end_ns / 1e9, rest, max(0, rest_ns) / 1e9, tally.beyond, dict(late))
