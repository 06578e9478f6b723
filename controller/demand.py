"""The load of a scenario, ready to be pulled: drawn from a law, read from a trace file or out of the database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from math import inf
from multiprocessing import parent_process
from pathlib import Path

from partita.controller.ahead import Ahead
from partita.controller.config import Scenario
from partita.controller.load_entries import Window
from partita.controller.tracefiles import choose_import, choose_reader, exported_blocks
from partita.errors import ConfigError, TraceError
from partita.model.service import Service
from partita.ports import Counts, Rows, TraceInfo, TraceReader
from partita.store.imports import ImportRecord
from partita.traces.apart import ENOUGH, DrawnApart, TracePart
from partita.traces.arrivals import ArrivalSource, ProcessArrivals, TraceArrivals
from partita.traces.guard import read_blocks
from partita.traces.services import ServiceMap
from partita.traces.summary import TraceSummary, summarise_blocks
from partita.traces.times import LARGEST_NS

Block = Rows | Counts
OpenBlocks = Callable[[], AbstractContextManager[Iterator[Block]]]


@dataclass(frozen=True, slots=True)
class Demand:
    """What is served and when it is asked for.

    `open` starts the arrivals from their beginning, drawn with a seed; its services are those of `services`, in order.
    Only what arrives from `counted_from_s` on is scored.
    """

    services: tuple[Service, ...]
    open: Callable[[int], AbstractContextManager[ArrivalSource]]
    counted_from_s: float = 0.0
    peak_rps: Mapping[str, float] = field(default_factory=dict)
    """Rates of the services in the trace's busiest minute, as it is played; of a law its mean rates.

    The busiest minute is the one whose requests take most GPU time in full batches.
    """


def read_demand(scenario: Scenario, *, dsn: str | None = None, apart: bool | None = None) -> Demand:
    """Find out what a scenario asks for; `dsn` is where its `load.log` is, if it has one.

    The requests of a trace file are drawn in a process of their own if `apart` says so; None: where that pays.
    """
    load = scenario.demand
    if load.arrivals is not None:
        return _from_law(scenario)
    if load.trace is not None:
        path = scenario.trace_path()
        reader = choose_reader(path, forced=load.trace.format)
        return _from_file(scenario, load.trace, reader, path, apart)
    assert load.log is not None
    if dsn is None:
        raise ConfigError("is in the database, and none is at hand", key="load.log")
    record = asyncio.run(choose_import(dsn, load.log.import_))
    return _from_blocks(scenario, load.log, _info(dsn, record), lambda: _exported(dsn, record), f"import {record.id}")


def _from_law(scenario: Scenario) -> Demand:
    law, services = scenario.demand.arrivals, scenario.services()
    assert law is not None
    share = scenario.demand.share or {services[0].name: 1.0}
    rates = [law.rate_rps * share.get(service.name, 0.0) for service in services]

    def start(seed: int) -> AbstractContextManager[ArrivalSource]:
        names = [service.name for service in services]
        span_s = law.warmup_s + law.duration_s
        return nullcontext(
            ProcessArrivals(names, rates, process=law.process, shape=law.shape, span_s=span_s, seed=seed)
        )

    peaks = {service.name: rate for service, rate in zip(services, rates, strict=True)}
    return Demand(services, start, law.warmup_s, peaks)


def _from_file(scenario: Scenario, window: Window, reader: TraceReader, path: Path, apart: bool | None) -> Demand:
    info = reader.info(path)
    summary, mapping = _summarise(scenario, window, info, lambda: nullcontext(read_blocks(reader, path)), str(path))
    part = TracePart(
        reader,
        path,
        mapping.fixed(),
        begin_ns=summary.begin_ns,
        end_ns=min(summary.end_ns, LARGEST_NS),
        bin_s=info.bin_s,
        speed=window.speed,
    )
    if apart is None:
        # Another process may not find a reader that a plugin brings.
        own = type(reader).__module__.startswith("partita.")
        apart = own and int(summary.requests.sum()) >= ENOUGH and _has_core_to_spare()

    def start(seed: int) -> AbstractContextManager[ArrivalSource]:
        seeded = replace(part, seed=seed)
        return DrawnApart(seeded) if apart else nullcontext(seeded.open())

    return _demand(scenario, window, summary, mapping, start)


def _has_core_to_spare() -> bool:
    """Say whether another process has a core of its own: not on a single one, nor beside others like this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > 1 and parent_process() is None


def _from_blocks(scenario: Scenario, window: Window, info: TraceInfo, blocks: OpenBlocks, name: str) -> Demand:
    summary, mapping = _summarise(scenario, window, info, blocks, name)

    @contextmanager
    def start(seed: int) -> Iterator[ArrivalSource]:
        with blocks() as stream:
            yield TraceArrivals(
                stream,
                mapping.fixed(),
                begin_ns=summary.begin_ns,
                end_ns=min(summary.end_ns, LARGEST_NS),
                bin_s=info.bin_s,
                speed=window.speed,
                seed=seed,
            )

    return _demand(scenario, window, summary, mapping, start)


def _summarise(
    scenario: Scenario, window: Window, info: TraceInfo, blocks: OpenBlocks, name: str
) -> tuple[TraceSummary, ServiceMap]:
    """Find out what the window of a trace holds, and which services there are in it."""
    with blocks() as stream:
        first = next((block for block in stream if block.at_ns.size), None)
    if first is None:
        raise TraceError("holds no requests", file=name)
    begin_ns, end_ns = window.span_ns(int(first.at_ns[0]))
    mapping = ServiceMap(scenario.trace_rules())
    with blocks() as stream:
        summary = summarise_blocks(
            stream, info, mapping, begin_ns=begin_ns, end_ns=end_ns, weigh=cache(lambda s: _gpu_time_s(scenario, s))
        )
    if summary is None or not mapping.services:
        part = f"between {window.from_ or 'its start'} and {window.to or 'its end'}"
        raise TraceError(f"holds no requests {part} for the scenario's services", file=name)
    return summary, mapping


def _demand(
    scenario: Scenario,
    window: Window,
    summary: TraceSummary,
    mapping: ServiceMap,
    start: Callable[[int], AbstractContextManager[ArrivalSource]],
) -> Demand:
    peaks = dict(zip(summary.services, (summary.busiest_minute_rps * window.speed).tolist(), strict=True))
    return Demand(scenario.services(mapping.services), start, peak_rps=peaks)


def _gpu_time_s(scenario: Scenario, name: str) -> float:
    """Return the time a request of a service takes in the largest batch that its SLO allows, on its slowest profile."""
    [service] = scenario.services([name])
    return max((time for c in service.curves if (time := service.gpu_time_s(c.profile)) < inf), default=1.0)


def summarise_import(dsn: str, record: ImportRecord, *, end_ns: int | None = None) -> TraceSummary:
    """Count what an import holds (before `end_ns`), by the trace's own services."""
    with _exported(dsn, record) as stream:
        summary = summarise_blocks(stream, _info(dsn, record), ServiceMap(), end_ns=end_ns)
    if summary is None:
        raise TraceError("holds no requests", file=record.file)
    return summary


def _info(dsn: str, record: ImportRecord) -> TraceInfo:
    width = next((bin_s for _, bin_s in exported_blocks(dsn, record)), None) if record.kind == "counts" else None
    return TraceInfo(record.format, record.kind, width)


@contextmanager
def _exported(dsn: str, record: ImportRecord) -> Iterator[Iterator[Block]]:
    with Ahead(exported_blocks(dsn, record)) as pairs:
        yield (block for block, _ in pairs)
