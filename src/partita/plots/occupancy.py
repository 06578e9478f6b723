"""The GPU timeline: who ran on which GPU, by interval, and the single batches of one window."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from partita.model.occupancy import Occupancy
from partita.plots.dress import Array, TimeAxis, dressed, label, labels, see_through, steps

SERVICE_COLOURS = ("#4c8fd6", "#e08214", "#1b9e8f", "#d1495b", "#7b6fd0", "#8aa83a", "#c2679b", "#b08a5a")
OTHERS = "#8c8c94"
MIXED = "#6f86a3"
FAILED = "#e5383b"
FAINTEST = 0.10
"""How much of its colour a GPU has that is ready and idle."""

Colours = Mapping[str, str]
"""Colours of the services that have one of their own, those with most of the GPUs' time first."""


def service_colours(occupancies: Sequence[Occupancy]) -> dict[str, str]:
    """Give colours to the services that took most of the GPUs' time over all runs."""
    total: dict[str, float] = {}
    for occupancy in occupancies:
        for name, instances in zip(occupancy.services, occupancy.working.sum(axis=1).tolist(), strict=True):
            total[name] = total.get(name, 0.0) + instances * occupancy.width_s
    most = sorted((name for name in total if total[name] > 0), key=lambda name: (-total[name], name))
    return dict(zip(most, SERVICE_COLOURS, strict=False))


def service_legend(occupancy: Occupancy, colours: Colours, *, mixed: bool) -> list[tuple[str, str]]:
    """List what the colours mean: escaped texts with their colours.

    Those of no service and of failures, which only the figure by interval has, are among them if `mixed`.
    """
    own = [(label(name), look) for name, look in colours.items() if name in occupancy.services]
    rest = sum(name not in colours for name in occupancy.services)
    several = [("no service has half", MIXED)] if mixed and len(occupancy.services) > 1 else []
    failed = [("failed", FAILED)] if mixed and occupancy.outages else []
    return [*own, *([(_others(rest), OTHERS)] if rest else []), *several, *failed]


def occupancy_figure(occupancy: Occupancy, colours: Colours) -> go.Figure:
    """Draw how many instances each service kept at work, and below it each GPU: by whom it was used, and how much.

    What the mouse is to say of a cell of the lower figure is left in its `meta`, packed, for the page to spell out.
    """
    height = _height(len(occupancy.rows))
    share = 230 / (230 + height)
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=30 / (230 + height), row_heights=[share, 1 - share]
    )
    edges: Array = np.arange(occupancy.busy.shape[1] + 1) * np.float64(occupancy.width_s)
    axis = TimeAxis(float(edges[-1]))
    _draw_working(figure, occupancy, colours, axis.place(edges))
    _draw_rows(figure, occupancy, colours, axis.place((edges[:-1] + edges[1:]) / 2), axis.unit[1])
    if occupancy.outages:
        _draw_outages(figure, occupancy, axis)
    figure.update_xaxes(title_text=axis.title, row=2, col=1)
    figure.update_yaxes(title_text="instances at work", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="GPU", type="category", autorange="reversed", row=2, col=1, showgrid=False)
    return dressed(figure.update_layout(showlegend=False), height=230 + height + 60, unified=False, top=8)


def _height(rows: int) -> int:
    """Return room for each row's name where they are few, and what a screen shows at once where they are many."""
    return int(np.clip(20 * rows, 60, 400) if rows <= 30 else np.clip(13 * rows, 400, 640))


def _draw_working(figure: go.Figure, occupancy: Occupancy, colours: Colours, x: object) -> None:
    for name, look in colours.items():
        if name in occupancy.services:
            _stack(figure, x, occupancy.working[occupancy.services.index(name)], label(name), look)
    rest = [n for n, name in enumerate(occupancy.services) if name not in colours]
    if rest:
        _stack(figure, x, occupancy.working[rest].sum(axis=0), _others(len(rest)), OTHERS)
    figure.add_scatter(
        x=x, y=steps(occupancy.ready), mode="lines", name="ready", row=1, col=1,
        line={"color": MIXED, "width": 1.4, "shape": "hv", "dash": "dot"},
        hovertemplate="%{y:.2f} instances ready<extra></extra>",
    )  # fmt: skip


def _stack(figure: go.Figure, x: object, y: Array, name: str, look: str) -> None:
    figure.add_scatter(
        x=x, y=steps(np.round(y, 4)), name=name, stackgroup="working", mode="lines", row=1, col=1,
        line={"width": 0.4, "color": look, "shape": "hv"}, fillcolor=see_through(look, 0.8),
        hovertemplate=f"{name}: %{{y:.2f}} instances at work<extra></extra>",
    )  # fmt: skip


def _others(number: int) -> str:
    return f"{number} other{'s' if number > 1 else ''}"


def _draw_rows(figure: go.Figure, occupancy: Occupancy, colours: Colours, x: object, unit: str) -> None:
    """Colour each cell after the service with more than half of its time at work, and the more so the busier it is."""
    looks = [*colours.values(), OTHERS, MIXED]
    slot_of = np.array([list(colours).index(s) if s in colours else len(looks) - 2 for s in occupancy.services])
    leads = occupancy.shares[:, :, 0] > occupancy.busy / 2
    slot = np.where(leads, slot_of[occupancy.leaders[:, :, 0]], len(looks) - 1)
    figure.add_heatmap(
        x=x, y=labels(occupancy.rows), z=np.float32(slot + 0.98 * np.clip(occupancy.busy, 0, 1)), zmin=0,
        zmax=len(looks), colorscale=_scale(looks), showscale=False, ygap=1, row=2, col=1,
        hovertemplate=f"%{{y}} at %{{x:.4g}} {unit}: %{{text}}<extra></extra>", meta=_spelling(occupancy),
    )  # fmt: skip


def _draw_outages(figure: go.Figure, occupancy: Occupancy, axis: TimeAxis) -> None:
    """Strike out the time in which a failure had taken something of a row away."""
    names, (factor, unit) = labels(occupancy.rows), axis.unit
    gone = occupancy.outages
    ends = list(axis.place(np.array([at for o in gone for at in (o.at_s, o.back_s)])))
    said = [f"{names[o.row]} failed at {o.at_s / factor:.4g}, back at {o.back_s / factor:.4g} {unit}" for o in gone]
    figure.add_scatter(
        x=[x for n in range(len(gone)) for x in (ends[2 * n], ends[2 * n + 1], None)],
        y=[y for o in gone for y in (names[o.row], names[o.row], None)],
        text=[text for text in said for _ in range(3)],
        mode="lines+markers", name="failed", row=2, col=1, line={"color": FAILED, "width": 3},
        marker={"color": FAILED, "symbol": "x-thin", "size": 8, "line": {"color": FAILED, "width": 2}},
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _scale(looks: Sequence[str]) -> list[tuple[float, str]]:
    """Return a scale that goes from faint to full for each colour in turn."""
    ends = [
        ((n + part) / len(looks), see_through(look, depth))
        for n, look in enumerate(looks)
        for part, depth in ((0.0, FAINTEST), (0.985, 1.0))
    ]
    return [*ends, (1.0, looks[-1])]


def _spelling(occupancy: Occupancy) -> dict[str, object]:
    """Pack what each cell is to say: how busy it is, and which services had how many hundredths of it.

    A day's cells spelled out would make up most of the page: 10 bytes each here, some 70 as text.
    """
    leaders = occupancy.leaders
    return {
        "services": [label(name) for name in occupancy.services],
        "cells": list(leaders.shape),
        "busy": _packed(np.where(np.isnan(occupancy.busy), 255, np.round(np.nan_to_num(occupancy.busy) * 100)), "u1"),
        "leaders": _packed(leaders, "<u2"),
        "shares": _packed(np.round(np.nan_to_num(occupancy.shares) * 100), "u1"),
    }


def _packed(values: NDArray[np.float64] | NDArray[np.int64], kind: str) -> str:
    return b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def batches_figure(occupancy: Occupancy, colours: Colours) -> go.Figure:
    """Draw every batch of the window as a bar on its GPU, coloured by its service."""
    window = occupancy.batches
    figure, names = go.Figure(), labels(window.rows)
    length_s = max(window.span_s[1] - window.span_s[0], 1e-6)
    unit, factor = ("milliseconds", 1e3) if length_s < 5 else ("seconds", 1.0)
    own = {occupancy.services.index(name): (label(name), look) for name, look in colours.items()}
    ran = sorted({int(s) for s in window.service}, key=lambda s: list(own).index(s) if s in own else len(own))
    rest = [s for s in ran if s not in own]
    parts = [([s], *own[s]) for s in ran if s in own] + ([(rest, _others(len(rest)), OTHERS)] if rest else [])
    for services, name, look in parts:
        shown = np.isin(window.service, services)
        said = [_say(occupancy.services[s], b) for s, b in zip(window.service[shown], window.size[shown], strict=True)]
        figure.add_bar(
            orientation="h", name=name, marker={"color": look, "line": {"width": 0}}, text=said, textposition="none",
            y=[names[n] for n in window.row[shown]],
            base=np.round((window.start_s[shown] - window.span_s[0]) * factor, 4),
            x=np.round((window.finish_s[shown] - window.start_s[shown]) * factor, 4),
            hovertemplate=f"%{{text}}<br>%{{x:,.4g}} {unit} from %{{base:,.6g}}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(barmode="overlay", bargap=0.15, showlegend=False)
    figure.update_xaxes(title_text=f"{unit} from the window's start", range=[0, length_s * factor])
    figure.update_yaxes(
        title_text="GPU", type="category", categoryorder="array", categoryarray=names, autorange="reversed",
        showgrid=False,
    )  # fmt: skip
    return dressed(figure, height=_height(len(names)) + 70, unified=False, top=8)


def _say(service: str, size: int) -> str:
    return f"{escape(service)}, {f'batch of {size}' if size else 'cut short'}"
