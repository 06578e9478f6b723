"""`partita pause`, `resume` and `rollback`: what an operator may ask of a controller at work."""

from __future__ import annotations

import asyncio
import getpass
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from partita.controller.cli.clusters import choose_role, name_option
from partita.controller.cli.options import Database, database_options
from partita.errors import StoreError

if TYPE_CHECKING:
    from partita.controller.statusview import ClusterStatus
    from partita.store.connection import Connection

TURNS, REPORTED_S, POLL_S = 2, 5.0, 0.2
"""An order is waited for so many turns, and so long on top for the controller to say so."""

reason_option = click.option("--reason", default="", metavar="TEXT", help="Why, for the journal and for others.")
wait_option = click.option("--no-wait", is_flag=True, help="Do not wait until the controller has taken the order.")


@click.command()
@name_option
@reason_option
@wait_option
@database_options
def pause(name: str | None, reason: str, no_wait: bool, database: Database) -> None:
    """Let the controller change nothing until `partita resume`.

    It goes on to watch, to forecast and to journal; what it has begun to carry out is finished first.

    \b
    Examples:
      partita pause --reason "driver update on gpu3"
      partita pause --name inference --no-wait
    """
    _give(database, name, no_wait, lambda c, role: _plain_order(c, role, "pause", reason))


@click.command()
@name_option
@reason_option
@wait_option
@database_options
@click.option("--retry", is_flag=True, help="Let what failed, and is left alone for a while, be tried again at once.")
def resume(name: str | None, reason: str, no_wait: bool, retry: bool, database: Database) -> None:
    """Let the controller decide again after a pause or a rollback.

    \b
    Examples:
      partita resume
      partita resume --retry --reason "gpu3 has a new driver"
    """
    _give(database, name, no_wait, lambda c, role: _resume(c, role, reason, retry))


@click.command()
@click.argument("to", required=False, metavar="[RUN/TICK]")
@name_option
@reason_option
@wait_option
@database_options
def rollback(to: str | None, name: str | None, reason: str, no_wait: bool, database: Database) -> None:
    """Put an earlier plan into force again, and pause; `partita resume` lets the controller decide again.

    Without RUN/TICK, the plan that was in force before the present one. `partita plan history` lists plans. A plan that
    is not allowed any more (a GPU is gone, a budget is smaller) is refused by the controller, with the reason.

    \b
    Examples:
      partita rollback
      partita rollback 3/42 --reason "embed is slow since 3/57"
    """
    from partita.controller.cli.plan import parse_number

    where = None if to is None else parse_number(to)
    _give(database, name, no_wait, lambda c, role: _rollback(c, role, where, reason))


class _Order:
    """An order that was written, and how to tell that it was taken."""

    def __init__(self, number: int, kind: str, said: str, paused: str) -> None:
        self.number, self.kind, self.said, self.paused = number, kind, said, paused

    async def is_taken(self, connection: Connection, status: ClusterStatus) -> bool:
        """Say whether the leading controller has taken it."""
        from partita.store.operators import is_taken

        if self.kind == "rollback":
            return await is_taken(connection, self.number)
        return status.leading is not None and status.leading.status.get("paused") == self.paused


async def _plain_order(connection: Connection, role: str, kind: str, reason: str) -> _Order:
    from partita.store.operators import give_order

    number = await give_order(connection, role, kind, by=_by(), reason=reason)
    said = f"{role} is to change nothing" if kind == "pause" else f"{role} is to decide again"
    return _Order(number, kind, said, _paused("pause", reason) if kind == "pause" else "")


async def _resume(connection: Connection, role: str, reason: str, retry: bool) -> _Order:
    from partita.store.operators import lift_quarantine

    if retry:
        await lift_quarantine(connection, role)
    return await _plain_order(connection, role, "resume", reason)


async def _rollback(connection: Connection, role: str, to: tuple[int, int] | None, reason: str) -> _Order:
    from partita.controller.cli.plan import find_numbered
    from partita.store.operators import give_order

    run, tick = to or await _previous(connection, role)
    await find_numbered(connection, role, run, tick)
    number = await give_order(connection, role, "rollback", by=_by(), reason=reason, to=(run, tick))
    said = f"{role} is to go back to the plan of decision {tick}, run {run}, and to pause there"
    return _Order(number, "rollback", said, _paused("rollback", reason))


async def _previous(connection: Connection, role: str) -> tuple[int, int]:
    """Return the decision of the plan that was in force before the present one; StoreError if there was none."""
    from partita.controller.cli.plan import find_standing, plans_before
    from partita.model.plan import same

    standing = await find_standing(connection, role)
    async for run, tick, found in plans_before(connection, role, (standing.run, standing.tick)):
        if not same(found, standing.plan):
            return run, tick
    raise StoreError(f"{role} had no other plan in force before: there is nothing to go back to")


def _by() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def _paused(kind: str, reason: str) -> str:
    """Write what a controller says of the pause that this order is."""
    return f"{kind} by {_by()}" + (f": {reason}" if reason else "")


# Giving an order and seeing what becomes of it ------------------------------------------------------------------------


def _give(database: Database, name: str | None, no_wait: bool, write: Callable[[Connection, str], Any]) -> None:
    with database.serve() as dsn:
        if not asyncio.run(_given(dsn, name, no_wait, write)):
            sys.exit(1)


async def _given(dsn: str, name: str | None, no_wait: bool, write: Callable[[Connection, str], Any]) -> bool:
    """Write an order, tell what became of it, and say whether that is what was asked for."""
    from partita.controller.statusview import nobody, read_status
    from partita.store.connection import connect

    async with connect(dsn) as connection:
        role = await choose_role(connection, name)
        order: _Order = await write(connection, role)
        click.echo(f"Order {order.number}: {order.said}.")
        status = await read_status(connection, role)
        if not status.running:
            click.echo(f"Error: {nobody(status)}; the order is kept for the next one", err=True)
            return False
        if order.kind == "rollback":
            click.echo("Until partita resume, the controller changes nothing after that.")
        return no_wait or await _taken(connection, role, order)


async def _taken(connection: Connection, role: str, order: _Order) -> bool:
    from partita.controller.statusview import read_status

    loop = asyncio.get_running_loop()
    status = await read_status(connection, role)
    latest = status.latest
    turn_s = float(latest.status.get("near_s") or 0.0) if latest is not None else 0.0
    within_s = TURNS * turn_s + REPORTED_S
    until = loop.time() + within_s
    while not await order.is_taken(connection, status):
        if loop.time() > until:
            click.echo(
                f"Error: not taken within {within_s:g} s; the order is kept: partita status says what keeps the "
                "controller from it",
                err=True,
            )
            return False
        await asyncio.sleep(POLL_S)
        status = await read_status(connection, role)
    return await _told(connection, order)


async def _told(connection: Connection, order: _Order) -> bool:
    """Say what the controller made of an order it has taken."""
    from partita.store.operators import read_decision_on

    if order.kind == "pause":
        click.echo("Taken: paused.")
        return True
    made = await read_decision_on(connection, order.number) if order.kind == "rollback" else None
    if made is None:
        click.echo("Taken.")
        return True
    if made.action == "act":
        number = f"{made.commands} command{'s' if made.commands != 1 else ''}"
        click.echo(
            f"Taken: decision {made.tick}, run {made.run}, carries it out in {number} "
            f"(partita plan show {made.run}/{made.tick} tells how far)."
        )
        return True
    if made.chosen != "standing":
        click.echo(f"Taken: decision {made.tick}, run {made.run}, found that nothing had to be changed.")
        return True
    click.echo(f"Error: decision {made.tick}, run {made.run}, did not: {made.reason}", err=True)
    return False
