"""Each discipline, live: the batches it makes of real requests are those that replay makes of the same arrivals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import aiohttp
import numpy as np
import pytest
from local.harness import BUSY, Lender, brought_up, play, poisson, service, settings, whole

from partita.model.cluster import Batching, SubCluster
from partita.model.load import Arrivals
from partita.model.service import Service
from partita.replay.disciplines import DISCIPLINES
from partita.replay.pools import PoolMaker

SERVICES = (service("a", slo_ms=250.0), service("b", slo_ms=250.0))
DISCIPLINE = {d.name: d for d in DISCIPLINES}


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    with closing(Lender(tmp_path_factory.mktemp("live"), settings(SERVICES), BUSY)) as known:
        yield known


@pytest.mark.parametrize(
    "batching",
    [
        Batching("deferred"),
        pytest.param(Batching("eager"), marks=pytest.mark.slow),
        Batching("timeout", 0.02),
        pytest.param(Batching("triton", 0.02, 16), marks=pytest.mark.slow),
    ],
    ids=lambda b: b.discipline,
)
def test_live_batches_are_those_of_replay(batching: Batching, lender: Lender) -> None:
    instances = whole(settings().inventory)

    async def story(url: str) -> str:
        await runtime.executor.apply(brought_up(instances, "ab", batching))
        replies = await play(url, sorted(poisson(150, 2.5, "a", 1) + poisson(150, 2.5, "b", 2)))
        answered = [r for r in replies if r.status == 200]
        assert {r.status for r in replies} <= {200, 503}
        assert len(answered) > 0.95 * len(replies)
        for reply in answered:
            curve = SERVICES[0].curve("whole")
            assert curve is not None
            assert reply.body["latency_ms"] >= curve.latency_s(reply.body["batch"]) * 1e3 - 0.1
            assert reply.body["latency_ms"] >= reply.body["queue_ms"] >= 0
            assert reply.body["instance"] in {i.id for i in instances}
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as metrics:
            return await metrics.text()

    with lender.lend() as runtime:
        metrics = asyncio.run(story(runtime.url))
        finished = runtime.finished(750)
        ever = runtime.ever()
    assert len(finished) == 750
    group = SubCluster("all", tuple(instances), ("a", "b"), (batching,) * 2)
    live, replayed = mean_batch(finished), replayed_mean_batch(SERVICES, group, finished)
    assert live == pytest.approx(replayed, rel=0.2)
    good = sum(f["status"] == "good" and f["service"] == "a" for f in ever)
    assert f'partita_runtime_requests_total{{outcome="good",service="a"}} {good:.1f}' in metrics
    assert 'partita_runtime_queue_depth{service="a"} 0.0' in metrics


def mean_batch(finished: list[dict[str, Any]]) -> float:
    """Return the mean over batches: each of a batch's n requests stands for one n-th of it."""
    sizes = np.array([f["batch"] for f in finished if f["batch"]])
    return float(len(sizes) / (1 / sizes).sum())


def replayed_mean_batch(services: tuple[Service, ...], group: SubCluster, finished: list[dict[str, Any]]) -> float:
    """Return the mean batch that the discipline makes of the same arrivals in virtual time."""
    begin_s = min(f["arrived_s"] for f in finished) - 1.0
    instants = [
        np.sort([round((f["arrived_s"] - begin_s) * 1e9) for f in finished if f["service"] == s.name]) for s in services
    ]
    counts = [len(ns) for ns in instants]
    arrivals = Arrivals(
        np.concatenate(instants).astype(np.int64),
        np.concatenate(([0], np.cumsum(counts))),
        np.ones(sum(counts), np.float32),
    )
    number = np.array([0, 64], np.int64)
    pool = PoolMaker(services, BUSY).pool(group, number, np.zeros(2, np.int64))
    discipline = DISCIPLINE[group.batching[0].discipline]
    _, served = discipline.advance(discipline.initial_state(len(services)), arrivals, pool, round(10e9))
    return float(served.batch_size.mean())
