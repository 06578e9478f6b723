"""The tables and remarks of `partita compare`."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any

from partita.controller.scoretable import NONE
from partita.controller.whatif.comparing import Compared
from partita.controller.whatif.tables import Table, number
from partita.model.plain import to_plain
from partita.replay.significance import CONFIDENCE, EQUAL, NOTHING

SIGNIFICANT = 1.0 - CONFIDENCE
MOST_CHANGES = 6


def means_table(compared: Sequence[Compared]) -> Table:
    """Write a row for each side: its means over the seeds, ± their intervals."""
    measures = list(compared[0].means)
    rows = []
    for each in compared:
        texts = [measure.write_mean(each.means[measure]) for measure in measures]
        rows.append((each.side.label, *texts, str(len(each.side.seeds))))
    return Table(("side\n", *(m.heading for m in measures), "seeds\n"), tuple(rows))


def differences_table(compared: Sequence[Compared]) -> Table:
    """Write a row for each side and measure: how it differs from the first side, and whether that is chance."""
    first, *others = compared
    rows = []
    for each in others:
        for measure, gap in each.differences.items():
            base = first.means[measure].mean
            share = NONE if base == 0 else f"{number(gap.mean / abs(base) * 100, 2, sign=True)} %"
            ends = (
                NONE
                if isnan(gap.low)
                else f"{measure.write(gap.low, sign=True)} … {measure.write(gap.high, sign=True)}"
            )
            heading = " ".join(measure.heading.split("\n")).strip()
            judged = NONE if isnan(gap.p_value) else "yes" if gap.p_value < SIGNIFICANT else "no"
            rows.append(
                (each.side.label, heading, measure.write(gap.mean, sign=True), share, ends, _p(gap.p_value), judged)
            )
    headings = (
        "side\n",
        "measure\n",
        "difference\n",
        "relative\n",
        f"{CONFIDENCE:.0%} interval\n",
        "p\n",
        "more than\nchance",
    )
    return Table(headings, tuple(rows), names=2)


def _p(value: float) -> str:
    return NONE if isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def comparison_remarks(compared: Sequence[Compared]) -> list[str]:
    """Say what the sides are, what differs between them, and which test was made."""
    first, *others = compared
    lines = [f"Differences are from {first.side.label}."]
    for each in others:
        if each.changed:
            more = len(each.changed) - MOST_CHANGES
            listed = [*each.changed[:MOST_CHANGES], *([f"{more} more"] if more > 0 else [])]
            lines.append(f"{each.side.label}: {'; '.join(listed)}.")
    tests = {gap.test: gap.seeds for each in others for gap in each.differences.values() if gap.test != EQUAL}
    for test, seeds in tests.items():
        if test == NOTHING:
            lines.append("With one seed a side no significance can be given: run several seeds.")
        else:
            lines.append(f"Test: {test} ({seeds} seeds), two-sided; p-values are not corrected for their number.")
    if not tests:
        lines.append("Every seed gave the same on all sides.")
    for each in compared:
        if len(each.side.files) > 1:
            lines.append(f"{each.side.label} stands for {len(each.side.files)} files that differ in their seeds only.")
    return lines


def comparison_document(compared: Sequence[Compared]) -> dict[str, Any]:
    """Put a comparison together as plain data."""
    return {
        "partita_compare": 1,
        "sides": [
            {
                "label": each.side.label,
                "files": each.side.files,
                "seeds": sorted(each.side.seeds),
                "means": {m.key: to_plain(found) for m, found in each.means.items()},
                "differences": {m.key: to_plain(gap) for m, gap in each.differences.items()},
            }
            for each in compared
        ],
    }
