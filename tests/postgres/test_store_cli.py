"""`partita db` from the command line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from partita.controller.cli import main
from partita.store import embedded
from partita.store.migrate import shipped_migrations

NAMES = [migration.name for migration in shipped_migrations()]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cli")
    yield folder
    embedded.stop(folder)


def partita(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        main(["db", *arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_embedded_server_from_first_use_to_stop(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    where = ("--data-dir", str(data_dir))
    assert partita(capsys, "migrate", *where) == (0, "".join(f"applied {name}\n" for name in NAMES), "")
    assert partita(capsys, "migrate", *where) == (0, "The schema is up to date.\n", "")
    code, out, _ = partita(capsys, "status", *where)
    assert (code, "stopped" in out) == (0, True)
    assert not embedded.status(data_dir).running, "status does not start it"

    code, dsn, _ = partita(capsys, "url", *where)
    assert (code, dsn.strip()) == (0, embedded.status(data_dir).dsn)
    code, out, err = partita(capsys, "status", "--json", *where)
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["embedded"], found["running"], found["kept"], found["pending"]) == (True, True, True, [])
    assert found["contents"] == {"imports": 0, "requests": 0, "services": 0, "runs": 0}
    code, out, _ = partita(capsys, "status", *where)
    assert "PostgreSQL 1" in out
    assert "up to date" in out
    assert embedded.status(data_dir).running, "a kept server survives the commands that use it"

    assert partita(capsys, "stop", *where) == (0, "Stopped.\n", "")
    assert partita(capsys, "stop", *where) == (0, f"No server is running in {data_dir}.\n", "")


def test_a_server_of_ones_own(capsys: pytest.CaptureFixture[str], empty_pg_dsn: str) -> None:
    where = ("--dsn", empty_pg_dsn)
    assert json.loads(partita(capsys, "status", "--json", *where)[1])["pending"] == NAMES
    assert f"lacks {NAMES[0]}" in partita(capsys, "status", *where)[1].replace("\n", " ")
    assert partita(capsys, "migrate", *where)[0] == 0
    assert json.loads(partita(capsys, "status", "--json", *where)[1])["pending"] == []
    assert partita(capsys, "url", *where) == (0, f"{empty_pg_dsn}\n", "")


def test_the_environment_says_it_too(
    capsys: pytest.CaptureFixture[str], pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITA_DSN", pg_dsn)
    assert partita(capsys, "url") == (0, f"{pg_dsn}\n", "")


def test_a_server_of_ones_own_is_not_ours_to_stop(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = partita(capsys, "stop", "--dsn", "postgresql://db/x")
    assert (code, out) == (2, "")
    assert err == "Error: dsn: only the embedded server can be stopped: leave --dsn and PARTITA_DSN out\n"


def test_a_dsn_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, out, err = partita(capsys, "status", "--dsn", f"postgresql://me:secret@127.0.0.1:{port}/x")
    assert (code, out, err.count("\n"), "secret" in err) == (1, "", 1, False)
    assert err.startswith(f"Error: no database answers at postgresql://me@127.0.0.1:{port}/x: ")


def test_a_dsn_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = partita(capsys, "migrate", "--dsn", "sqlite:///x")
    assert (code, out, err) == (2, "", "Error: dsn: 'sqlite:///x' must begin with postgresql://\n")


@pytest.mark.parametrize("name", ["migrate", "status", "url", "stop"])
def test_help_shows_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = partita(capsys, name, "--help")
    assert code == 0
    assert "Example" in out
    assert f"partita db {name}" in out
