"""A limit of time for plugins that run in this process: for replay, where a child process would only slow things down.

The limit is there to end a plugin that hangs, not to judge its speed: it is so generous that it never decides a result.
It works in the main thread, and stops Python code only; a plugin stuck inside a C call is not reached.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from types import FrameType

from partita.plugins.discovery import Plugin
from partita.plugins.host import DirectCaller, PluginFault

LIMIT_S = 60.0
"""Seconds that one call may take unless a setting says otherwise."""


class _Overrun(BaseException):
    """Raised inside a plugin that ran out of time; no `except Exception` of its own catches it."""


class AlarmCaller:
    """Runs plugins in this process and interrupts a call after `limit_s` seconds."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._direct = DirectCaller()

    def call(self, plugin: Plugin, hook: str, arguments: Mapping[str, object]) -> object:
        """Run one hook of one plugin; PluginFault if it failed or took too long."""
        if threading.current_thread() is not threading.main_thread():
            return self._direct.call(plugin, hook, arguments)
        before = signal.signal(signal.SIGALRM, _overrun)
        signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        try:
            return self._direct.call(plugin, hook, arguments)
        except _Overrun:
            raise PluginFault(f"took longer than {self._limit_s:g} s and was stopped") from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)


def _overrun(_number: int, _frame: FrameType | None) -> None:
    raise _Overrun
