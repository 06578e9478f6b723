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
    """Count requests by service and step, block by block; the arguments are those of `Tally` and its `series`."""
    tally = Tally(step_s, bin_s=bin_s, mapping=mapping, watermark_s=watermark_s)
    for block in blocks:
        tally.add(block)
    return tally.series(begin_s=begin_s, gaps=gaps, late=late)


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


class Tally:
    """Counts requests by service and step while the blocks pass by, in the order of time.

    `bin_s` is the width of the bins of a count trace, where a bin without an entry is missing; without it the blocks
    are of requests, where a step without an entry is zero unless it touches a gap. The source is complete up to
    `watermark_s`, by default up to its last request or bin. Steps begin at multiples of their width since 1970, or with
    the source's first bin where its bins do not fit those. ConfigError where steps cannot be made of the bins.
    """

    def __init__(
        self,
        step_s: float,
        *,
        bin_s: float | None = None,
        mapping: ServiceMap | None = None,
        watermark_s: float | None = None,
    ) -> None:
        self._step_ns, self._bin_ns = round(step_s * 1e9), round((bin_s or 0.0) * 1e9)
        if self._bin_ns and self._step_ns % self._bin_ns:
            raise ConfigError(f"steps of {step_s:g} s cannot be made of bins of {bin_s:g} s", key="step", value=step_s)
        self._mapping = mapping or ServiceMap()
        self._watermark_ns = None if watermark_s is None else round(watermark_s * 1e9)
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._origin_ns = 0
        self._beyond = 0
        self._frames: list[pl.DataFrame] = []

    def add(self, block: Rows | Counts) -> None:
        """Take a block in."""
        at, service = block.at_ns, self._mapping.indices(block.service)
        if not at.size:
            return
        if self._first_ns is None:
            self._first_ns = int(at[0])
            cuts_a_bin = self._bin_ns and self._first_ns % self._step_ns % self._bin_ns
            self._origin_ns = self._first_ns % self._step_ns if cuts_a_bin else 0
        self._last_ns = int(at[-1]) + max(self._bin_ns, 1)
        count = block.count if isinstance(block, Counts) else np.ones(at.size, np.int64)
        kept = service >= 0
        if self._watermark_ns is not None:
            within = at + max(self._bin_ns, 1) <= self._watermark_ns
            self._beyond += int(count[kept & ~within].sum())
            kept &= within
        step = (at[kept] - self._origin_ns) // self._step_ns
        self._frames.append(
            _added(pl.DataFrame({"service": service[kept], "step": step, "count": count[kept], "entries": 1}))
        )
        if len(self._frames) >= HELD_FRAMES:
            self._frames = [_added(pl.concat(self._frames))]

    def series(
        self,
        *,
        begin_s: float | None = None,
        gaps: Sequence[tuple[float, float]] = (),
        late: Mapping[str, int] | None = None,
    ) -> Series:
        """Lay the counts out on the grid, from the first whole step to the one that the watermark cuts.

        `begin_s` is where the source begins, by default its first request or bin; in the `gaps` (begin and end, unix
        seconds) nobody was logging.
        """
        begin = self._first_ns if begin_s is None else round(begin_s * 1e9)
        end = self._last_ns if self._watermark_ns is None else self._watermark_ns
        begin, end = (end or 0) if begin is None else begin, (begin or 0) if end is None else end
        step, origin = self._step_ns, self._origin_ns
        first, last = -((origin - begin) // step), (end - origin) // step
        first, last = min(first, last), max(first, last)
        services = self._mapping.services
        totals, entries = self._grid(first, last)
        counts = totals
        if self._bin_ns:
            counts = np.where(entries >= step // self._bin_ns, counts, np.nan)
        for begins_s, ends_s in gaps:
            low, high = (round(s * 1e9) - origin for s in (begins_s, ends_s))
            counts[:, max(0, low // step - first) : max(0, -(-high // step) - first)] = np.nan
        rest_ns = max(0, end - (origin + last * step))
        rest = totals[:, -1].copy() if rest_ns else np.zeros(len(services))
        load = Load(services, (origin + first * step) / 1e9, step / 1e9, counts[:, :-1])
        return Series(load, end / 1e9, rest, rest_ns / 1e9, self._beyond, dict(late or {}))

    def _grid(self, first: int, last: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return counts and the entries behind them, ``(services, steps)``, the last step included."""
        grid = np.zeros((2, len(self._mapping.services), last - first + 1))
        if self._frames:
            frame = _added(pl.concat(self._frames)).filter(pl.col("step").is_between(first, last))
            service, place = frame["service"].to_numpy(), frame["step"].to_numpy() - first
            grid[0, service, place] = frame["count"].to_numpy()
            grid[1, service, place] = frame["entries"].to_numpy()
        return grid[0], grid[1]


def _added(frame: pl.DataFrame) -> pl.DataFrame:
    found = frame.group_by("service", "step").agg(pl.col("count").sum(), pl.col("entries").sum())
    return found.select(pl.all().cast(pl.Int64))
