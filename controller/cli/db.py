"""`partita db`: look after the database."""

from __future__ import annotations

import asyncio
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from partita.controller.cli.options import Database, apply_migrations, database_options
from partita.errors import ConfigError


@click.group()
def db() -> None:
    """Look after the database: migrate, status, url, stop.

    Without --dsn, Partita keeps an embedded PostgreSQL in the user's data directory. Each command starts it on demand,
    and the last one that uses it stops it again; only `partita db url` leaves it running, until `partita db stop`.
    """


@db.command()
@database_options
def migrate(database: Database) -> None:
    """Bring the schema up to date.

    The embedded server is migrated by every command that uses it; a server of yours only by this one.

    \b
    Examples:
      partita db migrate
      partita db migrate --dsn postgresql://partita@db.example.org/partita
    """
    with database.serve(migrated=False) as dsn:
        applied = asyncio.run(apply_migrations(dsn))
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("The schema is up to date.")


@db.command()
@database_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def status(database: Database, as_json: bool) -> None:
    """Say which database is used, whether it runs, and what it holds.

    An embedded server that does not run is not started.

    \b
    Examples:
      partita db status
      partita db status --json
    """
    found = _status(database)
    if as_json:
        from partita.model.plain import to_json

        click.echo(to_json(found))
        return
    table = Table.grid(padding=(0, 2))
    for name, text in _lines(found):
        table.add_row(f"[bold]{name}[/bold]", text)
    Console().print(table)


@db.command()
@database_options
def url(database: Database) -> None:
    """Print the connection string of the database, for psql and others.

    The embedded server is started, and runs on until `partita db stop`.

    \b
    Example:
      psql "$(partita db url)"
    """
    if database.dsn is not None:
        click.echo(database.dsn)
        return
    from partita.store import embedded

    dsn = embedded.ensure_running(database.data_dir, keep=True)
    asyncio.run(apply_migrations(dsn))
    click.echo(dsn)


@db.command()
@database_options
def stop(database: Database) -> None:
    """Stop the embedded server, whoever uses it.

    \b
    Example:
      partita db stop
    """
    if database.dsn is not None:
        raise ConfigError("only the embedded server can be stopped: leave --dsn and PARTITA_DSN out", key="dsn")
    from partita.store import embedded

    stopped = embedded.stop(database.data_dir)
    click.echo("Stopped." if stopped else f"No server is running in {database.data_dir}.")


def _status(database: Database) -> dict[str, Any]:
    from partita.model.plain import to_plain
    from partita.store import embedded
    from partita.store.connection import without_password

    if database.dsn is not None:
        held = to_plain(asyncio.run(_inspect(database.dsn)))
        return {"embedded": False, "dsn": without_password(database.dsn), "running": True, **held}
    with embedded.while_running(database.data_dir) as server:
        held = {} if server.dsn is None else to_plain(asyncio.run(_inspect(server.dsn)))
    return {"embedded": True, **to_plain(server), **held}


async def _inspect(dsn: str) -> Any:
    from partita.store.connection import connect
    from partita.store.inspect import inspect_database

    async with connect(dsn) as connection:
        return await inspect_database(connection)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("database", found["dsn"] or f"embedded, in {found['data_dir']}")]
    if found["embedded"]:
        kept = " (until partita db stop)" if found["kept"] else ""
        lines.append(("server", f"running, process {found['pid']}{kept}" if found["running"] else "stopped"))
    if "server_version" in found:
        lines.append(("version", f"PostgreSQL {found['server_version']}"))
        lines.append(("size", f"{found['size_bytes'] / 2**20:,.1f} MiB"))
        lines.append(("schema", f"lacks {', '.join(found['pending'])}" if found["pending"] else "up to date"))
    if held := found.get("contents"):
        lines.append(("holds", ", ".join(f"{count:,} {name}" for name, count in held.items())))
    return lines
