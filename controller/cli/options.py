"""Options that commands share, and what they stand for."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource


@dataclass(frozen=True, slots=True)
class Database:
    """The database a command was pointed at: a server with `dsn`, or else the embedded one in `data_dir`."""

    dsn: str | None
    data_dir: Path

    @contextmanager
    def serve(self, *, migrated: bool = True) -> Iterator[str]:
        """Yield a connection string for the length of a block, its schema up to date if `migrated`.

        The embedded server is started if need be, its schema brought up to date, and stopped by the last client that
        leaves. A server of the operator's is never migrated by the way: StoreError tells to do it.
        """
        from partita.store import embedded

        if self.dsn is not None:
            if migrated:
                asyncio.run(_require_schema(self.dsn))
            yield self.dsn
            return
        with embedded.running(self.data_dir) as dsn:
            if migrated:
                asyncio.run(apply_migrations(dsn))
            yield dsn

    def revive(self) -> None:
        """Bring the embedded server up again, should it have ended; a server of the operator's is left alone."""
        if self.dsn is None:
            from partita.store import embedded

            embedded.ensure_running(self.data_dir, keep=False)


def database_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --dsn and --data-dir to a command, which takes them as one `Database` in its argument `database`."""

    @click.option(
        "--dsn",
        envvar="PARTITA_DSN",
        show_envvar=True,
        metavar="URL",
        help="PostgreSQL to use, postgresql://user@host/name; without it, an embedded server is started and stopped.",
    )
    @click.option(
        "--data-dir",
        envvar="PARTITA_DATA_DIR",
        show_envvar=True,
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the embedded server.  [default: the user's data directory]",
    )
    @wraps(command)
    def with_database(*args: Any, dsn: str | None, data_dir: Path | None, **others: Any) -> Any:
        return command(*args, database=Database(dsn, data_dir or default_data_dir()), **others)

    return with_database


def command_line() -> str:
    """Write the command that runs now as it was given, without where the database is: that may hold a password."""
    context = click.get_current_context()
    words = ["partita", *context.command_path.split()[1:]]
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name not in ("dsn", "data_dir"):
            words += _words(parameter, context.params[name])
    return shlex.join(words)


def _words(parameter: click.Parameter, value: Any) -> Iterator[str]:
    values = value if parameter.multiple or parameter.nargs != 1 else (value,)
    for each in values:
        if isinstance(parameter, click.Option):
            yield max(parameter.opts, key=len)
        if each is not True:
            yield str(each)


def default_data_dir() -> Path:
    """Return where the embedded server's data lies unless told otherwise."""
    from platformdirs import user_data_path

    return user_data_path("partita", appauthor=False)


async def _require_schema(dsn: str) -> None:
    from partita.store.connection import connect
    from partita.store.migrate import require_schema

    async with connect(dsn) as connection:
        await require_schema(connection)


async def apply_migrations(dsn: str) -> tuple[str, ...]:
    """Bring a database's schema up to date and return the names of the migrations applied."""
    from partita.store.connection import connect
    from partita.store.migrate import migrate

    async with connect(dsn) as connection:
        return await migrate(connection)
