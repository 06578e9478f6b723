"""The database is killed in the middle of a change: nothing is done while nothing can be journaled, then all of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from crash.house import OTHER, check_story, lightly_loaded, runtime, stories
from crash.town import Running, Town, check_terms, cluster_file, controller, until

from partita.errors import StoreError
from partita.store import embedded, processes
from partita.store.connection import connect
from partita.store.migrate import migrate


@contextmanager
def own_server(folder: Path) -> Iterator[str]:
    """Run a server of this test's own, with a migrated database; it is stopped whatever became of it."""
    dsn = embedded.ensure_running(folder)

    async def prepare() -> None:
        async with connect(dsn) as connection:
            await migrate(connection)

    try:
        asyncio.run(prepare())
        yield dsn
    finally:
        embedded.ensure_running(folder)
        embedded.stop(folder)


def kill_server(folder: Path) -> None:
    """Kill the postmaster on the spot, as the kernel would for want of memory, and wait until its backends are gone."""
    pid = embedded.status(folder).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    for worker in processes.workers_of(folder / "postgres"):
        assert processes.wait_gone(worker, 30.0)


async def nothing_is_done(town: Town, only: Running, away_s: float) -> None:
    """Make sure, once what was in flight has ended, that nothing is done for a while, and that nobody gives up."""
    await asyncio.sleep(2.0)
    before, cluster = town.house.acts(), await town.executor.observe()
    await asyncio.sleep(away_s)
    assert town.house.acts() == before
    assert await town.executor.observe() == cluster
    assert only.lives
    assert only.audit("trouble")


def away(folder: Path, *, away_s: float, term_s: float | None, revived: bool = False) -> None:
    """Kill the database in the middle of a change, for longer than a term, and see the change end."""
    data = folder / "data"
    with runtime(folder, model_load_s=0.6, repartition_s=0.4) as house, own_server(data) as dsn:
        town = Town(dsn, house)
        told = {"term_s": term_s, "data_dir": str(data) if revived else None}
        with controller(cluster_file(folder, house), dsn, "only", **told) as only:
            asyncio.run(story(town, only, data, away_s))
            only.check_calm()


async def story(town: Town, only: Running, data: Path, away_s: float) -> None:
    """Let the change begin, kill the server, and bring it back after a while, or wait until somebody does (0)."""
    await town.leads("only")
    await town.settles()
    async with lightly_loaded(town.house.url) as replies:
        await town.order(OTHER)
        at = await town.under_way(3)
        kill_server(data)
        if away_s:
            await nothing_is_done(town, only, away_s)
            embedded.ensure_running(data)
        else:
            await until("the server's return", lambda: _answers(town))
        await town.settles(OTHER)
    assert replies.others == []
    events = await town.events()
    check_terms(events)
    assert {e["event"] for e in events} <= {"started", "done", "left"}
    assert (at["run"], at["tick"]) == max((e["run"], e["tick"]) for e in events)  # no other decision did it
    for _, _, commands in await stories(town.dsn):
        check_story(commands)
    assert only.lives
    await town.status("only", lambda s: s["leading"] and not s["trouble"], "a leader without trouble")


async def _answers(town: Town) -> bool:
    try:
        return bool(await town.fetch("SELECT 1"))
    except StoreError:
        return False


@pytest.mark.slow
def test_away_for_longer_than_a_term(tmp_path: Path) -> None:
    away(tmp_path, away_s=4.0, term_s=1.5)


@pytest.mark.slow
def test_the_embedded_server_is_brought_up_again(tmp_path: Path) -> None:
    away(tmp_path, away_s=0.0, term_s=1.5, revived=True)


@pytest.mark.slow
def test_away_for_a_minute(tmp_path: Path) -> None:
    away(tmp_path, away_s=60.0, term_s=None)
