"""Where the runtime logs finished requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import structlog

FLUSH_S = 0.25
"""How long a finished request waits at most before it is handed on."""

_log = structlog.get_logger()


class Sink(Protocol):
    """Takes finished requests as columns of equal length; entered before the first and left after the last.

    `arrived_s` is unix time; `status` is good, late or dropped. What is not known of a request is None: its size if it
    was not given, its latency, batch and replica if it was not served. `record_many` must not block for long.
    """

    async def __aenter__(self) -> object:
        """Get ready."""
        ...

    async def __aexit__(self, *exception: Any) -> object:
        """Make sure that everything is kept."""
        ...

    def record_many(
        self,
        service: list[str],
        *,
        arrived_s: list[float],
        latency_s: list[float | None],
        size: list[float | None],
        queue_s: list[float],
        batch: list[int | None],
        status: list[str],
        replica: list[str | None],
    ) -> None:
        """Keep these requests; whatever it raises is logged, and they are lost."""
        ...


class Finished(NamedTuple):
    """One finished request, as `Sink` takes them."""

    service: str
    arrived_s: float
    latency_s: float | None
    size: float | None
    queue_s: float
    batch: int | None
    status: str
    replica: str | None


class JsonLines:
    """A sink that appends to a file, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        """Open the file."""
        self._file = self._path.open("a", encoding="utf-8")
        return self

    async def __aexit__(self, *exception: Any) -> None:
        """Close the file."""
        self._file.close()

    def record_many(self, service: list[str], **columns: Sequence[Any]) -> None:
        """Append these requests."""
        for row in zip(service, *columns.values(), strict=True):
            self._file.write(json.dumps(dict(zip(("service", *columns), row, strict=True))) + "\n")
        self._file.flush()


class Outbox:
    """Finished requests on their way to a sink, handed on in blocks."""

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self._waiting: list[Finished] = []
        self._task: asyncio.Task[None] | None = None
        self.lost = 0

    def put(self, finished: Finished) -> None:
        """Take one request."""
        if self._sink is not None:
            self._waiting.append(finished)

    async def open(self) -> None:
        """Enter the sink, and hand on from now on."""
        if self._sink is not None:
            await self._sink.__aenter__()
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Hand on the rest and leave the sink."""
        if self._sink is not None and self._task is not None:
            self._task.cancel()
            self._flush()
            await self._sink.__aexit__(None, None, None)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._flush()

    def _flush(self) -> None:
        block, self._waiting = self._waiting, []
        if self._sink is None or not block:
            return
        service, *rest = (list(column) for column in zip(*block, strict=True))
        try:
            self._sink.record_many(service, **dict(zip(Finished._fields[1:], rest, strict=True)))
        except Exception as problem:  # a sink may be anybody's: what it loses is counted and said
            self.lost += len(block)
            _log.warning("finished requests were not logged", requests=len(block), problem=str(problem))
