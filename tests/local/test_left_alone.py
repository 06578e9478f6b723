"""Requests that no instance serves, and those whose clients have left: none is kept for ever, none costs a device."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import aiohttp
import pytest
from local.harness import Lender, Running, brought_up, play, routed, service, settings, whole

from partita.model.cluster import Batching, SubCluster
from partita.model.plan import Drain, StartReplicas

SERVICES = (service("a"), service("slow", slo_ms=60_000.0, beta_ms=300.0))


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    with closing(Lender(tmp_path_factory.mktemp("alone"), settings(SERVICES, 1, stranded_s=0.3))) as known:
        yield known


@pytest.fixture
def runtime(lender: Lender) -> Iterator[Running]:
    with lender.lend() as lent:
        yield lent


async def depth(runtime: Running, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{runtime.url}/metrics") as metrics:
        lines = (await metrics.text()).splitlines()
    return next(
        float(line.split()[1]) for line in lines if line.startswith(f'partita_runtime_queue_depth{{service="{name}"}}')
    )


async def becomes(runtime: Running, name: str, wanted: int) -> None:
    async with asyncio.timeout(20.0):
        while await depth(runtime, name) != wanted:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def asking(runtime: Running, name: str, number: int) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Send requests; those that have no answer when the block ends lose their clients."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> int:
            async with session.post(f"{runtime.url}/v1/services/{name}") as answer:
                return answer.status

        tasks = [asyncio.create_task(ask()) for _ in range(number)]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("discipline", ["deferred", "eager", "timeout"])
def test_a_lone_request_without_an_instance_is_given_up(discipline: str, runtime: Running) -> None:
    group = SubCluster("all", (), ("a",), (Batching(discipline),))

    async def story() -> None:
        await runtime.executor.apply([routed(group)])
        (reply,) = await play(runtime.url, [(0.0, "a")])
        assert (reply.status, reply.body) == (503, {"reason": "no instance serves a"})

    asyncio.run(story())
    (row,) = runtime.finished(1)
    assert (row["status"], row["batch"]) == ("dropped", None)


def test_requests_whose_clients_left_are_not_kept_while_no_instance_serves_them(runtime: Running) -> None:
    (only,) = whole(settings().inventory[:1])
    batching = Batching("timeout")

    async def story() -> None:
        await runtime.executor.apply(brought_up([only], "a", batching))
        await runtime.executor.apply([StartReplicas(only.id, ("slow",), (batching,), "")])
        await runtime.executor.apply([routed(SubCluster("all", (only,), ("slow",), (batching,)))])
        await runtime.executor.apply([Drain(only.id, ("slow",), "")])
        async with asking(runtime, "slow", 3) as staying:
            await becomes(runtime, "slow", 3)
            async with asking(runtime, "slow", 50):
                await becomes(runtime, "slow", 53)
            await becomes(runtime, "slow", 3)
            await runtime.executor.apply([StartReplicas(only.id, ("slow",), (batching,), "")])
            assert await asyncio.gather(*staying) == [200] * 3

    asyncio.run(story())
    rows = runtime.finished(53)
    assert [row["status"] for row in rows].count("dropped") == 50


def test_requests_whose_clients_left_ride_in_no_batch(runtime: Running) -> None:
    (only,) = whole(settings().inventory[:1])
    batching = Batching("timeout", 0.0, 1)
    group = SubCluster("all", (only,), ("slow",), (batching,))

    async def story() -> None:
        await runtime.executor.apply(brought_up([only], "a", batching))
        await runtime.executor.apply([StartReplicas(only.id, ("slow",), (batching,), ""), routed(group)])
        async with asking(runtime, "slow", 40):
            await becomes(runtime, "slow", 39)  # one runs, for 300 ms
        (reply,) = await play(runtime.url, [(0.0, "slow")])
        assert reply.status == 200

    asyncio.run(story())
    rows = runtime.finished(41)
    assert sum(row["status"] == "dropped" for row in rows) >= 36
