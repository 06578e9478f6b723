"""Start, watch and end the programs of the embedded PostgreSQL, whoever we are.

Programs run in a session of their own, so that Ctrl-C reaches us and not them, and through `launch`, so that root can
run them. A server started here outlives this process.
"""

from __future__ import annotations

import os
import pwd
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from partita.errors import StoreError
from partita.store import launch

POLL_S = 0.01
_DEFERRED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Identity:
    """How programs are run: `mode` is that of `launch`; `uid` and `gid` are whom the program believes to be."""

    mode: str
    uid: int
    gid: int


def spawn(argv: Sequence[str], *, identity: Identity, log: Path) -> int:
    """Start a program in the background, its output going to `log`, and return its process id."""
    command = [sys.executable, "-I", "-S", launch.__file__, identity.mode, str(identity.uid), str(identity.gid), *argv]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        sys.executable,
        command,
        {**os.environ, "LC_ALL": "C", "TZ": "UTC"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsigmask=[],
    )


def run(argv: Sequence[str], *, identity: Identity, log: Path) -> int:
    """Run a program to its end and return its exit code; if we are interrupted, end it and its children."""
    with signals_deferred() as release:
        pid = spawn(argv, identity=identity, log=log)
        try:
            release()
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except BaseException:  # Ctrl-C too: the program must not outlive us
            end(pid, group=True)
            raise


@contextmanager
def signals_deferred() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and the like back until the yielded function is called, or the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEFERRED)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield release
    finally:
        release()


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a child of ours that has ended is reaped and counts as gone."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def works_in(pid: int, folder: Path) -> bool:
    """Say whether a live process has `folder` as its working directory, as PostgreSQL's have their data folder.

    Where the system has no /proc, any live process passes.
    """
    if not is_alive(pid):
        return False
    if not Path("/proc/self/cwd").exists():
        return True
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", folder)
    except OSError:
        return False


def workers_of(folder: Path) -> list[int]:
    """List the processes that have `folder` as their working directory; empty where the system has no /proc."""
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if pid != os.getpid() and works_in(pid, folder)]


def wait_gone(pid: int, timeout_s: float) -> bool:
    """Wait until a process has ended; False if it still runs after `timeout_s`."""
    until = time.monotonic() + timeout_s
    while is_alive(pid):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True


def end(pid: int, *, group: bool = False) -> None:
    """Kill a process (or the group it leads) and wait until it is gone."""
    try:
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_gone(pid, 5.0)


def identity_for(data_dir: Path, program: str, log: Path) -> Identity:
    """Choose how to run PostgreSQL's programs; StoreError if we are root and no way is open.

    An existing database decides by its owner. Otherwise root prefers a user namespace, which changes no file's owner.
    """
    if os.geteuid() != 0:
        return Identity("plain", 0, 0)
    owner = (data_dir / "postgres").stat().st_uid if (data_dir / "postgres").exists() else None
    stranger = _unprivileged()
    within = Identity("namespace", stranger.pw_uid, stranger.pw_gid)
    if owner in (None, 0) and permits_namespace(program, within, log):
        return within
    dropped = Identity("drop", owner or stranger.pw_uid, stranger.pw_gid)
    probe = ["/bin/sh", "-c", 'cd "$1" && exec "$0" --version', program, str(data_dir)]
    if owner != 0 and run(probe, identity=dropped, log=log) == 0:
        return dropped
    raise StoreError(
        "the embedded PostgreSQL cannot run as root here (no user namespaces, and user"
        f" {stranger.pw_name!r} cannot reach {data_dir}):"
        " run as another user, choose another --data-dir, or give a server with --dsn"
    )


def permits_namespace(program: str, identity: Identity, log: Path) -> bool:
    """Say whether a program runs in a user namespace here; many containers forbid it."""
    return run([program, "--version"], identity=identity, log=log) == 0


@cache
def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        others = sorted((entry for entry in pwd.getpwall() if entry.pw_uid != 0), key=lambda entry: -entry.pw_uid)
    if not others:
        raise StoreError("the embedded PostgreSQL cannot run as root on a system without any other user: use --dsn")
    return others[0]
