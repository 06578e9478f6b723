"""The table of the live demonstration: the same cells at the terminal and in the report."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan

from partita.controller.live_demo.case import NAMES
from partita.controller.live_demo.demonstration import Result, Row
from partita.controller.live_demo.show import Prediction
from partita.controller.scoretable import NONE
from partita.controller.wording import percent

HEADINGS = (
    ("goodput", "req/s"),
    ("in time", "overall"),
    *(("in time", name) for name in NAMES),
    ("p99", "ms"),
    ("batch", "mean"),
    ("replay:", "in time"),
    ("off by", "points"),
    ("replay:", "batch"),
    ("off by", "%"),
)


def lines(result: Result) -> Iterator[tuple[str, list[str]]]:
    """Write the table: a name and one text a column; what else was replayed of a run has a line of its own."""
    for row in result.rows:
        measured = _measured(row)
        for what, prediction in row.predictions.items():
            shown = measured or [""] * (4 + len(NAMES))
            yield (row.name if measured else f"  {what}"), [*shown, *_predicted(prediction)]
            measured = []


def _measured(row: Row) -> list[str]:
    figures = row.figures
    shares = (figures.attainment, *(figures.by_service[name] for name in NAMES))
    return [
        f"{figures.goodput_rps:.1f}",
        *(percent(s, 1) for s in shares),
        _number(figures.p99_ms, 0),
        _number(figures.mean_batch, 2),
    ]


def _predicted(prediction: Prediction) -> list[str]:
    off = (f"{prediction.off_points:+.1f}", f"{prediction.off_batch * 100:+.1f}")
    points, batch = (text.replace("-", "−") for text in off)
    return [percent(prediction.attainment, 1), points, _number(prediction.mean_batch, 2), batch]


def _number(value: float, digits: int) -> str:
    return NONE if isnan(value) else f"{value:,.{digits}f}"
