"""Stop writing before the database's disk is full, where it can be seen from here.

A table that finds no room is an error, but PostgreSQL's own log finding none is a crash, and the server cannot start
again before somebody makes room. So a bulk load leaves some.
"""

from __future__ import annotations

import os
from pathlib import Path

from partita.store.connection import Connection, NoRoom
from partita.store.queries import query

RESERVE_BYTES = 48 * 2**20
"""Three segments of PostgreSQL's log: more than 100 000 rows of the roll-up, their index and their log take."""


async def local_data_folder(connection: Connection) -> Path | None:
    """Return the server's data folder if it is on this machine and we may know it."""
    name = await connection.fetchval(query("local_data_directory"))
    return Path(name) if name is not None and os.access(name, os.X_OK) else None


def require_room(data_folder: Path | None) -> None:
    """Raise NoRoom unless RESERVE_BYTES are left; without a folder to look at, all is well."""
    if data_folder is None:
        return
    found = os.statvfs(data_folder)
    if found.f_bavail * found.f_frsize < RESERVE_BYTES:
        raise NoRoom
