"""What can be seen of a controller over HTTP: /metrics, /healthz, /readyz."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from partita.controller.live.status import Status
from partita.errors import ConfigError


async def serve(status: Status, listen: str) -> Callable[[], Awaitable[None]]:
    """Serve a status at ``host:port`` and return what ends that; ConfigError if nobody can listen there."""
    host, _, port = listen.rpartition(":")
    application = web.Application()
    application.add_routes([web.get("/healthz", _healthz), web.get("/readyz", _readyz)])
    application[STATUS] = status
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
    except OSError as problem:
        await runner.cleanup()
        raise ConfigError(f"cannot listen at {listen}: {problem.strerror}", key="watch.listen", value=listen) from None
    return runner.cleanup


STATUS = web.AppKey("status", Status)


async def _healthz(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _readyz(request: web.Request) -> web.Response:
    problems = request.app[STATUS].problems()
    return web.Response(text="\n".join(problems or ["ready"]) + "\n", status=503 if problems else 200)
