"""The runtime as a process: it outlives the controller and holds the cluster's state in its memory."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping

from aiohttp import web

from partita.errors import ConfigError
from partita.executors.local.front import application
from partita.executors.local.runtime import Runtime
from partita.executors.local.settings import MakePool, Settings
from partita.executors.local.sinks import Sink
from partita.ports import Discipline


def serve(
    settings: Settings,
    disciplines: Mapping[str, Discipline],
    make_pool: MakePool,
    *,
    sink: Sink | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run the runtime until SIGTERM or SIGINT, then answer what it holds and return.

    `on_ready` is told the URL once requests are taken; ConfigError if the address cannot be listened at.
    """
    asyncio.run(_serve(settings, disciplines, make_pool, sink, on_ready))


async def _serve(
    settings: Settings,
    disciplines: Mapping[str, Discipline],
    make_pool: MakePool,
    sink: Sink | None,
    on_ready: Callable[[str], None] | None,
) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runtime = Runtime(settings, disciplines, make_pool, sink)
    runner = web.AppRunner(application(runtime), access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as problem:
            where = f"{settings.host}:{settings.port}"
            raise ConfigError(f"cannot listen at {where}: {problem.strerror}", key="port", value=where) from None
        await runtime.start()
        if on_ready is not None:
            host, port = runner.addresses[0][:2]
            on_ready(f"http://{host}:{port}")
        await stop.wait()
    finally:
        await runtime.stop()
        await runner.cleanup()
