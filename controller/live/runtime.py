"""Putting the local runtime together: its services and devices from the cluster file, its disciplines from replay."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from partita.client import AsyncRequestLog
from partita.controller.assembly import delays, known_disciplines
from partita.controller.cluster_file import ClusterFile
from partita.controller.live.audit import log_as_json
from partita.controller.live.parts import runnable
from partita.executors.local.daemon import serve
from partita.executors.local.settings import Device, Settings
from partita.executors.local.sinks import JsonLines, Sink
from partita.plugins.host import PluginHost
from partita.ports import Discipline
from partita.replay.pools import PoolMaker


def serve_runtime(file: ClusterFile, *, host: str, port: int, dsn: str | None, log_file: Path | None) -> None:
    """Run the runtime of a cluster file until it is told to end."""
    entry = file.executor.local
    assert entry is not None
    known = known_disciplines(PluginHost.load())
    runnable(file, known)
    log_as_json()
    services, takes = file.services(), delays(file)
    kind: Literal["emulated", "torch"] = entry.device
    settings = Settings(
        services,
        file.inventory(),
        host=host,
        port=port,
        device=Device(kind, dict(entry.locks)),
        model_load_s=takes.model_load_s,
        repartition_s=takes.repartition_s,
        drain_s=entry.drain_s,
    )
    sinks: list[Sink] = []
    if dsn is not None:
        sinks.append(AsyncRequestLog(dsn, writer=f"runtime {socket.gethostname()}:{port}"))
    if log_file is not None:
        sinks.append(JsonLines(log_file))
    serve(
        settings,
        known,
        pools(file, known).pool,
        sink=_Both(sinks) if sinks else None,
        on_ready=lambda url: click.echo(f"Serving {len(services)} services at {url} (process {os.getpid()})."),
    )


def pools(file: ClusterFile, known: Mapping[str, Discipline]) -> PoolMaker:
    """Return the maker of the runtime's pools, which tell no sizes apart: all are planned as the largest."""
    return PoolMaker([replace(s, exact_sizes=False) for s in file.services()], file.overheads(), known)


class _Both:
    """Several sinks as one."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    async def __aenter__(self) -> object:
        """Enter all."""
        for sink in self._sinks:
            await sink.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        """Leave all."""
        for sink in self._sinks:
            await sink.__aexit__(*exception)

    def record_many(self, service: list[str], **columns: Any) -> None:
        """Hand requests to all."""
        for sink in self._sinks:
            sink.record_many(service, **columns)
