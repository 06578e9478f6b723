"""The few calls of Triton's HTTP interface that changing models takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp

from partita.errors import Failed
from partita.executors.triton.batching import Config

T = TypeVar("T")

_GATEWAY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)
"""What only a proxy answers: the server behind it may do what was asked all the same."""
_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE
"""What a proxy answers, and a server whose queue policy gave a request up."""

_SAMPLE = re.compile(r"^(?P<name>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)


class Away(Failed):
    """The server did not answer, or not in time: whether it did what was asked is not known."""


class Unreachable(Away):
    """There was no connection to the server: nothing was sent."""


class Refused(Failed):
    """The server answered that it will not; what it had goes on serving."""


class Rejected(Refused):
    """The server has the model and no time for the request: its queue policy gave it up."""


Interface = dict[str, list[tuple[str, str]]]
"""Name and data type of each tensor of a model, by side: inputs and outputs."""


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
        return await self._read("GET", "/v2", lambda told: str(told["version"]))

    async def states(self) -> dict[str, str]:
        """Return the state of every model the server knows; empty text if it was never loaded."""
        return await self._read("POST", "/v2/repository/index", _states, {})

    async def config(self, model: str) -> Config:
        """Return the complete configuration that a loaded model has."""
        return await self._read("GET", f"{_path(model)}/config", lambda told: {**told})

    async def interface(self, model: str) -> Interface:
        """Return the names and types of a loaded model's inputs and outputs, which are what its clients rely on."""
        return await self._read("GET", _path(model), _interface)

    async def ready(self, model: str) -> bool:
        """Say whether a model takes requests."""
        try:
            await self._call("GET", f"{_path(model)}/ready")
        except Refused:
            return False
        return True

    async def load(self, model: str, config: Config | None) -> None:
        """Load a model, with a complete configuration or (None) with that of its file; returns once it serves.

        Unreachable if nothing was sent; Away if the server may be at it.
        """
        body = {} if config is None else {"parameters": {"config": json.dumps(config)}}
        path = f"/v2/repository/models/{quote(model, safe='')}/load"
        await self._call("POST", path, body, timeout=self._load_limit, away=(*_GATEWAY, _UNAVAILABLE))

    async def unload(self, model: str) -> None:
        """Begin to unload a model; what it holds is still answered, new requests are not."""
        await self._call("POST", f"/v2/repository/models/{quote(model, safe='')}/unload", {})

    async def infer(self, model: str, request: Mapping[str, Any]) -> None:
        """Send one request and throw its answer away; Rejected if the model is too busy for it."""
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
        away: tuple[HTTPStatus, ...] = _GATEWAY,
    ) -> str:
        url = f"{self._endpoint.url if base is None else base}{path}"
        try:
            async with self._session.request(method, url, json=body, timeout=timeout or self._timeout) as answer:
                text = await answer.text(errors="replace")
        except aiohttp.ClientConnectorError as problem:
            raise Unreachable(f"Triton at {url} cannot be reached: {problem}", command=None) from problem
        except TimeoutError as problem:
            raise Away(f"Triton at {url} did not answer in time", command=None) from problem
        except (aiohttp.ClientError, OSError) as problem:
            raise Away(f"Triton at {url} cannot be reached: {problem}", command=None) from problem
        if answer.status in away:
            raise Away(f"Triton at {url} cannot be asked: {answer.status} {_words(text)}", command=None)
        if answer.status != HTTPStatus.OK:
            kind = Rejected if answer.status == _UNAVAILABLE else Refused
            raise kind(f"Triton at {url} refused: {_words(text) or answer.status}", command=None)
        return text

    async def _read(
        self, method: str, path: str, shape: Callable[[Any], T], body: Mapping[str, Any] | None = None
    ) -> T:
        """Call, and bring the JSON that is answered into shape; Away if it is none that Triton would answer."""
        text = await self._call(method, path, body)
        try:
            return shape(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            said = f"{text.strip()[:80]!r} is no answer of Triton's"
            raise Away(f"Triton at {self._endpoint.url}{path} cannot be asked: {said}", command=None) from problem


def _interface(metadata: Any) -> Interface:
    return {side: [(t["name"], t["datatype"]) for t in metadata[side]] for side in ("inputs", "outputs")}


def _states(index: Any) -> dict[str, str]:
    states: dict[str, str] = {}
    for entry in index:
        if states.get(entry["name"]) != "READY":  # of several versions, one that serves counts
            states[entry["name"]] = str(entry.get("state", ""))
    return states


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _words(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200]
