"""What can be seen of a controller over HTTP: /metrics, /healthz, /readyz."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from partita.controller.live.metrics import registry
from partita.controller.live.status import Status
from partita.errors import ConfigError

STUCK_TURNS, STUCK_S = 5, 60.0
"""A loop that has not turned for so many intervals, and for so long, hangs."""


class Pulse:
    """Says how long a leading controller has not turned.

    It is looked at only when somebody asks, so the answer may be shorter than the truth by the time between two
    questions, but never longer: a controller that turns is never called stuck.
    """

    def __init__(self, status: Status, clock: Callable[[], float] = time.monotonic) -> None:
        self._status, self._clock = status, clock
        self._mark = self._seen()
        self._since_s = clock()

    def still_s(self) -> float:
        """Return for how many seconds nothing has moved; 0 while the controller stands by."""
        mark = self._seen()
        if mark != self._mark or not self._status.leading:
            self._mark, self._since_s = mark, self._clock()
        return self._clock() - self._since_s

    def problem(self) -> str:
        """Say that the loop hangs, if it does."""
        still_s = self.still_s()
        if still_s <= max(STUCK_TURNS * self._status.near_s, STUCK_S):
            return ""
        return f"the loop has not turned for {still_s:.0f} s, and should every {self._status.near_s:g} s"

    def _seen(self) -> tuple[object, ...]:
        return self._status.leading, self._status.run, self._status.counted.turns


def unready(status: Status) -> list[str]:
    """Say why a controller is neither leading nor standing by as it should, a line a reason."""
    found = [status.trouble] if status.trouble else []
    if status.leading:
        found += [f"{signal} is missing: {why}" for signal, why in sorted(status.missing.items())]
    return [" ".join(line.split()) for line in found]


STATUS = web.AppKey("status", Status)
PULSE = web.AppKey("pulse", Pulse)
REGISTRY = web.AppKey("registry", CollectorRegistry)


async def serve(status: Status, listen: str) -> Callable[[], Awaitable[None]]:
    """Serve a status at ``host:port`` and return what ends that; ConfigError if nobody can listen there."""
    host, _, port = listen.rpartition(":")
    application = web.Application()
    application.add_routes(
        [web.get("/metrics", _metrics), web.get("/healthz", _healthz), web.get("/readyz", _readyz)],
    )
    application[STATUS], application[PULSE], application[REGISTRY] = status, Pulse(status), registry(status)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
    except (OSError, OverflowError) as problem:
        await runner.cleanup()
        why = getattr(problem, "strerror", None) or str(problem)
        raise ConfigError(f"cannot listen at {listen}: {why}", key="watch.listen", value=listen) from None
    return runner.cleanup


async def _metrics(request: web.Request) -> web.Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(request.app[REGISTRY]), headers={"Content-Type": content_type})


async def _healthz(request: web.Request) -> web.Response:
    problem = request.app[PULSE].problem()
    return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)


async def _readyz(request: web.Request) -> web.Response:
    status = request.app[STATUS]
    problems = unready(status)
    if stuck := request.app[PULSE].problem():
        problems.insert(0, stuck)
    if problems:
        return web.Response(text="\n".join(problems) + "\n", status=503)
    doing = f"leading, term {status.term}" if status.leading else "standing by"
    return web.Response(text=f"ready: {doing}\n")
