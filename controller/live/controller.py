"""The process behind `partita run`: strives to lead, reigns while it does, stands by while it does not.

SIGTERM and SIGINT end it: the command in flight is finished or handed over, the leadership given up. SIGHUP reads the
file again: a good one begins a new run under the same leadership, a bad one is refused with the reason.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from partita.controller.cluster_file import ClusterFile
from partita.controller.live.audit import Audit, log_as_json
from partita.controller.live.parts import Parts, assemble, close_executor, counter_logs
from partita.controller.live.reign import Lines, Reign
from partita.controller.live.status import Status
from partita.errors import NotLeading, PartitaError, StoreError
from partita.model.plan import Command, target
from partita.store.book import PostgresBook
from partita.store.leadership import CAMPAIGN_S, Leadership
from partita.store.line import Line
from partita.store.operation import Operation

REPORT_S = 2.0
"""How often a controller says how it is."""
AFTER_TROUBLE_S = 1.0

Serve = Callable[[Status, str], Awaitable[Callable[[], Awaitable[None]]]]
"""Begins to serve a status at an address, and returns what ends that."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the controller is started in.

    `revive` is called when the database does not answer, and may bring the embedded one up again.
    """

    path: Path
    dsn: str
    advisory: bool = False
    holder: str = ""
    revive: Callable[[], None] | None = None
    serve: Serve | None = None


class Controller:
    """One controller of a cluster; `run` returns when it was told to end."""

    def __init__(self, file: ClusterFile, around: Surroundings) -> None:
        self._file, self._around = file, around
        self._mode = "advisory" if around.advisory else "active"
        self._role = f"{file.name}/advisory" if around.advisory else file.name
        self._holder = around.holder or f"{socket.gethostname()}:{os.getpid()}"
        self._audit = Audit(file.name, self._holder)
        log_as_json()
        self._status = _status(file, self._holder, self._mode)
        self._leadership = Leadership(Line(around.dsn), self._role, self._holder)
        self._report = Operation(Line(around.dsn), self._role)
        self._stop, self._ended = asyncio.Event(), asyncio.Event()
        self._next: ClusterFile | None = None

    async def run(self) -> None:
        """Control the cluster until told to end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        parts = self._assemble(self._file)
        ending = await self._serve()
        self._audit.tell("started", {"mode": self._mode, "file": str(self._around.path)})
        beside = [asyncio.create_task(self._strive()), asyncio.create_task(self._say())]
        for task in beside:
            task.add_done_callback(lambda _: self._ended.set())
        try:
            while not self._stop.is_set():
                parts = await self._once(parts)
                for task in beside:
                    if task.done():  # a fault of ours: better ended, and started anew by whoever looks after us
                        task.result()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            with suppress(PartitaError):
                await self._leadership.resign()
            with suppress(PartitaError):
                await self._report.retire(self._holder)
            await self._dispose(parts)
            if ending is not None:
                await ending()
            self._audit.tell("ended")

    async def _once(self, parts: Parts) -> Parts:
        """Stand by until we lead, then reign once; return the parts for the next time."""
        if not self._leadership.holds():
            await self._pause(CAMPAIGN_S / 4)
            return parts
        self._ended.clear()
        if self._stop.is_set():
            return parts
        try:
            if self._next is not None:
                file, self._next = self._next, None
                parts = await self._renewed(parts, file)
            await self._reign(parts)
            if not self._stop.is_set():
                self._leadership.require()
        except NotLeading as problem:
            self._trouble("", str(problem))
            self._audit.tell("standby", {"reason": str(problem)})
        except StoreError as problem:
            self._trouble("database", str(problem))
            await self._pause(AFTER_TROUBLE_S)
        except PartitaError as problem:
            self._trouble("cluster", str(problem))
            await self._pause(AFTER_TROUBLE_S)
        return parts

    async def _reign(self, parts: Parts) -> None:
        term = self._leadership.require()
        self._audit.term = self._status.term = term.number
        self._status.leading, self._status.trouble = True, ""
        self._audit.tell("leading")
        lines = Lines(*(Line(self._around.dsn) for _ in range(3)))
        reign = Reign(
            parts,
            lines,
            self._leadership,
            role=self._role,
            mode=self._mode,
            status=self._status,
            audit=self._audit,
            ended=self._ended,
        )
        try:
            async with AsyncExitStack() as stack:
                if self._mode == "active":
                    for counters in counter_logs(self._file, self._around.dsn):
                        await stack.enter_async_context(counters)
                await reign.run()
        finally:
            self._status.leading = False
            for line in (lines.work, lines.journal, lines.log):
                with suppress(PartitaError):
                    await line.close()

    # Beside the loop

    async def _strive(self) -> None:
        """Keep or win the leadership; where the database is away, the term runs out by itself."""
        while True:
            began = time.monotonic()
            try:
                before = self._leadership.term
                leads = await self._leadership.strive()
                if before is not None and before != self._leadership.term:
                    self._ended.set()
                if not leads or self._status.leading:
                    self._status.trouble = ""
            except (PartitaError, OSError) as problem:
                self._trouble("database", str(problem))
                if not self._leadership.holds():
                    self._status.leading = False
                    self._ended.set()
                await self._revive()
            await asyncio.sleep(max(0.05, CAMPAIGN_S - (time.monotonic() - began)))

    async def _revive(self) -> None:
        if self._around.revive is not None:
            with suppress(PartitaError, OSError):
                await asyncio.to_thread(self._around.revive)

    async def _say(self) -> None:
        """Report how things are, for `partita status`."""
        while True:
            with suppress(PartitaError, OSError):
                await self._report.report(self._holder, {**_plain(self._status), "problems": self._status.problems()})
            await asyncio.sleep(REPORT_S)

    def _trouble(self, signal_name: str, problem: str) -> None:
        if signal_name:
            troubles = self._status.counted.troubles
            troubles[signal_name] = troubles.get(signal_name, 0) + 1
        if problem != self._status.trouble:
            self._audit.tell("trouble", {"reason": problem})
        self._status.trouble = problem

    async def _serve(self) -> Callable[[], Awaitable[None]] | None:
        listen = self._file.watch.listen
        if self._around.serve is None or listen is None:
            return None
        return await self._around.serve(self._status, listen)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # Signals and parts

    def _end(self) -> None:
        self._stop.set()
        self._ended.set()

    def _reload(self) -> None:
        try:
            file = ClusterFile.load(self._around.path)
            if file.name != self._file.name:
                raise StoreError(f"the cluster is called {self._file.name!r}; another name needs another controller")
            self._assemble(file).close()
        except PartitaError as problem:
            self._status.reload = str(problem)
            self._audit.tell("reload", {"refused": str(problem)})
            return
        self._status.reload = ""
        self._next = file
        self._audit.tell("reload", {"refused": ""})
        self._ended.set()

    def _assemble(self, file: ClusterFile) -> Parts:
        line = Line(self._around.dsn)
        parts = assemble(file, PostgresBook(line, self._role), advisory=self._would if self._around.advisory else None)
        return replace(parts, book_line=line)

    def _would(self, command: Command) -> None:
        self._audit.tell("would", {"verb": type(command).__name__, "target": target(command), "why": command.reason})

    async def _renewed(self, parts: Parts, file: ClusterFile) -> Parts:
        """Return the parts of a file that was read again, in place of the former ones."""
        fresh = self._assemble(file)
        self._file = file
        self._status.near_s = file.control.near_s
        self._status.attainment_target = {s.name: s.attainment for s in file.services()}
        await self._dispose(parts)
        return fresh

    async def _dispose(self, parts: Parts) -> None:
        parts.close()
        await close_executor(parts.executor)
        if parts.book_line is not None:
            await parts.book_line.close()


def _status(file: ClusterFile, holder: str, mode: str) -> Status:
    targets = {s.name: s.attainment for s in file.services()}
    return Status(file.name, holder, mode, time.time(), near_s=file.control.near_s, attainment_target=targets)


def _plain(status: Status) -> dict[str, object]:
    """Return the status without what has no place in a table."""
    skipped = ("counted",)
    return {name: getattr(status, name) for name in status.__dataclass_fields__ if name not in skipped}
