"""Regular load series from where they are kept: a trace file, an import, or the live log."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

import numpy as np

from partita.controller.load_detail import FINE_S, SIZES_S, Detail, shared_step_s, since_newest, split_counts
from partita.controller.tracefiles import choose_import, choose_reader, exported_blocks
from partita.errors import ConfigError, StoreError
from partita.forecasting.history import LEAST_MEASURED
from partita.model.load import Load
from partita.ports import Counts, Rows
from partita.store.connection import Connection, connect
from partita.store.reading import (
    read_gaps,
    read_late,
    read_requests,
    read_rollup,
    read_sized,
    read_span,
    read_watermark,
)
from partita.traces.buckets import completed, owner
from partita.traces.guard import read_blocks
from partita.traces.series import Series, Tally, roll_up
from partita.traces.services import ServiceMap
from partita.traces.sizes import Sizes, sizes_of

LIVE = 0
"""Number of the source that is the live log."""
MINUTE_S = 60.0
MOST_SIZED = 20_000_000
"""Newest requests whose sizes are looked at in the live log unless buckets are asked for."""
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_span(text: str, key: str) -> float:
    """Turn a length of time such as ``90``, ``10s``, ``1m``, ``24h`` or ``7d`` into seconds; ConfigError otherwise."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([smhd]?)\s*", text)
    if match is None or float(match[1]) == 0:
        hint = "give a length of time like 10s, 1m, 24h or 7d"
        raise ConfigError(f"{text!r} is no length of time: {hint}", key=key, value=text)
    return float(match[1]) * _UNITS_S[match[2] or "s"]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A series, where it is from, and how its services were told from the others."""

    name: str
    series: Series


def series_of_trace(
    path: Path,
    *,
    step_s: float | None = None,
    forced: str | None = None,
    bin_s: float | None = None,
    detail: Detail | None = None,
) -> Source:
    """Roll a trace file up; without `step_s` by the minute, or by its own bins where those are wider.

    `detail` is told what is beside the rate; if it has buckets, the series are those of services and buckets.
    """
    reader = choose_reader(path, forced=forced, bin_s=bin_s)
    info = reader.info(path)
    step_s = step_s or _default_step(info.bin_s)
    return Source(str(path), _rolled(read_blocks(reader, path), step_s, info.bin_s, detail))


def _rolled(blocks: Iterable[Rows | Counts], step_s: float, bin_s: float | None, detail: Detail | None) -> Series:
    if detail is None:
        return roll_up(blocks, step_s, bin_s=bin_s)
    mapping = None if detail.by_size is None else detail.by_size.mapping
    series = roll_up(detail.through(blocks, bin_s), step_s, bin_s=bin_s, mapping=mapping)
    detail.finish()
    return series


async def series_of_live(
    dsn: str, *, step_s: float | None = None, since_s: float | None = None, detail: Detail | None = None
) -> Source:
    """Roll the live log up to its watermark, by the minute unless told otherwise; StoreError if it is empty.

    `detail` as in `series_of_trace`: sizes are counted in the log itself, which the roll-up is held against, so that
    what only counts tell of is of unknown size.
    """
    async with connect(dsn) as connection:
        watermark = await read_watermark(connection, LIVE)
        if watermark is None:
            raise StoreError("nobody has logged a request yet: --trace FILE or --import N name another source")
        span = await read_span(connection, LIVE)
        gaps = await read_gaps(connection)
        late = await read_late(connection)
        start = span.first if since_s is None else max(span.first, datetime.fromtimestamp(since_s, UTC))
        tally = Tally(step_s or MINUTE_S, watermark_s=watermark.timestamp())
        if detail is not None:
            detail.begin(watermark_s=watermark.timestamp())
        async for block in read_rollup(connection, LIVE, start=start, end=max(watermark, span.end)):
            tally.add(block.counts())
            if detail is not None and detail.by_size is None:
                detail.add_fine(block.counts())
        series = tally.series(begin_s=start.timestamp(), gaps=gaps, late=late)
        if detail is not None:
            series = await _by_size(connection, detail, series, start.timestamp(), gaps)
    return Source("the live log", series)


async def _by_size(
    connection: Connection, detail: Detail, whole: Series, begin_s: float, gaps: Sequence[tuple[float, float]]
) -> Series:
    """Count the live log by size; with buckets return their series instead of the whole ones.

    Without, only the newest requests are looked at: the roll-up keeps no sizes, and a log may hold years.
    """
    since_s = begin_s if detail.by_size is not None else max(begin_s, since_newest(whole, MOST_SIZED))
    start, end = (datetime.fromtimestamp(at, UTC) for at in (since_s, whole.watermark_s))
    mapping = None if detail.by_size is None else detail.by_size.mapping
    split = Tally(whole.load.step_s, mapping=mapping, watermark_s=whole.watermark_s)
    step_s = SIZES_S if detail.by_size is None else shared_step_s(whole.load.step_s, FINE_S, SIZES_S)
    read = read_sized(connection, LIVE, detail.edges, step_s, start=start, end=end, service=detail.only)
    async for found in read:
        detail.add_sized(found)
        if detail.by_size is not None:
            block = split_counts(found, detail.by_size, detail.edges)
            detail.add_fine(block)
            split.add(block)
    detail.finish(begin_s=begin_s, sized_s=since_s, gaps=gaps)
    if detail.buckets is None:
        return whole
    return completed(split.series(begin_s=begin_s, gaps=gaps), whole, detail.buckets)


def series_of_import(
    dsn: str, record_number: int, *, step_s: float | None = None, detail: Detail | None = None
) -> Source:
    """Roll an import up, as `series_of_trace` does a file; StoreError if there is none of this number."""
    record = asyncio.run(choose_import(dsn, record_number))
    with closing(exported_blocks(dsn, record)) as blocks:
        first, bin_s = next(blocks)
        rest = (block for block, _ in blocks)
        series = _rolled(chain([first], rest), step_s or _default_step(bin_s), bin_s, detail)
    return Source(f"import {record.id} ({record.file})", series)


async def sizes_of_live(dsn: str, service: str, *, since_s: float, until_s: float) -> Sizes:
    """Return the input sizes of one service that the live log holds of a time."""
    bounds = [datetime.fromtimestamp(at, UTC) for at in (since_s, until_s)]
    async with connect(dsn) as connection:
        blocks = [b async for b in read_requests(connection, LIVE, start=bounds[0], end=bounds[1])]
    return sizes_of(blocks, ServiceMap(None, [service]))


def _default_step(bin_s: float | None) -> float:
    return max(MINUTE_S, bin_s or 0.0) if not bin_s or MINUTE_S % bin_s == 0 or bin_s > MINUTE_S else bin_s


def picked(load: Load, patterns: Sequence[str]) -> Load:
    """Keep the services whose names match one of the patterns, all without any; ConfigError where none does."""
    if not patterns:
        return load
    kept = [n for n, name in enumerate(load.services) if any(_matches(name, p) for p in patterns)]
    if not kept:
        known = ", ".join(load.services[:8]) + (", …" if len(load.services) > 8 else "")
        raise ConfigError(f"no service matches {', '.join(patterns)}; there are: {known}", key="--service")
    return rows(load, kept)


def _matches(name: str, pattern: str) -> bool:
    """Say whether a series is meant: by its name, or by that of the service whose bucket it is."""
    return fnmatchcase(name, pattern) or fnmatchcase(owner(name), pattern)


def forecastable(load: Load, first: int) -> tuple[Load, Mapping[str, str]]:
    """Leave out the services that nothing can be said of, with why: none came, or too little before step `first`."""
    left_out: dict[str, str] = {}
    for n, name in enumerate(load.services):
        row = load.counts[n]
        if np.isfinite(row[:first]).sum() < LEAST_MEASURED:
            left_out[name] = "too little was measured before the first origin"
        elif not np.nansum(row):
            left_out[name] = "no request ever came"
    return rows(load, [n for n, name in enumerate(load.services) if name not in left_out]), left_out


def rows(load: Load, kept: Sequence[int]) -> Load:
    """Keep some services, by their places."""
    names = tuple(load.services[n] for n in kept)
    return Load(names, load.start_s, load.step_s, load.counts[list(kept)])
