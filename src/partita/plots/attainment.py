"""Attainment by service against its target."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import plotly.graph_objects as go

from partita.plots.dress import LOAD, colour, dressed, labels

SPREAD = 0.72
"""How far apart the policies' points of one service lie, in rows, so that equal ones do not hide each other."""


def attainment_figure(
    by_policy: Mapping[str, Mapping[str, float]], targets: Mapping[str, float], *, limit: int = 30
) -> go.Figure:
    """Draw the attainment of each service under each policy, worst first, beside its target."""
    services = sorted({s for shares in by_policy.values() for s in shares})
    lowest = {s: min(shares[s] for shares in by_policy.values() if s in shares) for s in services}
    shown = sorted(services, key=lambda s: (lowest[s], s))[:limit]
    texts, rows = labels(shown), range(len(shown))
    figure = go.Figure()
    figure.add_scatter(
        x=[targets[s] * 100 if s in targets else None for s in shown], y=list(rows), mode="markers", name="target",
        marker={"symbol": "line-ns-open", "size": 16, "color": LOAD, "line": {"width": 2}}, text=texts,
        hovertemplate="%{text}: target %{x:.2f} %<extra></extra>",
    )  # fmt: skip
    for number, (name, shares) in enumerate(by_policy.items()):
        aside = SPREAD * ((number + 0.5) / len(by_policy) - 0.5)
        figure.add_scatter(
            x=[shares[s] * 100 if s in shares else None for s in shown], y=[row + aside for row in rows], text=texts,
            mode="markers", name=escape(name), marker={"size": 7, "color": colour(number)},
            hovertemplate=f"%{{text}}: %{{x:.3f}} % with {escape(name)}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title_text="requests answered within their SLO, %")
    figure.update_yaxes(
        tickvals=list(rows), ticktext=texts, range=[len(shown) - 0.4, -0.6], title_text="service", zeroline=False
    )
    return dressed(figure, height=110 + 22 * len(shown), unified=False)
