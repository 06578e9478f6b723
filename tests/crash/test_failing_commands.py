"""A command of a plan fails, or is busy: what was done is undone, what failed is left alone, and all of it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crash.house import (
    DIED,
    GPUS,
    ONE,
    OTHER,
    SERVICES,
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
from crash.stage import SWIFT, Death, Local, Outcome, Refusals, Scene, carry, take_up
from miniature import make_loop

from partita.controller.commands import commands_for, signature
from partita.controller.live.hands import GPU_COMMANDS
from partita.controller.loop import Loop
from partita.errors import Busy, Failed, Unsupported
from partita.executors.local.executor import LocalExecutor
from partita.model.cluster import ClusterState
from partita.model.load import Load, Observation, Work
from partita.model.plan import target
from partita.ports import Executor
from partita.store.operators import CommandRecord

UNDOING = -1
"""The place of all commands that are not the plan's own."""


class Attempt:
    """Tries to get from plan one to the other, which does not work out."""

    def __init__(self, dsn: str, house: House, executor: Executor, replies: Replies) -> None:
        self.dsn, self.house, self.executor, self.replies = dsn, house, executor, replies

    def scene(self, *refusals: Refusals, death: Death | None = None, busy_tries: int = 8) -> Scene:
        patience = replace(SWIFT, busy_tries=busy_tries)
        return Scene(self.dsn, Local(self.house.url), OTHER, ONE, death, refusals, patience)

    async def fails(self, scene: Scene) -> tuple[Outcome, list[CommandRecord]]:
        """Play it; return what came of it and the story of the decision."""
        run = await last_run(self.dsn)
        outcome = await ran(carry, scene)
        await depose(self.dsn)
        ((_, _, story),) = await stories(self.dsn, run)
        check_story(story)
        return outcome, story

    async def left_of(self) -> list[str]:
        """Name what is missing from plan one."""
        return [type(c).__name__ for c in commands_for(ONE, await self.executor.observe())]


def on(dsn: str, folder: Path, body: Callable[[Attempt], Awaitable[None]]) -> None:
    """Run a test on a runtime that is as plan one wants it, under a light load of which nothing may be lost."""

    async def story() -> None:
        with runtime(folder, model_load_s=0.05, repartition_s=0.05) as house:
            executor = LocalExecutor(house.url, ["eager", "timeout"])
            await brought_to(executor, ONE, dsn)
            async with lightly_loaded(house.url) as replies:
                await body(Attempt(dsn, house, executor, replies))
            assert replies.others == []

    asyncio.run(story())


def check_undone(position: int, outcome: Outcome, story: list[CommandRecord]) -> None:
    """Make sure that the journal says which command failed, what was not done for that, and what took the rest back."""
    own, undoing = [c for c in story if not c.undo], [c for c in story if c.undo]
    assert [c.position for c in own if c.state == "failed"] == [position]
    # What goes side by side with the command that fails is done all the same.
    assert {c.state for c in own[:position]} <= {"done"}
    assert {c.state for c in own[position + 3 :]} <= {"undone"}
    assert {c.state for c in undoing} <= {"done"}
    assert "refused by the test" in outcome.failed
    assert outcome.good == ONE
    assert own[position].verb in outcome.failed


@pytest.mark.parametrize("position", [n if n == 9 else pytest.param(n, marks=pytest.mark.slow) for n in range(14)])
def test_a_plan_of_which_a_command_fails_is_undone(position: int, pg_dsn: str, tmp_path: Path) -> None:
    async def body(attempt: Attempt) -> None:
        failing = commands_for(OTHER, await attempt.executor.observe())[position]
        outcome, story = await attempt.fails(attempt.scene(Refusals(position, Failed)))
        assert await attempt.left_of() == []
        check_undone(position, outcome, story)
        assert signature(failing) in outcome.quarantine
        # So is the GPU itself, where it may be its fault.
        gpu = target(failing).partition("/")[0]
        assert (gpu in outcome.quarantine) == isinstance(failing, GPU_COMMANDS)

    on(pg_dsn, tmp_path, body)


def test_the_loop_does_not_command_again_what_has_failed(pg_dsn: str, tmp_path: Path) -> None:
    def loop() -> Loop:
        return make_loop(SERVICES, GPUS, {})

    def sees(cluster: ClusterState, work: Work) -> Observation:
        return Observation(10.0, 10.0, Load(("a", "b", "c"), 0.0, 1.0, np.zeros((3, 10))), cluster, work=work)

    async def body(attempt: Attempt) -> None:
        outcome, _ = await attempt.fails(attempt.scene(Refusals(3, Unsupported)))
        cluster = await attempt.executor.observe()
        # The plan that failed is given up for the good one, which is in place.
        work = Work(1, (), outcome.failed, 1, outcome.quarantine)
        state, _, commands = loop().step(replace(loop().begin(), standing=OTHER, good=ONE), sees(cluster, work))
        assert (state.standing, commands) == (ONE, ())
        # Whoever wants it all the same is given what has not failed, until the quarantine is over.
        wants = replace(loop().begin(), standing=OTHER, good=OTHER)
        whole = commands_for(OTHER, cluster)
        _, turn, commands = loop().step(wants, sees(cluster, Work(quarantine=outcome.quarantine)))
        assert signature(whole[3]) not in map(signature, commands)
        assert "refused by the test" in turn.decision.reason
        _, _, commands = loop().step(wants, sees(cluster, Work()))
        assert commands == whole

    on(pg_dsn, tmp_path, body)


def test_where_undoing_fails_too_that_is_said(pg_dsn: str, tmp_path: Path) -> None:
    async def body(attempt: Attempt) -> None:
        outcome, story = await attempt.fails(attempt.scene(Refusals(3, Failed), Refusals(UNDOING, Failed)))
        assert "and undoing it failed at" in outcome.failed
        assert await attempt.left_of() != []
        assert next(c.state for c in story if c.undo) == "failed"
        assert {c.state for c in story if c.undo} <= {"failed", "undone"}

    on(pg_dsn, tmp_path, body)


@pytest.mark.parametrize(
    ("nth", "where"),
    [
        pytest.param(0, "before the call", marks=pytest.mark.slow),
        pytest.param(0, "after done", marks=pytest.mark.slow),
        (2, "before the call"),
        pytest.param(2, "after done", marks=pytest.mark.slow),
    ],
)
def test_killed_while_undoing(nth: int, where: str, pg_dsn: str, tmp_path: Path) -> None:
    """A fresh process goes on undoing; it does not try the plan that failed again."""

    async def body(attempt: Attempt) -> None:
        run = await last_run(attempt.dsn)
        scene = attempt.scene(Refusals(12, Failed), death=Death(14 + nth, where))
        code, _ = await played(carry, scene)
        assert code == DIED
        await depose(attempt.dsn)
        outcome = await ran(take_up, replace(scene, death=None, refusals=()))
        assert (outcome.failed, outcome.good) == ("", ONE)
        assert any(subject.startswith("DestroyInstance gpu0") for subject in outcome.quarantine)
        assert await attempt.left_of() == []
        ((_, _, story),) = await stories(attempt.dsn, run)
        check_story(story)
        assert [c.position for c in story if c.state == "failed"] == [12]
        assert [c for c in all_done(story) if not c.startswith("12 ")] == []
        assert all(c.undo for c in story[14:])

    on(pg_dsn, tmp_path, body)


@pytest.mark.parametrize("position", [n if n == 6 else pytest.param(n, marks=pytest.mark.slow) for n in (1, 6, 9, 12)])
def test_what_is_busy_is_tried_again_and_done_once(position: int, pg_dsn: str, tmp_path: Path) -> None:
    async def body(attempt: Attempt) -> None:
        before = attempt.house.acts()
        outcome, story = await attempt.fails(attempt.scene(Refusals(position, Busy, times=3)))
        assert (outcome.failed, outcome.good) == ("", OTHER)
        assert all_done(story) == []
        events = [(e.attempt, e.event) for e in story[position].events]
        assert events == [(n, e) for n in (1, 2, 3) for e in ("started", "busy")] + [(4, "started"), (4, "done")]
        assert set((attempt.house.acts() - before).values()) == {1}

    on(pg_dsn, tmp_path, body)


@pytest.mark.slow
def test_what_stays_busy_fails(pg_dsn: str, tmp_path: Path) -> None:
    async def body(attempt: Attempt) -> None:
        outcome, story = await attempt.fails(attempt.scene(Refusals(11, Busy), busy_tries=3))
        assert "busy at 3 tries" in outcome.failed
        assert [c.position for c in story if c.state == "failed"] == [11]
        assert await attempt.left_of() == []

    on(pg_dsn, tmp_path, body)
