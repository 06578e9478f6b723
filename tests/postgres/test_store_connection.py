"""What the user reads when the database cannot be reached."""

import asyncio
import socket

import pytest

from partita.errors import ConfigError, StoreError
from partita.store.connection import connect, without_password


def reach(dsn: str) -> None:
    async def run() -> None:
        async with connect(dsn, timeout_s=0.5):
            pass

    asyncio.run(run())


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(StoreError, match=f"no database answers at postgresql://127.0.0.1:{port}/x: "):
        reach(f"postgresql://127.0.0.1:{port}/x")


def test_somebody_listens_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(StoreError, match=r"no database answered at .* within 0.5 s"):
            reach(f"postgresql://u:secret@127.0.0.1:{port}/x")


def test_no_such_database(pg_dsn: str) -> None:
    with pytest.raises(StoreError, match="has no such database"):
        reach(pg_dsn.replace("/test_", "/absent_"))


def test_no_such_user(pg_dsn: str) -> None:
    with pytest.raises(StoreError, match=r'refused the .*"nobody_here"'):
        reach(pg_dsn.replace("postgres@", "nobody_here@"))


@pytest.mark.parametrize(
    "dsn",
    ["mysql://host/x", "host=here", "postgresql://[::1", "postgresql://h:port/x", "postgresql://h/x?sslmode=maybe"],
)
def test_malformed(dsn: str) -> None:
    with pytest.raises(ConfigError, match=r"connection string|must begin with postgresql://") as caught:
        reach(dsn)
    assert repr(dsn) in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://me:secret@host:5/db?x=1", "postgresql://me@host:5/db?x=1"),
        ("postgresql://host/db?password=secret&x=1", "postgresql://host/db?x=1"),
        ("postgresql://host/db?x=1&password=secret", "postgresql://host/db?x=1"),
        ("postgresql:///db?host=/run", "postgresql:///db?host=/run"),
    ],
)
def test_passwords_are_never_shown(dsn: str, shown: str) -> None:
    assert without_password(dsn) == shown
