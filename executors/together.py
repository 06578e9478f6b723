"""Awaiting several acts side by side, so that none is left running when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def together(acts: Iterable[Awaitable[T]]) -> list[T]:
    """Let all of them come to their end, then return their results or raise the first error there was."""
    tasks = [asyncio.ensure_future(act) for act in acts]
    await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]  # an exception may also be what an act returned
