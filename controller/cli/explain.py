"""`partita explain`: one decision in plain words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from partita.controller.cli.options import Database, database_options
from partita.errors import ConfigError

if TYPE_CHECKING:
    from partita.store.journal import RunRecord

MOST_RUNS, MOST_LINES, MOST_NAMED = 1000, 100_000, 8


@click.command()
@click.argument("decision", required=False, type=click.IntRange(min=0))
@click.option(
    "--run", metavar="RUN", help="Number or policy of the run; with --json-file, the policy.  [default: the last]"
)
@click.option(
    "--json-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A result of partita replay --json, instead of the database.",
)
@click.option("--list", "as_list", is_flag=True, help="List the decisions that acted, one a line.")
@click.option("--all", "also_held", is_flag=True, help="With --list: also those that found nothing to do.")
@database_options
def explain(
    decision: int | None, run: str | None, json_file: Path | None, as_list: bool, also_held: bool, database: Database
) -> None:
    """Say what DECISION (a turn of the loop) measured, expected, weighed and commanded, and why.

    Without DECISION, the last that acted. Decisions are read from the database that partita run, partita demo and
    partita replay --journal write, or from the JSON that partita replay --json writes. Of a live run's decision it also
    says what became of its commands.

    \b
    Examples:
      partita explain
      partita explain --list --run symphony
      partita explain 42 --run 3
      partita explain --json-file result.json --run reactive
    """
    if json_file is not None:
        lines = _from_file(json_file, run, decision, as_list, also_held)
    else:
        with database.serve() as dsn:
            lines = asyncio.run(_from_database(dsn, run, decision, as_list, also_held))
    click.echo("\n".join(lines))


def _from_file(path: Path, run: str | None, tick: int | None, as_list: bool, also_held: bool) -> list[str]:
    from partita.controller.explanation import default_decision, list_decisions
    from partita.controller.explanation import explain as in_words
    from partita.controller.results import read_result

    made: dict[str, list[dict[str, Any]]] = read_result(path)["decisions"]
    policy = run if run is not None else next(reversed(made), "")
    if policy not in made:
        raise ConfigError(f"holds no run of {policy!r}; it has {', '.join(made)}", file=str(path), key="--run")
    if as_list:
        acted = sum(d["action"] == "act" for d in made[policy])
        told = f"{_acted(acted)} in the run of {policy}."
        shown = [d for d in made[policy] if also_held or d["action"] == "act"]
        return [told + _others([other for other in made if other != policy]), *list_decisions(shown)]
    if tick is None:
        found = default_decision(made[policy])
    else:
        found = next((d for d in made[policy] if d["tick"] == tick), None)
    if found is None:
        what = "no decision" if tick is None else f"no decision {tick}"
        raise ConfigError(f"the run of {policy} holds {what}; --list shows those there are", file=str(path))
    return [in_words(found, run=policy)]


async def _from_database(dsn: str, run: str | None, tick: int | None, as_list: bool, also_held: bool) -> list[str]:
    from partita.controller.explanation import explain as in_words
    from partita.controller.explanation import list_decisions as in_lines
    from partita.controller.planview import story_document
    from partita.model.plain import to_plain
    from partita.store.connection import connect
    from partita.store.journal import list_decisions, list_runs, read_decision
    from partita.store.operators import read_modes, read_story

    async with connect(dsn) as connection:
        runs = await list_runs(connection, limit=MOST_RUNS)
        chosen = _choose(runs, run)
        modes = await read_modes(connection, [r.id for r in runs])
        mode = f", live, {modes[chosen.id]}" if chosen.id in modes else ""
        if not as_list:
            found = await read_decision(connection, chosen.id, tick)
            if mode:
                found = {**found, "commands": story_document(await read_story(connection, chosen.id, found["tick"]))}
            return [in_words(found, run=f"{chosen.policy} (run {chosen.id}{mode})")]
        made = await list_decisions(connection, chosen.id, acts_only=not also_held, limit=MOST_LINES)
    told = f"{_acted(chosen.acts)} in run {chosen.id} ({chosen.policy}{mode}); {_held(chosen, also_held)}."
    others = [f"{r.id} ({r.policy}{', live' if r.id in modes else ''})" for r in runs if r.id != chosen.id]
    return [told + _others(others), *in_lines([to_plain(d) for d in made])]


def _choose(runs: Sequence[RunRecord], wanted: str | None) -> RunRecord:
    """Return the run with a number, or the newest of a policy, or the newest of all; ConfigError if there is none."""
    if not runs:
        raise ConfigError(
            "the journal holds no run yet: partita run, partita demo and partita replay --journal write one"
        )
    for run in runs:
        if wanted in (None, run.policy) or wanted == str(run.id):
            return run
    known = ", ".join(f"{run.id} ({run.policy})" for run in runs[:MOST_NAMED])
    raise ConfigError(f"the journal holds no run {wanted!r}; the latest are {known}", key="--run", value=wanted)


def _acted(number: int) -> str:
    return "No decision acted" if number == 0 else f"{number} decision{'s' * (number > 1)} acted"


def _held(run: RunRecord, shown: bool) -> str:
    held = run.decisions - run.acts
    return f"{held:,} turn{'s' * (held != 1)} held" + ("" if shown or not held else ": --all lists them")


def _others(names: Sequence[str]) -> str:
    """Name the other runs, the latest first."""
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f" Other runs: {', '.join(names[:MOST_NAMED])}{more}."
