"""Awaiting several acts side by side, so that none is left running when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def together(acts: Iterable[Awaitable[T]]) -> list[T]:
    """Let all of them come to their end, then return their results or raise the first error there was."""
    found = await asyncio.gather(*acts, return_exceptions=True)
    for outcome in found:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in found if not isinstance(outcome, BaseException)]
