"""The grid of a sweep: every combination of the values that keys of the scenario are to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from partita.controller.config import Scenario
from partita.controller.entry import shorten
from partita.controller.scenario_file import read_values
from partita.controller.whatif.tracemark import marks_of
from partita.errors import ConfigError
from partita.model.plain import to_json

OPTION = "--vary"
TRACE = "load.trace.file"


@dataclass(frozen=True, slots=True)
class Vary:
    """A key of the scenario, as a dotted path, and the values it takes."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep; `scenario` has the values in `settings`, by key.

    `name` tells it from the other cells of any grid over the same scenario; a trace that is varied by what it holds.
    """

    name: str
    settings: tuple[tuple[str, Any], ...]
    policy: str | None
    seed: int
    scenario: Scenario


def read_vary(text: str) -> Vary:
    """Read ``key=v1,v2``; each value is written as in a scenario file, one with commas in quotes or brackets."""
    key, equals, listed = text.partition("=")
    if not equals or not key.strip() or not listed.strip():
        raise ConfigError(f"{text!r} is not written as key=value,value", key=OPTION, value=text)
    try:
        values = read_values(listed)
    except yaml.YAMLError:
        raise ConfigError(f"{listed!r} is not a list of values as in a scenario file", key=OPTION, value=text) from None
    if len({to_json(value) for value in values}) < len(values):
        raise ConfigError(f"{text!r} has a value twice", key=OPTION, value=text)
    return Vary(key.strip(), values)


def cells_of(
    scenario: Scenario, varied: Sequence[Vary], *, folder: Path, policies: Sequence[str | None], seeds: Sequence[int]
) -> tuple[Cell, ...]:
    """Return every combination of values, policy and seed; ConfigError names the first that makes no scenario.

    `folder` is the scenario's, in which files are looked for.
    """
    keys = [vary.key for vary in varied]
    for at, key in enumerate(keys):
        if key in keys[:at]:
            raise ConfigError(f"the key {key!r} is varied twice", key=OPTION, value=key)
        if key.split(".")[0] in ("seed", "policies"):
            option = "--seeds" if key == "seed" else "--policy"
            raise ConfigError(f"{key!r} is varied by {option}", key=OPTION, value=key)
    cells = []
    for values in product(*(vary.values for vary in varied)):
        settings = tuple(zip(keys, values, strict=True))
        changed = vary_scenario(scenario, settings, folder)
        begin: dict[str, Any] = {"vary": dict(settings)}
        if TRACE in keys:
            begin["trace"] = marks_of(changed.trace_paths())
        for policy, seed in product(policies, seeds):
            name = to_json({**begin, "policy": policy, "seed": seed})
            cells.append(Cell(name, settings, policy, seed, changed))
    return tuple(cells)


def vary_scenario(scenario: Scenario, settings: Sequence[tuple[str, Any]], folder: Path) -> Scenario:
    """Return the scenario with other values; a discipline that is named keeps the settings that it has too."""
    try:
        for key, value in settings:
            if key == "discipline.name" and isinstance(value, str) and value != scenario.discipline.name:
                scenario = scenario.model_copy(update={"discipline": scenario.discipline.renamed(value)})
        document = scenario.model_dump(by_alias=True)
        for key, value in settings:
            _put(document, key, value)
        return Scenario.model_validate(document, context={"folder": folder.resolve(), "file": scenario.file})
    except ValidationError as problem:
        first = problem.errors()[0]
        told = first.get("ctx", {}).get("text") or f"{shorten(first['input'])} {first['msg'].removeprefix('Input ')}"
        given = ", ".join(f"{key}={written(value)}" for key, value in settings)
        raise ConfigError(f"{given}: {told}", key=OPTION, value=given) from None


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a value at a dotted path; the last step may be a new key, those before it lead through what is there."""
    at: Any = document
    *path, last = key.split(".")
    for step in path:
        at = _below(at, step, key)
    if isinstance(at, dict):
        at[last] = value
    else:
        _below(at, last, key)
        at[int(last)] = value


def _below(at: Any, step: str, key: str) -> Any:
    match at:
        case dict() if step in at:
            return at[step]
        case list() if step.isdecimal() and int(step) < len(at):
            return at[int(step)]
        case dict():
            there = f"there are {', '.join(map(str, at))}"
        case list():
            there = f"there are 0 to {len(at) - 1}"
        case _:
            there = "there is nothing below it"
    raise ConfigError(f"{key!r} leads nowhere: no {step!r}, {there}", key=OPTION, value=key)


def written(value: object) -> str:
    """Write a value as it stands in a scenario."""
    return value if isinstance(value, str) else to_json(value)
