"""Two controllers of one cluster: one leads, and the other goes on where it was, however it was taken away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from crash.house import ONE, OTHER, House, check_story, lightly_loaded, runtime, stories
from crash.town import Running, Town, check_terms, cluster_file, controller, freeze, thaw, until

from partita.errors import Failed
from partita.model.plan import Acquire

SLOW = {"model_load_s": 0.6, "repartition_s": 0.4}
"""So that the change takes some seconds."""


def on(dsn: str, folder: Path, body: Callable[[Town, House, Path], Awaitable[None]]) -> None:
    """Run a test on a runtime and a file for its controllers."""
    with runtime(folder, **SLOW) as house:
        path = cluster_file(folder, house)
        asyncio.run(body(Town(dsn, house), house, path))


async def begun(town: Town, first: Running) -> int:
    """Wait until a controller leads and the cluster is up; return its term."""
    term = await town.leads(first.holder)
    await town.settles()
    return term


async def check_done_once(town: Town) -> None:
    """Make sure that the journal is in order, and that nothing was made, loaded or taken away twice in a row."""
    for _, _, story in await stories(town.dsn):
        check_story(story)
    acts = town.house.acts()
    for act, instance, service in acts:
        opposite = {"start": "stop", "load": "unload", "stop": "start", "unload": "load"}[act]
        assert acts[act, instance, service] <= acts[opposite, instance, service] + 1


def test_a_leader_that_is_killed_is_replaced_and_its_work_finished(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, house: House, path: Path) -> None:
        with controller(path, pg_dsn, "first") as first:
            old = await begun(town, first)
            with controller(path, pg_dsn, "second") as second:
                await town.status("second", lambda s: not s["leading"], "second standing by")
                async with lightly_loaded(house.url) as replies:
                    await town.order(OTHER)
                    await town.under_way(3)
                    first.signal(signal.SIGKILL)
                    new = await town.leads("second")
                    await town.settles(OTHER)
                assert replies.others == []
                assert check_terms(await town.events()) == [old, new]
                assert new > old
                assert (await town.status("second", lambda s: s["leading"], "second leading"))["term"] == new
                await check_done_once(town)
                second.check_calm()

    on(pg_dsn, tmp_path, body)


@pytest.mark.slow
def test_a_leader_that_was_frozen_past_its_term_acts_no_more(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, house: House, path: Path) -> None:
        with controller(path, pg_dsn, "first") as first, controller(path, pg_dsn, "second") as second:
            leader, other = await _roles(town, first, second)
            old = await begun(town, leader)
            await town.order(OTHER)
            await town.under_way(3)
            freeze(leader)
            new = await town.leads(other.holder)
            await town.settles(OTHER)
            assert await town.executor.term() == new
            thaw(leader)
            await until("the old leader's notice", lambda: _has_said(leader, "standby"))
            await town.status(leader.holder, lambda s: not s["leading"], "the old leader standing by")
            assert check_terms(await town.events()) == [old, new]
            with pytest.raises(Failed, match=f"term {old}"):
                await town.executor.apply([Acquire("gpu0", "")], term=old)
            await check_done_once(town)
            # It is a standby like any other.
            other.signal(signal.SIGKILL)
            assert await town.leads(leader.holder) > new
            leader.check_calm()

    on(pg_dsn, tmp_path, body)


@pytest.mark.slow
def test_a_leader_that_wakes_when_its_successor_is_dead_begins_anew(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, house: House, path: Path) -> None:
        with controller(path, pg_dsn, "first") as first, controller(path, pg_dsn, "second") as second:
            leader, other = await _roles(town, first, second)
            old = await begun(town, leader)
            await town.order(OTHER)
            await town.under_way(3)
            freeze(leader)
            new = await town.leads(other.holder)
            other.signal(signal.SIGKILL)
            thaw(leader)
            last = await town.leads(leader.holder)
            await town.settles(OTHER)
            assert old < new < last
            assert set(check_terms(await town.events())) <= {old, new, last}
            assert await town.executor.term() == last
            await check_done_once(town)
            leader.check_calm()

    on(pg_dsn, tmp_path, body)


@pytest.mark.slow
def test_a_leader_that_is_told_to_end_hands_over(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, house: House, path: Path) -> None:
        with controller(path, pg_dsn, "first") as first:
            old = await begun(town, first)
            with controller(path, pg_dsn, "second") as second:
                await town.status("second", lambda s: not s["leading"], "second standing by")
                async with lightly_loaded(house.url) as replies:
                    await town.order(OTHER)
                    at = await town.under_way(3)
                    first.signal(signal.SIGTERM)
                    assert await asyncio.to_thread(first.process.wait, 60) == 0
                    await town.settles(OTHER)
                assert replies.others == []
                events = [e for e in await town.events() if (e["run"], e["tick"]) == (at["run"], at["tick"])]
                terms = check_terms(events)
                assert (terms[0], len(terms)) == (old, 2)
                # Whatever it had started it has seen the end of; the rest it handed over.
                of_first = [e for e in events if e["term"] == old]
                ended = {e["position"] for e in of_first if e["event"] == "done"}
                left = {e["position"] for e in of_first if e["event"] == "left"}
                assert {e["position"] for e in of_first if e["event"] == "started"} == ended
                assert left == set(range(at["commands"])) - ended
                assert left
                await check_done_once(town)
                assert first.audit("ended")
                first.check_calm()
                second.check_calm()

    on(pg_dsn, tmp_path, body)


@pytest.mark.slow
def test_a_plan_that_is_ordered_during_a_change_takes_its_place(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, house: House, path: Path) -> None:
        with controller(path, pg_dsn, "first") as first:
            await begun(town, first)
            async with lightly_loaded(house.url) as replies:
                await town.order(OTHER)
                at = await town.under_way(3)
                await town.order(ONE)
                await town.settles(ONE)
            assert replies.others == []
            events = [e for e in await town.events() if (e["run"], e["tick"]) == (at["run"], at["tick"])]
            assert {e["problem"] for e in events if e["event"] == "replaced"} == {"another plan came"}
            assert not [e for e in events if e["event"] == "left"]
            await check_done_once(town)
            first.check_calm()

    on(pg_dsn, tmp_path, body)


@pytest.mark.slow
def test_a_file_is_read_again_if_it_is_good_and_refused_if_not(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, house: House, path: Path) -> None:
        with controller(path, pg_dsn, "first") as first:
            term = await begun(town, first)
            before = await town.status("first", lambda s: s["run"] is not None, "a run")
            good = path.read_text()
            for bad in ("name: [", good.replace("A100-80GB", "A100-81GB"), good.replace("name: town", "name: village")):
                path.write_text(bad)
                said = len(first.audit("reload"))
                first.signal(signal.SIGHUP)
                await until("the refusal", lambda said=said: _has_said(first, "reload", said + 1))  # type: ignore[misc]
                assert first.audit("reload")[-1]["refused"]
                status = await town.status("first", lambda s: bool(s["reload"]), "the reason in the status")
                assert any("was not reloaded" in p for p in status["problems"])
                assert (status["run"], status["term"], status["leading"]) == (before["run"], term, True)
            path.write_text(good.replace("near_s: 0.5", "near_s: 0.25"))
            first.signal(signal.SIGHUP)
            status = await town.status("first", lambda s: s["run"] != before["run"], "another run")
            assert (status["term"], status["near_s"], status["reload"]) == (term, 0.25, "")
            await town.status("first", lambda s: bool(s["decision"]) and s["leading"], "decisions in it")
            first.check_calm()

    on(pg_dsn, tmp_path, body)


async def _has_said(controller: Running, event: str, times: int = 1) -> bool:
    return len(controller.audit(event)) >= times


async def _roles(town: Town, one: Running, two: Running) -> tuple[Running, Running]:
    """Return which of two leads, and the other one."""
    leader = await until("a leader", town.leader)
    assert leader is not None
    return (one, two) if leader.holder == one.holder else (two, one)
