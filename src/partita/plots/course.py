"""How runs went over time: load and forecast, GPUs held with the decisions that changed them, answers in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from partita.plots.dress import DATES_FROM_S, LOAD, Array, TimeAxis, colour, dressed, steps, thin, wrapped


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


MOST_MARKS = 1000


def course_figure(courses: Mapping[str, Course], *, limit: int = 2000) -> go.Figure:
    """Draw load and forecast, GPUs held with the decisions that changed them, and the share answered in time."""
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.38, 0.36, 0.26])
    first = next(iter(courses.values()))
    axis = TimeAxis(float(first.t_s[-1]) if len(first.t_s) else 0.0)
    figure.add_scatter(
        x=axis.place(_edges(first, limit)), y=steps(thin(first.offered_rps, limit)), name="offered", mode="lines",
        fill="tozeroy", line={"color": LOAD, "width": 1, "shape": "hv"}, row=1, col=1,
        hovertemplate="%{y:,.1f} req/s offered<extra></extra>",
    )  # fmt: skip
    for number, (name, course) in enumerate(courses.items()):
        shared = {"name": escape(name), "legendgroup": escape(name), "meta": escape(name), "col": 1}
        line = {"color": colour(number), "shape": "hv"}
        _draw_forecast(figure, course, axis, limit, shared | {"line": {**line, "dash": "dot", "width": 1.2}})
        _draw_gpus(figure, course, axis, limit, shared | {"line": {**line, "width": 1.6}})
        _draw_marks(figure, course, axis, shared | {"marker": {"color": colour(number), "size": 6}})
        _draw_share(figure, course, axis, limit // 8, shared | {"line": {**line, "width": 1.4}})
    figure.update_xaxes(title_text=axis.title, row=3, col=1)
    if len(first.t_s):
        figure.update_xaxes(range=list(axis.place(_edges(first, limit)[[0, -1]])))
    for row, title in enumerate(("requests a second", "GPUs held", "in time, %"), start=1):
        figure.update_yaxes(title_text=title, row=row, col=1, rangemode="tozero" if row < 3 else "normal")
    return dressed(figure, height=640)


def _edges(course: Course, limit: int) -> Array:
    """Return where the intervals begin, once they are thinned, and where the last one ends."""
    ends = course.t_s
    if not len(ends):
        return ends
    before = 0.0 if ends[0] < DATES_FROM_S else 2 * ends[0] - ends[min(1, len(ends) - 1)]
    begins = np.concatenate(([before], ends[:-1]))
    return np.append(thin(begins, limit, keep="first"), ends[-1])


def _draw_forecast(figure: go.Figure, course: Course, axis: TimeAxis, limit: int, look: dict[str, Any]) -> None:
    if np.isfinite(course.forecast_rps).any():
        figure.add_scatter(
            **look, x=axis.place(_edges(course, limit)), y=steps(thin(course.forecast_rps, limit)), mode="lines",
            showlegend=False, row=1, hovertemplate="%{y:,.1f} req/s expected by %{meta}<extra></extra>",
        )  # fmt: skip


def _draw_gpus(figure: go.Figure, course: Course, axis: TimeAxis, limit: int, look: dict[str, Any]) -> None:
    figure.add_scatter(
        **look, x=axis.place(_edges(course, limit)), y=steps(thin(course.gpus_held, limit, keep="max")), mode="lines",
        row=2, hovertemplate="%{y:.0f} GPUs held by %{meta}<extra></extra>",
    )  # fmt: skip


def _draw_marks(figure: go.Figure, course: Course, axis: TimeAxis, look: dict[str, Any]) -> None:
    shown = course.marks[:: max(1, -(-len(course.marks) // MOST_MARKS))]
    figure.add_scatter(
        **look, x=axis.place(np.array([mark.at_s for mark in shown], np.float64)), y=[mark.gpus for mark in shown],
        mode="markers", showlegend=False, row=2, text=[wrapped(mark.text) for mark in shown],
        hovertemplate="%{meta}: %{text}<extra></extra>",
    )  # fmt: skip


def _draw_share(figure: go.Figure, course: Course, axis: TimeAxis, limit: int, look: dict[str, Any]) -> None:
    good, offered = thin(course.good_rps, limit), thin(course.offered_rps, limit)
    met = np.divide(good, offered, out=np.ones_like(good), where=offered > 0)
    figure.add_scatter(
        **look, x=axis.place(_edges(course, limit)), y=steps(np.minimum(met, 1.0) * 100), mode="lines",
        showlegend=False, row=3, hovertemplate="%{y:.2f} % in time with %{meta}<extra></extra>",
    )  # fmt: skip
