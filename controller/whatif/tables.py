"""The what-if tools' tables as texts: a sweep's means over the seeds, searches, and sides compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from partita.controller.results import FIXED
from partita.controller.scoretable import NONE
from partita.controller.whatif.grid import Cell, written
from partita.controller.wording import gpus
from partita.model.plain import to_json
from partita.replay.significance import Interval, interval


@dataclass(frozen=True, slots=True)
class Table:
    """A table as texts: two-line headings, rows, and how many columns at the left are names."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a score record that is worth a column: where it is, its two-line heading, and how it is written."""

    key: str
    heading: str
    digits: int
    scale: float = 1.0

    def of(self, score: Mapping[str, Any]) -> float:
        """Read it off a record."""
        value: Any = score
        for part in self.key.split("."):
            value = value[part]
        return float(value)

    def write(self, value: float, *, sign: bool = False) -> str:
        """Write a value in the heading's unit."""
        return number(value * self.scale, self.digits, sign=sign)

    def write_mean(self, found: Interval) -> str:
        """Write a mean, ± half its interval if there is one."""
        return self.write(found.mean) + (f" ± {self.write(found.half_width)}" if found.seeds > 1 else "")


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """Write a number; what is none by a dash."""
    return NONE if isnan(value) else f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")


MEASURES = (
    Measure("goodput_rps", "goodput\nreq/s", 1),
    Measure("attainment", "attained\n%", 2, 100.0),
    Measure("worst_attainment", "worst service\n%", 2, 100.0),
    Measure("gpu_hours", "GPU\nhours", 3),
    Measure("gpus_held_mean", "GPUs\nmean", 2),
    Measure("utilisation", "busy\n%", 1, 100.0),
    Measure("mean_batch", "batch\nmean", 2),
    Measure("latency_ms.p99", "p99\nms", 1),
)
"""What sweeps show and comparisons weigh."""


def sweep_table(cells: Sequence[Cell], records: Mapping[str, Mapping[str, Any]]) -> Table:
    """Write one row for each combination and policy: the mean over its seeds that did not fail, ± its interval."""
    keys = [key for key, _ in cells[0].settings]
    with_policy = any(cell.policy is not None for cell in cells)
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        names = [written(value) for _, value in cell.settings] + [cell.policy or FIXED] * (with_policy or not keys)
        groups.setdefault(tuple(names), []).append(records[cell.name])
    rows = [(*names, *_means([r["score"] for r in group if r["score"]], len(group))) for names, group in groups.items()]
    left = (*keys, *(["policy"] * (with_policy or not keys)))
    headings = (*left, *(measure.heading for measure in MEASURES), "seeds\n")
    return Table(headings, tuple(rows), len(left))


def _means(scores: Sequence[Mapping[str, Any]], seeds: int) -> list[str]:
    if not scores:
        return [NONE] * len(MEASURES) + [f"0 of {seeds}"]
    texts = [measure.write_mean(interval([measure.of(score) for score in scores])) for measure in MEASURES]
    return [*texts, str(seeds) if len(scores) == seeds else f"{len(scores)} of {seeds}"]


def capacity_table(document: Mapping[str, Any]) -> Table:
    """Write a row for each discipline: what was found, its shares of the bounds, and how its runs were there."""
    rates = document["find"] == "rate"
    what = (
        ("highest rate\nreq/s", "of staggered\nbound, %", "of fluid\nbound, %")
        if rates
        else ("fewest GPUs\nmean", "every\nseed")
    )
    headings = ("discipline\n", *what, "batch\nmean", "busy\n%", "GPUs\nheld", "GPUs\nbusy", "p99\nms")
    rows = []
    for name, answer in document["answers"].items():
        around = (
            "" if answer["low"] is None else f" ± {number((answer['high'] - answer['low']) / 2, 0 if rates else 2)}"
        )
        found = [number(answer["mean"], 0 if rates else 2) + around]
        if rates:
            found += [_share(answer["of_staggered"]), _share(answer["of_fluid"])]
        else:
            levels = [each["level"] for each in answer["by_seed"].values()]
            found.append(NONE if None in levels else number(max(levels), 0))
        marked = name if answer["monotone"] else f"{name} *"
        rows.append((marked, *found, *_runs_there(answer["at_it"])))
    return Table(headings, tuple(rows))


def _runs_there(there: Mapping[str, float] | None) -> list[str]:
    if there is None:
        return [NONE] * 5
    return [
        number(there["mean_batch"], 2),
        number(there["utilisation"] * 100, 1),
        number(there["gpus_held_mean"], 2),
        number(there["gpus_busy_mean"], 2),
        number(there["latency_p99_ms"], 1),
    ]


def _share(share: float | None) -> str:
    return NONE if share is None else number(share * 100, 1)


def capacity_remarks(document: Mapping[str, Any]) -> list[str]:
    """Say below the table what was looked for and how, what the bounds are, and what to beware of."""
    bounds, seeds = document["bounds"], document["seeds"]
    whose = "of the worst service" if document["by"] == "worst" else "of all requests"
    rates = document["find"] == "rate"
    what = "Highest offered rate" if rates else f"Fewest GPUs for {bounds['offered_rps']:,.0f} req/s"
    close = f", searched to {document['resolution'] * 100:g} %" if rates else ""
    lines = [f"{what} with at most {document['bad_rate'] * 100:g} % {whose} late or dropped{close}."]
    surely = f"{document['confidence'] * 100:g} %"
    lines.append(
        f"Mean over {len(seeds)} seeds ± half its {surely} interval: Student's t, each seed a search of its own."
        if len(seeds) > 1
        else "One seed: there is no confidence interval."
    )
    if rates:
        lines.append(_bounds(bounds))
    for name, answer in document["answers"].items():
        lines += _bewares(name, answer, document)
    return lines


def _bounds(bounds: Mapping[str, Any]) -> str:
    """Say what the cluster could carry at best; a bound of 0 is none."""
    there = {what: bounds[f"{what}_rps"] for what in ("staggered", "fluid") if bounds[f"{what}_rps"]}
    if not there:
        why = "the kind of instance that there is most of cannot answer every service in time"
        return f"Bounds of all {gpus(bounds['gpus'])}: none, since {why}."
    return (
        f"Bounds of all {gpus(bounds['gpus'])}: {', '.join(f'{what} {rps:,.0f} req/s' for what, rps in there.items())}."
    )


def _bewares(name: str, answer: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    found = [each["level"] for each in answer["by_seed"].values()]
    rates = document["find"] == "rate"
    if not answer["monotone"]:
        yield f"* {name} is not monotone: {answer['why']}. It was scanned on a grid and refined at the best level."
    elif answer["scanned"]:
        yield f"{name} was scanned on a grid; more load never fared better."
    if None in found:
        least = "at the lowest rate tried" if rates else "with the most GPUs tried"
        yield f"{name} misses the limit even {least} with {found.count(None)} of {len(found)} seeds, counted as 0."
    if rates and any(each["missed"] is None for each in answer["by_seed"].values()):
        yield f"{name} met the limit at every rate that was tried: it carries more."
    points = {(p["seed"], p["level"]): p for p in document["points"] if p["discipline"] == name and not p["problem"]}
    seeds = document["seeds"]
    drawn = {level for _, level in points if len({_tell(points.get((seed, level))) for seed in seeds}) > 1}
    if len(seeds) > 1 and not drawn:
        yield f"Every seed gave the same runs under {name}: nothing in this load is drawn, the interval says nothing."


def _tell(point: Mapping[str, Any] | None) -> str:
    return "" if point is None else to_json({**point, "seed": 0})
