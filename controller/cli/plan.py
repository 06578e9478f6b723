"""`partita plan`: the plans of a live cluster, their differences and their history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from partita.controller.cli.clusters import choose_role, name_option
from partita.controller.cli.options import Database, database_options
from partita.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from partita.model.plan import Plan
    from partita.store.connection import Connection
    from partita.store.operation import Standing
    from partita.store.operators import CommandRecord, PlanRecord

CURRENT, GOOD, OBSERVED = "current", "good", "observed"
"""Plans that are asked for by what they are: in force, last seen in place, and what the controller last saw."""
MOST_PLANS = 1000


@click.group()
def plan() -> None:
    """Show the plans of a live cluster, their differences and their history.

    A plan is named by the decision that put it into force, as RUN/TICK, or by what it is: `current` is the one in
    force, `good` the last that was seen in place, `observed` the cluster as its controller saw it last.
    """


@plan.command()
@click.argument("which", default=CURRENT, metavar="[RUN/TICK]")
@name_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@database_options
def show(which: str, name: str | None, as_json: bool, database: Database) -> None:
    """Say what a plan holds, and tell the story of the commands that carry it out.

    \b
    Examples:
      partita plan show
      partita plan show 3/42
      partita plan show good --json
    """
    from partita.controller.planview import story_document
    from partita.model.plain import to_json

    check_which(which)

    def answer(dsn: str) -> str:
        found, story = asyncio.run(_on(dsn, lambda c: _shown(c, name, which)))
        if as_json:
            return to_json({**found.heading(), "plan": found.plan, "commands": story_document(story)})
        return "\n".join(_in_words(found, story))

    with database.serve() as dsn:
        click.echo(answer(dsn))


@plan.command()
@click.argument("before", required=False, metavar="[A]")
@click.argument("after", required=False, metavar="[B]")
@name_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@database_options
def diff(before: str | None, after: str | None, name: str | None, as_json: bool, database: Database) -> None:
    """Say what plan B has otherwise than plan A.

    Without A and B: from the last good plan to the one in force, or, where these are the same, from the plan in force
    to the cluster as its controller saw it last. With A alone: from A to the plan in force.

    \b
    Examples:
      partita plan diff
      partita plan diff 3/40 3/42
      partita plan diff current observed
    """
    from partita.controller.planview import difference, difference_lines
    from partita.model.plain import to_json

    for which in (before, after):
        check_which(which or CURRENT)

    with database.serve() as dsn:
        one, other = asyncio.run(_on(dsn, lambda c: _two(c, name, before, after)))
    found = difference(one.plan, other.plan)
    if as_json:
        click.echo(to_json({"from": one.heading(), "to": other.heading(), "differs": bool(found), "changes": found}))
        return
    click.echo(f"From {one.title} to {other.title}:")
    for line in difference_lines(found):
        click.echo(f"    {line}")


@plan.command()
@name_option
@click.option("--limit", type=click.IntRange(min=1, max=MOST_PLANS), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@database_options
def history(name: str | None, limit: int, as_json: bool, database: Database) -> None:
    """List the plans that were put into force, the newest first, and what became of each.

    \b
    Examples:
      partita plan history --limit 5
      partita plan history --json | jq '.[] | select(.outcome | startswith("failed"))'
    """
    from partita.model.plain import to_json

    with database.serve() as dsn:
        entries = asyncio.run(_on(dsn, lambda c: _history(c, name, limit)))
    if as_json:
        click.echo(to_json(entries))
    elif not entries:
        click.echo("No plan has been put into force yet.")
    else:
        _print_history(entries)


# Finding plans ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A plan and where it comes from; `run` and `tick` None where no decision made it."""

    title: str
    plan: Plan
    run: int | None = None
    tick: int | None = None
    in_force: bool = False

    def heading(self) -> dict[str, Any]:
        """Return where the plan comes from as plain data."""
        return {"title": self.title, "run": self.run, "tick": self.tick, "in_force": self.in_force}


def parse_number(text: str) -> tuple[int, int]:
    """Read RUN/TICK; ConfigError if it is none."""
    run, _, tick = text.partition("/")
    if not (run.isdecimal() and tick.isdecimal()) or len(text) > 30:
        named = f"{CURRENT}, {GOOD} or {OBSERVED}"
        raise ConfigError(f"{text!r} names no plan: give RUN/TICK, such as 3/42, or {named}", value=text)
    return int(run), int(tick)


def check_which(text: str) -> None:
    """Raise ConfigError unless a text can name a plan."""
    if text not in (CURRENT, GOOD, OBSERVED):
        parse_number(text)


async def find_numbered(connection: Connection, role: str, run: int, tick: int) -> Plan:
    """Return the plan of a decision; ConfigError if this cluster never had it."""
    from partita.store.operators import read_plan, read_run

    if max(run, tick) < 2**63:
        heading = await read_run(connection, run)
        if heading is not None and heading.role == role:
            try:
                return await read_plan(connection, run, tick)
            except StoreError:
                pass
    raise ConfigError(f"{role} has no plan {run}/{tick}: partita plan history lists those there are")


async def find_standing(connection: Connection, role: str) -> Standing:
    """Return the plan in force; StoreError if there never was one."""
    from partita.store.line import Lent
    from partita.store.operation import Operation

    standing = await Operation(Lent(connection), role).read_standing()
    if standing is None:
        raise StoreError(f"{role} has no plan in force yet: nothing has had to be changed")
    return standing


async def find_in_force(connection: Connection, role: str, standing: Standing) -> tuple[int, int] | None:
    """Return the run and tick of the decision whose plan is in force.

    That is not the last one if that failed and was undone; None if nothing in the journal is this plan.
    """
    from partita.model.plan import same

    async for run, tick, found in plans_before(connection, role, (standing.run, standing.tick + 1)):
        if same(found, standing.plan):
            return run, tick
    return None


async def plans_before(
    connection: Connection, role: str, before: tuple[int, int]
) -> AsyncIterator[tuple[int, int, Plan]]:
    """Yield the plans of decisions before that one that did not fail, the latest first."""
    from partita.controller.planview import is_failed
    from partita.store.operators import count_commands, list_plans, read_plan

    plans = await list_plans(connection, role, mode=mode_of(role), limit=MOST_PLANS)
    if not plans:
        return
    counted = await count_commands(connection, role, since=(plans[-1].run, plans[-1].tick))
    for record in plans:
        at = (record.run, record.tick)
        if at < before and not is_failed(counted.get(at, {})):
            yield (*at, await read_plan(connection, *at))


async def _is_in_place(connection: Connection, role: str, at: tuple[int, int]) -> bool:
    """Say whether all of a plan has been carried out; the controller notes that only with its next plan."""
    from partita.controller.planview import is_done
    from partita.store.operators import count_commands

    return is_done((await count_commands(connection, role, since=at)).get(at, {}))


async def _find(connection: Connection, role: str, which: str) -> Found:
    if which == OBSERVED:
        return await _observed(connection, role)
    if which in (CURRENT, GOOD):
        standing = await find_standing(connection, role)
        at = await find_in_force(connection, role, standing)
        if which == GOOD:
            is_in_place = at is not None and await _is_in_place(connection, role, at)
            return Found("the last good plan", standing.plan if is_in_place else standing.good)
        if at is None:
            return Found("the plan in force", standing.plan)
        return Found(f"the plan in force (decision {at[1]}, run {at[0]})", standing.plan, *at, True)
    run, tick = parse_number(which)
    wanted = await find_numbered(connection, role, run, tick)
    at = await find_in_force(connection, role, await find_standing(connection, role))
    return Found(f"the plan of decision {tick}, run {run}", wanted, run, tick, at == (run, tick))


async def _observed(connection: Connection, role: str) -> Found:
    """Return the cluster as the controller saw it last, as a plan in the groups of the standing one."""
    from partita.controller.recorded import file_of
    from partita.controller.recording import decode
    from partita.controller.standing import adopted
    from partita.model.load import Observation
    from partita.store.operators import read_last_observation, read_run

    standing = await find_standing(connection, role)
    last = await read_last_observation(connection, role)
    if last is None:
        raise StoreError(f"nothing is kept of what the controller of {role} saw (watch.keep_observations_h is 0)")
    run, tick, record = last
    heading = await read_run(connection, run)
    assert heading is not None
    inventory = file_of(heading.scenario).inventory()
    seen = adopted(decode(Observation, record).cluster, standing.plan, inventory)
    return Found(f"the cluster as seen at turn {tick}, run {run}", seen)


async def _shown(connection: Connection, name: str | None, which: str) -> tuple[Found, list[CommandRecord]]:
    from partita.store.operators import read_story

    found = await _find(connection, await choose_role(connection, name), which)
    if found.run is None or found.tick is None:
        return found, []
    return found, await read_story(connection, found.run, found.tick)


async def _two(connection: Connection, name: str | None, before: str | None, after: str | None) -> tuple[Found, Found]:
    from partita.model.plan import same

    role = await choose_role(connection, name)
    if before is not None:
        return await _find(connection, role, before), await _find(connection, role, after or CURRENT)
    good, current = await _find(connection, role, GOOD), await _find(connection, role, CURRENT)
    if not same(good.plan, current.plan):
        return good, current
    return current, await _find(connection, role, OBSERVED)


async def _history(connection: Connection, name: str | None, limit: int) -> list[dict[str, Any]]:
    from partita.controller.planview import outcome
    from partita.store.operators import count_commands, list_plans

    role = await choose_role(connection, name)
    plans = await list_plans(connection, role, mode=mode_of(role), limit=limit)
    if not plans:
        return []
    counted = await count_commands(connection, role, since=(plans[-1].run, plans[-1].tick))
    current = await find_in_force(connection, role, await find_standing(connection, role))
    entries = []
    for record in plans:
        in_force = current == (record.run, record.tick)
        commands = counted.get((record.run, record.tick), {})
        entries.append(
            {
                "run": record.run,
                "tick": record.tick,
                "at_s": record.at_s,
                "by": decided_by(record),
                "gpus": record.gpus,
                "reason": record.reason,
                "outcome": outcome(commands, in_force=in_force),
                "commands": {
                    f"{state}{' (undo)' if undo else ''}": number for (state, undo), number in sorted(commands.items())
                },
                "in_force": in_force,
            }
        )
    return entries


def mode_of(role: str) -> str:
    """Return the mode of a role's runs."""
    from partita.controller.cli.clusters import ADVISORY

    return "advisory" if role.endswith(ADVISORY) else "active"


def decided_by(record: PlanRecord) -> str:
    """Say who decided on a plan: the operator whose rollback it is, or the run's policy."""
    if record.reason.startswith("rollback by "):
        return record.reason.removeprefix("rollback by ").split(" to the plan of ", 1)[0]
    return record.policy


# Printing -----------------------------------------------------------------------------------------------------------


def _in_words(found: Found, story: list[CommandRecord]) -> list[str]:
    from partita.controller.planview import counted_of, outcome, plan_lines, story_lines

    lines = [f"{found.title[0].upper()}{found.title[1:]}: {found.plan.reason or 'no reason is known'}."]
    lines += [f"    {line}" for text in plan_lines(found.plan) for line in text.split("\n")]
    if story:
        lines.append(f"Commands: {outcome(counted_of(story), in_force=found.in_force)}.")
        lines += story_lines(story)
    elif found.run is not None:
        lines.append("Commands: none were needed.")
    return lines


def _print_history(entries: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from partita.controller.cli.printing import PIPED_WIDTH
    from partita.controller.wording import moment

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in ("plan", "at", "by"):
        table.add_column(heading, no_wrap=True)
    table.add_column("GPUs", justify="right")
    table.add_column("outcome")
    table.add_column("reason")
    for entry in entries:
        star = " *" if entry["in_force"] else ""
        texts = (f"{entry['run']}/{entry['tick']}{star}", moment(entry["at_s"]), entry["by"], str(entry["gpus"]))
        table.add_row(*map(Text, texts), Text(entry["outcome"]), Text(entry["reason"]))
    console.print(table)
    if any(entry["in_force"] for entry in entries):
        console.print("* in force")


async def _on(dsn: str, work: Callable[[Connection], Coroutine[Any, Any, Any]]) -> Any:
    from partita.store.connection import connect

    async with connect(dsn) as connection:
        return await work(connection)
