"""What runs in processes that are killed: a controller's hands at work, and the one that takes up after them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any

from partita.controller.commands import commands_for, signature
from partita.controller.live.hands import LiveHands
from partita.controller.live.patience import Patience
from partita.controller.state import Turn
from partita.errors import ExecutionError
from partita.executors.local.executor import LocalExecutor
from partita.model.load import NO_ORDERS, Orders
from partita.model.plan import Action, Command, Decision, Objective, Plan
from partita.ports import Executor, Tick
from partita.replay.disciplines import DISCIPLINES
from partita.store.journal import PostgresJournal
from partita.store.leadership import Leadership
from partita.store.line import Line
from partita.store.operation import Operation, Standing

ROLE = "stage"
WHERE = (
    "before started",
    "inside started",
    "before the call",
    "inside the call",
    "after the call",
    "inside done",
    "after done",
)
"""Around one command: its journal entry before, the executor's call, its journal entry after."""
MakeExecutor = Callable[[str], Any]
"""Makes an executor, as an asynchronous context manager, from the connection string of the database."""
SWIFT = Patience(poll_s=0.05, done_s=30.0, room_s=5.0, backoff_s=0.02, call_s=60.0)


@dataclass(frozen=True, slots=True)
class Local:
    """The executor of a local runtime."""

    url: str

    @asynccontextmanager
    async def __call__(self, dsn: str) -> AsyncIterator[Executor]:
        yield LocalExecutor(self.url, [d.name for d in DISCIPLINES], control_s=30.0)


@dataclass(frozen=True, slots=True)
class Death:
    """When a process kills itself: at the command of this position in the plan, at one of WHERE."""

    position: int
    where: str
    a_moment_s: float = 0.05
    """How long after the call began, where it is inside one."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """Which calls of the executor end otherwise: the command of this position raises `kind`, this many times."""

    position: int
    kind: type[ExecutionError]
    times: int = 100


@dataclass(frozen=True, slots=True)
class Scene:
    """What a process is told: the database, the executor, where to go from where, and what befalls it on the way."""

    dsn: str
    executor: MakeExecutor
    plan: Plan
    good: Plan
    death: Death | None = None
    refusals: tuple[Refusals, ...] = ()
    patience: Patience = SWIFT


@dataclass(slots=True)
class Scythe:
    """Kills its process where a scene says; asked by what stands before the ledger and the executor."""

    death: Death | None

    def passes(self, position: int, where: str) -> None:
        """Kill the process if this is the place."""
        if self.death is not None and (self.death.position, self.death.where) == (position, where):
            os.kill(os.getpid(), signal.SIGKILL)

    def enters(self, position: int, where: str, after_s: float) -> None:
        """Kill the process a moment after this if this is the place."""
        if self.death is not None and (self.death.position, self.death.where) == (position, where):
            asyncio.get_running_loop().call_later(after_s, os.kill, os.getpid(), signal.SIGKILL)


class ScytheLedger:
    """The real ledger, with the scythe before and after the two entries that every command has."""

    def __init__(self, inner: Operation, scythe: Scythe) -> None:
        self._inner, self._scythe = inner, scythe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def tell(self, run: int, tick: int, position: int, *, event: str, **what: Any) -> None:
        before = {"started": "before started", "done": "after the call"}.get(event, "")
        after = {"started": "before the call", "done": "after done"}.get(event, "")
        self._scythe.passes(position, before)
        self._scythe.enters(position, f"inside {event}", 0.001)
        await self._inner.tell(run, tick, position, event=event, **what)
        self._scythe.passes(position, after)


class ScytheExecutor:
    """The real executor, with the scythe inside its calls, and with refusals that it would not make by itself."""

    def __init__(
        self, inner: Executor, scythe: Scythe, commands: Sequence[Command], refusals: Sequence[Refusals] = ()
    ) -> None:
        self._inner, self._scythe = inner, scythe
        self._positions = {signature(c): n for n, c in enumerate(commands)}
        self._refusals = {r.position: [r.kind] * r.times for r in refusals}

    @property
    def capabilities(self) -> Any:
        return self._inner.capabilities

    async def observe(self) -> Any:
        return await self._inner.observe()

    async def apply(self, commands: Sequence[Command], *, term: int = 0) -> None:
        (command,) = commands
        position = self._positions.get(signature(command), -1)
        if left := self._refusals.get(position):
            raise left.pop()("refused by the test", command=command)
        self._scythe.enters(position, "inside the call", self._scythe.death.a_moment_s if self._scythe.death else 0.0)
        await self._inner.apply(commands, term=term)
        self._scythe.passes(position, "inside the call")  # it took less than that moment


@dataclass(slots=True)
class Outcome:
    """How it ended, as far as the process itself can tell."""

    term: int
    run: int
    commands: int
    failed: str = ""
    quarantine: Mapping[str, str] = field(default_factory=dict)
    told: Sequence[tuple[str, Mapping[str, object]]] = ()
    good: Plan | None = None


async def lead(dsn: str, *, term_s: float = 60.0) -> tuple[Leadership, Operation]:
    """Win the leadership, and return it with an operation that writes under it."""
    leadership = Leadership(Line(dsn), ROLE, f"process {os.getpid()}", term_s=term_s)
    while not await leadership.strive():
        await asyncio.sleep(0.05)
    operation = Operation(Line(dsn), ROLE)
    operation.term = leadership.require()
    return leadership, operation


async def no_orders() -> Orders:
    return NO_ORDERS


def decision_of(tick: int, commands: tuple[Command, ...], reason: str = "") -> Decision:
    """Return a decision that gives these commands."""
    return Decision(tick, 0.0, Action.ACT, "the test's", reason, (), (), commands, Objective(), 0.0, 0.0, 0, 0)


@asynccontextmanager
async def at_work(scene: Scene) -> AsyncIterator[tuple[LiveHands, Operation, Executor, Outcome]]:
    """Yield hands that lead, with what they work on."""
    async with AsyncExitStack() as stack:
        leadership, operation = await lead(scene.dsn)
        run = await operation.begin_run(policy="test", scenario={}, mode="active")
        inner = await stack.enter_async_context(scene.executor(scene.dsn))
        commands = commands_for(scene.plan, await inner.observe())
        scythe = Scythe(scene.death)
        told: list[tuple[str, Mapping[str, object]]] = []
        outcome = Outcome(leadership.require().number, run, len(commands), told=told)
        hands = LiveHands(
            ScytheExecutor(inner, scythe, commands, scene.refusals),
            ScytheLedger(operation, scythe),
            run=run,
            leading=lambda: leadership.require().number,
            orders=no_orders,
            patience=scene.patience,
            told=lambda event, details: told.append((event, details)),
        )
        yield hands, operation, inner, outcome


async def ended(hands: LiveHands, outcome: Outcome) -> Outcome:
    """Wait until the hands have nothing to do, and say how that came."""
    while hands.busy:
        await asyncio.sleep(0.01)
    sight = await hands.look()
    assert not sight.work.left
    outcome.failed, outcome.quarantine, outcome.good = sight.work.failed, sight.work.quarantine, hands.good
    return outcome


async def _carry(scene: Scene) -> Outcome:
    async with at_work(scene) as (hands, operation, executor, outcome):
        commands = commands_for(scene.plan, await executor.observe())
        journal = PostgresJournal(Line(scene.dsn), outcome.run, leading=operation.term)
        decision = decision_of(1, commands)
        await journal.record(Tick(decision, None, None, scene.plan))
        await operation.put_standing(Standing(outcome.run, 1, scene.plan, scene.good))
        hands.good = scene.good
        await hands.carry(Turn(decision, plan=scene.plan), commands)
        return await ended(hands, outcome)


async def _take_up(scene: Scene) -> Outcome:
    async with at_work(scene) as (hands, operation, _, outcome):
        standing = await operation.read_standing()
        assert standing is not None
        await hands.resume(standing)
        return await ended(hands, outcome)


def carry(pipe: Pipe, scene: Scene) -> None:
    """Decide on a plan and carry it out, as far as the scene lets it."""
    pipe.send(asyncio.run(_carry(scene)))


def take_up(pipe: Pipe, scene: Scene) -> None:
    """Finish what another process left, as far as the scene lets it."""
    pipe.send(asyncio.run(_take_up(scene)))
