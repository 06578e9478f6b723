"""The loop's outside: observe through the ports, step, journal, carry out, sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import Protocol

from partita.controller.loop import Loop
from partita.controller.state import State, Turn
from partita.model.cluster import ClusterState
from partita.model.load import NO_ORDERS, NO_WORK, Observation, Orders, Work
from partita.model.plan import Command
from partita.ports import Clock, Executor, Journal, LogView, RequestLog, Tick


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of the cluster, of the work on it, and of what its operator wants."""

    cluster: ClusterState
    work: Work = NO_WORK
    orders: Orders = NO_ORDERS
    missing: Mapping[str, str] = field(default_factory=dict)


class Hands(Protocol):
    """What carries decisions out and looks at the cluster."""

    async def look(self) -> Sight:
        """Say how things are."""
        ...

    async def carry(self, turn: Turn, commands: Sequence[Command]) -> None:
        """Begin to carry out what a turn has decided; it may go on after this returns."""
        ...


class AtOnce:
    """The hands of a world that starts everything at once, as the simulated one does."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def look(self) -> Sight:
        """Look at the cluster."""
        return Sight(await self._executor.observe())

    async def carry(self, turn: Turn, commands: Sequence[Command]) -> None:
        """Start the commands."""
        await self._executor.apply(commands)


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of each turn: first in which state what was seen, then what came of it; both may be kept."""

    turned: Callable[[Turn], None] | None = None
    seen: Callable[[State, Observation], None] | None = None


NOBODY = Watch()

Step = Callable[[Loop, State, Observation], Awaitable[tuple[State, Turn, tuple[Command, ...]]]]


async def step_here(loop: Loop, state: State, observation: Observation) -> tuple[State, Turn, tuple[Command, ...]]:
    """Take the step in this thread."""
    return loop.step(state, observation)


async def step_aside(loop: Loop, state: State, observation: Observation) -> tuple[State, Turn, tuple[Command, ...]]:
    """Take the step in another thread, so that what must go on beside the loop goes on."""
    return await asyncio.to_thread(loop.step, state, observation)


def _next_due(begun_s: float, now_s: float, every_s: float) -> float:
    """Return the next of the instants that lie `every_s` apart."""
    return begun_s + every_s * (floor((now_s - begun_s) / every_s + 1e-6) + 1)


async def run(
    loop: Loop,
    state: State,
    *,
    log: RequestLog,
    hands: Hands,
    clock: Clock,
    until_s: float,
    since_s: float | None = None,
    journal: Journal | None = None,
    watch: Watch = NOBODY,
    step: Step = step_here,
) -> State:
    """Turn the loop every near interval until `until_s`; the same code runs live and in replay.

    What a turn decides is journaled before anything is carried out. `since_s` is up to where the log has been read
    already (default: the present). A turn that is late, since the one before took so long, is left out. `step` says
    where the turn is thought through; live that is another thread, since a plugin may take seconds.
    """
    begun_s = clock.now_s()
    watermark_s = begun_s if since_s is None else since_s
    while (due_s := _next_due(begun_s, clock.now_s(), loop.settings.near_s)) <= until_s:
        await clock.sleep_until(due_s)
        await asyncio.sleep(0)  # In replay nothing else suspends, and without it asyncio keeps Ctrl-C until the end.
        view = await log.read(watermark_s, loop.settings.rehearse_s)
        watermark_s = view.load.end_s
        observation = _observation(clock.now_s(), view, await hands.look())
        if watch.seen is not None:
            watch.seen(state, observation)
        before = state.standing
        state, turn, commands = await step(loop, state, observation)
        if journal is not None:
            standing = None if state.standing is before else state.standing
            await journal.record(Tick(turn.decision, turn.near, turn.far, turn.plan, standing, state.need, turn.scored))
        if commands:
            await hands.carry(turn, commands)
        if watch.turned is not None:
            watch.turned(turn)
    await clock.sleep_until(until_s)
    return state


def _observation(now_s: float, view: LogView, sight: Sight) -> Observation:
    return Observation(
        now_s=now_s,
        watermark_s=view.watermark_s,
        load=view.load,
        cluster=sight.cluster,
        outcomes=view.outcomes,
        recent=view.recent,
        recent_span_s=view.recent_span_s,
        missing={**sight.missing, "log": view.missing} if view.missing else sight.missing,
        work=sight.work,
        orders=sight.orders,
    )
