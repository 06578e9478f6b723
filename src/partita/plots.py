"""Figures shared by reports: arrays in, a plotly figure out.

Labels that come from outside are escaped here, since plotly reads a part of HTML in them. Colours are chosen to be
told apart by everyone and to stand on light and dark ground; ink and grid take theirs from the page's style sheet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

COLOURS = ("#8c8c94", "#e08214", "#1b9e8f", "#7b6fd0", "#d1495b", "#4c8fd6")
LOAD = "#9aa7b5"
DATES_FROM_S = 1e8
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision to show on the time axis: when, how many GPUs it wanted, and why."""

    at_s: float
    gpus: float
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How one run went, by interval; all arrays are as long as `t_s`, `forecast_rps` is nan where none was made."""

    t_s: Array
    offered_rps: Array
    good_rps: Array
    gpus_held: Array
    forecast_rps: Array
    marks: tuple[Mark, ...] = ()


def colour(number: int) -> str:
    """Return the colour of the n-th policy."""
    return COLOURS[number % len(COLOURS)]


def thin(values: Array, limit: int, *, keep: str = "mean") -> Array:
    """Shorten a series to at most `limit` values: the mean, highest or first of each stretch."""
    stretch = max(1, -(-len(values) // limit))
    starts = np.arange(0, len(values), stretch)
    if stretch == 1 or not len(values):
        return values
    match keep:
        case "max":
            return np.asarray(np.maximum.reduceat(values, starts), np.float64)
        case "first":
            return values[starts]
        case _:
            lengths = np.diff(np.append(starts, len(values)))
            return np.asarray(np.add.reduceat(values, starts) / lengths, np.float64)


def course_figure(courses: Mapping[str, Course], *, limit: int = 2000) -> go.Figure:
    """Draw load and forecast, GPUs held with the decisions that changed them, and the share answered in time."""
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.38, 0.36, 0.26])
    first = next(iter(courses.values()))
    axis = _TimeAxis(float(first.t_s[-1]) if len(first.t_s) else 0.0)
    figure.add_scatter(
        x=axis.place(thin(first.t_s, limit, keep="first")), y=thin(first.offered_rps, limit), name="offered",
        mode="lines", fill="tozeroy", line={"color": LOAD, "width": 1}, row=1, col=1,
        hovertemplate="%{y:,.1f} req/s offered<extra></extra>",
    )  # fmt: skip
    for number, (name, course) in enumerate(courses.items()):
        shared = {"name": escape(name), "legendgroup": escape(name), "col": 1}
        _draw_forecast(
            figure, course, axis, limit, shared | {"line": {"color": colour(number), "dash": "dot", "width": 1.2}}
        )
        _draw_gpus(
            figure, course, axis, limit, shared | {"line": {"color": colour(number), "shape": "hv", "width": 1.6}}
        )
        _draw_marks(figure, course, axis, limit // 5, shared | {"marker": {"color": colour(number), "size": 6}})
        _draw_share(figure, course, axis, limit // 8, shared | {"line": {"color": colour(number), "width": 1.4}})
    figure.update_xaxes(title_text=axis.title, row=3, col=1)
    for row, title in enumerate(("requests a second", "GPUs held", "in time, %"), start=1):
        figure.update_yaxes(title_text=title, row=row, col=1, rangemode="tozero" if row < 3 else "normal")
    return _dress(figure, height=640)


def _draw_forecast(figure: go.Figure, course: Course, axis: _TimeAxis, limit: int, look: dict[str, Any]) -> None:
    if np.isfinite(course.forecast_rps).any():
        figure.add_scatter(
            **look, x=axis.place(thin(course.t_s, limit, keep="first")), y=thin(course.forecast_rps, limit),
            mode="lines", showlegend=False, row=1, hovertemplate="%{y:,.1f} req/s expected by %{meta}<extra></extra>",
            meta=look["name"],
        )  # fmt: skip


def _draw_gpus(figure: go.Figure, course: Course, axis: _TimeAxis, limit: int, look: dict[str, Any]) -> None:
    figure.add_scatter(
        **look, x=axis.place(thin(course.t_s, limit, keep="first")), y=thin(course.gpus_held, limit, keep="max"),
        mode="lines", row=2, hovertemplate="%{y:.0f} GPUs held by %{meta}<extra></extra>", meta=look["name"],
    )  # fmt: skip


def _draw_marks(figure: go.Figure, course: Course, axis: _TimeAxis, limit: int, look: dict[str, Any]) -> None:
    shown = course.marks[:: max(1, -(-len(course.marks) // limit))]
    figure.add_scatter(
        **look, x=axis.place(np.array([mark.at_s for mark in shown], np.float64)), y=[mark.gpus for mark in shown],
        mode="markers", showlegend=False, row=2, text=[_wrap(mark.text) for mark in shown],
        hovertemplate="%{meta}: %{text}<extra></extra>", meta=look["name"],
    )  # fmt: skip


def _draw_share(figure: go.Figure, course: Course, axis: _TimeAxis, limit: int, look: dict[str, Any]) -> None:
    good, offered = thin(course.good_rps, limit), thin(course.offered_rps, limit)
    met = np.divide(good, offered, out=np.ones_like(good), where=offered > 0)
    figure.add_scatter(
        **look, x=axis.place(thin(course.t_s, limit, keep="first")), y=np.minimum(met, 1.0) * 100, mode="lines",
        showlegend=False, row=3, hovertemplate="%{y:.2f} % in time with %{meta}<extra></extra>", meta=look["name"],
    )  # fmt: skip


def attainment_figure(
    by_policy: Mapping[str, Mapping[str, float]], targets: Mapping[str, float], *, limit: int = 30
) -> go.Figure:
    """Draw the attainment of each service under each policy, worst first, beside its target."""
    services = sorted({s for shares in by_policy.values() for s in shares})
    lowest = {s: min(shares[s] for shares in by_policy.values() if s in shares) for s in services}
    shown = sorted(services, key=lambda s: (lowest[s], s))[:limit][::-1]
    labels = [escape(s) for s in shown]
    figure = go.Figure()
    figure.add_scatter(
        x=[targets[s] * 100 if s in targets else None for s in shown], y=labels, mode="markers", name="target",
        marker={"symbol": "line-ns-open", "size": 14, "color": LOAD, "line": {"width": 2}},
        hovertemplate="%{y}: target %{x:.2f} %<extra></extra>",
    )  # fmt: skip
    for number, (name, shares) in enumerate(by_policy.items()):
        figure.add_scatter(
            x=[shares[s] * 100 if s in shares else None for s in shown], y=labels, mode="markers", name=escape(name),
            marker={"size": 9, "color": colour(number), "opacity": 0.9},
            hovertemplate=f"%{{y}}: %{{x:.3f}} % with {escape(name)}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title_text="requests answered within their SLO, %")
    figure.update_yaxes(type="category", automargin=True)
    return _dress(figure, height=150 + 24 * len(shown), unified=False)


def latency_figure(
    latency_ms: Mapping[str, Mapping[str, float]], queue_ms: Mapping[str, Mapping[str, float]]
) -> go.Figure:
    """Draw percentiles of the time to answer (filled) and of the part spent queueing (hollow), in milliseconds."""
    figure = go.Figure()
    for number, name in enumerate(latency_ms):
        for records, symbol, what in ((latency_ms, "circle", "to answer"), (queue_ms, "circle-open", "in the queue")):
            record = records.get(name, {})
            ranks = [rank for rank in ("p50", "p90", "p99", "max") if record.get(rank) is not None]
            figure.add_scatter(
                x=ranks, y=[record[rank] for rank in ranks], mode="lines+markers", name=escape(name),
                legendgroup=escape(name), showlegend=symbol == "circle",
                line={"color": colour(number), "width": 1, "dash": "solid" if symbol == "circle" else "dot"},
                marker={"symbol": symbol, "size": 9},
                hovertemplate=f"{escape(name)}: %{{y:,.2f}} ms {what}, %{{x}}<extra></extra>",
            )  # fmt: skip
    figure.update_yaxes(title_text="milliseconds", rangemode="tozero")
    return _dress(figure, height=320, unified=False)


@dataclass(frozen=True, slots=True)
class _TimeAxis:
    """Unix time is shown as dates, anything else as hours, minutes or seconds from the start."""

    last_s: float

    @property
    def unit(self) -> tuple[float, str]:
        return next((u for u in ((3600.0, "hours"), (60.0, "minutes")) if self.last_s >= 2.5 * u[0]), (1.0, "seconds"))

    @property
    def title(self) -> str | None:
        return None if self.last_s >= DATES_FROM_S else f"{self.unit[1]} from the start"

    def place(self, seconds: Array) -> Array | list[datetime]:
        if self.last_s >= DATES_FROM_S:
            return [datetime.fromtimestamp(float(s), UTC).replace(tzinfo=None) for s in seconds]
        return seconds / self.unit[0]


def _wrap(text: str, width: int = 60) -> str:
    return "<br>".join(escape(line) for line in wrap(text, width))


def _dress(figure: go.Figure, *, height: int, unified: bool = True) -> go.Figure:
    """Give a figure its size, and leave ground, ink and grid to the page."""
    figure.update_layout(
        height=height, margin={"l": 8, "r": 8, "t": 36, "b": 8}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"family": "system-ui, sans-serif", "size": 12},
        hovermode="x" if unified else "closest", legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        template="none",
    )  # fmt: skip
    figure.update_xaxes(automargin=True, gridcolor="rgba(128,128,128,0.22)", zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor="rgba(128,128,128,0.22)", zeroline=False)
    return figure
