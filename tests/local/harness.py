"""A live runtime for a test: started, put to use, stopped whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from miniature import gpus

from partita.controller.commands import commands_for
from partita.errors import ExecutionError
from partita.executors.local.executor import LocalExecutor
from partita.executors.local.settings import Settings
from partita.model.cluster import Batching, Gpu, Instance, Route, SubCluster, instances_of
from partita.model.plan import Acquire, Command, CreateInstance, Plan, SetRoutes, StartReplicas
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import Overheads
from partita.replay.disciplines import DISCIPLINES

NAMES = tuple(d.name for d in DISCIPLINES)
OVERHEADS = Overheads(control_s=0.003, response_s=0.005, jitter_s=0.001)
"""A turn and the way to the worker, the way back, and how much latencies scatter."""
BUSY = Overheads(control_s=0.005, response_s=0.03, jitter_s=0.005)
"""The same on a machine that has much else to do."""


def service(name: str, *, slo_ms: float = 100.0, alpha_ms: float = 1.0, beta_ms: float = 10.0) -> Service:
    """Return a service with one curve for whole GPUs, halves and quarters alike."""
    profiles = ("whole", "3g.40gb", "1g.10gb")
    curves = tuple(LatencyCurve.linear(alpha_ms, beta_ms, profile=p, up_to=64) for p in profiles)
    return Service(name, slo_ms / 1e3, 0.99, 2.0, curves)


def settings(services: Sequence[Service] = (), number: int = 2, **how: Any) -> Settings:
    """Return settings with tiny delays."""
    known = tuple(services) or tuple(service(n) for n in "abc")
    return Settings(known, gpus(number), **{"model_load_s": 0.02, "repartition_s": 0.02, "drain_s": 5.0, **how})


@dataclass
class Running:
    url: str
    process: subprocess.Popen[str]
    log: Path
    since_s: float = 0.0
    """When it was lent: what came before is another test's."""
    executor: LocalExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.executor = LocalExecutor(self.url, NAMES, control_s=20.0)

    def finished(self, least: int = 0) -> list[dict[str, Any]]:
        """Return what the runtime logged since it was lent, once that is as much as this."""
        until_s = time.monotonic() + 20.0
        while len(rows := [row for row in self.ever() if row["arrived_s"] >= self.since_s]) < least:
            assert time.monotonic() < until_s, f"{len(rows)} requests were logged instead of {least}"
            time.sleep(0.02)
        return rows

    def ever(self) -> list[dict[str, Any]]:
        """Return everything that it logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    async def state(self) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/v1/state") as answer:
            seen: dict[str, Any] = await answer.json()
            return seen

    def stop(self) -> int:
        """Ask it to stop, and return how it ended."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextmanager
def running(folder: Path, how: Settings | None = None, overheads: Overheads = OVERHEADS) -> Iterator[Running]:
    """Run a runtime as a process of its own."""
    log, told = folder / "finished.jsonl", folder / "settings.pickle"
    told.write_bytes(pickle.dumps((how or settings(), overheads, str(log))))
    entry = Path(__file__).with_name("entry.py")
    process = subprocess.Popen([sys.executable, str(entry), str(told)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "the runtime did not start"
        yield Running(url, process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()


class Lender:
    """A runtime that tests share: empty for each, and made anew where nothing else undoes what a test did."""

    def __init__(self, folder: Path, how: Settings, overheads: Overheads = OVERHEADS) -> None:
        self._folder, self._how, self._overheads = folder, how, overheads
        self._stack, self._runtime, self._number = ExitStack(), None, 0

    _runtime: Running | None

    @contextmanager
    def lend(self) -> Iterator[Running]:
        if self._runtime is None:
            self._number += 1
            folder = self._folder / str(self._number)
            folder.mkdir()
            self._runtime = self._stack.enter_context(running(folder, self._how, self._overheads))
        self._runtime.since_s = time.time()
        try:
            yield self._runtime
        finally:
            if not asyncio.run(emptied(self._runtime)):
                self.close()

    def close(self) -> None:
        self._runtime = None
        self._stack.close()


async def emptied(runtime: Running) -> bool:
    """Take everything off a runtime; False if it is not as new then."""
    try:
        if await runtime.executor.term():
            return False
        for _ in range(5):
            if not (commands := commands_for(Plan((), (), ()), await runtime.executor.observe())):
                return True
            await runtime.executor.apply(commands)
    except ExecutionError:
        pass
    return False


def whole(inventory: Sequence[Gpu]) -> list[Instance]:
    """Return each GPU as one instance."""
    return [i for gpu in inventory for i in instances_of(gpu, None)]


def routed(*groups: SubCluster) -> SetRoutes:
    """Route each service to the group that holds it."""
    return SetRoutes(groups, tuple(Route(s, g.name) for g in groups for s in g.services), "")


def brought_up(instances: Sequence[Instance], services: str, batching: Batching) -> list[Command]:
    """Return commands that put services onto instances and route to them; the GPUs are not held yet."""
    every = (batching,) * len(services)
    group = SubCluster("all", tuple(instances), tuple(services), every)
    return [
        *(Acquire(gpu, "") for gpu in dict.fromkeys(i.gpu for i in instances)),
        *(CreateInstance(i, "") for i in instances),
        *(StartReplicas(i.id, tuple(services), every, "") for i in instances),
        routed(group),
    ]


PATIENCE = aiohttp.ClientTimeout(total=30.0)
"""After this a request counts as forgotten."""


@dataclass
class Reply:
    service: str
    at_s: float
    status: int
    body: dict[str, Any]


async def play(url: str, arrivals: Sequence[tuple[float, str]]) -> list[Reply]:
    """Send requests at their instants (seconds from now) and return the answers, in the order of sending."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=PATIENCE) as session:
        begin = time.monotonic() + 0.05

        async def send(at_s: float, name: str) -> Reply:
            await asyncio.sleep(max(0.0, begin + at_s - time.monotonic()))
            async with session.post(f"{url}/v1/services/{name}") as answer:
                return Reply(name, at_s, answer.status, await answer.json())

        return await asyncio.gather(*(send(at, name) for at, name in arrivals))


def poisson(rate_rps: float, span_s: float, name: str, seed: int = 1) -> list[tuple[float, str]]:
    """Return instants of one service, their number fixed at its mean."""
    rng = np.random.default_rng(seed)
    return [(float(at), name) for at in np.sort(rng.uniform(0, span_s, round(rate_rps * span_s)))]


def alive(pid: int) -> bool:
    """Say whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
