"""`partita status`: how a live cluster and its controllers are."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import click

from partita.controller.cli.clusters import choose_role, name_option
from partita.controller.cli.options import Database, database_options

if TYPE_CHECKING:
    from rich.table import Table

    from partita.controller.statusview import ClusterStatus

EVERY_S = 2.0
"""Seconds between two looks with --watch: controllers report as often."""


@click.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@database_options
def status(name: str | None, as_json: bool, watch: bool, database: Database) -> None:
    """Say which controller leads, what it decided last and why, how the services fare, and every problem by name.

    Exit code 1 says that no controller is running.

    \b
    Examples:
      partita status
      partita status --name inference --watch
      partita status --json | jq .problems
    """
    with database.serve() as dsn:
        found = asyncio.run(_read(dsn, name))
        if watch:
            _watch(dsn, found, as_json)
        else:
            _print(found, as_json)
    if not found.running:
        sys.exit(1)


async def _read(dsn: str, name: str | None) -> ClusterStatus:
    from partita.controller.statusview import read_status
    from partita.store.connection import connect

    async with connect(dsn) as connection:
        return await read_status(connection, await choose_role(connection, name))


def _print(found: ClusterStatus, as_json: bool) -> None:
    from partita.controller.statusview import document, nobody, status_lines
    from partita.model.plain import to_json

    if as_json:
        click.echo(to_json(document(found)))
        return
    if not found.running:
        click.echo(f"Error: {nobody(found)}", err=True)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(_table(found))
        return
    for heading, text in status_lines(found):
        click.echo(f"{heading:<16}{text}")


def _table(found: ClusterStatus) -> Table:
    from rich.table import Table
    from rich.text import Text

    from partita.controller.statusview import status_lines

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    is_wrong = False
    for heading, text in status_lines(found):
        is_wrong = heading in ("problems", "silent") or (is_wrong and not heading)
        red = "red" if is_wrong and text != "none" else ""
        table.add_row(Text(heading, style="bold"), Text(text, style=red))
    return table


def _watch(dsn: str, found: ClusterStatus, as_json: bool) -> None:
    """Show one status after another: in place on a terminal, one below the other elsewhere."""
    if as_json or not sys.stdout.isatty():
        while True:
            _print(found, as_json)
            time.sleep(EVERY_S)
            found = asyncio.run(_read(dsn, found.role))
    from rich.live import Live

    with Live(_table(found), auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(EVERY_S)
            live.update(_table(asyncio.run(_read(dsn, found.role))), refresh=True)
