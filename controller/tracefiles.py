"""Traces between files and the database: which reader, which services, what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast

from partita.errors import ConfigError, StoreError, TraceError
from partita.plugins.host import PluginHost
from partita.ports import Counts, Rows, TraceInfo, TraceReader
from partita.store.connection import connect
from partita.store.imports import ImportRecord, begin_import, content_hash, read_imports
from partita.store.reading import read_requests, read_rollup, read_span
from partita.traces import READERS, detect
from partita.traces.azure_llm import ONE_SERVICE
from partita.traces.counts import CountsReader
from partita.traces.guard import read_blocks
from partita.traces.select import Selection, as_rows
from partita.traces.services import KEEP, ServiceMap
from partita.traces.summary import first_instant, open_arrivals
from partita.traces.times import parse_instant
from partita.traces.writers import write_trace

DRAWN_STEP_NS = 10_000_000_000

Block = TypeVar("Block")
Watch = Callable[[int], None]
"""Told how many rows of the file have been handled."""


def known_readers() -> tuple[TraceReader, ...]:
    """Return the readers that plugins bring under names of their own, then the built-in ones.

    A plugin's format is tried first, since it is likely to be the more particular one.
    """
    brought, _ = PluginHost.load().brought("register_trace_readers")
    ours = {reader.name for reader in READERS}
    return (*(cast(TraceReader, reader) for name, reader in brought.items() if name not in ours), *READERS)


def choose_reader(path: Path, *, forced: str | None = None, bin_s: float | None = None) -> TraceReader:
    """Return the reader of a file; with `bin_s` it must be one of counts, whose bins are then so wide."""
    reader = detect(path, known_readers(), forced)
    if bin_s is None:
        return reader
    if not isinstance(reader, CountsReader):
        raise ConfigError(f"the format {reader.name} of {path} tells the width of its bins itself", key="--bin")
    return CountsReader(bin_s)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What is taken over from a file, and how; the same file with other options is another import.

    `services` are the rules of a ServiceMap. With `raw`, requests drawn from `seed` stand for the counts of a trace.
    """

    services: dict[str, str | None] = field(default_factory=dict)
    begin: str | None = None
    end: str | None = None
    bin_s: float | None = None
    raw: bool = False
    seed: int = 0

    def key(self, info: TraceInfo) -> dict[str, Any]:
        """Return what makes the imported content differ, for the record."""
        found: dict[str, Any] = {"format": info.format}
        for name in ("services", "begin", "end", "bin_s"):
            if value := getattr(self, name):
                found[name] = value
        if self.raw and info.kind == "counts":
            found |= {"raw": True, "seed": self.seed}
        return found


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one file.

    `added` is False where it was in the database already, `left_out` counts requests whose service no rule named.
    """

    record: ImportRecord
    added: bool
    left_out: int = 0


async def import_trace(
    dsn: str,
    path: Path,
    reader: TraceReader,
    options: ImportOptions | None = None,
    *,
    watch: Watch | None = None,
) -> Imported:
    """Bring a trace file into the database, exactly once and whole or not at all."""
    options, before = options or ImportOptions(), _stamp(path)
    info, blocks = _plan(path, reader, options)
    async with (
        connect(dsn) as connection,
        begin_import(
            connection, file=str(path), sha256=content_hash(path), info=info, options=options.key(reader.info(path))
        ) as opened,
    ):
        added = not opened.done_before
        rows = 0
        for block in blocks if added else ():
            match block:
                case Rows():
                    await opened.write_rows(block)
                case Counts():
                    await opened.write_counts(block)
            rows += block.at_ns.size
            if watch is not None:
                watch(rows)
        if added and not rows:
            raise TraceError("nothing in it is in the time and of the services asked for", file=str(path))
        if added and _stamp(path) != before:
            raise TraceError("it changed while it was read; nothing was imported", file=str(path))
    return Imported(opened.record, added, blocks.dropped)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written to or replaced: its content was hashed before it was read."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _plan(path: Path, reader: TraceReader, options: ImportOptions) -> tuple[TraceInfo, Selection]:
    """Return what will be written, and from what."""
    info, rules = reader.info(path), dict(options.services)
    rules = rules or _default_rules(reader, path)
    if options.raw and info.kind == "counts":
        arrivals, summary = open_arrivals(
            reader, path, ServiceMap(rules), begin=options.begin, end=options.end, seed=options.seed
        )
        drawn = Selection(as_rows(arrivals, step_ns=DRAWN_STEP_NS), ServiceMap())
        drawn.dropped = summary.dropped
        return TraceInfo(info.format, "requests"), drawn
    bounds: dict[str, int | None] = {"begin_ns": None, "end_ns": None}
    if options.begin is not None or options.end is not None:
        origin = first_instant(reader, path)
        for name, text in (("begin", options.begin), ("end", options.end)):
            if text is not None:
                bounds[f"{name}_ns"] = parse_instant(
                    text, origin_ns=origin, key="--from" if name == "begin" else "--to"
                )
    return info, Selection(read_blocks(reader, path), ServiceMap(rules), **bounds)


def _default_rules(reader: TraceReader, path: Path) -> dict[str, str | None]:
    """Keep the trace's names; where it tells no services apart, the one is called after its file."""
    first = next(read_blocks(reader, path), None)
    return {"*": path.name.partition(".")[0] if first is not None and first.service[0] == ONE_SERVICE else KEEP}


async def choose_import(dsn: str, number: int | None) -> ImportRecord:
    """Return one finished import, by default the newest; StoreError if there is none."""
    async with connect(dsn) as connection:
        done = [record for record in await read_imports(connection) if record.state == "done"]
    found = [record for record in done if number in (None, record.id)]
    if not found:
        known = ", ".join(str(record.id) for record in done) or "none"
        raise StoreError(
            "nothing was imported yet" if number is None else f"there is no import {number} (there are: {known})"
        )
    return found[-1]


def exported_blocks(
    dsn: str, record: ImportRecord, *, begin: str | None = None, end: str | None = None
) -> Generator[tuple[Rows | Counts, float | None]]:
    """Yield what an import brought, in the order of time, each block with the width of its bins (None for requests)."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            connection = runner.run(stack.enter_async_context(connect(dsn)))
            origin = runner.run(read_span(connection, record.id)).first
            start, stop = (_bound(text, origin, key) for text, key in ((begin, "--from"), (end, "--to")))
            if record.kind == "requests":
                for rows in _pull(runner, read_requests(connection, record.id, start=start, end=stop)):
                    yield rows, None
            else:
                for rollup in _pull(runner, read_rollup(connection, record.id, start=start, end=stop)):
                    yield rollup.counts(), float(rollup.bin_s[0])
        finally:
            runner.run(stack.aclose())


def _bound(text: str | None, origin: datetime, key: str) -> datetime | None:
    if text is None:
        return None
    ns = parse_instant(text, origin_ns=round(origin.timestamp() * 1e6) * 1000, key=key)
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).replace(microsecond=ns // 1000 % 1_000_000)


def _pull(runner: asyncio.Runner, source: AsyncIterator[Block]) -> Iterator[Block]:
    async def following() -> Block | None:
        return await anext(source, None)

    while (block := runner.run(following())) is not None:
        yield block


def export_trace(
    dsn: str,
    record: ImportRecord,
    out: Path,
    *,
    begin: str | None = None,
    end: str | None = None,
    watch: Watch | None = None,
) -> int:
    """Write what an import brought to a file and return how many rows that are."""
    blocks = exported_blocks(dsn, record, begin=begin, end=end)
    first = next(blocks, None)
    if first is None:
        raise StoreError(f"import {record.id} holds nothing in the part asked for")

    def watched() -> Iterator[Rows | Counts]:
        rows = 0
        for block, _ in chain([first], blocks):
            rows += block.at_ns.size
            if watch is not None:
                watch(rows)
            yield block

    with closing(blocks):
        return write_trace(out, watched(), bin_s=first[1])
