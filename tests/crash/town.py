"""Where stories of whole controllers play: cluster files, controllers as processes, orders, and the database's view."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from crash.house import House
from crash.stage import decision_of

from partita.controller.commands import commands_for
from partita.executors.local.executor import LocalExecutor
from partita.model.plan import Plan
from partita.ports import Tick
from partita.store.connection import connect
from partita.store.journal import PostgresJournal, begin_run
from partita.store.operators import ControllerRecord, LeaderRecord, give_order, list_controllers, read_leader

T = TypeVar("T")

NAME = "town"
LIMIT_S = 90.0
"""How long anything is waited for; nothing takes more than a part of it."""


def cluster_file(folder: Path, house: House, **parts: Any) -> Path:
    """Write a cluster file for a runtime as `house.runtime` makes it; `parts` replace keys of the file."""
    latency = {profile: {"alpha_ms": 1, "beta_ms": 20} for profile in ("whole", "3g.40gb")}
    service = {"slo_ms": 5000, "memory_gib": 2, "latency": latency}
    document: dict[str, Any] = {
        "name": NAME,
        "cluster": [{"gpu": "A100-80GB", "count": 3}],
        "services": [{"name": name, **service} for name in "abc"],
        "overheads": {"model_load_s": 1, "repartition_s": 1},
        "discipline": {"name": "eager"},
        "executor": {"local": {"url": house.url, "timeout_s": 30}},
        "policy": "static",
        "control": {"near_s": 0.5, "epoch_s": 60, "rehearse_s": 10},
        "watch": {"listen": None},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump({**document, **parts}), encoding="utf-8")
    return path


@dataclass
class Running:
    """A controller: its process and what it says."""

    holder: str
    process: subprocess.Popen[bytes]
    log: Path

    def audit(self, event: str) -> list[dict[str, Any]]:
        """Return its audit lines of one kind."""
        lines = (line for line in self.log.read_text(encoding="utf-8").splitlines() if line.startswith("AUDIT "))
        return [said for line in lines if (said := json.loads(line[6:]))["event"] == event]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def check_calm(self) -> None:
        """Make sure that nothing went wrong that nobody expected: no traceback, no exception that nobody took."""
        text = self.log.read_text(encoding="utf-8")
        assert "Traceback" not in text, text[-4000:]
        assert "never retrieved" not in text, text[-4000:]


@contextmanager
def controller(path: Path, dsn: str, holder: str, **told: Any) -> Iterator[Running]:
    """Run a controller until the block ends."""
    log = path.parent / f"{holder}.log"
    entry = Path(__file__).with_name("controller_entry.py")
    words = json.dumps({"dsn": dsn, "holder": holder, **told})
    with log.open("ab") as stream:
        process = subprocess.Popen([sys.executable, str(entry), str(path), words], stderr=stream)
    try:
        yield Running(holder, process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


async def until(what: str, look: Callable[[], Awaitable[T]], *, limit_s: float = LIMIT_S) -> T:
    """Look again and again until there is something to be seen, and return it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while not (found := await look()):
        assert loop.time() < end, f"{what} did not happen"
        await asyncio.sleep(0.05)
    return found


@dataclass
class Town:
    """A runtime and a database, as seen from outside the controllers."""

    dsn: str
    house: House
    role: str = NAME

    @property
    def executor(self) -> LocalExecutor:
        return LocalExecutor(self.house.url, ["eager", "timeout", "deferred"])

    async def fetch(self, statement: str, *what: object) -> list[dict[str, Any]]:
        async with connect(self.dsn) as connection:
            return [dict(row) for row in await connection.fetch(statement, *what)]

    async def leader(self) -> LeaderRecord | None:
        async with connect(self.dsn) as connection:
            found = await read_leader(connection, self.role)
        return found if found is not None and found.holds else None

    async def leads(self, holder: str) -> int:
        """Wait until a controller leads, and return its term."""

        async def look() -> int:
            leader = await self.leader()
            return leader.term if leader is not None and leader.holder == holder else 0

        return await until(f"{holder} leading", look)

    async def controllers(self) -> Mapping[str, ControllerRecord]:
        async with connect(self.dsn) as connection:
            return {c.holder: c for c in await list_controllers(connection, self.role)}

    async def status(self, holder: str, look: Callable[[Mapping[str, Any]], bool], what: str) -> Mapping[str, Any]:
        """Wait until what a controller says of itself is as wanted."""

        async def seen() -> Mapping[str, Any] | None:
            there = (await self.controllers()).get(holder)
            return there.status if there is not None and look(there.status) else None

        return await until(what, seen) or {}

    async def events(self) -> list[dict[str, Any]]:
        """Return everything that happened to commands, in order."""
        return await self.fetch(
            "SELECT e.id, e.run, e.tick, e.position, e.attempt, e.term, e.event, e.at, e.problem, c.verb, c.target"
            " FROM command_event e JOIN command c USING (run, tick, position) ORDER BY e.id"
        )

    async def is_settled(self, plan: Plan | None = None) -> bool:
        """Say whether everything that was commanded is done, and the cluster is as a plan wants it."""
        if await self.fetch("SELECT 1 FROM command WHERE state NOT IN ('done', 'undone', 'replaced')"):
            return False
        return plan is None or commands_for(plan, await self.executor.observe()) == ()

    async def settles(self, plan: Plan | None = None) -> None:
        """Wait until the controller has done what it wants, and has wanted something."""

        async def look() -> bool:
            return bool(await self.events()) and await self.is_settled(plan)

        await until("the end of the change", look)

    async def order(self, plan: Plan) -> None:
        """Let the operator ask for a plan, as `partita rollback` does; whatever leads puts it into force and pauses."""
        async with connect(self.dsn) as connection:
            run = await begin_run(connection, kind="live", policy="the test's", scenario={})
            await PostgresJournal(connection, run).record(Tick(decision_of(1, ()), None, None, plan))
            await give_order(connection, self.role, "rollback", by="the test", to=(run, 1))

    async def under_way(self, done: int) -> dict[str, Any]:
        """Wait until so many commands of the latest decision with commands are done and others are not."""

        async def look() -> dict[str, Any] | None:
            rows = await self.fetch(
                "SELECT run, tick, count(*) AS commands, count(*) FILTER (WHERE state = 'done') AS done"
                " FROM command GROUP BY run, tick ORDER BY run DESC, tick DESC LIMIT 1"
            )
            return rows[0] if rows and done <= rows[0]["done"] < rows[0]["commands"] else None

        return await until(f"{done} commands done of more", look) or {}


def check_terms(events: list[dict[str, Any]]) -> list[int]:
    """Make sure that no two terms acted in turns, and return those that acted."""
    terms = [e["term"] for e in events]
    assert terms == sorted(terms)
    return sorted(set(terms))


def freeze(controller: Running) -> None:
    os.kill(controller.process.pid, signal.SIGSTOP)


def thaw(controller: Running) -> None:
    os.kill(controller.process.pid, signal.SIGCONT)
