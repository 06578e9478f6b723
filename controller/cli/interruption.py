"""Ctrl-C that cannot be lost.

Python raises the interruption wherever the program happens to be. In a weak reference's callback or a finaliser nobody
can catch it: it is reported as ignored, and the program goes on as if nobody had asked it to stop.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

AGAIN_AFTER_S = 0.05


@contextmanager
def unlosable() -> Iterator[None]:
    """Send a signal whose exception was swallowed once more, until it meets code that stops."""
    report = sys.unraisablehook

    def look(lost: Any) -> None:
        number = _signal_behind(lost.exc_value)
        if number is None:
            report(lost)
            return
        again = Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    sys.unraisablehook = look
    try:
        yield
    finally:
        sys.unraisablehook = report


def _signal_behind(problem: BaseException | None) -> int | None:
    """Return the signal that made an exception: Ctrl-C, or one told to end by `SystemExit(128 + number)`."""
    match problem:
        case KeyboardInterrupt():
            return signal.SIGINT
        case SystemExit(code=int(code)) if code > 128:
            return code - 128
        case _:
            return None
