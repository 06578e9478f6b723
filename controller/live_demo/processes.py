"""Partita's own programs as child processes that end with the block that started them, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from partita.errors import PartitaError

PARTITA = "from partita.controller.cli import main; main()"
START_S, GRACE_S, POLL_S = 180.0, 10.0, 0.05


class Child:
    """One program of ours; what it says is in `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, arguments: Sequence[str]) -> None:
        self._process, self.log, self._what = process, log, f"partita {arguments[0]}"

    def said(self) -> str:
        """Return all that it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, ready: Callable[[str], bool]) -> None:
        """Return once what it said is as wished; PartitaError if it ends before, or takes too long."""
        until = time.monotonic() + START_S
        while not ready(self.said()):
            if (code := self._process.poll()) is not None:
                raise PartitaError(f"{self._what} ended with {code}: {self._last_words()}")
            if time.monotonic() > until:
                raise PartitaError(f"{self._what} was not ready after {START_S:g} s: {self._last_words()}")
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raise PartitaError if it has ended."""
        if (code := self._process.poll()) is not None:
            raise PartitaError(f"{self._what} ended with {code}: {self._last_words()}")

    def _last_words(self) -> str:
        return " / ".join(self.said().strip().splitlines()[-3:])


@contextmanager
def running(arguments: Sequence[str], log: Path) -> Iterator[Child]:
    """Run `partita` with these arguments in a session of its own, so that Ctrl-C comes to us first, and end it after.

    It is asked to end, and killed with all its processes if it has not after GRACE_S.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", PARTITA, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Child(process, log, arguments)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
