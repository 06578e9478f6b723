"""A proxy before a Triton server: keeps what is sent, and can lose answers or hold requests back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
from aiohttp import web


@dataclass
class Proxy:
    """What passed through; all but `target` and `garbage` concern loads only.

    `give_up` is the status that a load is answered with at once, or "cut" for an end of the connection instead; it is
    handed on all the same, unless `swallow` says otherwise, but not before `hold` is set.
    """

    target: str
    url: str = ""
    loads: list[dict[str, Any] | None] = field(default_factory=list)
    """Configurations sent, None for a load without one."""
    calls: list[str] = field(default_factory=list)
    """Last word of each load's and unload's path."""
    lose_answers: bool = False
    hold: asyncio.Event | None = None
    give_up: int | Literal["cut"] | None = None
    swallow: bool = False
    garbage: bytes | None = None
    """What every call is answered with, if anything."""

    def note(self, path: str, body: bytes) -> None:
        if path.endswith(("/load", "/unload")):
            self.calls.append(path.rpartition("/")[2])
        if path.endswith("/load"):
            config = json.loads(body or b"{}").get("parameters", {}).get("config")
            self.loads.append(None if config is None else json.loads(config))


@asynccontextmanager
async def proxy(target: str) -> AsyncIterator[Proxy]:
    """Run a proxy on a free port."""
    known = Proxy(target)
    behind = set[asyncio.Task[web.Response]]()
    async with aiohttp.ClientSession() as session:

        async def forward(request: web.Request) -> web.Response:
            body = await request.read()
            known.note(request.path, body)
            if known.garbage is not None:
                return web.Response(body=known.garbage, content_type="text/html")
            if not request.path.endswith("/load"):
                return await hand_on(request.method, request.path, body)
            return await load(request, body)

        async def load(request: web.Request, body: bytes) -> web.Response:
            task = None if known.swallow else asyncio.create_task(held(request.method, request.path, body, known.hold))
            behind.update({task} if task is not None else ())
            if known.give_up == "cut":
                assert request.transport is not None
                request.transport.abort()
            if known.give_up is not None:
                return web.Response(status=502 if known.give_up == "cut" else known.give_up, text="<html>away</html>")
            if task is None or known.lose_answers:
                await asyncio.sleep(3600)
            assert task is not None
            return await task

        async def held(method: str, path: str, body: bytes, hold: asyncio.Event | None) -> web.Response:
            if hold is not None:
                await hold.wait()
            return await hand_on(method, path, body)

        async def hand_on(method: str, path: str, body: bytes) -> web.Response:
            async with session.request(method, f"{target}{path}", data=body) as answer:
                return web.Response(status=answer.status, body=await answer.read())

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        known.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield known
            await asyncio.gather(*behind)
        finally:
            for task in behind:
                task.cancel()
            await runner.cleanup()
