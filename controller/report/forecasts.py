"""The page of a backtest: scores, fans of forecasts beside what came, calibration, and errors over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from partita.controller.backtesting import backtest_table, rank, remarks
from partita.controller.load_character import character_remarks, character_table
from partita.controller.report.frame import beside, dot, figure_card, folded, page, run_again
from partita.controller.results import write_whole
from partita.controller.whatif.tables import Table
from partita.controller.wording import span
from partita.forecasting.backtest import Backtest
from partita.model.load import Forecast, Load
from partita.plots import FIRST, Fan, calibration_figure, errors_figure, fan_figure

MOST_FANS = 6
"""Series whose forecasts are drawn: the busiest ones."""
BEFORE = 1.5
"""Of a forecast's length, how much of what came before it is drawn."""

Kept = Mapping[str, Mapping[int, Forecast]]
"""By model and origin, the forecasts that may be drawn."""


def write_forecasts(
    path: Path,
    document: Mapping[str, Any],
    found: Backtest,
    load: Load,
    kept: Kept,
    *,
    title: str,
    command: str | None = None,
) -> None:
    """Write the page of a backtest, whole or not at all."""
    write_whole(path, forecasts_text(document, found, load, kept, title=title, command=command))


def forecasts_text(
    document: Mapping[str, Any], found: Backtest, load: Load, kept: Kept, *, title: str, command: str | None = None
) -> str:
    """Return the page as HTML; `command` is the command line that gives it again."""
    return page(title, _parts(document, found, load, kept, title, command))


def _parts(
    document: Mapping[str, Any], found: Backtest, load: Load, kept: Kept, title: str, command: str | None
) -> Iterator[str]:
    first, *others = remarks(document)
    models = list(found.errors)
    yield f'<h1>{escape(title)}</h1><p class="lead">{escape(first)}</p>'
    yield "".join(f'<p class="soft">{escape(line)}</p>' for line in others)
    yield f'<h2>Scores</h2><div class="card scroll">{_table(backtest_table(document), models)}</div>'
    yield "<h2>Forecasts beside what came</h2>"
    yield '<p class="soft">Lines: medians. Bands: to quartiles, and to P5 and P95. A legend click shows others.</p>'
    yield from _fans(found, load, kept, _best(document))
    yield "<h2>Calibration</h2>"
    yield '<p class="soft">Which share of the steps each quantile covers, all series together.</p>'
    yield beside(*_calibration(document, models))
    yield "<h2>Errors over time</h2>"
    yield '<p class="soft">By when the forecast was made, all series together.</p>'
    yield from _errors(found)
    yield from _character(document)
    yield f"<h2>Run it again</h2>{run_again(command, [document['seed']], document['versions'])}"
    yield folded("Every score", document["scores"])


def _best(document: Mapping[str, Any]) -> str:
    """Return the model with the smallest P95 loss at the longest horizon."""
    longest = max(p["horizon_s"] for p in document["pooled"])
    return str(min((p for p in document["pooled"] if p["horizon_s"] == longest), key=lambda p: rank(p["p95"]))["model"])


def _fans(found: Backtest, load: Load, kept: Kept, best: str) -> Iterator[str]:
    order = np.argsort(-found.mean_rps, kind="stable")[:MOST_FANS]
    for number, series in enumerate(order.tolist()):
        fans = {
            model: [_fan(made, series) for _, made in sorted(forecasts.items())] for model, forecasts in kept.items()
        }
        first = min((f.at_s[0] for made in fans.values() for f in made), default=load.start_s)
        last = max((f.at_s[-1] for made in fans.values() for f in made), default=load.end_s)
        at = load.start_s + np.arange(load.counts.shape[1], dtype=np.float64) * load.step_s
        shown = (at >= first - BEFORE * (last - first)) & (at <= last)
        figure = fan_figure(at[shown], load.counts[series, shown] / load.step_s, fans, first=best)
        yield f"<h3>{escape(load.services[series])}</h3>" + figure_card(figure, f"fan{number}", zooms=True)


def _fan(made: Forecast, series: int) -> Fan:
    at = made.made_at_s + np.arange(made.rps.shape[2], dtype=np.float64) * made.step_s
    return Fan(at, made.levels, made.rps[series])


def _calibration(document: Mapping[str, Any], models: Sequence[str]) -> Iterator[str]:
    horizons = dict.fromkeys(p["horizon_s"] for p in document["pooled"])
    levels = [float(level) for level in document["levels"]]
    for number, horizon_s in enumerate(horizons):
        at = {p["model"]: p["coverage"] for p in document["pooled"] if p["horizon_s"] == horizon_s}
        covered = {m: [_known(at[m][f"{level:g}"]) for level in levels] for m in models}
        above = f"<h3>{escape(span(horizon_s))} ahead</h3>"
        yield figure_card(calibration_figure(levels, covered), f"calibration{number}", above=above)


def _errors(found: Backtest) -> Iterator[str]:
    at = found.start_s + np.array(found.origins) * found.step_s
    for horizon, horizon_s in enumerate(found.settings.horizons_s):
        wrong = {}
        for model, errors in found.errors.items():
            truth = errors.truth[horizon].sum(axis=1)
            wrong[model] = np.where(truth > 0, errors.wrong[horizon].sum(axis=1) / np.maximum(truth, 1e-300), np.nan)
        above = f"<h3>{escape(span(horizon_s))} ahead</h3>"
        yield figure_card(errors_figure(at, wrong), f"errors{horizon}", zooms=True, above=above)


def _character(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield how well burstiness and sizes were foretold, a row a series, where there is anything to tell."""
    lines = list(character_remarks(document))
    if not lines:
        return
    yield "<h2>Burstiness and input sizes</h2>"
    yield "".join(f'<p class="soft">{escape(line)}</p>' for line in lines)
    table = character_table(document)
    heads = "".join(f"<th>{escape(heading).replace(chr(10), '<br>')}</th>" for heading in table.headings)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in table.rows)
    yield f'<div class="card scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _known(value: object) -> float:
    return float(value) if isinstance(value, float | int) else float("nan")


def _table(table: Table, models: Sequence[str]) -> str:
    heads = "".join(f"<th>{escape(heading).replace(chr(10), '<br>')}</th>" for heading in table.headings)
    rows = ""
    for horizon, model, *texts in table.rows:
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
        rows += f"<tr><td>{escape(horizon)}</td><td>{dot(FIRST + models.index(model))}{escape(model)}</td>{cells}</tr>"
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
