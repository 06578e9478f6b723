"""The embedded server: on demand, gone with its last client, and none the worse for kill -9."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from partita.errors import StoreError
from partita.store import embedded, processes
from partita.store.connection import connect

CLIENT = """
import sys
from pathlib import Path
from partita.store import embedded
with embedded.running(Path(sys.argv[1])) as dsn:
    print(dsn, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose database exists, so that each test need not make one."""
    folder = tmp_path_factory.mktemp("made")
    with embedded.running(folder):
        pass
    return folder


@pytest.fixture
def data_dir(made: Path) -> Iterator[Path]:
    yield made
    embedded.stop(made)
    assert processes.workers_of(made / "postgres") == []


@pytest.fixture
def spoilt_dir(made: Path, tmp_path: Path) -> Path:
    """A copy for tests that break it."""
    return shutil.copytree(made, tmp_path / "data")


def ask(dsn: str, statement: str = "SELECT 1") -> object:
    async def run() -> object:
        async with connect(dsn) as connection:
            return await connection.fetchval(statement)

    return asyncio.run(run())


def start_client(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_ready(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    dsn = client.stdout.readline().strip()
    assert dsn.startswith("postgresql://"), client.communicate()
    return dsn


def leave(client: subprocess.Popen[str]) -> None:
    _, errors = client.communicate("\n", timeout=60)
    assert (client.returncode, errors) == (0, "")


def kill(client: subprocess.Popen[str]) -> None:
    client.kill()
    client.communicate(timeout=60)


def test_made_from_nothing_used_and_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "below" / "data"
    with embedded.running(folder) as dsn:
        assert ask(dsn, "SELECT current_database()::text") == embedded.DATABASE
        assert embedded.status(folder).running
        assert ask(dsn, "SHOW listen_addresses") == ""
    assert embedded.status(folder) == embedded.ServerStatus(folder, False, None, None, False)
    assert processes.workers_of(folder / "postgres") == []


def test_data_outlive_the_server(data_dir: Path) -> None:
    with embedded.running(data_dir) as dsn:
        ask(dsn, "CREATE TABLE outlives AS SELECT 7 AS x")
    with embedded.running(data_dir) as dsn:
        assert ask(dsn, "SELECT x FROM outlives") == 7


def test_the_last_client_stops_the_server(data_dir: Path) -> None:
    with embedded.running(data_dir) as outer:
        first = embedded.status(data_dir).pid
        with embedded.running(data_dir) as inner:
            assert inner == outer
        assert embedded.status(data_dir).pid == first
        other = start_client(data_dir)
        wait_ready(other)
    assert embedded.status(data_dir).pid == first
    leave(other)
    assert not embedded.status(data_dir).running


def test_a_kept_server_runs_until_stopped(data_dir: Path) -> None:
    dsn = embedded.ensure_running(data_dir, keep=True)
    with embedded.running(data_dir):
        pass
    assert embedded.status(data_dir).kept
    assert ask(dsn) == 1
    assert embedded.stop(data_dir)
    assert not embedded.stop(data_dir)
    with embedded.running(data_dir):
        assert not embedded.status(data_dir).kept, "keeping ends when it is stopped"


def test_keeping_ends_with_the_server_that_was_kept(data_dir: Path) -> None:
    embedded.ensure_running(data_dir, keep=True)
    server = embedded.status(data_dir).pid
    assert server is not None
    os.kill(server, signal.SIGKILL)
    with embedded.running(data_dir):
        assert not embedded.status(data_dir).kept
    assert not embedded.status(data_dir).running


def test_a_client_killed_leaves_a_server_that_the_next_one_uses_and_stops(data_dir: Path) -> None:
    client = start_client(data_dir)
    dsn = wait_ready(client)
    server = embedded.status(data_dir).pid
    kill(client)
    assert ask(dsn) == 1
    with embedded.running(data_dir) as again:
        assert (embedded.status(data_dir).pid, again) == (server, dsn)
    assert not embedded.status(data_dir).running


def test_a_postmaster_killed_is_started_again_with_all_that_was_committed(data_dir: Path) -> None:
    with embedded.running(data_dir) as dsn:
        ask(dsn, "CREATE TABLE t AS SELECT 7 AS x")
        server = embedded.status(data_dir).pid
        assert server is not None
        os.kill(server, signal.SIGKILL)
        with embedded.running(data_dir) as again:
            assert embedded.status(data_dir).pid != server
            assert ask(again, "SELECT x FROM t") == 7
    assert not embedded.status(data_dir).running


def test_a_stale_pid_file_with_the_number_of_another_process_is_no_obstacle(data_dir: Path) -> None:
    with embedded.running(data_dir):
        text = (data_dir / "postgres" / "postmaster.pid").read_text()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        lines = [str(stranger.pid), *text.splitlines()[1:]]
        (data_dir / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
        assert not embedded.status(data_dir).running
        assert not embedded.stop(data_dir)
        with embedded.running(data_dir) as dsn:
            assert ask(dsn) == 1
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_clients_that_start_at_once_share_one_server(data_dir: Path) -> None:
    log = data_dir / "postgres.log"
    before = log.read_text().count("starting PostgreSQL")
    clients = [start_client(data_dir) for _ in range(4)]
    assert len({wait_ready(client) for client in clients}) == 1
    assert log.read_text().count("starting PostgreSQL") == before + 1
    for client in clients:
        leave(client)
    assert not embedded.status(data_dir).running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_client_stops_the_server(data_dir: Path, number: signal.Signals) -> None:
    client = start_client(data_dir)
    wait_ready(client)
    os.killpg(client.pid, number)
    client.communicate(timeout=60)
    assert client.returncode != 0
    assert not embedded.status(data_dir).running
    ends = (data_dir / "postgres.log").read_text().splitlines()[-12:]
    assert any("received fast shutdown request" in line for line in ends), "in good order, not by the signal itself"


@pytest.mark.parametrize("after_s", [0.1, 0.3, 0.5])
def test_interrupted_while_starting_leaves_nothing_behind(tmp_path: Path, after_s: float) -> None:
    client = start_client(tmp_path / "data")
    time.sleep(after_s)
    os.killpg(client.pid, signal.SIGINT)
    client.communicate(timeout=60)
    for name in ("postgres", "postgres.new"):
        assert processes.workers_of(tmp_path / "data" / name) == []
    with embedded.running(tmp_path / "data") as dsn:
        assert ask(dsn) == 1


def test_interrupted_between_start_and_ready_leaves_nothing_behind(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def interrupt(_: Path, pid: int) -> None:
        started.append(pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_await_ready", interrupt)
    with pytest.raises(KeyboardInterrupt), embedded.running(data_dir):
        pass
    assert [processes.is_alive(pid) for pid in started] == [False]


def test_a_long_path_gets_its_socket_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long-" * 20) / "data"
    with tempfile.TemporaryDirectory(prefix="p-", dir="/tmp") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        with embedded.running(folder) as dsn:
            assert ask(dsn) == 1
            monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
            assert embedded.status(folder).dsn == dsn, "clients with another TMPDIR find it too"
        assert os.listdir(temporary) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match=r"the data folder .*/file/data cannot be made"),
        embedded.running(tmp_path / "file" / "data"),
    ):
        pass


def test_a_database_of_an_unknown_version_is_refused(spoilt_dir: Path) -> None:
    (spoilt_dir / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StoreError, match=r"is of PostgreSQL 9, but only \[16, 18\]"), embedded.running(spoilt_dir):
        pass


def test_a_server_that_will_not_start_says_why(spoilt_dir: Path) -> None:
    (spoilt_dir / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(StoreError, match=r"did not start: configuration file .* contains errors"):
        embedded.ensure_running(spoilt_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must become somebody else")
class TestAsRoot:
    """Root runs the server in a user namespace, or else as another user; nothing above the data folder changes."""

    def test_files_stay_ours_in_a_namespace(self, data_dir: Path) -> None:
        before = [(parent, parent.stat().st_mode, parent.stat().st_uid) for parent in data_dir.parents]
        with embedded.running(data_dir):
            pid = embedded.status(data_dir).pid
            assert pid is not None
            if Path(f"/proc/{pid}/uid_map").read_text() == Path("/proc/self/uid_map").read_text():
                pytest.skip("user namespaces are not permitted here")
            assert (data_dir / "postgres" / "postmaster.pid").stat().st_uid == 0
        assert before == [(parent, parent.stat().st_mode, parent.stat().st_uid) for parent in data_dir.parents]

    def test_becomes_another_user_where_there_are_no_namespaces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "permits_namespace", lambda *_, **__: False)
        with tempfile.TemporaryDirectory(dir="/tmp") as name:
            folder = Path(name)
            folder.chmod(0o711)
            with embedded.running(folder / "data") as dsn:
                assert ask(dsn) == 1
                assert (folder / "data" / "postgres" / "postmaster.pid").stat().st_uid != 0
            monkeypatch.undo()
            with embedded.running(folder / "data") as dsn:
                assert ask(dsn) == 1, "once made as another user, it goes on so"

    def test_says_so_when_neither_works(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(processes, "permits_namespace", lambda *_, **__: False)
        tmp_path.chmod(0o700)
        with pytest.raises(StoreError, match=r"cannot run as root here .* --dsn"):
            embedded.ensure_running(tmp_path / "data")
        assert processes.workers_of(tmp_path / "data") == []
