"""Three real Triton servers as the ground of a change: their executor, the loads of models, and a gateway."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import aiohttp
from crash.house import Replies, plan_of
from tritonserver.rig import SWIFT

from partita.executors.book import FileBook
from partita.executors.triton.api import Endpoint
from partita.executors.triton.emulated_model import infer_request
from partita.executors.triton.executor import TritonExecutor
from partita.executors.triton.server import TritonServer
from partita.model.cluster import Batching, Gpu, Instance
from partita.model.plan import HeldGpu
from partita.ports import Executor, Page

NAMES = {"a": "model-a", "b": "model-b", "c": "model-c", "d": "b"}
GPUS = tuple(Gpu(f"gpu-{n}", "A100", 80.0) for n in range(3))
FIRST, SECOND, THIRD = (Instance(g.id, g.id, g.memory_gib) for g in GPUS)
LATER, SOONER = Batching("timeout", 0.01, 8), Batching("timeout", 0.002, 4)

ONE = plan_of(
    [HeldGpu("gpu-0"), HeldGpu("gpu-1")],
    {"together": ([FIRST], "abc", LATER), "beside": ([SECOND], "cd", LATER)},
    "plan one",
)
OTHER = plan_of(
    [HeldGpu("gpu-1"), HeldGpu("gpu-2")],
    {"beside": ([SECOND], "ad", SOONER), "new": ([THIRD], "abc", SOONER)},
    "plan other",
)
"""From the one to the other: a server for another, a model for another, and other batching of one that stays."""


@dataclass(frozen=True, slots=True)
class Triton:
    """The executor of some servers, with its book in a file."""

    endpoints: Mapping[str, Endpoint]
    book: Path

    @asynccontextmanager
    async def __call__(self, dsn: str) -> AsyncIterator[Executor]:
        async with TritonExecutor(self.endpoints, NAMES, GPUS, FileBook(self.book), patience=SWIFT) as executor:
            yield executor


def loads(servers: Sequence[TritonServer]) -> Counter[tuple[str, str, str]]:
    """Count the loads of each model on each server, by the servers' own logs."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for gpu, server in zip(GPUS, servers, strict=True):
        text = server.log.read_text(encoding="utf-8", errors="replace")
        for service, model in NAMES.items():
            counted["load", gpu.id, service] = text.count(f"successfully loaded '{model}'")
    return +counted


def places(page: Page, service: str) -> list[Instance]:
    """Return where a gateway may send requests of a service."""
    groups = {r.sub_cluster for r in page.routes if r.service == service}
    there = [i for g in page.sub_clusters if g.name in groups for i in g.instances]
    return [i for i in there if (i.id, service) not in page.draining]


@asynccontextmanager
async def lightly_loaded(where: Triton, *, rate_rps: float = 30.0) -> AsyncIterator[Replies]:
    """Ask all services in turn, as a gateway that reads its routes from the book, for as long as the block lasts."""
    replies, asked, book = Replies(), set[asyncio.Task[None]](), FileBook(where.book)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(service: str) -> None:
            there = places(await book.read(), service)
            if not there:
                replies.others.append(f"{service}: no route")
                return
            place = there[replies.sent % len(there)]
            url = where.endpoints[place.gpu].url
            try:
                async with session.post(f"{url}/v2/models/{NAMES[service]}/infer", json=infer_request()) as answer:
                    if answer.status != 200:
                        replies.others.append(f"{service} on {place.id}: {answer.status} {await answer.text()}")
            except (aiohttp.ClientError, TimeoutError) as problem:
                replies.others.append(f"{service} on {place.id}: {problem!r}")

        async def keep_asking() -> None:
            for service in cycle(NAMES):
                replies.sent += 1
                task = asyncio.create_task(ask(service))
                asked.add(task)
                task.add_done_callback(asked.discard)
                await asyncio.sleep(1 / rate_rps)

        load = asyncio.create_task(keep_asking())
        try:
            yield replies
        finally:
            load.cancel()
            await asyncio.gather(load, *asked, return_exceptions=True)
