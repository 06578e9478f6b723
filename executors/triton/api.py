"""The few calls of Triton's HTTP interface that changing models takes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import aiohttp

from partita.errors import Failed
from partita.executors.triton.batching import Config

_SAMPLE = re.compile(r"^(?P<name>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)


class Away(Failed):
    """The server did not answer, or not in time: whether it did what was asked is not known."""


class Refused(Failed):
    """The server answered that it will not; what it had goes on serving."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one server listens: its HTTP interface and its metrics, both without a path at the end."""

    url: str
    metrics_url: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many requests of a model wait, and how many were answered since it was loaded."""

    pending: float
    answered: float


class TritonApi:
    """One server, by HTTP; Away and Refused, both Failed, name it and repeat its words."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: Endpoint, *, timeout_s: float, load_limit_s: float):
        self._session, self._endpoint = session, endpoint
        self._timeout, self._load_limit = aiohttp.ClientTimeout(timeout_s), aiohttp.ClientTimeout(load_limit_s)

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._endpoint.url

    async def version(self) -> str:
        """Return the server's version."""
        return str(json.loads(await self._call("GET", "/v2"))["version"])

    async def states(self) -> dict[str, str]:
        """Return the state of every model the server knows; empty text if it was never loaded."""
        states: dict[str, str] = {}
        for entry in json.loads(await self._call("POST", "/v2/repository/index", {})):
            state = str(entry.get("state", ""))
            if states.get(entry["name"]) != "READY":  # of several versions, one that serves counts
                states[entry["name"]] = state
        return states

    async def config(self, model: str) -> Config:
        """Return the complete configuration that a loaded model has."""
        config: Config = json.loads(await self._call("GET", f"{_path(model)}/config"))
        return config

    async def metadata(self, model: str) -> dict[str, Any]:
        """Return the names, types and shapes of a loaded model's inputs and outputs."""
        metadata: dict[str, Any] = json.loads(await self._call("GET", _path(model)))
        return metadata

    async def ready(self, model: str) -> bool:
        """Say whether a model takes requests."""
        try:
            await self._call("GET", f"{_path(model)}/ready")
        except Refused:
            return False
        return True

    async def load(self, model: str, config: Config | None) -> None:
        """Load a model, with a complete configuration or (None) with that of its file; returns once it serves."""
        body = {} if config is None else {"parameters": {"config": json.dumps(config)}}
        path = f"/v2/repository/models/{quote(model, safe='')}/load"
        await self._call("POST", path, body, timeout=self._load_limit)

    async def unload(self, model: str) -> None:
        """Begin to unload a model; what it holds is still answered, new requests are not."""
        await self._call("POST", f"/v2/repository/models/{quote(model, safe='')}/unload", {})

    async def infer(self, model: str, request: Mapping[str, Any]) -> None:
        """Send one request and throw its answer away."""
        await self._call("POST", f"{_path(model)}/infer", request)

    async def traffic(self, model: str) -> Traffic:
        """Count a model's requests, all its versions together."""
        text = await self._call("GET", "/metrics", base=self._endpoint.metrics_url)
        sums = {"nv_inference_pending_request_count": 0.0, "nv_inference_request_success": 0.0}
        for sample in _SAMPLE.finditer(text):
            if sample["name"] in sums and f'model="{model}"' in sample["labels"].split(","):
                sums[sample["name"]] += float(sample["value"])
        return Traffic(*sums.values())

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        base: str | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> str:
        url = f"{self._endpoint.url if base is None else base}{path}"
        try:
            async with self._session.request(method, url, json=body, timeout=timeout or self._timeout) as answer:
                text = await answer.text()
        except TimeoutError as problem:
            raise Away(f"Triton at {url} did not answer in time", command=None) from problem
        except (aiohttp.ClientError, OSError) as problem:
            raise Away(f"Triton at {url} cannot be reached: {problem}", command=None) from problem
        if answer.status != HTTPStatus.OK:
            raise Refused(f"Triton at {url} refused: {_words(text) or answer.status}", command=None)
        return text


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _words(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200]
