"""Reading results back as sides to compare, each with its numbers by seed.

The runs of a side differ in their seeds only: a policy in results of `partita replay --json` over the same scenario, a
combination of a sweep, a discipline of a capacity search.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from partita.controller.results import FIXED
from partita.controller.whatif.changes import changes
from partita.controller.whatif.grid import written
from partita.controller.whatif.sweep import METADATA
from partita.controller.whatif.tables import MEASURES, Measure
from partita.errors import ConfigError
from partita.replay.significance import Difference, Interval, difference, interval

RATE = Measure("rate", "highest rate\nreq/s", 1)
GPUS = Measure("gpus", "fewest GPUs\n", 2)

Kind = Literal["runs", "rates", "gpus"]


@dataclass(slots=True)
class Side:
    """One side: what it is called, where its numbers are from, what was run, and each measure's values by seed."""

    label: str
    kind: Kind
    files: list[str]
    scenario: Mapping[str, Any]
    values: dict[Measure, dict[int, float]]
    bad_rate: tuple[float, str] | None = None
    same: str = ""

    @property
    def seeds(self) -> set[int]:
        """The seeds there are numbers of."""
        return set(next(iter(self.values.values())))


@dataclass(frozen=True, slots=True)
class Compared:
    """A side beside the first one: each measure's mean, and its difference."""

    side: Side
    means: Mapping[Measure, Interval]
    differences: Mapping[Measure, Difference] = field(default_factory=dict)
    changed: tuple[str, ...] = ()


def read_sides(paths: Sequence[Path]) -> list[Side]:
    """Read results of one kind; ConfigError if a file is none, if kinds are mixed, or if there is only one side."""
    sides: list[Side] = []
    for path in paths:
        for side in _read_whole(path, named=len(paths) > 1):
            fitting = (s for s in sides if side.same and s.same == side.same and not s.seeds & side.seeds)
            if (host := next(fitting, None)) is None:
                sides.append(side)
            else:
                host.files += side.files
                for measure, values in side.values.items():
                    host.values[measure] |= values
    kinds = {side.kind: side for side in sides}
    if len(kinds) > 1:
        one, two, *_ = (side.files[0] for side in kinds.values())
        raise ConfigError(f"{one} and {two} are results of different kinds: compare like with like")
    if len({side.bad_rate for side in sides}) > 1:
        raise ConfigError("the searches held different bad rates against their limits, so their answers say nothing")
    if len(sides) < 2:
        there = ", ".join(side.label for side in sides) or "no run worked"
        raise ConfigError(f"two sides or more are needed ({there}): files that differ in their seeds only are one side")
    return sides


def compare_sides(sides: Sequence[Side]) -> list[Compared]:
    """Put each side beside the first."""
    first, *others = sides
    found = [Compared(first, _means(first))]
    for side in others:
        differences = {m: difference(first.values[m], side.values[m]) for m in first.values}
        changed = tuple(f"{path}: {old} → {new}" for path, old, new in changes(first.scenario, side.scenario))
        found.append(Compared(side, _means(side), differences, changed))
    return found


def _means(side: Side) -> dict[Measure, Interval]:
    return {measure: interval(list(values.values())) for measure, values in side.values.items()}


def _read_whole(path: Path, *, named: bool) -> list[Side]:
    import polars as pl

    try:
        return list(_read(path, named=named))
    except (KeyError, TypeError, ValueError, AttributeError, pl.exceptions.PolarsError):
        raise ConfigError("is damaged, or a result of another version", file=str(path)) from None


def _read(path: Path, *, named: bool) -> Iterator[Side]:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as problem:
        raise ConfigError(f"cannot be read: {(problem.strerror or '').lower()}", file=str(path)) from None
    if magic == b"PAR1":
        return _of_sweep(path, named=named)
    try:
        document = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        document = None
    match document:
        case {"partita_capacity": _}:
            return _of_capacity(path, document, named=named)
        case {"scores": dict(), "scenario": dict(), "seed": int()}:
            return _of_replay(path, document)
        case _:
            told = "is not a result of `partita replay --json`, `partita capacity --json` or `partita sweep`"
            raise ConfigError(told, file=str(path))


def _of_replay(path: Path, document: Mapping[str, Any]) -> Iterator[Side]:
    scenario = _without_seed(document["scenario"])
    seed, several = document["seed"], len(document["scores"]) > 1
    for policy, score in document["scores"].items():
        label = path.name if policy == FIXED else f"{path.name}: {policy}" if several else f"{path.name} ({policy})"
        options = [p for p in document["scenario"]["policies"] if isinstance(p, dict) and p["name"] == policy]
        asked = {**scenario, "policy": options[0] if options else policy}
        same = json.dumps([asked, document["versions"]], sort_keys=True)
        yield Side(label, "runs", [path.name], asked, {m: {seed: m.of(score)} for m in MEASURES}, same=same)


def _of_sweep(path: Path, *, named: bool) -> Iterator[Side]:
    import polars as pl

    header = pl.read_parquet_metadata(path).get(METADATA)
    if header is None:
        raise ConfigError("is not a result of `partita sweep`", file=str(path))
    about = json.loads(header)
    scenario, keys = about["scenario"], about["varied"]
    sides: dict[tuple[str, ...], Side] = {}
    for row in pl.read_parquet(path).to_dicts():
        if row["problem"] is not None:
            continue
        settings = [f"{key}={written(row[key])}" for key in keys]
        names = (*settings, *([row["policy"]] if row["policy"] != FIXED or not keys else []))
        label = " ".join(([f"{path.name}:"] if named else []) + list(names))
        side = sides.setdefault(names, Side(label, "runs", [path.name], scenario, {m: {} for m in MEASURES}))
        for measure, values in side.values.items():
            values[row["seed"]] = float(row[measure.key])
    yield from sides.values()


def _of_capacity(path: Path, document: Mapping[str, Any], *, named: bool) -> Iterator[Side]:
    if not document["finished"]:
        raise ConfigError("is of a search that was stopped: it has no answers", file=str(path))
    measure = RATE if document["find"] == "rate" else GPUS
    kind: Kind = "rates" if measure is RATE else "gpus"
    asked = {**_without_seed(document["scenario"]), "policy": document["policy"]}
    limit = (document["bad_rate"], document["by"])
    for discipline in document["disciplines"]:
        answer = document["answers"][discipline]
        label = f"{path.name}: {discipline}" if named else discipline
        values = {int(seed): float(found["level"] or 0.0) for seed, found in answer["by_seed"].items()}
        yield Side(label, kind, [path.name], asked, {measure: values}, limit)


def _without_seed(scenario: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in scenario.items() if key not in ("seed", "policies")}
