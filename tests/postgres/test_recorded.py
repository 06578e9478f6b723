"""A live run's decisions, made again from what its turns saw, are the journal's to the last bit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniature import make_world, random_instants

from partita.controller.cli import main
from partita.controller.cluster_file import ClusterFile
from partita.controller.live.parts import assemble
from partita.controller.recorded import compare
from partita.controller.recording import encode, recorded
from partita.controller.scenario_file import parse
from partita.controller.state import State
from partita.controller.turn import AtOnce, Watch
from partita.controller.turn import run as turn_until
from partita.errors import ConfigError, StoreError
from partita.executors.book import FileBook
from partita.model.load import Observation
from partita.model.plan import Acquire, Action
from partita.replay.cluster import SimulatedCluster
from partita.replay.world import ReplayClock, ReplayExecutor, ReplayLog
from partita.store.connection import Connection, connect
from partita.store.journal import PostgresJournal, begin_run
from partita.store.line import Line
from partita.store.operation import Operation

FILE = """\
name: inference
cluster: [{gpu: A100-80GB, count: 6}]
services:
  - {name: a, slo_ms: 60, memory_gib: 2.0, latency: {points: {1: 10.0, 4: 13.0, 16: 25.0}}}
  - {name: b, slo_ms: 100, memory_gib: 2.0, latency: {alpha_ms: 1.0, beta_ms: 9.0}}
executor: {local: {}}
policy: symphony
overheads: {model_load_s: 2, repartition_s: 1}
control: {near_s: 5, epoch_s: 60, rehearse_s: 20}
"""
SPAN_S = 300.0


def record(dsn: str, folder: Path) -> int:
    """Control a simulated cluster as a live controller does, keep what its turns see, and return the run's number."""
    file = parse(ClusterFile, FILE, name="c.yaml", folder=folder)

    async def play() -> int:
        parts = assemble(file, FileBook(folder / "page.json"))
        line, journaled = Line(dsn), Line(dsn)
        loop = parts.loop
        operation = Operation(line, file.name)
        run = await operation.begin_run(policy="symphony", scenario=file.document(), mode="active")
        state = recorded(loop.begin())
        kept: list[tuple[int, bytes, bytes | None]] = []
        cluster = SimulatedCluster(loop.inventory, loop.prices.delays)
        cluster.begin_with(state.standing)
        busy = np.concatenate([random_instants(400, 100, 1), 100_000_000_000 + random_instants(3000, 100, 2)])
        world = make_world(loop.services, [busy, random_instants(50, SPAN_S, 3)], cluster, span_s=SPAN_S)
        journal = PostgresJournal(journaled, run)
        try:
            await turn_until(
                loop,
                state,
                log=ReplayLog(world),
                hands=AtOnce(ReplayExecutor(world)),
                clock=ReplayClock(world),
                until_s=SPAN_S,
                journal=journal,
                watch=Watch(seen=lambda state, seen: kept.append((state.tick + 1, encode(seen), _now_and_then(state)))),
            )
            for tick, seen, held in kept:
                await operation.keep_observation(run, tick, seen, held)
            await journal.close()
        finally:
            await line.close()
            await journaled.close()
            parts.close()
        return run

    return asyncio.run(play())


@pytest.fixture
def run(pg_dsn: str, tmp_path: Path) -> int:
    return record(pg_dsn, tmp_path)


def on(dsn: str, work: Callable[[Connection], Any]) -> Any:
    async def play() -> Any:
        async with connect(dsn) as connection:
            return await work(connection)

    return asyncio.run(play())


def _now_and_then(state: State) -> bytes | None:
    """Keep the state at the first turn and at every twentieth."""
    return encode(state) if state.tick % 20 == 0 else None


def replayed(capsys: pytest.CaptureFixture[str], dsn: str, *arguments: str) -> tuple[int, str, str]:
    try:
        main(["replay", *arguments, "--dsn", dsn])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_all_decisions_come_out_the_same(capsys: pytest.CaptureFixture[str], pg_dsn: str, run: int) -> None:
    turns = round(SPAN_S / 5)
    acts = on(pg_dsn, lambda c: c.fetchval("SELECT count(*) FROM decision WHERE action = $1", Action.ACT.value))
    rehearsed = on(pg_dsn, lambda c: c.fetchval("SELECT count(*) FROM decision WHERE detail::text LIKE '%attainment%'"))
    assert acts >= 3, "the load rises and falls, or this test shows little"
    assert rehearsed > turns / 2
    assert replayed(capsys, pg_dsn, "--recorded", str(run)) == (0, f"Run {run}: {turns} decisions, all the same.\n", "")
    assert replayed(capsys, pg_dsn, "--recorded", str(run), "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("statement", "path", "was"),
    [
        ("UPDATE decision SET reason = 'a whim' WHERE tick = 30", "reason", '"a whim"'),
        ("UPDATE decision SET forecast_rps = forecast_rps * (1 + 1e-15) WHERE tick = 30", "forecast_rps", None),
        (
            "UPDATE decision SET detail = jsonb_set(detail, '{objective,margin}', '0.5') WHERE tick = 30",
            "objective.margin",
            "0.5",
        ),
        (
            "UPDATE decision SET detail = jsonb_set(detail, '{candidates,0,cost}', '7') WHERE tick = 30",
            "candidates[0].cost",
            "7.0",
        ),
    ],
)
def test_the_first_that_differs_is_shown(
    capsys: pytest.CaptureFixture[str], pg_dsn: str, run: int, statement: str, path: str, was: str | None
) -> None:
    on(pg_dsn, lambda c: c.execute(statement))
    code, out, err = replayed(capsys, pg_dsn, "--recorded", str(run))
    lines = out.splitlines()
    assert (code, err) == (1, "")
    assert lines[0] == f"Run {run}: decision 30 comes out otherwise, in 1 field; 29 before it are the same."
    assert lines[1] == f"    {path}"
    assert lines[2].startswith("        journaled  ")
    assert was is None or lines[2].endswith(f"  {was}")
    assert lines[3].startswith("        now        ")
    assert len(lines) == 4


def test_plans_and_commands_are_compared_too(pg_dsn: str, run: int) -> None:
    tick = on(pg_dsn, lambda c: c.fetchval("SELECT max(tick) FROM plan"))
    on(pg_dsn, lambda c: c.execute("UPDATE plan SET detail = jsonb_set(detail, '{gpus}', '[]') WHERE tick = $1", tick))
    found = on(pg_dsn, lambda c: compare(c, run)).divergence
    assert found is not None
    assert (found.tick, list(found.fields)) == (tick, ["plan"])
    first = on(pg_dsn, lambda c: c.fetchval("SELECT min(tick) FROM command"))
    on(pg_dsn, lambda c: c.execute("DELETE FROM command WHERE tick = $1 AND position = 0", first))
    found = on(pg_dsn, lambda c: compare(c, run)).divergence
    assert found is not None
    assert (found.tick, list(found.fields)) == (first, ["commands"])


def test_what_a_later_controller_added_to_the_journal_is_not_the_turns(pg_dsn: str, run: int) -> None:
    tick = on(pg_dsn, lambda c: c.fetchval("SELECT min(tick) FROM command"))

    async def add(connection: Connection) -> None:
        line = Line(pg_dsn)
        operation = Operation(line, "inference")
        await operation.add_commands(run, tick, [Acquire("gpu0", "left")], first=900)
        await operation.add_commands(run, tick, [Acquire("gpu1", "undo")], first=901, undo=True)
        await line.close()

    on(pg_dsn, add)
    assert on(pg_dsn, lambda c: compare(c, run)).divergence is None


def test_a_turn_that_was_seen_but_never_journaled_ends_the_comparison(pg_dsn: str, run: int) -> None:
    on(pg_dsn, lambda c: c.execute("DELETE FROM decision WHERE tick = 60"))
    found = on(pg_dsn, lambda c: compare(c, run))
    assert (found.same, found.divergence) == (59, None)


def test_once_the_first_turns_are_deleted_it_begins_where_a_state_was_kept(pg_dsn: str, run: int) -> None:
    on(pg_dsn, lambda c: c.execute("DELETE FROM observation WHERE tick < 30"))
    found = on(pg_dsn, lambda c: compare(c, run))
    assert (found.same, found.divergence) == (20, None)  # of the turns 41 to 60


def test_what_cannot_be_made_again_is_said_in_one_sentence(
    capsys: pytest.CaptureFixture[str], pg_dsn: str, run: int
) -> None:
    other = on(pg_dsn, lambda c: begin_run(c, kind="replay", policy="static", scenario={}))
    assert replayed(capsys, pg_dsn, "--recorded", str(other)) == (
        2,
        "",
        f"Error: --recorded: run {other} is a replay: only live runs are recorded\n",
    )
    code, _, err = replayed(capsys, pg_dsn, "--recorded", "999")
    assert (code, err) == (2, "Error: --recorded: the journal holds no run 999\n")
    on(pg_dsn, lambda c: c.execute("DELETE FROM observation WHERE tick = 5"))
    code, _, err = replayed(capsys, pg_dsn, "--recorded", str(run))
    assert (code, err) == (1, f"Error: the record of run {run} is incomplete: turn 5 is missing\n")
    on(pg_dsn, lambda c: c.execute("UPDATE observation SET detail = '\\x00' WHERE tick = 3"))
    with pytest.raises(StoreError, match=f"turn 3 of run {run} cannot be read: the record is damaged"):
        on(pg_dsn, lambda c: compare(c, run))
    on(pg_dsn, lambda c: c.execute("DELETE FROM observation"))
    code, _, err = replayed(capsys, pg_dsn, "--recorded", str(run))
    assert (code, err) == (
        1,
        f"Error: nothing is kept of what run {run} saw: it is deleted after watch.keep_observations_h\n",
    )
    on(pg_dsn, lambda c: c.execute("UPDATE run SET scenario = scenario - 'executor' WHERE id = $1", run))
    with pytest.raises(ConfigError, match="the run's cluster file is of another version: executor is missing"):
        on(pg_dsn, lambda c: compare(c, run))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a SCENARIO, or a live run with --recorded"),
        (["s.yaml", "--recorded", "1"], "SCENARIO has no place beside --recorded"),
        (["--recorded", "1", "--policy", "static"], "--policy has no place beside --recorded"),
        (["--recorded", "1", "--seed", "0"], "--seed has no place beside --recorded"),
        (["--recorded", "0"], "--recorded"),
    ],
)
def test_a_recorded_run_is_played_as_it_was(
    capsys: pytest.CaptureFixture[str], pg_dsn: str, arguments: list[str], said: str
) -> None:
    code, out, err = replayed(capsys, pg_dsn, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_record_is_what_the_loop_saw(pg_dsn: str, run: int) -> None:
    """An observation is read back as the loop was shown it: without that, the comparison would prove nothing."""
    from partita.controller.recording import decode

    row = on(pg_dsn, lambda c: c.fetchrow("SELECT tick, detail FROM observation ORDER BY tick DESC LIMIT 1"))
    seen = decode(Observation, row["detail"])
    assert (row["tick"], seen.now_s) == (60, SPAN_S)
    assert seen.load.services == ("a", "b")
    assert encode(seen) == row["detail"]
