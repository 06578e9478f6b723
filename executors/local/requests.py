"""Requests on their way through the runtime, and how they end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum


class Ending(StrEnum):
    """How a request ended: `failed` means that its worker died under it."""

    GOOD = "good"
    LATE = "late"
    DROPPED = "dropped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered; `reason` says why it was not served."""

    ending: Ending
    batch: int = 0
    queue_ms: float = 0.0
    latency_ms: float = 0.0
    instance: str = ""
    reason: str = ""


@dataclass(slots=True, eq=False)
class Request:
    """One request that waits or runs: its service's place among those of the runtime, and when it came (ns).

    A size of NaN was not given.
    """

    service: int
    size: float
    at_ns: int
    answer: asyncio.Future[Answer] = field(repr=False)


@dataclass(slots=True, eq=False)
class Grant:
    """A batch that a discipline granted: on which instance, for whom, and from when to when it should run."""

    number: int
    service: int
    requests: list[Request]
    start_ns: int
    finish_ns: int
