"""From the same requests comes the same forecast: read from the live log's database, or replayed turn by turn."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import numpy as np
import pytest
from miniature import QUICK, gpus, make_world, random_instants, service
from numpy.typing import NDArray

from partita.controller.history import History
from partita.controller.live.reign import _histories
from partita.forecasting import BLEND_NEAR, FAR, LEVELS, NEAR
from partita.model.load import Load
from partita.replay.cluster import SimulatedCluster
from partita.replay.world import ReplayLog
from partita.store.connection import connect
from partita.store.line import Line
from partita.store.live_log import LiveLog

NAMES = ("a", "b")
NEAR_S, EPOCH_S = 5.0, 60.0
SPAN_S = 1505
ALIGNED_S = 36 * 60 * 5
"""Both forecasters learn anew at multiples of it, on either clock."""


def arrivals() -> list[NDArray[np.int64]]:
    """Draw the requests of both services in whole microseconds, as a database keeps them: one steady, one bursty."""
    burst = np.concatenate([random_instants(0.5, SPAN_S, 1), 900_000_000_000 + random_instants(8, 300, 2)])
    return [np.sort(each) // 1000 * 1000 for each in (random_instants(3, SPAN_S, 3), burst)]


async def live(dsn: str, instants: list[NDArray[np.int64]]) -> tuple[float, History, History]:
    """Log the requests as a gateway does, and take the histories up as a controller that begins does."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(connect(dsn))
        log = LiveLog(Line(dsn), NAMES)
        stack.push_async_callback(log.close)
        now_s = await log.now_s()
        begin_s = float((now_s - SPAN_S) // ALIGNED_S * ALIGNED_S)
        first = await connection.fetchval("SELECT log_open($1)", "gw")
        await connection.execute("UPDATE log_writer SET since = to_timestamp($1)", begin_s)
        rows = [(name, begin_s + ns / 1e9) for name, ns_of in zip(NAMES, instants, strict=True) for ns in ns_of]
        at = [datetime.fromtimestamp(second, UTC) for _, second in rows]
        until = datetime.fromtimestamp(begin_s + SPAN_S, UTC)
        await connection.execute("SELECT log_requests('gw', $1, $2, $3, $4)", first, until, [n for n, _ in rows], at)
        await log.read(begin_s, 0.0)  # folds what was logged
        near, far, _ = await _histories(log, begin_s + SPAN_S, NEAR_S, EPOCH_S)
        return begin_s, near, far


async def replayed(instants: list[NDArray[np.int64]]) -> tuple[History, History]:
    """Let the same requests arrive in the simulated world, and gather the histories turn by turn."""
    services = [service(name) for name in NAMES]
    world = make_world(services, instants, SimulatedCluster(gpus(1), QUICK), span_s=SPAN_S, log_delay_s=0.0)
    log, read_s = ReplayLog(world), 0.0
    near, far = (History.empty(NAMES, start_s=0.0, step_s=step, keep=4096) for step in (NEAR_S, EPOCH_S))
    for turn_s in range(7, SPAN_S + 7, 7):
        world.advance(min(turn_s, SPAN_S) * 10**9)
        view = await log.read(read_s, 0.0)
        near, far, read_s = near.extended(view.load), far.extended(view.load), view.watermark_s
    return near, far


def test_live_and_replayed_requests_are_forecast_alike(pg_dsn: str) -> None:
    instants = arrivals()
    begin_s, *taken_up = asyncio.run(live(pg_dsn, instants))
    gathered = asyncio.run(replayed(instants))
    for model, one, other in zip((NEAR, FAR), taken_up, gathered, strict=True):
        assert one.steps.start_s == begin_s + other.steps.start_s
        np.testing.assert_array_equal(one.steps.counts, other.steps.counts)
        assert one.steps.counts.sum() == pytest.approx(sum(map(len, instants)), rel=0.05)
        ours, theirs = (model.forecast(h.steps, steps=6, levels=LEVELS) for h in (one, other))
        np.testing.assert_array_equal(ours.rps, theirs.rps)
        assert (ours.model, ours.made_at_s) == (theirs.model, begin_s + theirs.made_at_s)


def test_one_request_more_is_another_forecast(pg_dsn: str) -> None:
    # so that the test above is no comparison of nothing with nothing
    instants = arrivals()
    _, one, _ = asyncio.run(live(pg_dsn, instants))
    instants[0] = np.sort(np.append(instants[0], (SPAN_S - 8) * 10**9))
    other, _ = asyncio.run(replayed(instants))
    ours, theirs = (NEAR.forecast(h.steps, steps=6, levels=LEVELS).rps for h in (one, other))
    assert not np.array_equal(ours, theirs)


def test_it_does_not_matter_when_the_forecaster_was_first_asked() -> None:
    counts = np.random.default_rng(8).poisson(40, (2, 900)).astype(np.float64)
    at_every_step = [forecast_until(counts, end) for end in range(600, 700)]
    for end in (631, 660, 699):
        BLEND_NEAR._kept.clear()
        np.testing.assert_array_equal(forecast_until(counts, end), at_every_step[end - 600])


def forecast_until(counts: NDArray[np.float64], end: int) -> NDArray[np.float64]:
    return BLEND_NEAR.forecast(Load(NAMES, 0.0, 5.0, counts[:, :end]), steps=6, levels=LEVELS).rps
