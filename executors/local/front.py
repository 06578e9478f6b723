"""The runtime's front door: requests, controls, state and metrics over HTTP.

| call | takes | answers |
|---|---|---|
| ``POST /v1/services/{service}`` | nothing, or ``{"size": …}`` | ``{batch, queue_ms, latency_ms, instance}`` |
| ``POST /v1/control`` | ``{"command": …, "term": …}`` | ``{}``, when it is done |
| ``GET /v1/state`` | | ``{state, term, workers}`` |
| ``GET /metrics`` | | Prometheus text |
| ``GET /health/ready`` | | 200 once requests are taken |

A request that was dropped is answered 503, one whose worker failed 502, one for an unknown service 404, with a
`reason`. A command is refused with 409 (Busy), 422 (Unsupported) or 400 (Failed), with `error` and `message`.
"""

from __future__ import annotations

import asyncio
from math import nan
from typing import Any

from aiohttp import web

from partita.errors import Busy, ExecutionError, Unsupported
from partita.executors.local.requests import Ending
from partita.executors.local.runtime import Runtime
from partita.model.plain import to_plain
from partita.model.revive import command_from_plain

_STATUS = {Ending.DROPPED: 503, Ending.FAILED: 502}


def application(runtime: Runtime) -> web.Application:
    """Make the web application of a runtime."""
    front = _Front(runtime)
    app = web.Application()
    app.router.add_post("/v1/services/{service}", front.request)
    app.router.add_post("/v1/control", front.control)
    app.router.add_get("/v1/state", front.state)
    app.router.add_get("/metrics", front.metrics)
    app.router.add_get("/health/ready", front.ready)
    return app


class _Front:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def request(self, call: web.Request) -> web.Response:
        service = call.match_info["service"]
        if not self._runtime.knows(service):
            return _json({"reason": f"there is no service {service}"}, 404)
        try:
            size = float((await call.json()).get("size", nan)) if call.can_read_body else nan
        except (ValueError, TypeError, AttributeError):
            return _json({"reason": 'the body must be empty or {"size": <a number>}'}, 400)
        answer = await self._runtime.serve(service, size)
        if answer.reason:
            return _json({"reason": answer.reason}, _STATUS[answer.ending])
        return _json(
            {
                "batch": answer.batch,
                "queue_ms": round(answer.queue_ms, 3),
                "latency_ms": round(answer.latency_ms, 3),
                "instance": answer.instance,
            }
        )

    async def control(self, call: web.Request) -> web.Response:
        try:
            body = await call.json()
            command, term = command_from_plain(body["command"]), int(body.get("term", 0))
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            return _json({"error": "failed", "message": f"not a command: {problem}"}, 400)
        if not self._runtime.ready:
            return _json({"error": "busy", "message": "the runtime is starting or being stopped"}, 409)
        try:
            await asyncio.shield(self._runtime.carry_out(command, term))  # goes on although its caller leaves
        except Busy as refusal:
            return _json({"error": "busy", "message": str(refusal)}, 409)
        except Unsupported as refusal:
            return _json({"error": "unsupported", "message": str(refusal)}, 422)
        except ExecutionError as refusal:
            return _json({"error": "failed", "message": str(refusal)}, 400)
        return _json({})

    async def state(self, call: web.Request) -> web.Response:
        runtime = self._runtime
        return _json({"state": to_plain(runtime.state()), "term": runtime.term, "workers": runtime.workers()})

    async def metrics(self, call: web.Request) -> web.Response:
        self._runtime.count_lost()
        return web.Response(body=self._runtime.meters.text(), content_type="text/plain", charset="utf-8")

    async def ready(self, call: web.Request) -> web.Response:
        ready = self._runtime.ready
        return _json({"ready": ready}, 200 if ready else 503)


def _json(data: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(data, status=status)
