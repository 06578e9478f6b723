"""The report of the live demonstration: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from partita.controller.live_demo.demonstration import CONTROLLER, Result, claims
from partita.controller.live_demo.show import course
from partita.controller.live_demo.table import HEADINGS, lines
from partita.controller.report import POLICY, STYLE
from partita.controller.results import write_whole
from partita.plots import LOAD, colour


def write_page(path: Path, result: Result, *, title: str) -> None:
    """Write the report, whole or not at all."""
    write_whole(path, "\n".join(_page(result, title)))


def _page(result: Result, title: str) -> Iterator[str]:
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Partita</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style>'
    yield f"<script>{get_plotlyjs()}</script></head><body><main><h1>{escape(title)}</h1>"
    for holds, text in claims(result):
        yield f"<p{'' if holds else ' class=missed'}>{'Holds' if holds else 'Does not hold'}: {escape(text)}.</p>"
    yield f'<h2>Measured, and what replay gives</h2><div class="card scroll">{_table(result)}</div>'
    yield "<h2>Answered in time, second by second</h2>"
    yield '<p class="soft">Marks: the controller changed settings; hover for the reason.</p>'
    yield f'<div class="card">{to_html(_figure(result), include_plotlyjs=False, full_html=False)}</div>'
    yield "</main></body></html>\n"


def _table(result: Result) -> str:
    heads = "".join(f"<th>{escape(one)}<br>{escape(two)}</th>" for one, two in HEADINGS)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>"
        for name, texts in lines(result)
    )
    return f"<table><thead><tr><th>run</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _figure(result: Result) -> go.Figure:
    figure = go.Figure()
    for number, row in enumerate(result.rows):
        offered, good = course(row.outcome.played)
        seconds = np.arange(len(offered))
        if number == 0:
            figure.add_scatter(
                x=seconds, y=offered, name="offered", mode="lines", fill="tozeroy", line={"color": LOAD, "width": 1}
            )
        figure.add_scatter(x=seconds, y=good, name=escape(row.name), mode="lines", line={"color": colour(number)})
        if row.name == CONTROLLER:
            changes = [
                (c.at_s, why) for c, why in zip(row.outcome.changes, row.outcome.reasons, strict=True) if c.at_s > 0
            ]
            figure.add_scatter(
                x=[at for at, _ in changes],
                y=[good[min(int(at), len(good) - 1)] for at, _ in changes],
                text=[escape(why) for _, why in changes],
                mode="markers",
                name="changes",
                marker={"size": 9, "color": colour(number), "symbol": "diamond"},
            )
    figure.update_layout(height=460, template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
    figure.update_layout(legend={"orientation": "h", "y": -0.15}, margin={"l": 40, "r": 8, "t": 8, "b": 8})
    figure.update_xaxes(title_text="seconds from the start")
    figure.update_yaxes(title_text="requests a second", rangemode="tozero")
    return figure
