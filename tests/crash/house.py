"""Where stories of crashes play: a runtime under a light load, two plans, processes that may die, and a journal."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import aiohttp
from crash.stage import ROLE, Outcome, Scene
from local.harness import service
from miniature import cut, gpus

from partita.controller.commands import commands_for
from partita.executors.local.settings import Settings
from partita.model.cluster import Batching, ClusterState, Instance, Route, SubCluster, instances_of
from partita.model.plan import HeldGpu, Plan, feasible
from partita.model.staggered import Overheads
from partita.ports import Executor
from partita.store.connection import connect
from partita.store.operators import CommandRecord, read_story

SERVICES = tuple(service(name, slo_ms=5000.0, beta_ms=20.0) for name in "abc")
"""Their SLO is so long that nothing is dropped because of it."""
GPUS = gpus(3)
HALVES = cut("2x3g.40gb")
WHOLE0 = instances_of(GPUS[0], None)[0]
LOW1, HIGH1 = instances_of(GPUS[1], HALVES)
LOW2, HIGH2 = instances_of(GPUS[2], HALVES)
EAGER, PATIENT = Batching("eager"), Batching("timeout", 0.02)


def plan_of(gpus: Sequence[HeldGpu], groups: Mapping[str, tuple[Sequence[Instance], str, Batching]], why: str) -> Plan:
    """Return a plan of groups, by name as (instances, services, batching); those of one service share it equally."""
    made = tuple(
        SubCluster(name, tuple(instances), tuple(services), (batching,) * len(services))
        for name, (instances, services, batching) in groups.items()
    )
    groups_of = Counter(s for g in made for s in g.services)
    routes = tuple(Route(s, g.name, weight=1 / groups_of[s]) for g in made for s in g.services)
    return Plan(tuple(gpus), made, routes, why)


ONE = plan_of(
    [HeldGpu("gpu0"), HeldGpu("gpu1", HALVES)],
    {"together": ([WHOLE0], "ab", EAGER), "alone": ([LOW1, HIGH1], "c", PATIENT)},
    "plan one",
)
OTHER = plan_of(
    [HeldGpu("gpu1", HALVES), HeldGpu("gpu2", HALVES)],
    {"first": ([LOW2], "a", EAGER), "second": ([HIGH1, HIGH2], "b", EAGER), "alone": ([LOW1], "c", EAGER)},
    "plan other",
)
"""From the one to the other every kind of command is needed: a GPU for another, one whole for one in halves, a service
on another instance, another batching, other groups."""
assert feasible(ONE, SERVICES, GPUS) == feasible(OTHER, SERVICES, GPUS) == ()


# A runtime that records its acts -------------------------------------------------------------------------------------


@dataclass
class House:
    """A runtime: where it answers, and what its machines did."""

    url: str
    record: Path
    process: subprocess.Popen[str]

    def acts(self) -> Counter[tuple[str, str, str]]:
        """Count what was done since the runtime started: (act, instance, service)."""
        lines = self.record.read_text(encoding="utf-8").splitlines() if self.record.exists() else []
        return Counter(tuple(json.loads(line)) for line in lines)


@contextmanager
def runtime(folder: Path, *, model_load_s: float = 0.15, repartition_s: float = 0.15) -> Iterator[House]:
    """Run a runtime as a process of its own."""
    told, record = folder / "settings.pickle", folder / "acts.jsonl"
    how = Settings(SERVICES, GPUS, model_load_s=model_load_s, repartition_s=repartition_s, drain_s=10.0)
    told.write_bytes(pickle.dumps((how, Overheads(control_s=0.003, response_s=0.005), str(folder / "finished.jsonl"))))
    entry = Path(__file__).with_name("runtime_entry.py")
    process = subprocess.Popen([sys.executable, str(entry), str(told), str(record)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "the runtime did not start"
        yield House(url, record, process)
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


@dataclass
class Replies:
    """Answers of the runtime to a light load: how many were sent, and those that were not 200."""

    sent: int = 0
    others: list[str] = field(default_factory=list)


@asynccontextmanager
async def lightly_loaded(url: str, services: str = "abc", rate_rps: float = 40.0) -> AsyncIterator[Replies]:
    """Ask services in turn for as long as the block lasts; every answer is in by its end."""
    replies, asked = Replies(), set[asyncio.Task[None]]()
    timeout = aiohttp.ClientTimeout(total=60.0)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def ask(name: str) -> None:
            try:
                async with session.post(f"{url}/v1/services/{name}") as answer:
                    if answer.status != 200:
                        replies.others.append(f"{name}: {answer.status} {await answer.text()}")
            except (aiohttp.ClientError, TimeoutError) as problem:
                replies.others.append(f"{name}: {problem!r}")

        async def keep_asking() -> None:
            for name in cycle(services):
                replies.sent += 1
                task = asyncio.create_task(ask(name))
                asked.add(task)
                task.add_done_callback(asked.discard)
                await asyncio.sleep(1 / rate_rps)

        load = asyncio.create_task(keep_asking())
        try:
            yield replies
        finally:
            load.cancel()
            await asyncio.gather(load, *asked, return_exceptions=True)


# Processes -----------------------------------------------------------------------------------------------------------

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "partita.controller.live.hands",
        "partita.executors.local.executor",
        "partita.executors.triton.executor",
        "partita.replay.disciplines",
        "partita.store.journal",
    ]
)
DIED = -signal.SIGKILL


async def played(what: Callable[[Pipe, Scene], None], scene: Scene, *, limit_s: float = 120.0) -> tuple[int, Any]:
    """Let a fresh process play a scene; returns how it ended and what it reported, None if it died."""
    ours, theirs = _forks.Pipe(duplex=False)
    process = _forks.Process(target=what, args=(theirs, scene), daemon=True)
    process.start()
    theirs.close()
    try:
        await asyncio.to_thread(process.join, limit_s)
        assert process.exitcode is not None, "the process did not end"
        return process.exitcode, ours.recv() if process.exitcode == 0 else None
    finally:
        if process.exitcode is None:
            process.kill()
            process.join()
        ours.close()
        process.close()


async def ran(what: Callable[[Pipe, Scene], None], scene: Scene) -> Outcome:
    """Let a fresh process play a scene to its end."""
    code, outcome = await played(what, scene)
    assert code == 0, f"the process ended with {code}"
    assert isinstance(outcome, Outcome)
    return outcome


# The database --------------------------------------------------------------------------------------------------------


async def depose(dsn: str) -> None:
    """End the term of a leader that is dead, as its own end would; so that nobody has to wait for it."""
    async with connect(dsn) as connection:
        await connection.execute("UPDATE leader SET until = clock_timestamp() WHERE role = $1", ROLE)


async def stories(dsn: str, since_run: int = 0) -> list[tuple[int, int, list[CommandRecord]]]:
    """Return every decision with commands as (run, tick, commands)."""
    async with connect(dsn) as connection:
        rows = await connection.fetch(
            "SELECT DISTINCT run, tick FROM command WHERE run > $1 ORDER BY run, tick", since_run
        )
        return [(r["run"], r["tick"], await read_story(connection, r["run"], r["tick"])) for r in rows]


async def last_run(dsn: str) -> int:
    async with connect(dsn) as connection:
        number: int = await connection.fetchval("SELECT coalesce(max(id), 0) FROM run")
        return number


async def term_of(dsn: str) -> int:
    async with connect(dsn) as connection:
        number: int = await connection.fetchval("SELECT coalesce(max(term), 0) FROM leader")
        return number


def check_story(commands: Sequence[CommandRecord]) -> None:
    """Make sure that the journal tells each command's story in order, and that it was done once.

    Attempts and terms never fall; what is done was started before, unless it was found done; nothing follows the end.
    """
    for command in commands:
        place = f"{command.position} {command.verb} {command.target}"
        events = [e.event for e in command.events]
        attempts = [e.attempt for e in command.events]
        terms = [e.term for e in command.events]
        assert events.count("done") <= 1, place
        assert attempts == sorted(attempts), (place, events, attempts)
        assert terms == sorted(terms), place
        ends = [n for n, e in enumerate(events) if e in ("done", "failed", "undone", "replaced")]
        assert ends in ([], [len(events) - 1]), (place, events)
        if events and events[-1] == "done":
            last = command.events[-1]
            assert "started" in events[:-1] or "already" in (last.problem or ""), (place, events)


def all_done(commands: Sequence[CommandRecord]) -> list[str]:
    """Name commands that are neither done nor taken back."""
    return [
        f"{c.position} {c.verb} {c.target}: {c.state}"
        for c in commands
        if c.state not in ("done", "undone", "replaced")
    ]


async def brought_to(executor: Executor, plan: Plan, dsn: str) -> ClusterState:
    """Bring a cluster to a plan at once, and look at it."""
    await executor.apply(commands_for(plan, await executor.observe()), term=await term_of(dsn))
    seen = await executor.observe()
    assert commands_for(plan, seen) == ()
    return seen
