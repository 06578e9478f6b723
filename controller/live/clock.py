"""Time for a live loop: the database's clock, which gateways and controllers share, carried on by our monotonic one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

STEP_S = 1.0
"""A jump of the database's clock against ours that is worth telling."""


class Ended(Exception):
    """The sleep was cut short: the controller ends, reloads, or leads no more."""


class LiveClock:
    """The database's time; implements `ports.Clock`. `ended` cuts sleeping short."""

    def __init__(self, ended: asyncio.Event, *, told: Callable[[float], None] = lambda _: None) -> None:
        self._ended, self._told = ended, told
        self._offset_s: float | None = None

    async def synchronise(self, database_now_s: Callable[[], Awaitable[float]]) -> None:
        """Ask the database what time it is; `told` hears of jumps."""
        asked_at = time.monotonic()
        now_s = await database_now_s()
        offset_s = now_s - (asked_at + time.monotonic()) / 2
        if self._offset_s is not None and abs(offset_s - self._offset_s) > STEP_S:
            self._told(offset_s - self._offset_s)
        self._offset_s = offset_s

    def now_s(self) -> float:
        """Return unix time, in seconds; the machine's own clock until the database was asked."""
        return time.monotonic() + self._offset_s if self._offset_s is not None else time.time()

    async def sleep_until(self, at_s: float) -> None:
        """Return at `at_s`, or at once if that has passed; Ended if it is over before."""
        try:
            async with asyncio.timeout(max(0.0, at_s - self.now_s())):
                await self._ended.wait()
        except TimeoutError:
            return
        raise Ended
