"""What disciplines made of rising rates, or of more GPUs, beside the bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go

from partita.plots.dress import LOAD, Array, colour, dressed, see_through

LEAST_PERCENT = 0.01
MOST_WHOLE_TICKS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What one discipline made of each level, a rate or a number of GPUs: mean, lowest and highest over seeds.

    Levels rise; `bad_rate` is a share, 0..1, of all requests or of the worst service's.
    """

    level: Array
    goodput_rps: Array
    goodput_low_rps: Array
    goodput_high_rps: Array
    bad_rate: Array
    bad_rate_low: Array
    bad_rate_high: Array


def goodput_by_rate(
    scans: Mapping[str, Scan], *, staggered_rps: float | None = None, fluid_rps: float | None = None
) -> go.Figure:
    """Draw goodput against the offered rate by discipline, with a band over the seeds, and both bounds."""
    figure = go.Figure()
    highest = max((float(scan.level[-1]) for scan in scans.values() if len(scan.level)), default=1.0)
    figure.add_scatter(
        x=[0.0, highest], y=[0.0, highest], mode="lines", name="all in time", hoverinfo="skip",
        line={"color": LOAD, "dash": "dot", "width": 1.2},
    )  # fmt: skip
    for number, (name, scan) in enumerate(scans.items()):
        _draw(figure, number, name, scan.level, (scan.goodput_rps, scan.goodput_low_rps, scan.goodput_high_rps))
        figure.data[
            -1
        ].hovertemplate = f"{escape(name)}: %{{y:,.1f}} of %{{x:,.1f}} requests a second in time<extra></extra>"
    for what, bound, dash in (("staggered bound", staggered_rps, "dash"), ("fluid bound", fluid_rps, "longdashdot")):
        if bound:  # none, or 0 where a cluster of several profiles has none
            figure.add_scatter(
                x=[0.0, highest], y=[bound, bound], mode="lines", name=what,
                line={"color": LOAD, "dash": dash, "width": 1.6},
                hovertemplate=f"{what}: {bound:,.1f} requests a second<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(title_text="offered, requests a second", rangemode="tozero")
    figure.update_yaxes(title_text="answered in time, requests a second", rangemode="tozero")
    return dressed(figure, height=460, unified=False)


def bad_rate_figure(scans: Mapping[str, Scan], *, level: str, target: float | None = None) -> go.Figure:
    """Draw the share that was late or dropped against what `level` names, on a logarithmic scale."""
    figure = go.Figure()
    for number, (name, scan) in enumerate(scans.items()):
        shares = tuple(
            np.maximum(share * 100, LEAST_PERCENT) for share in (scan.bad_rate, scan.bad_rate_low, scan.bad_rate_high)
        )
        _draw(figure, number, name, scan.level, (shares[0], shares[1], shares[2]))
        figure.data[-1].customdata = scan.bad_rate * 100
        figure.data[
            -1
        ].hovertemplate = f"{escape(name)}: %{{customdata:.3g}} % late or dropped at %{{x:,.6g}}<extra></extra>"
    ends = [f(scan.level[n] for scan in scans.values()) for f, n in ((min, 0), (max, -1))] if scans else []
    if target is not None and ends:
        figure.add_scatter(
            x=ends, y=[target * 100] * 2, mode="lines", name=f"target, {target * 100:g} %", hoverinfo="skip",
            line={"color": LOAD, "dash": "dash", "width": 1.6},
        )  # fmt: skip
    whole = all(np.all(scan.level == np.rint(scan.level)) for scan in scans.values())
    few = bool(ends) and whole and ends[1] - ends[0] <= MOST_WHOLE_TICKS
    figure.update_xaxes(title_text=level, dtick=1 if few else None)
    figure.update_yaxes(
        type="log", title_text="late or dropped, %", range=[-2.1, 2.05], tickvals=[0.01, 0.1, 1, 10, 100],
        ticktext=["≤ 0.01", "0.1", "1", "10", "100"],
    )  # fmt: skip
    return dressed(figure, height=380, unified=False)


def _draw(figure: go.Figure, number: int, name: str, x: Array, y: tuple[Array, Array, Array]) -> None:
    """Draw a line with the band between its lowest and highest seed."""
    mean, low, high = y
    group = {"legendgroup": escape(name), "name": escape(name)}
    figure.add_scatter(
        **group, x=np.concatenate((x, x[::-1])), y=np.concatenate((high, low[::-1])), fill="toself", mode="none",
        fillcolor=see_through(colour(number), 0.2), hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    figure.add_scatter(
        **group, x=x, y=mean, mode="lines+markers", line={"color": colour(number), "width": 1.8}, marker={"size": 6},
    )  # fmt: skip
