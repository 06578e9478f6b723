"""Loads of unknown outcome, over a real server: none is followed by a second one before it has ended."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import aiohttp
import pytest
from tritonserver.proxy import Proxy, proxy
from tritonserver.rig import (
    GPUS,
    ONE,
    OTHER,
    SWIFT,
    WHOLE,
    config_of,
    emptied,
    executor_on,
    holding,
    state_of,
    states,
    through,
    until,
)

from partita.errors import Busy, Failed
from partita.executors.book import FileBook
from partita.executors.triton.api import Endpoint, TritonApi, Unreachable
from partita.executors.triton.executor import TritonExecutor
from partita.executors.triton.loading import Patience
from partita.executors.triton.server import TritonServer
from partita.model.cluster import Batching
from partita.model.plan import SetBatching, StartReplicas, StopReplicas

GPU = WHOLE[0].id
THIRD = Batching("timeout", 0.02, 2)
TO_OTHER, TO_THIRD = (SetBatching(GPU, ("a",), (batching,), "") for batching in (OTHER, THIRD))
IMPATIENT = Patience(load_s=0.3, quiet_s=0.1)


@pytest.fixture
def server(shared_servers: tuple[TritonServer, TritonServer]) -> TritonServer:
    return shared_servers[0]


@asynccontextmanager
async def begun(
    server: TritonServer, folder: Path, patience: Patience = SWIFT
) -> AsyncIterator[tuple[TritonExecutor, Proxy, Endpoint]]:
    """Start model-a through a proxy that hands loads on from then on only once its `hold` is set."""
    async with emptied(server.endpoint), proxy(server.endpoint.url) as seen:
        endpoint = through(server.endpoint, seen.url)
        async with executor_on([endpoint], folder) as executor:
            await executor.apply([*holding(WHOLE[0]), StartReplicas(GPU, ("a",), (ONE,), "")])
        seen.hold = hold = asyncio.Event()
        async with executor_on([endpoint], folder, patience=patience) as executor:
            yield executor, seen, endpoint
        hold.set()


async def takes_other(server: TritonServer) -> None:
    async def taken() -> bool:
        return bool((await config_of(server.endpoint, "model-a"))["max_batch_size"] == OTHER.max_batch)

    await until(taken)


@pytest.mark.parametrize(
    "ending", [503, "cut", pytest.param(502, marks=pytest.mark.slow), pytest.param(504, marks=pytest.mark.slow)]
)
def test_a_load_that_a_proxy_gave_up_is_not_sent_again(
    server: TritonServer, tmp_path: Path, ending: int | Literal["cut"]
) -> None:
    async def played() -> None:
        async with begun(server, tmp_path) as (executor, seen, _):
            sent, seen.give_up = len(seen.loads), ending
            with pytest.raises(Failed, match="no known outcome"):
                await executor.apply([TO_OTHER])
            for command in (TO_THIRD, TO_OTHER, StopReplicas(GPU, ("a",), "")):
                with pytest.raises(Busy, match="has not ended"):
                    await executor.apply([command])
            assert len(seen.loads) == sent + 1
            assert seen.hold is not None
            seen.hold.set()
            await takes_other(server)
            seen.give_up = None
            await executor.apply([TO_THIRD])
            assert (await state_of(executor, WHOLE[0])).batching == {"a": THIRD}

    asyncio.run(played())


@pytest.mark.slow
def test_a_load_after_an_unload_that_a_proxy_gave_up_is_not_followed_by_the_former_configuration(
    server: TritonServer, tmp_path: Path
) -> None:
    async def played() -> None:
        async with (
            begun(server, tmp_path) as (_, seen, endpoint),
            executor_on([endpoint], tmp_path, reload="unload_first") as executor,
        ):
            seen.calls.clear()
            seen.give_up = 504
            with pytest.raises(Failed, match="no known outcome"):
                await executor.apply([TO_OTHER])
            assert seen.calls == ["unload", "load"]

    asyncio.run(played())


def test_another_controller_does_not_send_a_load_again(server: TritonServer, tmp_path: Path) -> None:
    async def played() -> None:
        async with begun(server, tmp_path, IMPATIENT) as (executor, seen, endpoint):
            sent = len(seen.loads)
            with pytest.raises(Failed, match="no known outcome"):
                await executor.apply([TO_OTHER], term=1)
            await executor.close()
            async with executor_on([endpoint], tmp_path) as successor:
                with pytest.raises(Busy, match="has not ended"):
                    await successor.apply([TO_THIRD], term=2)
                assert len(seen.loads) == sent + 1
                assert seen.hold is not None
                seen.hold.set()
                await takes_other(server)
                await successor.apply([TO_THIRD], term=2)
                assert (await state_of(successor, WHOLE[0])).batching == {"a": THIRD}
                assert (await FileBook(tmp_path / "book.json").read()).loads == ()

    asyncio.run(played())


@pytest.mark.slow
def test_an_open_load_counts_as_ended_after_its_time(server: TritonServer, tmp_path: Path) -> None:
    async def played() -> None:
        async with begun(server, tmp_path, Patience(load_limit_s=1.0, quiet_s=0.1)) as (executor, seen, _):
            seen.swallow, seen.give_up = True, 504
            with pytest.raises(Failed, match="no known outcome"):
                await executor.apply([TO_OTHER])
            with pytest.raises(Busy, match="has not ended"):
                await executor.apply([TO_THIRD])
            seen.swallow, seen.give_up, seen.hold = False, None, None

            async def accepted() -> bool:
                try:
                    await executor.apply([TO_THIRD])
                except Busy:
                    return False
                return True

            await until(accepted)
            assert (await state_of(executor, WHOLE[0])).batching == {"a": THIRD}

    asyncio.run(played())


@pytest.mark.slow
def test_a_server_that_lost_a_load_without_a_word_and_is_back_is_set_right_at_once(
    server: TritonServer, tmp_path: Path
) -> None:
    """Its host went away with the load and the model; the connection stays open as if it still worked."""

    async def played() -> None:
        async with begun(server, tmp_path, Patience(load_s=3.0, quiet_s=0.1)) as (executor, seen, _):
            seen.swallow = True
            changing = asyncio.create_task(executor.apply([TO_OTHER]))
            sent = len(seen.loads)

            async def swallowed() -> bool:
                return len(seen.loads) > sent

            await until(swallowed)
            async with aiohttp.ClientSession() as session:
                await session.post(f"{server.endpoint.url}/v2/repository/models/model-a/unload", json={})

                async def gone() -> bool:
                    return (await states(session, server.endpoint))["model-a"] == "UNAVAILABLE"

                await until(gone)
            with pytest.raises(Failed, match="no known outcome"):
                await changing
            seen.swallow, seen.hold = False, None
            await executor.apply([StartReplicas(GPU, ("a",), (THIRD,), "")])
            assert (await state_of(executor, WHOLE[0])).batching == {"a": THIRD}

    asyncio.run(played())


def test_a_load_that_could_not_be_sent_is_told_apart() -> None:
    async def played() -> None:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))  # bound but not listening: nobody answers there
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            async with aiohttp.ClientSession() as session:
                api = TritonApi(session, Endpoint(url, url), timeout_s=1.0, load_limit_s=1.0)
                with pytest.raises(Unreachable, match=url):
                    await api.load("model-a", None)

    asyncio.run(played())


@pytest.mark.parametrize("garbage", [b"<html>It works!</html>", b"null", b'[{"state": 3}]', b"\xff\xfe"])
def test_a_server_that_answers_something_else_is_away_and_the_others_are_seen(
    shared_servers: tuple[TritonServer, TritonServer], tmp_path: Path, garbage: bytes
) -> None:
    one, two = (server.endpoint for server in shared_servers)

    async def played() -> None:
        async with proxy(two.url) as seen, executor_on([one, through(two, seen.url)], tmp_path) as executor:
            await executor.apply(holding(*WHOLE))
            seen.garbage = garbage
            shown = await executor.observe()
            first, second = (shown.state(instance.id) for instance in WHOLE)
            assert first is not None
            assert second is not None
            assert (first.problem, first.status) == ("", "ready")
            assert second.problem.startswith(f"Triton at {seen.url}")
            assert "no answer of Triton" in second.problem
            assert (await executor.versions())[GPUS[1].id] == ""

    asyncio.run(played())
