"""Which cluster a command is about: `--name`, or the one that was heard of last."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from partita.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from partita.store.connection import Connection

ADVISORY = "/advisory"
"""End of the role of controllers that only advise."""


def name_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --name to a command, which takes it as `name`."""
    return click.option(
        "--name",
        metavar="CLUSTER",
        help="Name of the cluster; NAME/advisory is its controller that only advises.  [default: heard of last]",
    )(command)


async def choose_role(connection: Connection, name: str | None) -> str:
    """Return the role asked for, or the one that was heard of last; one that acts goes before one that advises.

    ConfigError for a name that nobody has heard of, StoreError if there never was a controller.
    """
    from partita.store.operators import list_known_roles

    known = await list_known_roles(connection)
    if name is not None:
        if name not in known:
            there = f"there are: {', '.join(known)}" if known else "no controller has reported to this database yet"
            raise ConfigError(f"no cluster is called {name!r}; {there}", key="--name", value=name)
        return name
    if not known:
        raise StoreError("no controller is running, nor has one run with this database: partita run starts one")
    return next((role for role in known if not role.endswith(ADVISORY)), known[0])
