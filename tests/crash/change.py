"""A change that is killed at a point of the test's choice, and what must hold when another process has finished it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from crash.house import (
    DIED,
    Replies,
    all_done,
    brought_to,
    check_story,
    depose,
    last_run,
    played,
    ran,
    stories,
)
from crash.stage import Death, MakeExecutor, Scene, carry, take_up

from partita.controller.commands import commands_for
from partita.model.plan import Command, Plan
from partita.ports import Executor

Acts = Counter[tuple[str, str, str]]
"""(act, instance, service) -> times."""
Point = tuple[str, Death, Death | None]
"""Which way ("there" or "back"), where the first process dies, and where the one dies that takes up."""


class Change:
    """A change from one plan to another, which is killed somewhere and taken up by another process.

    `acts` counts what was really done so far, as those tell who did it; `made` makes the executor in other processes.
    """

    def __init__(
        self, dsn: str, made: MakeExecutor, executor: Executor, acts: Callable[[], Acts], replies: Replies
    ) -> None:
        self.dsn, self.made, self.executor, self.acts, self.replies = dsn, made, executor, acts, replies
        self.undisturbed: dict[str, Acts] = {}

    def scene(self, good: Plan, plan: Plan, death: Death | None = None) -> Scene:
        return Scene(self.dsn, self.made, plan, good, death)

    async def commands(self, plan: Plan) -> tuple[Command, ...]:
        return commands_for(plan, await self.executor.observe())

    async def whole(self, good: Plan, plan: Plan) -> None:
        """Play it without a death, and remember what it takes."""
        before = self.acts()
        outcome = await ran(carry, self.scene(good, plan))
        assert (outcome.failed, outcome.good) == ("", plan)
        assert await self.commands(plan) == ()
        self.undisturbed[plan.reason] = self.acts() - before
        await depose(self.dsn)

    async def dies(self, good: Plan, plan: Plan, death: Death, *, again: Death | None = None) -> str:
        """Play it with one death, or two, let a fresh process finish it, and return what was wrong afterwards."""
        before, run, lost = self.acts(), await last_run(self.dsn), len(self.replies.others)
        code, _ = await played(carry, self.scene(good, plan, death))
        await depose(self.dsn)
        if code != DIED:
            return f"the process was to die, and ended with {code}"
        if again is not None:
            code, _ = await played(take_up, self.scene(good, plan, again))
            await depose(self.dsn)
            if code != DIED:
                return f"the second process was to die, and ended with {code}"
        outcome = await ran(take_up, self.scene(good, plan))
        await depose(self.dsn)
        wrong = []
        if outcome.failed:
            wrong.append(f"failed: {outcome.failed}")
        if left := await self.commands(plan):
            wrong.append(f"not there yet: {[type(c).__name__ for c in left]}")
        if outcome.good != plan:
            wrong.append("the plan is not the good one")
        acts, undisturbed = self.acts() - before, self.undisturbed[plan.reason]
        if acts != undisturbed:
            wrong.append(f"done otherwise: more {dict(acts - undisturbed)}, less {dict(undisturbed - acts)}")
        wrong += self.replies.others[lost:]
        for _, _, story in await stories(self.dsn, run):
            try:
                check_story(story)
            except AssertionError as problem:
                wrong.append(f"the journal: {problem}")
            wrong += all_done(story)
        return "; ".join(wrong)

    async def play(self, one: Plan, other: Plan, points: Sequence[Point]) -> dict[str, str]:
        """Play the change there and back for each point; returns what was wrong, by direction and point."""
        found = {}
        await self.whole(one, other)
        await self.whole(other, one)
        at = one
        for way, death, again in points:
            good, plan = (one, other) if way == "there" else (other, one)
            if at is not good:
                await brought_to(self.executor, good, self.dsn)
            label = f"{way}: {death.where} {death.position}" + (f", then {again.where}" if again else "")
            if wrong := await self.dies(good, plan, death, again=again):
                found[label] = wrong
                await brought_to(self.executor, plan, self.dsn)
            at = plan
        assert self.replies.sent > 100
        return found
