"""Making the decisions of a live run again, from what its turns saw, and comparing them with the journal's.

The loop is pure, so the same observations give the same decisions, to the last bit: what differs is a fault of the
record, or the work of another version of Partita or of a plugin.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from partita.controller.cluster_file import ClusterFile
from partita.controller.live.parts import NO_BOOK, assemble
from partita.controller.loop import Loop
from partita.controller.recording import decode
from partita.controller.state import State, Turn
from partita.errors import ConfigError, StoreError
from partita.model.load import Observation
from partita.model.plain import to_json
from partita.model.plan import target
from partita.store.connection import Connection
from partita.store.journal import decision_detail
from partita.store.operators import (
    CommandRecord,
    RunHeading,
    read_first_kept,
    read_observations,
    read_recorded_decision,
    read_run,
    read_story,
)

MOST_SHOWN = 160
"""Characters of a value that is shown."""

Record = Mapping[str, Any]

COLUMNS = (
    "tick",
    "at_s",
    "action",
    "chosen",
    "reason",
    "offered_rps",
    "forecast_rps",
    "gpus_held",
    "gpus_wanted",
)
"""Columns of the table decision that are compared beside its detail."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first decision that came out otherwise: each field that differs, as journaled and as made again."""

    tick: int
    fields: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many decisions were the same, and the first that was not."""

    run: int
    same: int
    divergence: Divergence | None = None


async def read_live_run(connection: Connection, run: int) -> RunHeading:
    """Return a live run; ConfigError if there is none with this number."""
    heading = await read_run(connection, run)
    if heading is None:
        raise ConfigError(f"the journal holds no run {run}", key="--recorded", value=run)
    if heading.kind != "live":
        raise ConfigError(f"run {run} is a replay: only live runs are recorded", key="--recorded", value=run)
    return heading


def file_of(document: Mapping[str, Any]) -> ClusterFile:
    """Return the cluster file that a run was begun with; ConfigError if this version cannot read it."""
    try:
        return ClusterFile.model_validate(_numbered(document))
    except ValidationError as problem:
        first = problem.errors()[0]
        where = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        raise ConfigError(f"the run's cluster file is of another version: {where}{first['msg']}") from None


def _numbered(value: Any, key: str = "") -> Any:
    """Return a document with the batch sizes of measured latencies as numbers again: JSON has only texts for keys."""
    if isinstance(value, Mapping):
        return {int(k) if key == "points" else k: _numbered(item, k) for k, item in value.items()}
    return [_numbered(item) for item in value] if isinstance(value, list) else value


async def compare(connection: Connection, run: int, *, told: Callable[[int], None] = lambda _: None) -> Comparison:
    """Step the run's loop through what it saw until a decision differs; `told` hears of each turn.

    A plugin that failed when the run was live, by hanging or by chance, may not fail again: that differs too.
    """
    heading = await read_live_run(connection, run)
    parts = assemble(file_of(heading.scenario), NO_BOOK)
    try:
        same = 0
        async for tick, turn in _turns(connection, parts.loop, run):
            journaled = await _journaled(connection, run, tick)
            if journaled is None:
                break
            told(tick)
            if differing := dict(_differing(journaled, _made(turn))):
                return Comparison(run, same, Divergence(tick, differing))
            same += 1
        return Comparison(run, same)
    finally:
        parts.close()


async def _turns(connection: Connection, loop: Loop, run: int) -> AsyncIterator[tuple[int, Turn]]:
    """Yield every turn of the run as the loop makes it again; StoreError if nothing was kept."""
    first = await read_first_kept(connection, run)
    if first is None:
        raise StoreError(f"nothing is kept of what run {run} saw: it is deleted after watch.keep_observations_h")
    state: State | None = None
    expected = first
    while records := await read_observations(connection, run, after_tick=expected - 1):
        for tick, seen, kept in records:
            if tick != expected:
                raise StoreError(f"the record of run {run} is incomplete: turn {expected} is missing")
            expected += 1
            if state is None:
                assert kept is not None
                state = _decoded(State, kept, run, tick)
            state, turn, _ = loop.step(state, _decoded(Observation, seen, run, tick))
            yield tick, turn


def _decoded(kind: type[Any], record: bytes, run: int, tick: int) -> Any:
    try:
        return decode(kind, record)
    except ValueError as problem:
        raise StoreError(f"turn {tick} of run {run} cannot be read: {problem}") from None


def divergence_lines(found: Comparison) -> Iterator[str]:
    """Write the first decision that came out otherwise, a pair of lines for each value that differs."""
    assert found.divergence is not None
    number = len(found.divergence.fields)
    yield (
        f"Run {found.run}: decision {found.divergence.tick} comes out otherwise, in {number} "
        f"field{'s' if number != 1 else ''}; {found.same:,} before it are the same."
    )
    for name, (before, now) in found.divergence.fields.items():
        for path, was, became in _apart(name, before, now):
            yield f"    {path}"
            yield f"        journaled  {_shortened(was)}"
            yield f"        now        {_shortened(became)}"


def _apart(path: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the innermost values that differ, with where they stand."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                yield from _apart(f"{path}.{key}", before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for at, (one, other) in enumerate(zip(before, now, strict=True)):
            if one != other:
                yield from _apart(f"{path}[{at}]", one, other)
    else:
        yield path, before, now


def _shortened(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


# The two sides ------------------------------------------------------------------------------------------------------


async def _journaled(connection: Connection, run: int, tick: int) -> Record | None:
    """Return a decision as it stands in the journal, or None if the controller ended before it was written."""
    row = await read_recorded_decision(connection, run, tick)
    if row is None:
        return None
    given = [c for c in await read_story(connection, run, tick) if not c.undo]
    return {
        **{name: row[name] for name in COLUMNS},
        **_canonical(row["detail"]),
        "plan": None if row["plan"] is None else _canonical(row["plan"]),
        "commands": [_command(c) for c in given],
    }


def _made(turn: Turn) -> Record:
    """Write a turn as the journal does."""
    decision = turn.decision
    commands = [
        {"verb": type(c).__name__, "target": target(c), "reason": c.reason, "detail": _canonical(to_json(c))}
        for c in decision.commands
    ]
    return {
        **{name: getattr(decision, name) for name in COLUMNS},
        **_canonical(to_json(decision_detail(decision))),
        "plan": None if turn.plan is None else _canonical(to_json(turn.plan)),
        "commands": commands,
    }


def _command(command: CommandRecord) -> Record:
    detail = _canonical(json.dumps(command.detail))
    return {"verb": command.verb, "target": command.target, "reason": command.reason, "detail": detail}


def _canonical(text: str) -> Any:
    """Read JSON so that what PostgreSQL may write otherwise (1e16, -0.0) is the same."""
    return json.loads(text, parse_float=_number, parse_int=_number)


def _number(text: str) -> float:
    return float(text) + 0.0


def _differing(journaled: Record, made: Record) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield what differs. Commands that a later controller added, to finish the journal's, are not the turn's."""
    number = len(made["commands"])
    journaled = {**journaled, "commands": journaled["commands"][: number or None]}
    for name in {**journaled, **made}:
        before, now = journaled.get(name), made.get(name)
        if to_json(before) != to_json(now):
            yield name, (before, now)
