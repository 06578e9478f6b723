"""An instance of the runtime: what is loaded on its worker process, and which batches it holds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from partita.errors import Failed
from partita.executors.local.link import Link
from partita.executors.local.requests import Grant
from partita.executors.local.settings import Device
from partita.model.cluster import Batching, Instance, InstanceState, Status
from partita.model.plan import Command
from partita.model.service import Service

OnRan = Callable[["Machine", Grant, int, int], None]
"""Hears that a batch ran, from when to when (ns)."""
OnBroken = Callable[["Machine", list[Grant], str], None]
"""Hears that batches failed, and why; a worker that is gone is `gone` by then."""


class Machine:
    """One instance with its worker; `number` is its place in the inventory.

    Only one command at a time changes a machine: whoever does holds `turn`.
    """

    def __init__(
        self, instance: Instance, number: int, services: Sequence[Service], ran: OnRan, broken: OnBroken
    ) -> None:
        self.instance, self.number = instance, number
        self.creating, self.gone = True, False
        self.loaded: dict[str, Batching] = {}
        self.loading: dict[str, Batching] = {}
        self.draining: set[str] = set()
        self.turn = asyncio.Lock()
        self._services = {s.name: s for s in services}
        self._names = [s.name for s in services]
        self._ran, self._broken = ran, broken
        self._running: deque[Grant] = deque()
        self._ended_ns = 0
        self._link = Link(self._hear, self._end)
        self._answers: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        self._quiet = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Number of the worker process."""
        return self._link.pid

    def state(self) -> InstanceState:
        """Describe the instance as it is now."""
        status = Status.CREATING if self.creating else Status.LOADING if self.loading else Status.READY
        draining = tuple(sorted(self.draining & self.loaded.keys()))
        return InstanceState(
            self.instance, status, tuple(self.loaded), tuple(self.loading), draining, {**self.loaded, **self.loading}
        )

    def serves(self, services: Sequence[str]) -> bool:
        """Say whether it can take batches of all these services now; while models load it takes none."""
        if self.creating or self.gone or self.loading:
            return False
        return all(s in self.loaded and s not in self.draining for s in services)

    # Batches

    def free_at_ns(self, now_ns: int) -> int:
        """Return when it can start its next batch: when the last one ended, or is expected to end.

        A batch that should have ended already is expected to be late once more by as much as it is now.
        """
        if not self._running:
            return self._ended_ns
        return self._running[-1].finish_ns + 2 * max(0, now_ns - self._running[0].finish_ns)

    def run(self, grant: Grant) -> None:
        """Send a batch to the worker, which starts it at its time, after those it holds."""
        self._running.append(grant)
        name = self._names[grant.service]
        self._link.tell({"do": "run", "service": name, "size": len(grant.requests), "start_ns": grant.start_ns})

    def holds(self, services: Sequence[str]) -> bool:
        """Say whether a batch of one of these services is running, or waits in the worker."""
        names = set(services)
        return any(self._names[grant.service] in names for grant in self._running)

    async def quiet(self, services: Sequence[str]) -> None:
        """Return once no batch of these services is running."""
        while self.holds(services):
            self._quiet.clear()
            await self._quiet.wait()

    # Models

    async def start(self, device: Device, lock: str | None, command: Command) -> None:
        """Start the worker and wait until it is ready; Failed if it does not become so."""
        try:
            ready = self._expect("ready")
            await self._link.start(device, lock)
            await ready
        except (OSError, _WorkerGone) as problem:
            raise Failed(f"the worker of {self.instance.id} did not start: {problem}", command=command) from None

    async def load(self, service: str, command: Command) -> None:
        """Load a model; Failed if the worker cannot."""
        if self.gone:  # nobody would answer
            raise Failed(f"the worker of {self.instance.id} ended", command=command)
        curve = self._services[service].curve(self.instance.profile)
        answer = self._expect(service)
        self._link.tell({"do": "load", "service": service, "points": curve.points if curve else ()})
        try:
            problem = (await answer).get("error")
        except _WorkerGone as gone:
            raise Failed(str(gone), command=command) from None
        if problem:
            raise Failed(f"{service} cannot be loaded on {self.instance.id}: {problem}", command=command)

    def unload(self, service: str) -> None:
        """Give a model's memory back."""
        self._link.tell({"do": "unload", "service": service})

    async def stop(self) -> None:
        """End the worker."""
        self.gone = True
        await self._link.stop()

    # What the worker says

    def _expect(self, what: str) -> asyncio.Future[Mapping[str, Any]]:
        self._answers[what] = asyncio.get_running_loop().create_future()
        return self._answers[what]

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "ran" not in message:
            answer = self._answers.pop(message.get("loaded", "ready"), None)
            if answer is not None and not answer.done():
                answer.set_result(message)
            return
        grant = self._running.popleft()
        if "error" in message:
            self._broken(self, [grant], message["error"])
        else:
            self._ended_ns = message["ended_ns"]
            self._delay(self._ended_ns)
            self._ran(self, grant, message["began_ns"], message["ended_ns"])
        self._quiet.set()

    def _delay(self, free_ns: int) -> None:
        """Move the expected ends of the batches that wait in the worker, if they could not start in time."""
        for grant in self._running:
            late_ns = max(0, free_ns - grant.start_ns)
            grant.start_ns, grant.finish_ns = grant.start_ns + late_ns, grant.finish_ns + late_ns
            free_ns = grant.finish_ns

    def _end(self) -> None:
        lost, expected = list(self._running), list(self._answers.values())
        died, self.gone = not self.gone, True
        self._running.clear()
        self._answers.clear()
        self._quiet.set()
        for answer in expected:
            if not answer.done():
                answer.set_exception(_WorkerGone(f"the worker of {self.instance.id} ended"))
        if died or lost:
            self._broken(self, lost, f"the worker of {self.instance.id} ended")


class _WorkerGone(Exception):
    """The worker process is not there any more."""
