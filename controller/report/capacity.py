"""The page of a search for capacity: what every discipline made of each rate, or number of GPUs, beside the bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.controller.report.frame import dot, figure_card, folded, page, run_again
from partita.controller.results import write_whole
from partita.controller.whatif.tables import Table, capacity_remarks, capacity_table
from partita.controller.wording import gpus, span
from partita.plots import Scan, bad_rate_figure, goodput_by_rate

Point = Mapping[str, Any]
"""One measurement as it stands in the document of `partita capacity`."""


def write_capacity(path: Path, document: Mapping[str, Any], *, title: str, command: str | None = None) -> None:
    """Write the page of what `partita capacity` found, whole or not at all."""
    write_whole(path, capacity_text(document, title=title, command=command))


def capacity_text(document: Mapping[str, Any], *, title: str, command: str | None = None) -> str:
    """Return the page as HTML; `command` is the command line that gives it again."""
    return page(title, _parts(document, title, command))


def scans_of(points: Sequence[Point], *, bad: str) -> dict[str, Scan]:
    """Join the seeds of each discipline, whose bad rate is taken from the key `bad`.

    A search tries other levels with every seed, so a seed's readings are joined by straight lines; where it has none it
    does not count.
    """
    measured = [point for point in points if point.get("goodput_rps") is not None]
    names = dict.fromkeys(str(point["discipline"]) for point in measured)
    return {name: _scan([p for p in measured if p["discipline"] == name], bad) for name in names}


def _scan(points: Sequence[Point], bad: str) -> Scan:
    level = np.unique([float(point["level"]) for point in points])
    columns = [
        fold(_by_seed(points, key, level), axis=0)
        for key in ("goodput_rps", bad)
        for fold in (np.nanmean, np.nanmin, np.nanmax)
    ]
    return Scan(level, *columns)


def _by_seed(points: Sequence[Point], key: str, level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each seed read at these levels, ``(seeds, levels)``."""
    rows = []
    for seed in sorted({point["seed"] for point in points}):
        own = sorted((float(p["level"]), float(p[key])) for p in points if p["seed"] == seed)
        at, value = np.array(own, np.float64).T
        rows.append(np.interp(level, at, value, left=np.nan, right=np.nan))
    return np.array(rows, np.float64)


def _parts(document: Mapping[str, Any], title: str, command: str | None) -> Iterator[str]:
    by_rate, worst = document["find"] == "rate", document["by"] == "worst"
    scans = scans_of(document["points"], bad="worst_bad_rate" if worst else "bad_rate")
    whose = "the worst service" if worst else "all requests"
    first, *remarks = capacity_remarks(document)
    yield f'<h1>{escape(title)}</h1><p class="lead">{escape(first)}</p>'
    yield f'<p class="soft">{escape(_measured(document))}</p>'
    yield f'<h2>Found</h2><div class="card scroll">{_table(capacity_table(document), list(scans))}</div>'
    yield "".join(f'<p class="soft">{escape(line)}</p>' for line in remarks)
    if scans:
        yield from _figures(document, scans, whose, by_rate=by_rate)
    yield f"<h2>Run it again</h2>{run_again(command, document['seeds'], document['versions'])}"
    yield folded("The scenario, every default filled in", document["scenario"])
    yield folded("Every measurement", document["points"])


def _figures(document: Mapping[str, Any], scans: Mapping[str, Scan], whose: str, *, by_rate: bool) -> Iterator[str]:
    bounds = document["bounds"]
    if by_rate:
        yield "<h2>Goodput against the offered rate</h2>"
        figure = goodput_by_rate(scans, staggered_rps=bounds["staggered_rps"], fluid_rps=bounds["fluid_rps"])
        yield figure_card(figure, "goodput", zooms=True)
    yield f"<h2>Late or dropped, of {whose}</h2>"
    level = "offered, requests a second" if by_rate else "GPUs"
    yield figure_card(bad_rate_figure(scans, level=level, target=document["bad_rate"]), "bad", zooms=True)


def _measured(document: Mapping[str, Any]) -> str:
    points, seeds, bounds = document["points"], len(document["seeds"]), document["bounds"]
    law = document["scenario"]["load"].get("arrivals")
    length = f", {span(law['duration_s'])} each" if law else ""
    band = "; the bands go from the lowest to the highest of them" if seeds > 1 else ""
    drawn = f"{seeds} seed{'s' if seeds > 1 else ''}"
    return f"{len(points):,} runs on up to {gpus(bounds['gpus'])}{length}, with {drawn}{band}."


def _table(table: Table, disciplines: Sequence[str]) -> str:
    heads = "".join(f"<th>{escape(heading).replace(chr(10), '<br>')}</th>" for heading in table.headings)
    rows = "".join(f"<tr>{''.join(_cells(row, disciplines))}</tr>" for row in table.rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(row: Sequence[str], disciplines: Sequence[str]) -> Iterator[str]:
    name, *rest = row
    drawn = name.removesuffix(" *")
    yield f"<td>{dot(disciplines.index(drawn)) if drawn in disciplines else ''}{escape(name)}</td>"
    yield from (f"<td>{escape(text)}</td>" for text in rest)
