"""Forecasts and what came of them, through the database: written by the loop's journal, read by the commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from miniature import Stage, even, gpus, make_loop, service

from partita import __version__
from partita.controller.cli.main import main
from partita.controller.load_detail import Detail
from partita.controller.load_series import series_of_import, series_of_live
from partita.controller.tracefiles import choose_reader, import_trace
from partita.errors import StoreError
from partita.forecasting import NEAR
from partita.model.load import Forecast, Load
from partita.plugins import reactive
from partita.ports import Tick
from partita.store.connection import Connection, connect
from partita.store.forecasts import read_forecast_run, read_last_forecasts, read_scores
from partita.store.journal import PostgresJournal, begin_run
from partita.traces.buckets import Buckets

SERVICES = (service("a"), service("b"))
BUSY = (even(300.0, 400.0), even(100.0, 400.0))
COLUMNS = ("truth_rps", "wape", "pinball", "coverage", "naive_wape", "naive_pinball")


class Poisoned:
    """Forecasts fifty times the last value."""

    name = "poisoned"

    def forecast(self, history: Load, *, steps: int, levels: Any) -> Forecast:
        last = 50 * history.counts[:, -1:, None] / history.step_s
        rps = np.broadcast_to(last, (len(history.services), len(levels), steps)).copy()
        return Forecast(history.services, history.end_s, history.step_s, tuple(levels), rps, "bad", 1.0, "7.2")


def on(dsn: str, work: Callable[[Connection], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with connect(dsn) as connection:
            return await work(connection)

    return asyncio.run(run())


def played(dsn: str, *, poisoned: bool, turns: int = 30, batch_ticks: int = 7) -> tuple[int, list[Tick]]:
    """Turn a loop over a simulated world and journal every turn; return the run and what was journaled."""
    how = {"near": Poisoned()} if poisoned else {}
    stage = Stage(make_loop(SERVICES, gpus(4), {"reactive": reactive}, **how), BUSY, span_s=400.0)
    made = [Tick(t.decision, t.near, t.far, t.plan, scored=t.scored) for t in stage.turns(turns)]

    async def work(connection: Connection) -> int:
        run = await begin_run(connection, kind="replay", policy="reactive", scenario={})
        journal = PostgresJournal(connection, run, batch_ticks=batch_ticks)
        for tick in made:
            await journal.record(tick)
        await journal.close()
        return run

    return on(dsn, work), made


def partita(capsys: pytest.CaptureFixture[str], dsn: str, *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["forecast", *arguments, "--dsn", dsn])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_scores_come_back_as_the_loop_made_them(pg_dsn: str) -> None:
    run, ticks = played(pg_dsn, poisoned=False)
    made = [s for tick in ticks for s in tick.scored if s.horizon == "near"]
    assert len(made) > 15
    read = on(pg_dsn, lambda c: read_scores(c, run, "near", limit=1000))
    assert [s.tick for s in read] == [s.tick for s in made]
    for one, other in zip(read, made, strict=True):
        assert (one.model, one.naive, one.services, one.levels) == (NEAR.name, "last-value", ("a", "b"), other.levels)
        for name in COLUMNS:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6, err_msg=name)
        assert one.in_charge.tolist() == [True, True]
    assert [s.tick for s in on(pg_dsn, lambda c: read_scores(c, run, "near", limit=3))] == [s.tick for s in made[-3:]]


def test_every_forecast_carries_model_version_and_span(pg_dsn: str) -> None:
    run, ticks = played(pg_dsn, poisoned=False)
    tick, made = on(pg_dsn, lambda c: read_last_forecasts(c, run))["near"]
    last = ticks[-1].near
    assert last is not None
    assert (tick, made.model, made.version, made.history_s) == (30, last.model, __version__, last.history_s)
    np.testing.assert_allclose(made.rps, last.rps, rtol=1e-6)


def test_a_model_of_its_own_version_keeps_it(pg_dsn: str) -> None:
    run, _ = played(pg_dsn, poisoned=True, turns=6)
    assert on(pg_dsn, lambda c: read_last_forecasts(c, run))["near"][1].version == "7.2"


def test_status_names_who_is_in_charge(pg_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    played(pg_dsn, poisoned=False)
    run, _ = played(pg_dsn, poisoned=True)
    code, out, _ = partita(capsys, pg_dsn, "status", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["run"] == run
    first = found["services"][0]
    assert (first["service"], first["horizon"], first["in_charge"]) == ("a", "near", "last-value")
    assert first["model"] == "poisoned"
    assert first["ratio"] > 10
    assert first["covered_p95"] == 1.0  # it always expects too much
    code, out, _ = partita(capsys, pg_dsn, "status")
    assert "poisoned loses to last-value by" in out
    assert "The present near forecast: " in out
    assert "last-value for a, b" in out
    assert found["present"]["near"].endswith("; last-value for a, b")
    code, out, _ = partita(capsys, pg_dsn, "status", "--run", "1")
    assert NEAR.name in out
    assert "last-value by" in out or "as good as last-value" in out


def test_status_before_any_truth_has_come(pg_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    played(pg_dsn, poisoned=False, turns=4)
    assert "None has been scored: no truth has come" in partita(capsys, pg_dsn, "status")[1]


def test_show_draws_the_present_forecast(pg_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, ticks = played(pg_dsn, poisoned=False)
    code, out, _ = partita(capsys, pg_dsn, "show", "a")
    assert code == 0
    assert f"run {run} of a replay" in out
    assert f"near: {ticks[-1].near.model} (version {__version__})" in out  # type: ignore[union-attr]
    assert "█" in out
    assert "P95" in out
    found = json.loads(partita(capsys, pg_dsn, "show", "b", "--json")[1])
    assert found["forecasts"][0]["rps"][2][0] == pytest.approx(100.0, rel=0.1)  # its median


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("show", "c"), 2, "SERVICE: run 1 forecasts no service 'c'; it has a, b"),
        (("show", "a", "--run", "9"), 2, "--run: the journal holds no forecast of run 9"),
        (("status", "--run", "9"), 2, "--run: the journal holds no forecast of run 9"),
        (("backtest",), 1, "nobody has logged a request yet: --trace FILE or --import N name another source"),
        (("backtest", "--import", "4"), 1, "there is no import 4 (there are: none)"),
    ],
)
def test_mistakes_are_one_sentence(
    pg_dsn: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    played(pg_dsn, poisoned=False, turns=4)
    assert partita(capsys, pg_dsn, *arguments) == (code, "", f"Error: {sentence}\n")


def test_a_journal_without_forecasts(pg_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StoreError, match="the journal holds no forecast yet"):
        on(pg_dsn, lambda c: read_forecast_run(c, None))
    assert partita(capsys, pg_dsn, "status")[0] == 1


# Series from the database ---------------------------------------------------------------------------------------------


def logged(dsn: str) -> None:
    """Write a live log of 90 s: a request a second, none from 20 to 29, nobody listening from 40 to 45."""

    async def work(connection: Connection) -> None:
        await connection.execute("INSERT INTO service (name) VALUES ('chat')")
        await connection.execute("""
            INSERT INTO request_rollup (ts, service, requests)
            SELECT to_timestamp(6000 + s), 1, 1 FROM generate_series(0, 89) s
            WHERE s NOT BETWEEN 20 AND 29 AND s NOT BETWEEN 40 AND 44
        """)
        await connection.execute("INSERT INTO watermark VALUES (0, to_timestamp(6084))")
        await connection.execute("INSERT INTO log_gap VALUES ('-infinity', to_timestamp(6000))")
        await connection.execute("INSERT INTO log_gap VALUES (to_timestamp(6040), to_timestamp(6045))")
        await connection.execute("INSERT INTO log_late VALUES (1, 3, now())")

    on(dsn, work)


def test_the_live_log_as_a_series(pg_dsn: str) -> None:
    logged(pg_dsn)
    found = asyncio.run(series_of_live(pg_dsn, step_s=10.0)).series
    assert found.load.services == ("chat",)
    assert found.load.start_s == 6000.0
    np.testing.assert_array_equal(found.load.counts, [[10, 10, 0, 10, np.nan, 10, 10, 10]])
    assert (found.rest.tolist(), found.rest_s) == ([4.0], 4.0)
    assert (found.beyond, found.late, found.watermark_s) == (6, {"chat": 3}, 6084.0)
    later = asyncio.run(series_of_live(pg_dsn, step_s=10.0, since_s=6030.0)).series
    assert later.load.start_s == 6030.0


def test_an_import_as_a_series(pg_dsn: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "counts.csv"
    rows = [f"{60 * n},{10 + n % 5}" for n in range(400) if n != 390]
    path.write_text("\n".join(["t,requests", *rows]))
    asyncio.run(import_trace(pg_dsn, path, choose_reader(path)))
    found = series_of_import(pg_dsn, 1).series
    assert found.load.counts.shape == (1, 400)
    assert found.missing.tolist() == [1]
    out = tmp_path / "scores.json"
    arguments = ("--import", "1", "--horizons", "1m", "--models", "last-value", "--json", str(out), "--quiet")
    assert partita(capsys, pg_dsn, "backtest", *arguments) == (0, "", "")
    assert json.loads(out.read_text())["services"]["counts"]["missing_steps"] == 1


def test_show_says_what_came_before_in_a_live_cluster(pg_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    logged(pg_dsn)

    async def work(connection: Connection) -> None:
        await connection.execute("SELECT ensure_partitions(to_timestamp(6000), to_timestamp(6090))")
        await connection.execute("""
            INSERT INTO request_log (ts, service, size)
            SELECT to_timestamp(6000 + s), 1, CASE WHEN s < 40 THEN 100 ELSE 200 END FROM generate_series(0, 79) s
        """)
        run = await begin_run(connection, kind="live", policy="reactive", scenario={})
        made = Forecast(("chat",), 6080.0, 10.0, (0.5, 0.95), np.array([[[1.0, 1.0], [2.0, 3.0]]]), "m", 80.0)
        tick = played_tick(made)
        await PostgresJournal(connection, run).record(tick)

    on(pg_dsn, work)
    code, out, err = partita(capsys, pg_dsn, "show", "chat")
    assert code == 0, err
    assert "run 1 of cluster default, policy reactive:" in out
    chart = [line for line in out.splitlines() if "│" in line]
    # By ten seconds: none in the third, nobody logging in the fifth.
    assert chart[-1].split("│")[0].endswith("██ █?███")
    # Counts 10, 10, 0, 10, 10, 10 and 10: mean 60/7, variance (6 (10/7)² + (60/7)²)/6 = 14.29.
    assert "Index of dispersion by 10 s over the last hour: 1.67" in out
    assert "Input sizes over the last hour: P50 99.7, P90 201," in out  # to a hundredth
    found = json.loads(partita(capsys, pg_dsn, "show", "chat", "--json")[1])
    assert found["dispersion"] == pytest.approx(14.2857 / (60 / 7), rel=1e-3)
    assert found["sizes"]["0.95"] == pytest.approx(200.0, rel=0.01)


def sized(dsn: str) -> None:
    """Write a live log of 40 minutes, six requests in ten seconds: sizes 100 and 900 in turn, every third without."""

    async def work(connection: Connection) -> None:
        await connection.execute("INSERT INTO service (name) VALUES ('embed'), ('chat')")
        await connection.execute("SELECT ensure_partitions(to_timestamp(6000), to_timestamp(8400))")
        await connection.execute("""
            INSERT INTO request_log (ts, service, size)
            SELECT to_timestamp(6000 + n * 5.0 / 3), 2,
                   CASE WHEN n % 3 = 2 THEN 'NaN'::real WHEN n % 3 = 1 THEN 100 ELSE 900 END
            FROM generate_series(0, 1439) n
        """)
        await connection.execute("""
            INSERT INTO request_rollup (ts, service, requests)
            SELECT date_trunc('second', ts), service, count(*) FROM request_log GROUP BY 1, 2
        """)
        # what a client gave up the rows of is in the roll-up alone
        await connection.execute("UPDATE request_rollup SET requests = requests + 4 WHERE ts = to_timestamp(6000)")
        await connection.execute("INSERT INTO watermark VALUES (0, to_timestamp(8400))")
        await connection.execute("INSERT INTO log_gap VALUES ('-infinity', to_timestamp(6000))")

    on(dsn, work)


def test_the_live_log_by_size_bucket(pg_dsn: str) -> None:
    sized(pg_dsn)
    detail = Detail(Buckets((100.0, 500.0)))
    found = asyncio.run(series_of_live(pg_dsn, step_s=60.0, detail=detail)).series.load
    assert found.services == ("chat:up-to-100", "chat:up-to-500", "chat:over-500", "chat:unknown-size")
    assert found.counts.shape == (4, 40)
    assert found.counts[:, 0].tolist() == [12.0, 0.0, 12.0, 16.0]
    assert (found.counts[:, 1:] == [[12.0], [0.0], [12.0], [12.0]]).all()
    whole = asyncio.run(series_of_live(pg_dsn, step_s=60.0)).series.load
    np.testing.assert_array_equal(found.counts.sum(axis=0), whole.counts[0])
    assert detail.fine is not None
    assert detail.fine.counts[:, :1].tolist() == [[2.0], [0.0], [2.0], [2.0]]
    assert detail.sizes is not None
    assert detail.sizes.services == ("chat",)
    assert detail.sizes.counts.sum() == 960


def test_an_import_by_size_bucket(pg_dsn: str, tmp_path: Any) -> None:
    path = tmp_path / "requests.csv"
    rows = [f"{n},chat,{'' if n % 3 == 2 else 100 + 800 * (n % 3)}" for n in range(600)]
    path.write_text("\n".join(["ts,service,size", *rows]))
    asyncio.run(import_trace(pg_dsn, path, choose_reader(path)))
    split = series_of_import(pg_dsn, 1, step_s=10.0, detail=Detail(Buckets((500.0,)))).series.load
    whole = series_of_import(pg_dsn, 1, step_s=10.0).series.load
    assert set(split.services) == {"chat:up-to-500", "chat:over-500", "chat:unknown-size"}
    np.testing.assert_array_equal(split.counts.sum(axis=0), whole.counts[0])


def test_show_says_what_is_expected_of_burstiness_and_sizes(pg_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    sized(pg_dsn)

    async def work(connection: Connection) -> None:
        file = {"services": [{"name": "chat", "buckets": [], "latency": {"100": {}, "1000": {}}}]}
        run = await begin_run(connection, kind="live", policy="reactive", scenario=file)
        made = Forecast(("chat",), 8400.0, 10.0, (0.5, 0.95), np.array([[[1.0, 1.0], [2.0, 3.0]]]), "m", 80.0)
        await PostgresJournal(connection, run).record(played_tick(made))

    on(pg_dsn, work)
    code, out, err = partita(capsys, pg_dsn, "show", "chat")
    assert code == 0, err
    assert "Index of dispersion in the next" in out
    assert "Input sizes in the next" in out
    assert "33.3 % of the requests told no size; they are in no share." in out
    assert "up to 1000" in out  # its own edges, from the run's file
    found = json.loads(partita(capsys, pg_dsn, "show", "chat", "--json", "--buckets", "500")[1])
    small, large = found["size_mix"]["shares"]
    assert (small["over"], small["up_to"], large["up_to"]) == (0.0, 500.0, None)
    for bucket in (small, large):
        assert bucket["low"] < bucket["expected"] < bucket["high"]
        assert bucket["now"] == pytest.approx(0.5, abs=0.03)
        assert bucket["expected"] == pytest.approx(0.5, abs=0.03)
    assert found["size_mix"]["quantiles"]["0.99"]["expected"] == pytest.approx(900, rel=0.1)
    assert found["burstiness"]["expected"] < 0.2  # they come at even distances
    assert found["burstiness"]["expected"] <= found["burstiness"]["p95"]


def played_tick(made: Forecast) -> Tick:
    """Return a turn that holds, with this near forecast."""
    stage = Stage(make_loop(SERVICES, gpus(4), {}), BUSY, span_s=400.0)
    return Tick(stage.turns(1)[0].decision, made, None, None)
