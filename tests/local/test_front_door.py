"""What the runtime answers to good and bad calls, and what the executor makes of a runtime that is slow or away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from math import inf
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from local.harness import NAMES, Lender, Running, brought_up, settings, whole
from miniature import cut

from partita.errors import Busy, ConfigError, Failed, Unsupported
from partita.executors.local.daemon import serve
from partita.executors.local.executor import LocalExecutor
from partita.model.cluster import Batching, Instance, SubCluster, instances_of
from partita.model.plan import Acquire, CreateInstance, DestroyInstance, SetRoutes, SetShare, StartReplicas
from partita.model.staggered import NO_OVERHEADS
from partita.replay.pools import PoolMaker


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    with closing(Lender(tmp_path_factory.mktemp("door"), settings(model_load_s=0.4))) as known:
        yield known


@pytest.fixture
def runtime(lender: Lender) -> Iterator[Running]:
    with lender.lend() as lent:
        yield lent


async def call(runtime: Running, path: str, body: Any = None) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session:
        how = {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        async with session.post(f"{runtime.url}{path}", **how) as answer:
            return answer.status, await answer.json()


def test_requests_that_cannot_be_served_are_told_why(runtime: Running) -> None:
    async def story() -> None:
        assert await call(runtime, "/v1/services/nobody") == (404, {"reason": "there is no service nobody"})
        assert await call(runtime, "/v1/services/a") == (503, {"reason": "no replica serves a"})
        await runtime.executor.apply(brought_up(whole(settings().inventory)[:1], "a", Batching("eager")))
        for bad in (b"{", b"[]", b'{"size": "large"}'):
            status, told = await call(runtime, "/v1/services/a", bad)
            assert status == 400
            assert "size" in told["reason"]
        status, told = await call(runtime, "/v1/services/a", {"size": 12.5})
        assert (status, set(told)) == (200, {"batch", "queue_ms", "latency_ms", "instance"})

    asyncio.run(story())
    logged = runtime.finished(2)
    assert [(f["status"], f["size"], f["batch"]) for f in logged] == [("dropped", None, None), ("good", 12.5, 1)]


def test_controls_that_are_no_commands_are_refused(runtime: Running) -> None:
    async def story() -> None:
        bodies: tuple[Any, ...] = (b"{", {}, {"command": {"verb": "Explode"}}, {"command": {"verb": "Acquire"}}, [1])
        for body in bodies:
            status, told = await call(runtime, "/v1/control", body)
            assert (status, told["error"]) == (400, "failed")

    asyncio.run(story())


def test_refusals_have_their_kinds(runtime: Running) -> None:
    async def story() -> None:
        executor, (gpu, _) = runtime.executor, settings().inventory
        await executor.apply(brought_up(whole([gpu]), "a", Batching("eager")))
        with pytest.raises(Busy, match="still holds a"):
            await executor.apply([DestroyInstance(gpu.id, "")])
        with pytest.raises(Unsupported):
            await executor.apply([SetShare(gpu.id, 50.0, "")])
        with pytest.raises(Unsupported, match="no such"):
            await executor.apply([SetRoutes((SubCluster("x", (), ("a",), (Batching("no such"),)),), (), "")])
        with pytest.raises(Failed, match="unknown service z"):
            await executor.apply([SetRoutes((SubCluster("x", (), ("z",), (Batching("eager"),)),), (), "")])
        with pytest.raises(Failed, match="no service z"):
            await executor.apply([StartReplicas(gpu.id, ("z",), (Batching("eager"),), "")])
        with pytest.raises(Failed, match="not there to be acquired"):
            await executor.apply([Acquire(gpu.id, "")])

    asyncio.run(story())


def test_instances_that_do_not_fit_are_refused(runtime: Running) -> None:
    async def story() -> None:
        executor, (gpu, _) = runtime.executor, settings().inventory
        halves = cut("3g.40gb@0,3g.40gb@4")
        first, second = instances_of(gpu, halves)
        await executor.apply([Acquire(gpu.id, ""), CreateInstance(first, "")])
        await executor.apply([CreateInstance(first, "")])  # it is there already, which is no reason to refuse
        for wrong in (
            Instance(gpu.id, gpu.id, gpu.memory_gib),
            Instance(f"{gpu.id}/4g.40gb@0", gpu.id, 40.0, "4g.40gb", 0),
            Instance(f"{gpu.id}/1g.10gb@1", gpu.id, 10.0, "1g.10gb", 1),
            Instance(first.id, gpu.id, 1.0, "1g.10gb", 6),
        ):
            with pytest.raises(Busy):
                await executor.apply([CreateInstance(wrong, "")])
        await executor.apply([CreateInstance(second, "")])
        assert [s.instance for s in (await executor.observe()).instances] == [first, second]

    asyncio.run(story())


def test_a_service_without_a_curve_for_the_profile_cannot_be_loaded(runtime: Running) -> None:
    async def story() -> None:
        executor, (gpu, _) = runtime.executor, settings().inventory
        odd = Instance(f"{gpu.id}/2g.20gb@0", gpu.id, 20.0, "2g.20gb", 0)
        await executor.apply([Acquire(gpu.id, ""), CreateInstance(odd, "")])
        with pytest.raises(Failed, match="no latency curve"):
            await executor.apply([StartReplicas(odd.id, ("a",), (Batching("eager"),), "")])
        state = (await executor.observe()).state(odd.id)
        assert state is not None
        assert (state.loaded, state.loading) == ((), ())

    asyncio.run(story())


def test_a_command_that_takes_too_long_is_busy_and_goes_on(runtime: Running) -> None:
    async def story() -> None:
        gpu = settings().inventory[0]
        await runtime.executor.apply([Acquire(gpu.id, ""), CreateInstance(whole([gpu])[0], "")])
        impatient = LocalExecutor(runtime.url, NAMES, control_s=0.1)
        start = StartReplicas(gpu.id, ("a",), (Batching("eager"),), "")
        with pytest.raises(Busy, match="still works on StartReplicas") as refused:
            await impatient.apply([start])
        assert refused.value.command is start
        await runtime.executor.apply([start])
        state = (await runtime.executor.observe()).state(gpu.id)
        assert state is not None
        assert state.loaded == ("a",)

    asyncio.run(story())


def test_a_worker_that_dies_while_models_load_fails_the_command(runtime: Running) -> None:
    async def story() -> None:
        gpu = settings().inventory[0]
        (instance,) = whole([gpu])
        start = StartReplicas(gpu.id, ("a",), (Batching("eager"),), "")
        await runtime.executor.apply([Acquire(gpu.id, ""), CreateInstance(instance, "")])
        starting = asyncio.create_task(runtime.executor.apply([start]))
        while not (seen := (await runtime.executor.observe()).state(gpu.id)) or not seen.loading:
            await asyncio.sleep(0.01)
        os.kill((await runtime.state())["workers"][gpu.id], signal.SIGKILL)
        with pytest.raises(Failed, match=f"the worker of {gpu.id} ended"):
            await starting
        await runtime.executor.apply([CreateInstance(instance, ""), start])
        again = (await runtime.executor.observe()).state(gpu.id)
        assert again is not None
        assert again.loaded == ("a",)

    asyncio.run(story())


def test_commands_side_by_side_wait_for_no_connection() -> None:
    """More than an HTTP client's usual hundred, each taking longer than the wait for a connection."""

    async def done(request: web.Request) -> web.Response:
        await asyncio.sleep(0.6)
        return web.json_response({})

    async def story() -> None:
        app = web.Application()
        app.router.add_post("/v1/control", done)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            executor = LocalExecutor(f"http://127.0.0.1:{runner.addresses[0][1]}", NAMES, observe_s=0.5)
            await executor.apply([StartReplicas(f"gpu{n}", ("a",), (Batching("eager"),), "") for n in range(120)])
        finally:
            await runner.cleanup()

    asyncio.run(story())


def test_a_runtime_that_is_away_is_told_apart_from_an_empty_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody answers there
        executor = LocalExecutor(f"http://127.0.0.1:{taken.getsockname()[1]}", NAMES, observe_s=1.0)
        with pytest.raises(Failed, match="is away") as away:
            asyncio.run(executor.observe())
        assert away.value.command is None
        with pytest.raises(Failed, match="is away") as refused:
            asyncio.run(executor.apply([Acquire("gpu0", "")]))
        assert refused.value.command == Acquire("gpu0", "")


def test_an_address_that_is_taken_is_a_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        how = settings(port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot listen at"):
            serve(how, {}, PoolMaker(how.services, NO_OVERHEADS).pool)


def test_state_and_readiness_can_be_asked(runtime: Running) -> None:
    async def story() -> None:
        await runtime.executor.apply(brought_up(whole(settings().inventory), "ab", Batching("eager")), term=3)
        seen = await runtime.state()
        assert seen["term"] == 3
        assert len(seen["workers"]) == 2
        assert seen["state"]["routes"][0]["up_to_size"] == str(inf)
        assert (await runtime.executor.observe()).routes[0].up_to_size == inf
        async with aiohttp.ClientSession() as session, session.get(f"{runtime.url}/health/ready") as answer:
            assert (answer.status, await answer.json()) == (200, {"ready": True})

    asyncio.run(story())
    assert json.loads(json.dumps(asyncio.run(runtime.state())))["term"] == 3
