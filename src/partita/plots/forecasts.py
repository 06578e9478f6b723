"""Forecasts beside what came: fans of quantiles, how well quantiles cover, and errors over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go

from partita.plots.dress import LOAD, Array, TimeAxis, colour, dressed, see_through

FAN = ((0.05, 0.95, 0.16), (0.25, 0.75, 0.22))
"""Pairs of levels between which the ground is tinted, and how strongly."""
FIRST = 1
"""Number of the first model's colour: that of number 0 is too much like the load's."""


@dataclass(frozen=True, slots=True, eq=False)
class Fan:
    """One forecast of one series: `rps` has shape ``(levels, steps)``, steps begin at `at_s`."""

    at_s: Array
    levels: tuple[float, ...]
    rps: Array

    def line(self, level: float) -> Array:
        """Return the rates at the level nearest to this one."""
        found: Array = self.rps[int(np.argmin(np.abs(np.asarray(self.levels) - level)))]
        return found


def fan_figure(at_s: Array, rps: Array, fans: Mapping[str, Sequence[Fan]], *, first: str) -> go.Figure:
    """Draw what came, and for each model its forecasts: the median, and bands to the quartiles and to P5 and P95.

    Only those of `first` are seen until the legend is clicked: bands that lie over each other cannot be told apart.
    """
    figure = go.Figure()
    axis = TimeAxis(float(at_s[-1]) if len(at_s) else 0.0)
    figure.add_scatter(
        x=axis.place(at_s), y=rps, name="came", mode="lines", line={"color": LOAD, "width": 1.3},
        hovertemplate="%{y:,.2f} req/s came<extra></extra>",
    )  # fmt: skip
    for number, (name, made) in enumerate(fans.items()):
        for place, fan in enumerate(made):
            _draw_fan(figure, axis, number, escape(name), fan, listed=place == 0, seen=name == first)
    figure.update_xaxes(title_text=axis.title)
    figure.update_yaxes(title_text="requests a second", rangemode="tozero")
    return dressed(figure, height=320)


def _draw_fan(figure: go.Figure, axis: TimeAxis, number: int, name: str, fan: Fan, *, listed: bool, seen: bool) -> None:
    at = axis.place(fan.at_s)
    group = {"legendgroup": name, "name": name, "visible": True if seen else "legendonly"}
    for low, high, strength in FAN:
        for level, fill in ((low, None), (high, "tonexty")):
            figure.add_scatter(
                **group, x=at, y=fan.line(level), mode="lines", line={"width": 0}, fill=fill, showlegend=False,
                fillcolor=see_through(colour(FIRST + number), strength), hoverinfo="skip",
            )  # fmt: skip
    figure.add_scatter(
        **group, x=at, y=fan.line(0.5), mode="lines", showlegend=listed,
        line={"color": colour(FIRST + number), "width": 1.6},
        hovertemplate=f"{name}: %{{y:,.2f}} req/s<extra></extra>",
    )  # fmt: skip


def calibration_figure(levels: Sequence[float], covered: Mapping[str, Sequence[float]]) -> go.Figure:
    """Draw by model which share of the steps each quantile covered; a calibrated one lies on the diagonal."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", name="as it says", hoverinfo="skip",
        line={"color": LOAD, "dash": "dot", "width": 1.2},
    )  # fmt: skip
    at = np.asarray(levels) * 100
    for number, (name, shares) in enumerate(covered.items()):
        figure.add_scatter(
            x=at, y=np.asarray(shares, np.float64) * 100, name=escape(name), mode="lines+markers",
            line={"color": colour(FIRST + number), "width": 1.6}, marker={"size": 5},
            hovertemplate=f"{escape(name)}: P%{{x:g}} covers %{{y:.1f}} %<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title_text="quantile, %", range=[-2, 102])
    figure.update_yaxes(title_text="covered, %", range=[-2, 102])
    return dressed(figure, height=320, unified=False)


def errors_figure(at_s: Array, wrong: Mapping[str, Array]) -> go.Figure:
    """Draw by model the WAPE of each origin's forecasts; NaN where none was scored."""
    figure = go.Figure()
    axis = TimeAxis(float(at_s[-1]) if len(at_s) else 0.0)
    for number, (name, values) in enumerate(wrong.items()):
        figure.add_scatter(
            x=axis.place(at_s), y=values * 100, name=escape(name), mode="lines+markers", marker={"size": 4},
            line={"color": colour(FIRST + number), "width": 1.4},
            hovertemplate=f"{escape(name)}: %{{y:.1f}} %<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title_text=axis.title)
    figure.update_yaxes(title_text="absolute error of the median, %", rangemode="tozero")
    return dressed(figure, height=300)
