"""An advisory controller decides as an active one would, and touches nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from crash.house import House, runtime
from crash.test_log_faults import BUSY, QUIET, gateway
from crash.town import NAME, Running, Town, cluster_file, controller, until

from partita.controller.cluster_file import ClusterFile
from partita.controller.live.parts import assemble, close_executor
from partita.controller.loop import Loop
from partita.controller.recorded import compare
from partita.controller.recording import decode
from partita.controller.results import decision_document
from partita.controller.state import State, Turn
from partita.executors.book import FileBook
from partita.model.load import Observation
from partita.store.connection import connect
from partita.store.operators import read_observations

ADVISORY = f"{NAME}/advisory"


def file_for(folder: Path, house: House) -> Path:
    service = {"slo_ms": 400, "memory_gib": 2, "latency": {"alpha_ms": 20, "beta_ms": 30}}
    return cluster_file(
        folder,
        house,
        services=[{"name": name, **service} for name in "abc"],
        policy={"name": "symphony", "options": {"stabilisation_s": 2}},
        control={"near_s": 1, "epoch_s": 60, "rehearse_s": 10},
        discipline={"name": "deferred"},
    )


async def run_of(town: Town, role: str) -> int:
    """Return the number of the only run of a role."""
    ((run),) = [row["id"] for row in await town.fetch("SELECT id FROM run WHERE role = $1", role)]
    return int(run)


async def decided(town: Town, role: str, what: str, *, times: int) -> None:
    """Wait until a role's controller has decided so often to do something, or not to."""

    async def look() -> bool:
        rows = await town.fetch(
            "SELECT 1 FROM decision d JOIN run r ON r.id = d.run WHERE r.role = $1 AND d.action = $2", role, what
        )
        return len(rows) >= times

    await until(f"{times} decisions of {role} to {what}", look)


def again(loop: Loop, records: Sequence[tuple[int, bytes, bytes | None]]) -> list[Turn]:
    """Make the decisions of recorded observations with a loop, from the state that the first was seen in."""
    first = records[0][2]
    assert first is not None
    state, turns = decode(State, first), []
    for _, seen, _ in records:
        state, turn, _ = loop.step(state, decode(Observation, seen))
        turns.append(turn)
    return turns


def as_journaled(turn: Turn) -> dict[str, Any]:
    document = json.loads(json.dumps(decision_document(turn.decision)))
    return {name: document[name] for name in ("tick", "action", "chosen", "reason", "gpus_held", "gpus_wanted")}


@pytest.mark.slow
def test_an_advisory_controller_alone_touches_nothing(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, advisory: Running, before: dict[str, Any]) -> None:
        with gateway(pg_dsn, "busy", BUSY):
            await decided(town, ADVISORY, "hold", times=10)
        with gateway(pg_dsn, "busy", QUIET):
            # It goes by a cluster as it would be: first all of it is brought up, then what is not needed goes.
            await until("what would be given back", lambda: _would(advisory, "Release"))
        assert {said["verb"] for said in advisory.audit("would")} >= {"Acquire", "StartReplicas", "Release"}
        # Every command of an active controller carries its term, and the runtime keeps the highest it has seen.
        assert await town.executor.term() == 0
        assert await _state(town) == before
        assert not town.house.acts()

    with runtime(tmp_path) as house:
        town = Town(pg_dsn, house, ADVISORY)
        before = asyncio.run(_state(town))
        with controller(file_for(tmp_path, house), pg_dsn, "adviser", advisory=True) as advisory:
            asyncio.run(body(town, advisory, before))
            advisory.check_calm()


@pytest.mark.slow
def test_an_advisory_controller_beside_an_active_one_decides_alike(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, active: Running, advisory: Running) -> None:
        with gateway(pg_dsn, "busy", BUSY):
            for role in (NAME, ADVISORY):
                await decided(town, role, "hold", times=8)
        with gateway(pg_dsn, "busy", QUIET):
            for role in (NAME, ADVISORY):
                await decided(town, role, "act", times=2)
        terms = {row["term"] for row in await town.fetch("SELECT DISTINCT term FROM command_event")}
        assert await town.executor.term() in terms
        assert active.audit("would") == []
        assert advisory.audit("would")

    async def same(town: Town, path: Path) -> None:
        run = await run_of(town, ADVISORY)
        parts = assemble(ClusterFile.load(path), FileBook(tmp_path / "book.json"))  # an active controller's
        try:
            async with connect(town.dsn) as connection:
                assert (await compare(connection, run)).divergence is None
                turns = again(parts.loop, await read_observations(connection, run, after_tick=0, limit=9999))
        finally:
            parts.close()
            await close_executor(parts.executor)
        journaled = await town.fetch(
            "SELECT tick, action, chosen, reason, gpus_held, gpus_wanted FROM decision WHERE run = $1 ORDER BY tick",
            run,
        )
        made = [as_journaled(turn) for turn in turns]
        assert len(journaled) >= 10
        assert made[: len(journaled)] == journaled

    with runtime(tmp_path) as house:
        path = file_for(tmp_path, house)
        town = Town(pg_dsn, house)
        with (
            controller(path, pg_dsn, "active") as active,
            controller(path, pg_dsn, "adviser", advisory=True) as adviser,
        ):
            asyncio.run(body(town, active, adviser))
        for each in (active, adviser):
            each.check_calm()
        asyncio.run(same(town, path))


async def _would(advisory: Running, verb: str) -> bool:
    return any(said["verb"] == verb for said in advisory.audit("would"))


async def _state(town: Town) -> dict[str, Any]:
    (seen,) = [await town.executor.observe()]
    return {"held": seen.held, "instances": seen.instances, "routes": seen.routes}
