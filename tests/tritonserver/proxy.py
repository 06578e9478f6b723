"""A proxy before a Triton server: keeps what is sent, and can lose answers or hold requests back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web


@dataclass
class Proxy:
    """What passed through; `lose_answers` and `hold` concern loads only."""

    target: str
    url: str = ""
    loads: list[dict[str, Any] | None] = field(default_factory=list)
    """Configurations sent, None for a load without one."""
    calls: list[str] = field(default_factory=list)
    """Last word of each load's and unload's path."""
    lose_answers: bool = False
    hold: asyncio.Event | None = None

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
    async with aiohttp.ClientSession() as session:

        async def forward(request: web.Request) -> web.Response:
            body = await request.read()
            known.note(request.path, body)
            is_load = request.path.endswith("/load")
            if is_load and known.hold is not None:
                await known.hold.wait()
            async with session.request(request.method, f"{target}{request.path}", data=body) as answer:
                text = await answer.read()
            if is_load and known.lose_answers:
                await asyncio.sleep(3600)
            return web.Response(status=answer.status, body=text)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        known.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield known
        finally:
            await runner.cleanup()
