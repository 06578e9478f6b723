"""A controller is killed at every point of a change, for good: the next one finishes it, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import get_args

import pytest
from crash.house import (
    DIED,
    ONE,
    OTHER,
    House,
    Replies,
    all_done,
    brought_to,
    check_story,
    depose,
    last_run,
    lightly_loaded,
    played,
    ran,
    runtime,
    stories,
)
from crash.stage import WHERE, Death, Local, Scene, carry, take_up

from partita.controller.commands import after, commands_for
from partita.executors.local.executor import LocalExecutor
from partita.model.cluster import ClusterState
from partita.model.plan import Command, Plan, SetShare
from partita.ports import Executor

LENGTHS = {"there": 14, "back": 15}
"""Commands of the change, and of the change back."""
Acts = Counter[tuple[str, str, str]]


class Change:
    """A change from one plan to another on one runtime, which is killed somewhere and taken up by another process."""

    def __init__(self, dsn: str, house: House, executor: Executor, replies: Replies) -> None:
        self.dsn, self.house, self.executor, self.replies = dsn, house, executor, replies
        self.undisturbed: dict[str, Acts] = {}

    def scene(self, good: Plan, plan: Plan, death: Death | None = None) -> Scene:
        return Scene(self.dsn, Local(self.house.url), plan, good, death)

    async def commands(self, plan: Plan) -> tuple[Command, ...]:
        return commands_for(plan, await self.executor.observe())

    async def whole(self, good: Plan, plan: Plan) -> None:
        """Play it without a death, and remember what it takes."""
        before = self.house.acts()
        outcome = await ran(carry, self.scene(good, plan))
        assert (outcome.failed, outcome.good) == ("", plan)
        assert await self.commands(plan) == ()
        self.undisturbed[plan.reason] = self.house.acts() - before
        await depose(self.dsn)

    async def dies(self, good: Plan, plan: Plan, death: Death, *, again: Death | None = None) -> str:
        """Play it with one death, or two, let a fresh process finish it, and return what was wrong afterwards."""
        before, run, lost = self.house.acts(), await last_run(self.dsn), len(self.replies.others)
        code, _ = await played(carry, self.scene(good, plan, death))
        if code != DIED:
            return f"the process was to die, and ended with {code}"
        await depose(self.dsn)
        if again is not None:
            code, _ = await played(take_up, self.scene(good, plan, again))
            if code != DIED:
                return f"the second process was to die, and ended with {code}"
            await depose(self.dsn)
        outcome = await ran(take_up, self.scene(good, plan))
        await depose(self.dsn)
        wrong = []
        if outcome.failed:
            wrong.append(f"failed: {outcome.failed}")
        if left := await self.commands(plan):
            wrong.append(f"not there yet: {[type(c).__name__ for c in left]}")
        if outcome.good != plan:
            wrong.append("the plan is not the good one")
        acts = self.house.acts() - before
        if acts != self.undisturbed[plan.reason]:
            undisturbed = self.undisturbed[plan.reason]
            wrong.append(f"done otherwise: more {dict(acts - undisturbed)}, less {dict(undisturbed - acts)}")
        wrong += self.replies.others[lost:]
        for _, _, story in await stories(self.dsn, run):
            try:
                check_story(story)
            except AssertionError as problem:
                wrong.append(f"the journal: {problem}")
            wrong += all_done(story)
        return "; ".join(wrong)


async def matrix(dsn: str, folder: Path, points: list[tuple[str, Death, Death | None]]) -> dict[str, str]:
    """Play the change there and back for each point; returns what was wrong, by direction and point."""
    found = {}
    with runtime(folder) as house:
        executor = LocalExecutor(house.url, ["eager", "timeout"])
        await brought_to(executor, ONE, dsn)
        async with lightly_loaded(house.url) as replies:
            change = Change(dsn, house, executor, replies)
            await change.whole(ONE, OTHER)
            await change.whole(OTHER, ONE)
            at = ONE
            for there, death, again in points:
                plan = OTHER if there == "there" else ONE
                good = ONE if plan is OTHER else OTHER
                if at is not good:
                    await brought_to(executor, good, dsn)
                label = f"{there}: {death.where} {death.position}" + (f", then {again.where}" if again else "")
                if wrong := await change.dies(good, plan, death, again=again):
                    found[label] = wrong
                    await brought_to(executor, plan, dsn)
                at = plan
            assert replies.sent > 100
        if replies.others:
            found["load"] = "; ".join(replies.others)
    return found


def test_the_change_takes_every_kind_of_command() -> None:
    """The matrix is worth something only for a change that has them all; no executor here can do SetShare."""
    one = reduce(after, commands_for(ONE, ClusterState()), ClusterState())
    there = commands_for(OTHER, one)
    back = commands_for(ONE, reduce(after, there, one))
    for commands, length in ((there, LENGTHS["there"]), (back, LENGTHS["back"])):
        assert {type(c) for c in commands} == set(get_args(Command)) - {SetShare}
        assert len(commands) == length >= 12


def test_killed_at_a_few_points(pg_dsn: str, tmp_path: Path) -> None:
    points = [
        ("there", Death(0, "before started"), None),
        ("back", Death(1, "inside the call"), None),
        ("there", Death(3, "inside the call"), None),
        ("back", Death(5, "after the call"), None),
        ("there", Death(9, "before the call"), None),
        ("back", Death(11, "after done"), None),
    ]
    assert asyncio.run(matrix(pg_dsn, tmp_path, points)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("where", WHERE)
def test_killed_at_every_command(where: str, pg_dsn: str, tmp_path: Path) -> None:
    points = [(way, Death(n, where), None) for n in range(15) for way in ("there", "back") if n < LENGTHS[way]]
    assert asyncio.run(matrix(pg_dsn, tmp_path, points)) == {}
