"""What all figures have in common: colours, the time axis, and a dress that leaves ground, ink and grid to the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from textwrap import wrap

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

COLOURS = ("#8c8c94", "#e08214", "#1b9e8f", "#7b6fd0", "#d1495b", "#4c8fd6", "#8aa83a", "#c2679b")
LOAD = "#9aa7b5"
GRID = "rgba(128,128,128,0.22)"
DATES_FROM_S = 1e8
LONGEST_LABEL = 24
Array = NDArray[np.float64]


def colour(number: int) -> str:
    """Return the colour of the n-th policy."""
    return COLOURS[number % len(COLOURS)]


def see_through(hex_colour: str, share: float) -> str:
    """Return a colour that lets the ground through; `share` 1 does not."""
    red, green, blue = (int(hex_colour[n : n + 2], 16) for n in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


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


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Unix time is shown as dates, anything else as hours, minutes or seconds from the start."""

    last_s: float

    @property
    def unit(self) -> tuple[float, str]:
        """Return the seconds of the axis' unit, and its name."""
        return next((u for u in ((3600.0, "hours"), (60.0, "minutes")) if self.last_s >= 2.5 * u[0]), (1.0, "seconds"))

    @property
    def title(self) -> str | None:
        """Say what the axis shows; None for dates, which say it themselves."""
        return None if self.last_s >= DATES_FROM_S else f"{self.unit[1]} from the start"

    def place(self, seconds: Array) -> Array | list[datetime]:
        """Return where instants are on the axis."""
        if self.last_s >= DATES_FROM_S:
            return [datetime.fromtimestamp(float(s), UTC).replace(tzinfo=None) for s in seconds]
        return seconds / self.unit[0]


def steps(values: Array) -> Array:
    """Repeat the last value, so that its step reaches the end of the last interval."""
    return np.append(values, values[-1:])


def wrapped(text: str, width: int = 60) -> str:
    """Escape a text and break it into lines that fit a hover label."""
    return "<br>".join(escape(line) for line in wrap(text, width))


def label(name: str) -> str:
    """Escape a name; the middle of one that would push the figure off a phone is left out."""
    half = (LONGEST_LABEL - 1) // 2
    return escape(name if len(name) <= LONGEST_LABEL else f"{name[:half]}…{name[-half:]}")


def labels(names: Sequence[str]) -> list[str]:
    """Label names so that no two read alike, which would lay them over each other on an axis."""
    short = [label(name) for name in names]
    return [text if short.count(text) == 1 else escape(name) for text, name in zip(short, names, strict=True)]


def dressed(figure: go.Figure, *, height: int, unified: bool = True, top: int = 36) -> go.Figure:
    """Give a figure its size, with room for a legend at the `top`, and leave ground, ink and grid to the page."""
    figure.update_layout(
        height=height, margin={"l": 8, "r": 8, "t": top, "b": 8}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"family": "system-ui, sans-serif", "size": 12},
        hovermode="x" if unified else "closest", legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        template="none", modebar={"bgcolor": "rgba(0,0,0,0)"},
    )  # fmt: skip
    # Ticks that nobody sees keep the two labels at the origin apart.
    axes = {"automargin": True, "gridcolor": GRID, "zeroline": False, "ticks": "outside", "tickcolor": "rgba(0,0,0,0)"}
    figure.update_xaxes(**axes, ticklen=6)
    figure.update_yaxes(**axes, ticklen=6, title_standoff=10)  # else a title stands against the longest label
    return figure
