"""The cluster cannot be seen when a controller begins: it says so, waits, and then finishes what was begun."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from crash.house import OTHER, check_story, runtime, stories
from crash.town import Town, cluster_file, controller


@pytest.mark.slow
def test_what_was_begun_is_finished_once_the_cluster_can_be_seen(pg_dsn: str, tmp_path: Path) -> None:
    async def begin(town: Town) -> None:
        await town.leads("first")
        await town.settles()
        await town.order(OTHER)
        await town.under_way(3)

    async def wait_and_finish(town: Town) -> None:
        await town.leads("second")
        status = await town.status("second", lambda s: "cluster" in s["missing"], "the cluster's absence in the status")
        await town.status("second", lambda s: s["decision"]["tick"] >= 3, "turns without it")
        town.house.process.send_signal(signal.SIGCONT)
        await town.settles(OTHER)
        runs = await town.fetch("SELECT id FROM run WHERE role = $1", town.role)
        assert len(runs) == 2
        assert status["run"] == max(r["id"] for r in runs)
        for _, _, story in await stories(town.dsn):
            check_story(story)

    with runtime(tmp_path, model_load_s=0.6, repartition_s=0.4) as house:
        town, path = Town(pg_dsn, house), cluster_file(tmp_path, house)
        with controller(path, pg_dsn, "first") as first:
            asyncio.run(begin(town))
            first.signal(signal.SIGKILL)
        house.process.send_signal(signal.SIGSTOP)
        try:
            with controller(path, pg_dsn, "second") as second:
                asyncio.run(wait_and_finish(town))
                second.check_calm()
        finally:
            house.process.send_signal(signal.SIGCONT)
