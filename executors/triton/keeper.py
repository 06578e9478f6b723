"""Keep a server and all its processes no longer than whoever started it: ``keeper.py PIPE SHARED PROGRAM ARG...``.

A script of its own, between the starter and the server. The starter holds the other end of PIPE (a file descriptor),
which the kernel closes however the starter ends; a signal at a parent's death would come when the thread ends that
started the server. Once PIPE is closed, or the server has ended by itself, every process of its group is killed and
its shared memory, files that begin with SHARED, removed. SIGTERM is handed on to the server; the exit code is its own.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_SHARED_MEMORY = Path("/dev/shm")


def keep(pipe: int, shared: str, argv: list[str]) -> int:
    """Run a program as described above and return its exit code."""
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, _only_wake)
    server = subprocess.Popen(argv, process_group=0, preexec_fn=_die_with_keeper)  # noqa: PLW1509 - one thread only
    try:
        while server.poll() is None:
            ready, _, _ = select.select([pipe, woken], [], [])
            if pipe in ready:
                break
            if signal.SIGTERM in os.read(woken, 64):
                server.terminate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        code = server.wait()
        for left in _SHARED_MEMORY.glob(f"{shared}*"):
            left.unlink(missing_ok=True)
    return code


def _only_wake(number: int, frame: object) -> None:
    """Leave the signal to the loop, which reads its number off the pipe that it wrote to."""


def _die_with_keeper() -> None:
    """Have the server killed should the keeper be; it has one thread, which lives as long as it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
