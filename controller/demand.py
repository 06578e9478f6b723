"""The load of a scenario, ready to be pulled: drawn from a law, read from a trace file or out of the database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from math import inf
from multiprocessing import parent_process
from pathlib import Path

import numpy as np

from partita.controller.ahead import Ahead
from partita.controller.config import Scenario
from partita.controller.load_entries import FileEntry, MemberEntry, Window
from partita.controller.tracefiles import choose_import, choose_reader, exported_blocks
from partita.errors import ConfigError, TraceError
from partita.model.service import Service
from partita.ports import Counts, Rows, TraceInfo, TraceReader
from partita.store.imports import ImportRecord
from partita.traces.apart import ENOUGH, DrawnApart, TracePart, TraceParts
from partita.traces.arrivals import ArrivalSource, ProcessArrivals, TraceArrivals
from partita.traces.guard import read_blocks
from partita.traces.moving import as_fraction, moved
from partita.traces.select import Selection
from partita.traces.services import ServiceMap
from partita.traces.summary import TraceSummary, first_instant, summarise_blocks
from partita.traces.superposition import in_minutes, merge
from partita.traces.thinning import Thinned, Thinning, thinned
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
        return _from_files(scenario, apart)
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


@dataclass(frozen=True, slots=True)
class _File:
    """A trace file as the scenario asks for it, and what it holds."""

    entry: FileEntry
    reader: TraceReader
    path: Path
    info: TraceInfo
    summary: TraceSummary
    mapping: ServiceMap

    def part(self, services: Sequence[str], speed: float) -> TracePart:
        """Return what is replayed of it, where all is played `speed` times as fast."""
        after_s = self.entry.after_s if isinstance(self.entry, MemberEntry) else 0.0
        return TracePart(
            self.reader,
            self.path,
            self.mapping.fixed(services),
            begin_ns=self.summary.begin_ns,
            end_ns=min(self.summary.end_ns, LARGEST_NS),
            bin_s=self.info.bin_s,
            speed=self.speed * speed,
            thin=self.entry.thin,
            later_ns=round(after_s / speed * 1e9),
        )

    @property
    def speed(self) -> float:
        """How fast it is played beside the first trace, whose own speed is that of all."""
        return self.entry.speed if isinstance(self.entry, MemberEntry) else 1.0

    def minutes(self, start_ns: int) -> Iterator[Counts]:
        """Yield about how many requests it has in each minute, as if it had begun at `start_ns`, under the run's names.

        What of a wide bin comes in which minute is not known: each has the same part.
        """
        after_s = self.entry.after_s if isinstance(self.entry, MemberEntry) else 0.0
        begin_ns, to_ns = self.summary.begin_ns, start_ns + round(after_s * 1e9)
        blocks = Selection(
            read_blocks(self.reader, self.path),
            self.mapping.fixed(),
            begin_ns=begin_ns,
            end_ns=self.summary.end_ns,
        )
        kept = thinned(blocks, Thinning(self.entry.thin))
        speed = as_fraction(self.speed)
        played = moved(kept, origin_ns=begin_ns, speed=speed, to_ns=to_ns, file=str(self.path))
        return (in_minutes(block, (self.info.bin_s or 0.0) / self.speed) for block in played)


def _from_files(scenario: Scenario, apart: bool | None) -> Demand:
    window = scenario.demand.trace
    assert window is not None
    files = [_look_at(scenario, entry) for entry in scenario.demand.traces()]
    services = tuple(dict.fromkeys(name for file in files for name in file.mapping.services))
    parts = tuple(file.part(services, window.speed) for file in files)
    part = parts[0] if len(parts) == 1 else TraceParts(parts)
    if apart is None:
        # Another process may not find a reader that a plugin brings.
        own = all(type(file.reader).__module__.startswith("partita.") for file in files)
        many = sum(int(file.summary.requests.sum()) for file in files) >= ENOUGH
        apart = own and many and _has_core_to_spare()

    def start(seed: int) -> AbstractContextManager[ArrivalSource]:
        seeded = part.seeded(seed)
        return DrawnApart(seeded) if apart else nullcontext(seeded.open())

    peaks = _peaks(files[0].summary, window) if len(files) == 1 else _peaks_together(scenario, window, files)
    return Demand(scenario.services(services), start, peak_rps=peaks)


def _look_at(scenario: Scenario, entry: FileEntry) -> _File:
    path = scenario.trace_path(entry)
    reader = choose_reader(path, forced=entry.format, options=entry.read_options())
    info = reader.info(path)
    begin_ns = first_instant(reader, path)
    summary, mapping = _summarise(
        scenario, entry, info, lambda: nullcontext(read_blocks(reader, path)), str(path), first_ns=begin_ns
    )
    return _File(entry, reader, path, info, summary, mapping)


def _peaks_together(scenario: Scenario, window: Window, files: Sequence[_File]) -> dict[str, float]:
    """Return the rates in the busiest minute of several traces at once, as they are played."""
    start_ns = files[0].summary.begin_ns
    blocks = merge([file.minutes(start_ns) for file in files])
    summary = summarise_blocks(
        blocks, TraceInfo("", "counts"), ServiceMap(), weigh=cache(lambda s: _gpu_time_s(scenario, s))
    )
    rates = dict[str, float]()
    if summary is not None:
        rates = dict(zip(summary.services, (summary.busiest_minute_rps * window.speed).tolist(), strict=True))
    return {name: rates.get(name, 0.0) for file in files for name in file.mapping.services}


def _peaks(summary: TraceSummary, window: Window) -> dict[str, float]:
    shares = [Thinning(window.thin).share(name) for name in summary.services]
    rates = summary.busiest_minute_rps * window.speed * np.array(shares)
    return dict(zip(summary.services, rates.tolist(), strict=True))


def _has_core_to_spare() -> bool:
    """Say whether another process has a core of its own: not on a single one, nor beside others like this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > 1 and parent_process() is None


def _from_blocks(scenario: Scenario, window: Window, info: TraceInfo, blocks: OpenBlocks, name: str) -> Demand:
    with blocks() as stream:
        first = next((block for block in stream if block.at_ns.size), None)
    if first is None:
        raise TraceError("holds no requests", file=name)
    summary, mapping = _summarise(scenario, window, info, blocks, name, first_ns=int(first.at_ns[0]))

    @contextmanager
    def start(seed: int) -> Iterator[ArrivalSource]:
        with blocks() as stream:
            arrivals = TraceArrivals(
                stream,
                mapping.fixed(),
                begin_ns=summary.begin_ns,
                end_ns=min(summary.end_ns, LARGEST_NS),
                bin_s=info.bin_s,
                speed=window.speed,
                seed=seed,
            )
            yield Thinned(arrivals, Thinning(window.thin, seed)) if window.thin else arrivals

    return Demand(scenario.services(mapping.services), start, peak_rps=_peaks(summary, window))


def _summarise(
    scenario: Scenario, window: Window, info: TraceInfo, blocks: OpenBlocks, name: str, *, first_ns: int
) -> tuple[TraceSummary, ServiceMap]:
    """Find out what the window of a trace that begins at `first_ns` holds, and which services there are in it."""
    begin_ns, end_ns = window.span_ns(first_ns)
    mapping = ServiceMap(scenario.trace_rules(window))
    with blocks() as stream:
        summary = summarise_blocks(
            stream, info, mapping, begin_ns=begin_ns, end_ns=end_ns, weigh=cache(lambda s: _gpu_time_s(scenario, s))
        )
    if summary is None or not mapping.services:
        part = f"between {window.from_ or 'its start'} and {window.to or 'its end'}"
        raise TraceError(f"holds no requests {part} for the scenario's services", file=name)
    return summary, mapping


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
