"""How requests are asked of each kind of server, and what its answers say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import nan
from urllib.parse import urlsplit

from partita.controller.live_demo.gateway import Answer, Door
from partita.executors.triton.emulated_model import BATCH, FINISHED, STARTED, infer_request

LONG = 200_000
"""Numbers in a greeting: some milliseconds of parsing."""


def triton_door(url: str, models: Sequence[str]) -> Door:
    """Return the door of a Triton server with models made by `emulated_model`.

    A call that loads a model takes one of the server's HTTP threads for as long as it lasts, and all connections of
    that thread wait. The server gives a new connection to a thread that has nothing to do, mostly the same; so that
    connections come to lie on many threads, each is greeted with a request that it takes a while to refuse.
    """
    body = json.dumps(infer_request()).encode()
    requests = tuple(_post(url, f"/v2/models/{model}/infer", body) for model in models)
    long = json.dumps(
        {"inputs": [{"name": "none", "shape": [LONG], "datatype": "FP32", "data": [0.5] * LONG}]}
    ).encode()
    return Door(url, requests, _read_triton, greeting=_post(url, f"/v2/models/{models[0]}/infer", long))


def runtime_door(url: str, services: Sequence[str]) -> Door:
    """Return the door of Partita's own runtime."""
    return Door(url, tuple(_post(url, f"/v1/services/{service}", b"") for service in services), _read_runtime)


def _post(url: str, path: str, body: bytes) -> bytes:
    lines = (f"POST {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", "Content-Type: application/json")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


def _read_triton(body: bytes) -> Answer:
    said = {output["name"]: output["data"][0] for output in json.loads(body)["outputs"]}
    return said[BATCH], said[STARTED] / 1e9, said[FINISHED] / 1e9


def _read_runtime(body: bytes) -> Answer:
    return json.loads(body)["batch"], nan, nan
