"""The loop's outside: observe through the ports, step, journal, apply, sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from partita.controller.loop import Loop, State, Turn
from partita.model.load import Observation
from partita.ports import Clock, Executor, Journal, RequestLog, Tick


async def run(
    loop: Loop,
    state: State,
    *,
    log: RequestLog,
    executor: Executor,
    clock: Clock,
    until_s: float,
    journal: Journal | None = None,
    watch: Callable[[Turn], None] | None = None,
) -> State:
    """Turn the loop every near interval until `until_s`; the same code runs live and in replay.

    What a turn decides is journaled before anything is applied. Applying only starts work: the next observation shows
    how far it got, and what then differs from the standing plan is commanded again.
    """
    watermark_s = clock.now_s()
    while (due_s := clock.now_s() + loop.settings.near_s) <= until_s:
        await clock.sleep_until(due_s)
        await asyncio.sleep(0)  # In replay nothing else suspends, and without it asyncio keeps Ctrl-C until the end.
        view = await log.read(watermark_s, loop.settings.rehearse_s)
        watermark_s = view.load.end_s
        observation = Observation(
            now_s=clock.now_s(),
            watermark_s=view.watermark_s,
            load=view.load,
            cluster=await executor.observe(),
            outcomes=view.outcomes,
            recent=view.recent,
            recent_span_s=view.recent_span_s,
        )
        state, turn, commands = loop.step(state, observation)
        if journal is not None:
            await journal.record(Tick(turn.decision, turn.near, turn.far, turn.plan))
        if commands:
            await executor.apply(commands)
        if watch is not None:
            watch(turn)
    await clock.sleep_until(until_s)
    return state
