"""The reference series that forecasters are compared on, as groups of series that share their time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from partita.model.load import Load
from partita.traces import READERS
from partita.traces.guard import read_blocks
from partita.traces.series import roll_up
from partita.traces.services import ServiceMap

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0
LEAST_STEPS = 1_000


@dataclass(frozen=True)
class Group:
    """Series that share their time, and the horizons that they are forecast at."""

    name: str
    load: Load
    horizons_s: tuple[float, ...]


def groups(most: int) -> Iterator[Group]:
    """Yield the groups, each with at most so many series, taken evenly by their mean."""
    traces = Path(os.environ["PARTITA_REFERENCE_DIR"]) / "traces"
    for group in (*_servegen(traces), *_single(traces), *_many(traces)):
        yield Group(group.name, _thinned(group.load, most), group.horizons_s)


def _servegen(traces: Path) -> Iterator[Group]:
    """Yield the clients of a public LLM service by ten minutes, and the sum of each of its two classes."""
    path = traces / "servegen" / "client_rates_600s.csv.gz"
    reader = next(r for r in READERS if r.name == "servegen")
    horizons = (600.0, HOUR_S, DAY_S)
    clients = roll_up(read_blocks(reader, path), 600.0, bin_s=600.0).load
    yield Group("servegen clients", clients, horizons)
    kinds = [name.partition("/")[0] for name in clients.services]
    sums = np.stack([clients.counts[[k == kind for k in kinds]].sum(axis=0) for kind in sorted(set(kinds))])
    yield Group("servegen totals", Load(tuple(sorted(set(kinds))), clients.start_s, 600.0, sums), horizons)


def _single(traces: Path) -> Iterator[Group]:
    """Yield the traces of one series in the form of counts."""
    reader = next(r for r in READERS if r.name == "counts")
    minutes, hours = (MINUTE_S, 15 * MINUTE_S, HOUR_S, DAY_S), (HOUR_S, DAY_S)
    yield _counts("worldcup98", traces / "worldcup98" / "per_minute.csv.gz", reader, MINUTE_S, minutes)
    yield _counts("appserver", traces / "appserver_hourly" / "hourly.csv.gz", reader, HOUR_S, hours)
    path = traces / "wikipedia_hourly" / "hourly.csv.gz"
    yield _counts("wikipedia", path, reader, HOUR_S, hours, ServiceMap({"views": "views"}))


def _counts(
    name: str, path: Path, reader: object, step_s: float, horizons: tuple[float, ...], mapping: ServiceMap | None = None
) -> Group:
    load = roll_up(read_blocks(reader, path), step_s, bin_s=step_s, mapping=mapping).load  # type: ignore[arg-type]
    return Group(name, Load((name,), load.start_s, step_s, load.counts), horizons)


def _many(traces: Path) -> Iterator[Group]:
    """Yield production gauges by the minute, and tweets, taxis and machines by five minutes or half an hour."""
    crane = pl.read_csv(traces / "crane_dsp" / "series.csv.gz", schema_overrides={"ts": pl.Float64})
    for name, part in _by_series(crane):
        yield Group(f"crane {name}", _gauge(name, part, MINUTE_S), (MINUTE_S, 15 * MINUTE_S, HOUR_S, DAY_S))
    nab = pl.read_csv(traces / "nab" / "series.csv.gz").with_columns(
        ts=pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S").dt.epoch("ms") / 1e3
    )
    for name, part in _by_series(nab):
        step_s = 1800.0 if "taxi" in name else 300.0
        load = _gauge(name, part, step_s)
        if load.counts.shape[1] >= LEAST_STEPS:
            yield Group(f"nab {name}", load, tuple(h for h in (900.0, HOUR_S, DAY_S) if h >= step_s))


def _by_series(frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for name in frame["series"].unique().sort().to_list():
        yield name, frame.filter(pl.col("series") == name).sort("ts")


def _gauge(name: str, frame: pl.DataFrame, step_s: float) -> Load:
    """Put values on a regular grid from the first on; of several in a step the first counts, none is missing.

    They are gauges, so a value stands for a rate, and rates are what forecasts are scored by.
    """
    ts, value = frame["ts"].to_numpy(), frame["value"].to_numpy().astype(np.float64)
    place = np.floor((ts - ts[0]) / step_s + 1e-9).astype(np.int64)
    counts = np.full((1, int(place[-1]) + 1), np.nan)
    counts[0, place[::-1]] = np.maximum(value[::-1], 0.0) * step_s
    return Load((name,), float(ts[0]), step_s, counts)


def _thinned(load: Load, most: int) -> Load:
    """Keep series that ever have a request, `most` of them, evenly by rank of their means."""
    alive = np.flatnonzero(np.nansum(load.counts, axis=1) > 0)
    ranked = alive[np.argsort(-np.nansum(load.counts[alive], axis=1), kind="stable")]
    kept = np.sort(ranked[np.unique(np.linspace(0, len(ranked) - 1, min(most, len(ranked))).astype(np.int64))])
    return Load(tuple(load.services[n] for n in kept), load.start_s, load.step_s, load.counts[kept])
