"""`partita explain`: one decision in plain words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from partita.controller.cli.options import Database, database_options
from partita.errors import ConfigError


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
    """Say what DECISION (a turn of the loop) measured, expected, weighed and did, and why.

    Without DECISION, the last that acted. Decisions are read from the database that partita demo and partita replay
    --journal write, or from the JSON that partita replay --json writes.

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
        return list(list_decisions([d for d in made[policy] if also_held or d["action"] == "act"]))
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
    from partita.model.plain import to_plain
    from partita.store.connection import connect
    from partita.store.journal import list_decisions, list_runs, read_decision

    async with connect(dsn) as connection:
        number = None if run is None else int(run) if run.isdecimal() else None
        if number is None and (run is not None or as_list):
            runs = await list_runs(connection, limit=1000)
            number = next((r.id for r in runs if run in (None, r.policy)), None)
            if number is None:
                known = ", ".join(sorted({r.policy for r in runs})) or "no run yet"
                raise ConfigError(f"the journal holds no run of {run!r} (there is: {known})", key="--run", value=run)
        if as_list:
            assert number is not None
            return list(
                in_lines([to_plain(d) for d in await list_decisions(connection, number, acts_only=not also_held)])
            )
        found = await read_decision(connection, number, tick)
    return [in_words(found, run=f"{found['run']['policy']} (run {found['run']['id']})")]
