"""Triton's counters as load: differences, resets, missing scrapes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from partita.client.triton_counters import ModelWindow, TritonCounterLog, read_counters, spread, windows
from partita.errors import ConfigError, StoreError
from partita.store import embedded
from partita.store.connection import connect
from partita.store.line import Line
from partita.store.live_log import LiveLog
from partita.store.migrate import migrate

TEXT = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="{model}",version="1"}} {success}
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{{model="{model}",reason="OTHER",version="1"}} 0
nv_inference_request_failure{{model="{model}",reason="REJECTED",version="1"}} {failure}
# HELP nv_inference_count Number of inferences performed (does not include cached requests)
# TYPE nv_inference_count counter
nv_inference_count{{model="{model}",version="1"}} {inferences}
# HELP nv_inference_exec_count Number of model executions performed (does not include cached requests)
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{{model="{model}",version="1"}} {executions}
# HELP nv_inference_request_duration_us Cumulative inference request duration in microseconds
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{{model="{model}",version="1"}} {request_us}
# HELP nv_inference_queue_duration_us Cumulative inference queuing duration in microseconds
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{{model="{model}",version="1"}} {queue_us}
# HELP nv_energy_consumption GPU energy consumption in joules since the Triton Server started
# TYPE nv_energy_consumption counter
"""
NO_MODELS = "# HELP nv_inference_request_success Number\n# TYPE nv_inference_request_success counter\n"


def metrics(success: int, failure: int = 0, *, model: str = "resnet") -> str:
    """What a server shows after so many requests in batches of 4, each 50 ms of which 10 ms are queueing."""
    return TEXT.format(
        model=model,
        success=success,
        failure=failure,
        inferences=success,
        executions=success / 4,
        request_us=success * 50_000,
        queue_us=success * 10_000,
    )


def window(before: str, after: str) -> dict[str, ModelWindow]:
    return windows(read_counters(before), read_counters(after))


def test_the_increase_is_what_was_done() -> None:
    done = window(metrics(100, 5), metrics(140, 7))
    assert done == {"resnet": ModelWindow(40, 2, pytest.approx(4.0), pytest.approx(0.01), pytest.approx(0.05))}


def test_nothing_done_is_zero_and_its_means_are_unknown() -> None:
    assert window(metrics(100), metrics(100)) == {"resnet": ModelWindow(0, 0, None, None, None)}


def test_counters_that_fell_began_again_at_zero() -> None:
    done = window(metrics(100, 5), metrics(30, 6))["resnet"]
    assert (done.succeeded, done.failed) == (30, 6), "failures began again with the rest, though they did not fall"


def test_a_model_that_was_not_there_began_at_zero() -> None:
    assert window(NO_MODELS, metrics(30))["resnet"].succeeded == 30
    assert window(metrics(30), NO_MODELS) == {}


def test_versions_are_told_apart_and_added() -> None:
    two = 'nv_inference_request_success{model="resnet",version="2"} '
    before, after = metrics(100) + two + "1000\n", metrics(110) + two + "5\n"
    assert window(before, after)["resnet"].succeeded == 15
    # A version that is unloaded takes its counters along.
    assert window(before, metrics(110))["resnet"].succeeded == 10


@pytest.mark.parametrize("text", ["", "<html>", "# TYPE up gauge\nup 1\n", metrics(1) + "x{ 1\n"])
def test_what_is_no_answer_of_triton(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_counters(text)


def test_a_value_that_is_no_number_is_not_there() -> None:
    text = metrics(7) + 'nv_inference_request_success{model="m",version="1"} NaN\n'
    assert set(windows({}, read_counters(text))) == {"resnet"}


@pytest.mark.parametrize(
    ("count", "begin_s", "end_s", "expected"),
    [
        (10, 5.0, 6.0, {5: 10}),
        (10, 5.5, 6.5, {5: 5, 6: 5}),
        (9, 5.0, 8.0, {5: 3, 6: 3, 7: 3}),
        (1, 5.9, 6.0, {5: 1}),
        (7, 5.25, 5.5, {5: 7}),
        (3, 5.5, 5.5, {5: 3}),
        (0, 5.0, 9.0, {}),
    ],
)
def test_spreading_keeps_the_sum(count: int, begin_s: float, end_s: float, expected: dict[int, int]) -> None:
    assert spread(count, begin_s, end_s) == expected


@pytest.mark.parametrize(("begin_s", "length_s"), [(0.0, 10.0), (0.3, 1.0), (123.456, 77.7), (1e9 + 0.9, 0.2)])
def test_spreading_any_count_keeps_it(begin_s: float, length_s: float) -> None:
    for count in range(50):
        assert sum(spread(count, begin_s, begin_s + length_s).values()) == count


# Through PostgreSQL ---------------------------------------------------------------------------------------------------


class Server:
    """Answers what it is told to, over HTTP."""

    def __init__(self) -> None:
        self.text = NO_MODELS
        self.status = 200
        self.asked = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text=self.text, status=self.status)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/metrics", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


def test_counters_become_load_and_a_missing_scrape_is_no_promise(pg_dsn: str) -> None:
    async def run() -> None:
        begun = time.time()
        live = LiveLog(Line(pg_dsn), ("vision",))
        async with serving() as server:
            counters = TritonCounterLog(pg_dsn, server.url, services={"resnet": "vision"})
            server.text = metrics(1_000_000)
            assert await counters.scrape() is None, "what was counted before is nobody's load"
            server.text = metrics(1_000_040, 2)
            found = await counters.scrape()
            assert found is not None
            assert (found["resnet"].succeeded, found["resnet"].failed) == (40, 2)
            promised = (await live.health()).writers[0].until_s
            assert promised is not None
            assert begun < promised < time.time()

            server.status = 500
            assert await counters.scrape() is None
            assert (await live.health()).writers[0].until_s == promised

            server.status, server.text = 200, metrics(5)  # the server was restarted
            await counters.scrape()
            health = await live.health()
            assert (health.writers[0].name, health.writers[0].rows) == (counters.writer, 47)
            assert (health.writers[0].until_s or 0) > promised
            view = await live.read(begun, 0)
            assert view.outcomes["vision"].dropped == 2, "what became of the others is not known"
            assert view.outcomes["vision"].good == 0
            await counters.close()
            view = await live.read(begun - 5, 0)
            history = await live.history(begun - 5)
            assert np.nansum(history.counts) <= 47
            assert (await live.health()).writers[0].state == "closed"
        await live.close()

    asyncio.run(run())


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder with a migrated database, whose server is stopped at the end."""

    async def prepare(dsn: str) -> None:
        async with connect(dsn) as connection:
            await migrate(connection)

    try:
        asyncio.run(prepare(embedded.ensure_running(tmp_path / "data")))
        yield tmp_path / "data"
    finally:
        embedded.stop(tmp_path / "data")


def test_counts_wait_while_the_database_is_away(data_dir: Path) -> None:
    async def run() -> None:
        dsn = embedded.ensure_running(data_dir)
        async with serving() as server:
            counters = TritonCounterLog(dsn, server.url)
            server.text = metrics(0)
            await counters.scrape()
            await asyncio.to_thread(embedded.stop, data_dir)
            for total in (3, 9):
                server.text = metrics(total)
                with pytest.raises(StoreError, match=r"database went away|no database answers"):
                    await counters.scrape()
            await asyncio.to_thread(embedded.ensure_running, data_dir)
            server.text = metrics(10)
            await counters.scrape()
            live = LiveLog(Line(dsn), ("resnet",))
            assert (await live.health()).writers[0].rows == 10
            await counters.close()
            await live.close()

    asyncio.run(run())


def test_a_second_reader_of_a_server_takes_over(pg_dsn: str) -> None:
    async def run() -> None:
        async with serving() as server:
            server.text = metrics(0)
            older, newer = TritonCounterLog(pg_dsn, server.url), TritonCounterLog(pg_dsn, server.url)
            await older.scrape()
            await newer.scrape()
            with pytest.raises(StoreError, match="another process logs the counters of http"):
                await older.run()
            await older.close()
            await newer.close()

    asyncio.run(run())


def test_in_the_background(pg_dsn: str) -> None:
    async def run() -> None:
        live = LiveLog(Line(pg_dsn), ("resnet",))
        async with serving() as server:
            server.text = metrics(0)
            async with TritonCounterLog(pg_dsn, server.url, every_s=0.02), asyncio.timeout(60):
                while not (await live.health()).writers:
                    await asyncio.sleep(0.01)
                server.text = metrics(12)
                while (await live.health()).writers[0].rows != 12:
                    await asyncio.sleep(0.01)
        assert (await live.health()).writers[0].state == "closed"
        await live.close()

    asyncio.run(run())


def test_one_that_is_replaced_in_the_background_says_so(pg_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        live = LiveLog(Line(pg_dsn), ("resnet",))
        async with serving() as server, TritonCounterLog(pg_dsn, server.url, every_s=0.02), asyncio.timeout(60):
            while not (await live.health()).writers:
                await asyncio.sleep(0.01)
            newer = TritonCounterLog(pg_dsn, server.url)
            await newer.scrape()
            while "no longer logging the counters of http" not in caplog.text:
                await asyncio.sleep(0.01)
            await newer.close()
        await live.close()

    with caplog.at_level(logging.WARNING, "partita.client"):
        asyncio.run(run())
    assert "another process logs the counters of http" in caplog.text


def test_whatever_goes_wrong_the_next_scrape_comes(caplog: pytest.LogCaptureFixture) -> None:
    """A connection string that nobody can use is a ConfigError, and no StoreError."""

    async def run() -> None:
        async with (
            serving() as server,
            TritonCounterLog("mysql://here", server.url, every_s=0.02),
            asyncio.timeout(60),
        ):
            while server.asked < 5:
                await asyncio.sleep(0.01)

    with caplog.at_level(logging.WARNING, "partita.client"):
        asyncio.run(run())
    assert "must begin with postgresql://" in caplog.text


def test_a_dead_server_does_not_hold_the_log_up_for_long(pg_dsn: str) -> None:
    async def run() -> None:
        live = LiveLog(Line(pg_dsn), ("resnet",))
        async with serving() as dead, serving() as alive, connect(pg_dsn) as connection:
            logs = [TritonCounterLog(pg_dsn, server.url) for server in (dead, alive)]
            for counters in logs:
                await counters.scrape()
            stood = (await live.read(time.time(), 0)).watermark_s
            dead.status = 500
            await connection.execute("UPDATE log_writer SET seen_at = seen_at - interval '31 s'")
            async with asyncio.timeout(60):
                while (await live.read(stood, 0)).watermark_s == stood:
                    for counters in logs:
                        await counters.scrape()
                    await asyncio.sleep(0.05)
            assert {w.name: w.state for w in (await live.health()).writers} == {
                **{logs[0].writer: "lost", logs[1].writer: "live"}
            }
            dead.status = 200
            await logs[0].scrape()
            assert {w.state for w in (await live.health()).writers} == {"live"}
            for counters in logs:
                await counters.close()
        await live.close()

    asyncio.run(run())


@pytest.mark.parametrize("url", ["localhost:8002", "ftp://host/metrics", "http://"])
def test_an_address_that_makes_no_sense(url: str) -> None:
    with pytest.raises(ConfigError, match="must be the http address"):
        TritonCounterLog("postgresql:///x", url)
