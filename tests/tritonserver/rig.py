"""What the tests of the Triton executor share: models, an executor on given servers, and clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from partita.executors.book import FileBook
from partita.executors.triton.api import Endpoint
from partita.executors.triton.emulated_model import EmulatedModel, infer_request
from partita.executors.triton.executor import TritonExecutor
from partita.executors.triton.loading import Patience
from partita.model.cluster import Batching, Gpu, Instance, InstanceState, Route, SubCluster
from partita.model.plan import Acquire, Command, CreateInstance, HeldGpu, Plan

MODELS = (
    EmulatedModel("model-a", alpha_ms=0.5, beta_ms=2.0, max_delay_s=0.02, largest_batch=32),
    EmulatedModel("model-b", alpha_ms=0.5, beta_ms=1.0, max_delay_s=0.005),
    EmulatedModel("model-c", alpha_ms=0.2, beta_ms=1.0, max_delay_s=None),
    EmulatedModel("slow", alpha_ms=0.0, beta_ms=400.0),
    EmulatedModel("b", alpha_ms=0.5, beta_ms=1.0, max_delay_s=0.02),
)
NAMES = {"a": "model-a", "b": "model-b", "c": "model-c", "slow": "slow"}
SWIFT = Patience(call_s=5.0, load_s=20.0, load_limit_s=2.5, unload_s=20.0, drain_s=10.0, quiet_s=0.1, poll_s=0.02)
GPUS = (Gpu("gpu-0", "A100", 80.0), Gpu("gpu-1", "A100", 80.0))
WHOLE = tuple(Instance(g.id, g.id, g.memory_gib) for g in GPUS)
ONE, OTHER = Batching("timeout", 0.002, 4), Batching("timeout", 0.01, 8)


@asynccontextmanager
async def executor_on(
    endpoints: Sequence[Endpoint],
    folder: Path,
    *,
    models: Mapping[str, str] = NAMES,
    patience: Patience = SWIFT,
    **settings: Any,
) -> AsyncIterator[TritonExecutor]:
    """Make an executor whose first GPUs have these servers, and whose book is in `folder`."""
    servers = {gpu.id: endpoint for gpu, endpoint in zip(GPUS, endpoints, strict=False)}
    book = FileBook(folder / "book.json")
    async with TritonExecutor(servers, models, GPUS, book, patience=patience, **settings) as executor:
        yield executor


@asynccontextmanager
async def emptied(*endpoints: Endpoint) -> AsyncIterator[None]:
    """Leave these servers without models when the block ends."""
    try:
        yield
    finally:
        await asyncio.gather(*map(empty, endpoints))


async def empty(endpoint: Endpoint) -> None:
    """Unload everything and wait until it is gone."""
    async with aiohttp.ClientSession() as session:
        while there := [m for m, s in (await states(session, endpoint)).items() if s in ("READY", "UNLOADING")]:
            for name in there:
                async with session.post(f"{endpoint.url}/v2/repository/models/{name}/unload", json={}):
                    pass
            await asyncio.sleep(0.05)


async def states(session: aiohttp.ClientSession, endpoint: Endpoint) -> dict[str, str]:
    async with session.post(f"{endpoint.url}/v2/repository/index", json={}) as answer:
        return {entry["name"]: entry.get("state", "") for entry in await answer.json()}


async def config_of(endpoint: Endpoint, model: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{endpoint.url}/v2/models/{model}/config") as answer:
        config: dict[str, Any] = await answer.json()
        return config


async def until(found: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something to be so; at most half a minute."""
    async with asyncio.timeout(30.0):
        while not await found():
            await asyncio.sleep(0.02)


async def ask(session: aiohttp.ClientSession, endpoint: Endpoint, model: str) -> dict[str, int] | int:
    """Send one request; returns what the model says, or the status of a failure."""
    async with session.post(f"{endpoint.url}/v2/models/{model}/infer", json=infer_request()) as answer:
        if answer.status != 200:
            return answer.status
        said = (await answer.json())["outputs"]
        return {output["name"]: int(output["data"][0]) for output in said}


async def load_on(
    endpoint: Endpoint, models: Sequence[str], *, rate_rps: float, done: asyncio.Event
) -> list[dict[str, int] | int]:
    """Send requests at a fixed rate, whatever their answers take, until told to stop; returns all answers."""
    loop, answers = asyncio.get_running_loop(), list[asyncio.Task[dict[str, int] | int]]()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        begin = loop.time()
        while not done.is_set():
            answers.append(asyncio.create_task(ask(session, endpoint, models[len(answers) % len(models)])))
            await asyncio.sleep(max(0.0, begin + len(answers) / rate_rps - loop.time()))
        return list(await asyncio.gather(*answers))


def holding(*instances: Instance) -> list[Command]:
    """Hold GPUs, each as its one instance."""
    return [*(Acquire(i.gpu, "") for i in instances), *(CreateInstance(i, "") for i in instances)]


def plan_of(instances: Sequence[Instance], batching: Mapping[str, Batching]) -> Plan:
    """Return a plan that serves these services on these instances."""
    group = SubCluster("group", tuple(instances), tuple(batching), tuple(batching.values()))
    routes = tuple(Route(s, "group") for s in batching)
    return Plan(tuple(HeldGpu(i.gpu) for i in instances), (group,), routes, "wanted")


async def state_of(executor: TritonExecutor, instance: Instance) -> InstanceState:
    state = (await executor.observe()).state(instance.id)
    assert state is not None
    return state


def through(endpoint: Endpoint, url: str) -> Endpoint:
    """Return an endpoint whose calls go through a proxy."""
    return replace(endpoint, url=url)
