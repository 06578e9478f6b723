"""Distributions over a run: how long requests took, and how large batches were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from partita.plots.dress import GRID, LOAD, Array, colour, dressed

RANKS = {"p50": 50.0, "p90": 10.0, "p99": 1.0}
"""Percentiles that are marked, and the share of the requests, in %, that are slower."""

SHARES = {100.0: "100", 50.0: "50 (p50)", 10.0: "10 (p90)", 1.0: "1 (p99)", 0.1: "0.1", 0.01: "0.01"}
LEAST_MS = 0.01
LEAST_PERCENT, MOST_PERCENT = 0.005, 99.0
MOST_SLO_LINES = 3


def slower_figure(
    counts: Mapping[str, NDArray[np.int64]],
    edges_ms: Array,
    percentiles: Mapping[str, Mapping[str, float]],
    *,
    what: str,
    slo_ms: Sequence[float] = (),
) -> go.Figure:
    """Draw what share of the requests took longer than a time, by policy; both axes are logarithmic.

    `counts` are histograms with the upper edges `edges_ms`. The SLOs are drawn if there are few.
    """
    figure = go.Figure()
    lowest, highest = np.inf, LEAST_MS
    for number, (name, histogram) in enumerate(counts.items()):
        x, y = _slower(histogram, edges_ms)
        begin = np.searchsorted(-y, -MOST_PERCENT, side="right")
        lowest = min([lowest, *x[max(0, begin - 1) :][:1]])
        highest = max([highest, *x[-1:]])
        look = {"name": escape(name), "legendgroup": escape(name)}
        figure.add_scatter(
            **look, x=x, y=y, mode="lines", line={"color": colour(number), "width": _width(number, len(counts))},
            hovertemplate=f"{escape(name)}: %{{y:.3g}} % take longer than %{{x:,.3g}} ms<extra></extra>",
        )  # fmt: skip
        known = {rank: percentiles[name][rank] for rank in RANKS if _above(percentiles[name].get(rank))}
        figure.add_scatter(
            **look, x=list(known.values()), y=[RANKS[rank] for rank in known], text=list(known), mode="markers",
            marker={"color": colour(number), "size": 8}, showlegend=False,
            hovertemplate=f"{escape(name)}: %{{text}} is %{{x:,.4g}} ms<extra></extra>",
        )  # fmt: skip
    lowest = min(lowest, highest / 2)
    ticks, widest = _ticks(lowest, highest), float(np.log10(highest / lowest))
    if len(slo_ms) <= MOST_SLO_LINES:
        for number, limit in enumerate(slo_ms):
            figure.add_scatter(
                x=[limit, limit], y=[LEAST_PERCENT, 100.0], mode="lines", name="SLO", legendgroup="SLO",
                showlegend=number == 0, line={"color": LOAD, "dash": "dot", "width": 1.6},
                hovertemplate=f"SLO {limit:,g} ms<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(
        type="log", title_text=f"{what}, milliseconds", tickvals=ticks,
        ticktext=[f"{tick:,g}" for tick in ticks],
        range=[np.log10(lowest) - 0.04 * widest, np.log10(highest) + 0.1 * widest],
    )  # fmt: skip
    figure.update_yaxes(
        type="log", title_text="requests that take longer, %", range=[np.log10(LEAST_PERCENT), 2.1],
        tickvals=list(SHARES), ticktext=list(SHARES.values()),
    )  # fmt: skip
    return dressed(figure, height=360, unified=False)


def _slower(histogram: NDArray[np.int64], edges_ms: Array) -> tuple[Array, Array]:
    """Return times and the share of the requests, in %, above each, where it changes.

    The last one falls below the figure, so that the line goes down to its edge.
    """
    total = int(histogram.sum())
    above = (total - np.cumsum(histogram)) / max(total, 1) * 100
    used = np.flatnonzero(histogram)
    if not len(used):
        return edges_ms[:0], above[:0]
    rows = np.unique(np.concatenate((used, np.maximum(used - 1, 0))))
    rows = rows[edges_ms[rows] >= LEAST_MS]
    return edges_ms[rows], np.maximum(above[rows], LEAST_PERCENT / 10)


def _ticks(lowest: float, highest: float) -> list[float]:
    """Return what to write at a logarithmic axis: powers of ten, and 2 and 5 times them where these are few."""
    powers = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))) + 1)
    steps = (1, 2, 5) if highest < 100 * lowest else (1,)
    return [step * 10.0**power for power in powers for step in steps]


def _width(number: int, count: int) -> float:
    """Return a line's width: earlier lines are wider, so that equal ones do not hide each other."""
    return 1.4 + 1.3 * (count - 1 - number)


def _above(value: object) -> bool:
    return isinstance(value, float | int) and value >= LEAST_MS


def batch_figure(sizes: Mapping[str, NDArray[np.int64]]) -> go.Figure:
    """Draw in batches of which size the requests ran, by policy; `sizes` counts batches by their size, from 0 on."""
    figure = go.Figure()
    for number, (name, batches) in enumerate(sizes.items()):
        size = np.arange(len(batches))
        requests = batches * size
        share = requests / max(int(requests.sum()), 1) * 100
        figure.add_scatter(
            x=size[1:], y=share[1:], name=escape(name), mode="lines",
            line={"color": colour(number), "width": _width(number, len(sizes)), "shape": "hvh"},
            hovertemplate=f"{escape(name)}: %{{y:.2f}} % in batches of %{{x}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title_text="batch size, requests", rangemode="tozero")
    figure.update_yaxes(title_text="share of the requests, %", rangemode="tozero", gridcolor=GRID)
    return dressed(figure, height=360, unified=False)
