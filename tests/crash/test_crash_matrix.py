"""A controller is killed at every point of a change, for good: the next one finishes it, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import get_args

import pytest
from crash.change import Change, Point
from crash.house import ONE, OTHER, brought_to, last_run, lightly_loaded, runtime, stories
from crash.stage import WHERE, Death, Local

from partita.controller.commands import after, commands_for
from partita.executors.local.executor import LocalExecutor
from partita.model.cluster import ClusterState
from partita.model.plan import Command, SetShare

LENGTHS = {"there": 14, "back": 15}
"""Commands of the change, and of the change back."""


async def matrix(dsn: str, folder: Path, points: Sequence[Point]) -> dict[str, str]:
    """Play the change on a runtime under load; returns what was wrong, by point."""
    with runtime(folder) as house:
        executor = LocalExecutor(house.url, ["eager", "timeout"])
        await brought_to(executor, ONE, dsn)
        async with lightly_loaded(house.url) as replies:
            change = Change(dsn, Local(house.url), executor, house.acts, replies)
            found = await change.play(ONE, OTHER, points)
        return {**found, "load": "; ".join(replies.others)} if replies.others else found


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


@pytest.mark.slow
def test_what_is_still_under_way_is_waited_for(pg_dsn: str, tmp_path: Path) -> None:
    """Whoever takes up finds a replica that loads, or an instance that is being made, and does not take it for done."""

    async def story() -> None:
        with runtime(tmp_path, model_load_s=1.2, repartition_s=1.2) as house:
            executor = LocalExecutor(house.url, ["eager", "timeout"])
            await brought_to(executor, ONE, pg_dsn)
            async with lightly_loaded(house.url) as replies:
                change = Change(pg_dsn, Local(house.url), executor, house.acts, replies)
                await change.whole(ONE, OTHER)
                for position in (1, 3):
                    await brought_to(executor, ONE, pg_dsn)
                    run = await last_run(pg_dsn)
                    assert await change.dies(ONE, OTHER, Death(position, "inside the call", 0.3)) == ""
                    ((_, _, commands),) = await stories(pg_dsn, run)
                    (end,) = [e for e in commands[position].events if e.event == "done"]
                    assert end.seen["instance"]["status"] == "ready"
                    assert set(commands[position].detail.get("services", ())) <= set(end.seen["instance"]["loaded"])
            assert replies.others == []

    asyncio.run(story())


@pytest.mark.slow
def test_killed_and_killed_again_while_finishing(pg_dsn: str, tmp_path: Path) -> None:
    again = [
        (n, m, where) for n in (1, 3, 6, 9) for m in (n, n + 1, n + 3) for where in ("before the call", "after done")
    ]
    points = [(way, Death(n, "before the call"), Death(m, where)) for n, m, where in again for way in ("there", "back")]
    assert asyncio.run(matrix(pg_dsn, tmp_path, points)) == {}
