"""The runs: the same load at a Triton server under one setting, under the controller, and at our own runtime."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from partita.client import AsyncRequestLog
from partita.controller.cli.options import apply_migrations
from partita.controller.commands import commands_for
from partita.controller.live_demo.case import DEFAULT, GPU, MODELS, NAMES, POLICY, SLOS_S, Setting, plan_of
from partita.controller.live_demo.doors import runtime_door, triton_door
from partita.controller.live_demo.gateway import GIVE_UP_S, Door, Gateway, Played
from partita.controller.live_demo.load import Load
from partita.controller.live_demo.predict import Change
from partita.controller.live_demo.processes import running
from partita.errors import PartitaError
from partita.executors.book import FileBook
from partita.executors.local.executor import LocalExecutor
from partita.executors.triton.emulated_model import make_repository
from partita.executors.triton.executor import TritonExecutor
from partita.executors.triton.server import TritonServer, triton_server
from partita.model.cluster import Batching
from partita.model.plan import Plan, SetBatching, StartReplicas
from partita.model.revive import command_from_plain
from partita.store import embedded
from partita.store.connection import connect
from partita.store.operators import list_plans, read_story

FLUSH_S, LAG_S = 0.2, 0.1
DRAIN_S = 4.0
"""How long answers are waited for after the last request; none of them can be good any more."""
SETTLE_S = 4.0
"""How long the controller turns before the load begins."""
CLUSTER = "demo"

Told = Callable[[float, float], None]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A run as it went, and what was in force when: the first change from the beginning on.

    `first_turn_s` is when the controller turned first, seen from the load's beginning.
    """

    played: Played
    changes: tuple[Change, ...]
    reasons: tuple[str, ...] = ()
    first_turn_s: float = 0.0


def run_setting(setting: Setting, load: Load, scratch: Path, told: Told) -> Outcome:
    """Play a load at a Triton server under one setting."""
    with _server(scratch) as server, _database(scratch) as dsn:
        played = asyncio.run(_play_set(server, setting, load, dsn, scratch, told))
    return Outcome(played, (Change(0.0, setting.plan()),))


async def _play_set(server: TritonServer, setting: Setting, load: Load, dsn: str, scratch: Path, told: Told) -> Played:
    if setting is not DEFAULT:
        book = FileBook(scratch / "book.json")
        async with TritonExecutor({GPU.id: server.endpoint}, {n: n for n in NAMES}, (GPU,), book) as executor:
            await executor.apply(commands_for(setting.plan(), await executor.observe()))
    return await _play(triton_door(server.endpoint.url, NAMES), load, dsn, told)


def run_controlled(document: Mapping[str, Any], load: Load, scratch: Path, told: Told) -> Outcome:
    """Play a load at a Triton server that begins as it comes and is set by `partita run`."""
    with _server(scratch) as server, _database(scratch) as dsn:
        triton = {"servers": {GPU.id: server.endpoint.url}, "metrics": {GPU.id: server.endpoint.metrics_url}}
        file = _write(scratch, document, {"triton": triton})
        arguments = ["run", str(file), "--dsn", dsn, "--holder", CLUSTER]
        with running(arguments, scratch / "controller.log") as controller:
            controller.wait_until(lambda said: '"event":"leading"' in said.replace(" ", ""))
            door = triton_door(server.endpoint.url, NAMES)
            played = asyncio.run(_play(door, load, dsn, told, settle_s=SETTLE_S))
            controller.check()
            first_turn_s = _first_turn(controller.said()) - played.begun
        changes, reasons = asyncio.run(_changes(dsn, played.begun))
    return Outcome(played, changes, reasons, first_turn_s)


def run_local(document: Mapping[str, Any], batching: Batching, load: Load, scratch: Path, told: Told) -> Outcome:
    """Play a load at our own runtime, set once before the load begins."""
    plan = plan_of((batching,) * len(MODELS))
    [port] = _free_ports(1)
    local = {"url": f"http://127.0.0.1:{port}", "device": "emulated"}
    file = _write(scratch, document, {"local": local})
    with _database(scratch) as dsn, running(["runtime", str(file), "--no-log"], scratch / "runtime.log") as runtime:
        runtime.wait_until(lambda said: "Serving" in said)
        played = asyncio.run(_play_local(local["url"], plan, load, dsn, told))
        runtime.check()
    return Outcome(played, (Change(0.0, plan),))


async def _play_local(url: str, plan: Plan, load: Load, dsn: str, told: Told) -> Played:
    executor = LocalExecutor(url, (plan.sub_clusters[0].batching[0].discipline,))
    await executor.apply(commands_for(plan, await executor.observe()))
    return await _play(runtime_door(url, NAMES), load, dsn, told)


async def _play(door: Door, load: Load, dsn: str, told: Told, *, settle_s: float = 0.0) -> Played:
    """Send a load, logging it; the log promises to be whole once clients would have given up."""
    request_log = AsyncRequestLog(dsn, writer="gateway", flush_s=FLUSH_S, lag_s=GIVE_UP_S + LAG_S)
    async with request_log as log, Gateway(door, SLOS_S, log) as gateway:
        await asyncio.sleep(settle_s)
        return await gateway.play(load, drain_s=DRAIN_S, told=lambda at_s: told(at_s, load.span_s))


async def _changes(dsn: str, begun: float) -> tuple[tuple[Change, ...], tuple[str, ...]]:
    """Read from the journal what the controller had set, and since when."""
    found, reasons = [Change(0.0, DEFAULT.plan())], [""]
    batching = dict(zip(NAMES, DEFAULT.batching, strict=True))
    async with connect(dsn) as connection:
        for heading in reversed(await list_plans(connection, CLUSTER)):
            for record in await read_story(connection, heading.run, heading.tick):
                done = [e.at.timestamp() for e in record.events if e.event == "done"]
                command = command_from_plain({"verb": record.verb, **record.detail}) if done else None
                if isinstance(command, SetBatching | StartReplicas):
                    batching |= dict(zip(command.services, command.batching, strict=True))
                    plan = plan_of([batching[name] for name in NAMES])
                    found.append(Change(done[-1] - begun, plan))
                    reasons.append(record.reason)
    return tuple(found), tuple(reasons)


def _first_turn(said: str) -> float:
    """Read from the controller's audit lines when it turned first, as unix time."""
    lines = (json.loads(line.removeprefix("AUDIT ")) for line in said.splitlines() if line.startswith("AUDIT "))
    decided = next((line for line in lines if line["event"] == "decision"), None)
    if decided is None:
        raise PartitaError(f"partita run has decided nothing: {' / '.join(said.strip().splitlines()[-3:])}")
    return datetime.fromisoformat(decided["at"]).timestamp()


# What the runs stand on ----------------------------------------------------------------------------------------------


@contextmanager
def _server(scratch: Path) -> Iterator[TritonServer]:
    """Run a Triton server with the models as they come, sharing one device."""
    models = [model.emulated() for model in MODELS]
    repository = make_repository(scratch / "models", models, device=scratch / "device")
    with triton_server(repository, models=NAMES, grace_s=0.0) as server:
        yield server


@contextmanager
def _database(scratch: Path) -> Iterator[str]:
    """Run a database of its own for one run, so that no run's log is another's history."""
    with embedded.running(scratch / "database") as dsn:
        asyncio.run(apply_migrations(dsn))
        yield dsn


def _write(scratch: Path, document: Mapping[str, Any], executor: Mapping[str, Any]) -> Path:
    """Write a cluster file."""
    whole = {
        "name": CLUSTER,
        **document,
        "executor": dict(executor),
        "policy": POLICY,
        "missing": {"log_s": 15.0},
        "changes": {"grace_s": 2.0},
        "watch": {"listen": None},
    }
    file = scratch / "cluster.yaml"
    file.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    return file


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()
