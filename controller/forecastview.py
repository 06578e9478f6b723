"""Forecasts as journaled, for people and programs: who is in charge, how good it has been, and the present one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.controller.backtesting import number, share
from partita.controller.load_character import character_now
from partita.controller.load_detail import Detail, edges_in
from partita.controller.load_series import LIVE, rows, series_of_live, sizes_of_live
from partita.controller.trial import SCORES_KEPT
from partita.controller.whatif.tables import Table
from partita.controller.wording import moment, span
from partita.errors import ConfigError, StoreError
from partita.forecasting.backtest import ADDED_SHARE
from partita.model.load import Forecast, Load, Scored
from partita.store.connection import Connection, connect, explained
from partita.store.forecasts import HORIZONS, ForecastRun, read_forecast_run, read_last_forecasts, read_scores
from partita.store.queries import query
from partita.store.reading import read_watermark
from partita.traces.buckets import FINE_EDGES, Buckets, merged_edges
from partita.traces.series import dispersion

BARS = " ▁▂▃▄▅▆▇█"
HEIGHT = 8
"""Lines of a chart."""
P95 = 0.95


@dataclass(frozen=True, slots=True)
class Charge:
    """Who makes one service's forecast at a horizon, and how the model and the naive one have fared lately.

    `ratio` is the model's quantile loss over the naive one's, a hundredth of the mean load added to both, as the loop
    itself reckons it; NaN where nothing was measured.
    """

    service: str
    horizon: str
    in_charge: str
    model: str
    naive: str
    forecasts: int
    wape: float
    naive_wape: float
    covered_p95: float
    ratio: float

    @property
    def verdict(self) -> str:
        """Say what was beaten, and by how much."""
        if not np.isfinite(self.ratio):
            return "not scored yet"
        better = abs(1 - self.ratio) * 100
        if better < 0.5:
            return f"as good as {self.naive}"
        return f"{'beats' if self.ratio < 1 else 'loses to'} {self.naive} by {better:.0f} %"


async def read_charges(connection: Connection, run: int | None) -> tuple[ForecastRun, list[Charge]]:
    """Return who is in charge of each service, from the latest scores of a run."""
    found = await read_forecast_run(connection, run)
    charges: list[Charge] = []
    for horizon in HORIZONS:
        scored = await read_scores(connection, found.id, horizon, limit=SCORES_KEPT)
        charges += charges_of(scored)
    return found, charges


async def read_present(connection: Connection, run: int) -> dict[str, str]:
    """Return how the present forecast of each horizon came about: the model's own text, with the calendar's part."""
    last = await read_last_forecasts(connection, run)
    return {horizon: last[horizon][1].model for horizon in HORIZONS if horizon in last}


def charges_of(scored: Sequence[Scored]) -> Iterator[Charge]:
    """Sum the scores of one horizon up by service."""
    if not scored:
        return
    last = scored[-1]
    scored = [s for s in scored if s.services == last.services]
    place = int(np.argmin(np.abs(np.asarray(last.levels) - P95)))
    for n, service in enumerate(last.services):
        losses = [np.array([values[n].mean() for values in side]) for side in _sides(scored)]
        added = ADDED_SHARE * _mean(np.concatenate([s.truth_rps[n] for s in scored]))
        naive = _mean(losses[1]) + added
        yield Charge(
            service=service,
            horizon=last.horizon,
            in_charge=last.model if last.in_charge[n] else last.naive,
            model=last.model,
            naive=last.naive,
            forecasts=int(np.isfinite(losses[0]).sum()),
            wape=_mean(np.array([s.wape[n] for s in scored])),
            naive_wape=_mean(np.array([s.naive_wape[n] for s in scored])),
            covered_p95=_mean(np.array([s.coverage[n, place] for s in scored])),
            ratio=(_mean(losses[0]) + added) / naive if naive > 0 else float("nan"),
        )


def _sides(scored: Sequence[Scored]) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    return [s.pinball for s in scored], [s.naive_pinball for s in scored]


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def run_line(run: ForecastRun) -> str:
    """Name a run in a line."""
    whose = f"cluster {run.role}" if run.kind == "live" else "a replay"
    ended = "" if run.finished_at is None else ", ended"
    return f"run {run.id} of {whose}, policy {run.policy}{ended}"


def charges_document(run: ForecastRun, charges: Sequence[Charge], present: Mapping[str, str]) -> dict[str, Any]:
    """Write who is in charge as plain data."""
    return {
        "present": dict(present),
        "run": run.id,
        "kind": run.kind,
        "cluster": run.role,
        "services": [
            {
                "service": c.service,
                "horizon": c.horizon,
                "in_charge": c.in_charge,
                "model": c.model,
                "naive": c.naive,
                "forecasts": c.forecasts,
                "wape": c.wape,
                "naive_wape": c.naive_wape,
                "covered_p95": c.covered_p95,
                "ratio": c.ratio,
            }
            for c in charges
        ],
    }


def charges_table(charges: Sequence[Charge]) -> Table:
    """Return the table: a row a service and horizon."""
    headings = (
        "service",
        "horizon",
        "in charge",
        "forecasts\nscored",
        "WAPE",
        "naive\nWAPE",
        "P95\ncovers",
        "which",
    )
    rows = tuple(
        (
            c.service,
            c.horizon,
            c.in_charge,
            f"{c.forecasts:,}",
            share(_plain(c.wape)),
            share(_plain(c.naive_wape)),
            share(_plain(c.covered_p95)),
            f"{'' if c.in_charge == c.model else f'{c.model} '}{c.verdict}",
        )
        for c in charges
    )
    return Table(headings, rows, names=3)


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None


# The present forecast -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One service's forecast at a horizon; `before` is what came just before it, where that is known."""

    horizon: str
    tick: int
    made: Forecast
    place: int
    before: Load | None = None

    def rates(self, level: float) -> NDArray[np.float64]:
        """Return the rates at a level, by step."""
        found: NDArray[np.float64] = self.made.quantile(level)[self.place]
        return found


async def read_shown(connection: Connection, run: int | None, service: str) -> tuple[ForecastRun, list[Shown]]:
    """Return the present forecasts of a service; ConfigError if none of the run is of it."""
    found = await read_forecast_run(connection, run)
    last = await read_last_forecasts(connection, found.id)
    shown = [
        Shown(horizon, tick, made, made.services.index(service))
        for horizon in HORIZONS
        if horizon in last
        for tick, made in [last[horizon]]
        if service in made.services
    ]
    if not shown:
        known = ", ".join(dict.fromkeys(name for _, made in last.values() for name in made.services))
        raise ConfigError(f"run {found.id} forecasts no service {service!r}; it has {known}", key="SERVICE")
    return found, shown


def shown_document(run: ForecastRun, shown: Sequence[Shown]) -> dict[str, Any]:
    """Write the present forecasts of a service as plain data."""
    return {
        "run": run.id,
        "service": shown[0].made.services[shown[0].place],
        "forecasts": [
            {
                "horizon": s.horizon,
                "tick": s.tick,
                "made_at_s": s.made.made_at_s,
                "step_s": s.made.step_s,
                "model": s.made.model,
                "version": s.made.version,
                "history_s": s.made.history_s,
                "levels": list(s.made.levels),
                "rps": s.made.rps[s.place].tolist(),
            }
            for s in shown
        ],
    }


def shown_heading(s: Shown) -> str:
    """Say what a forecast is."""
    m = s.made
    return (
        f"{s.horizon}: {m.model} (version {m.version}), made at {moment(m.made_at_s)} from {span(m.history_s)} of log, "
        f"{m.rps.shape[2]} steps of {span(m.step_s)}"
    )


def shown_table(s: Shown) -> Table:
    """Return the quantiles of a forecast by step."""
    headings = ("until", *(f"P{level * 100:g}" for level in s.made.levels))
    ends = s.made.made_at_s + (1 + np.arange(s.made.rps.shape[2])) * s.made.step_s
    rows = tuple(
        (moment(float(end)), *(number(float(rate), 1) for rate in s.made.rps[s.place, :, step]))
        for step, end in enumerate(ends)
    )
    return Table(headings, rows)


def chart_lines(s: Shown, *, width: int = 60) -> Iterator[str]:
    """Draw the median as bars and P95 as a dot above each, what came before at the left of a line.

    The scale begins at zero, or just below the lowest where all would be drawn alike.
    """
    came = np.zeros(0)
    if s.before is not None:
        came = s.before.counts[0] / s.before.step_s
    middle, upper = s.rates(0.5), s.rates(P95)
    column = max(1, min(6, width // max(1, len(middle))))
    room = max(0, width - column * len(middle) - 1)
    came = came[-room:] if room else came[:0]
    drawn = np.concatenate((came[np.isfinite(came)], middle, upper))
    highest, lowest = max(float(drawn.max()), 1e-9), float(drawn.min())
    base = 0.0 if lowest < highest / 2 else lowest - (highest - lowest) / 2
    came, middle, upper = ((values - base) / max(highest - base, 1e-9) for values in (came, middle, upper))
    for line in range(HEIGHT, 0, -1):
        left = "".join(_cell(value, line) for value in came)
        right = "".join(_forecast_cell(m, u, line) * column for m, u in zip(middle, upper, strict=True))
        scale = base + (highest - base) * line / HEIGHT
        yield f"{scale:>9,.1f} {left}{'│' if len(came) else ''}{right}".rstrip()


def _cell(value: float, line: int) -> str:
    if not np.isfinite(value):
        return "?" if line == 1 else " "
    filled = value * HEIGHT - (line - 1)
    return BARS[int(np.clip(round(filled * 8), 0, 8))]


def _forecast_cell(middle: float, upper: float, line: int) -> str:
    bar = _cell(middle, line)
    at = min(HEIGHT, max(1, int(np.ceil(upper * HEIGHT))))
    return "·" if bar == " " and line == at else bar


# What the live log says of one service lately -------------------------------------------------------------------------


LATELY_S = 3600.0
LOOKED_BACK_S = 7 * 86_400.0
"""What burstiness and sizes are forecast from: enough for the same time of former days."""

COARSE_S = 600.0
"""Width of the steps of what is read along with them, of all services."""

SIZE_LEVELS = (0.5, 0.9, 0.95, 0.99)
BEFORE_STEPS = 60


async def lately(dsn: str, service: str, shown: Sequence[Shown]) -> tuple[list[Shown], dict[str, Any]]:
    """Put what came before beside each forecast of a live run, and say how bursty the load and how large inputs are.

    What is not known is left out: counts by servers alone have no sizes, and an empty log has nothing.
    """
    found, more = [], dict[str, Any]()
    for one in shown:
        made = one.made
        since_s = made.made_at_s - max(LATELY_S, BEFORE_STEPS * made.step_s)
        try:
            series = (await series_of_live(dsn, step_s=made.step_s, since_s=since_s)).series
        except StoreError:
            found.append(one)
            continue
        if service not in series.load.services:
            found.append(one)
            continue
        load = rows(series.load, [series.load.services.index(service)])
        steps = max(0, min(load.counts.shape[1], round((made.made_at_s - load.start_s) / load.step_s)))
        load = Load(load.services, load.start_s, load.step_s, load.counts[:, :steps])
        found.append(replace(one, before=load))
        if one.horizon == "near" and steps:
            burst = float(dispersion(load)[0])
            sizes = await sizes_of_live(dsn, service, since_s=made.made_at_s - LATELY_S, until_s=made.made_at_s)
            more = {"step_s": made.step_s, "dispersion": burst if np.isfinite(burst) else None}
            if sizes.counts.sum():
                more["sizes"] = {f"{level:g}": float(sizes.quantile(level)[0]) for level in SIZE_LEVELS}
    return found, more


async def ahead(dsn: str, run: int, service: str, buckets: Buckets | None) -> dict[str, Any]:
    """Say what is expected of a service's burstiness and sizes, from the live log of the last LOOKED_BACK_S.

    Without `buckets` those are told apart that the service has in the run's own file. Empty where the log tells
    nothing.
    """
    async with connect(dsn) as connection:
        if buckets is None:
            with explained("the look at the journal"):
                row = await connection.fetchrow(query("run"), run)
            buckets = edges_in(json.loads(row["scenario"]) if isinstance(row["scenario"], str) else row["scenario"])
        watermark = await read_watermark(connection, LIVE)
    if watermark is None:
        return {}
    detail = Detail(edges=merged_edges(FINE_EDGES, buckets.of(service)), only=service)
    since_s = watermark.timestamp() - LOOKED_BACK_S
    try:
        await series_of_live(dsn, step_s=COARSE_S, since_s=since_s, detail=detail)
    except StoreError:
        return {}
    return character_now(detail, service, buckets)
