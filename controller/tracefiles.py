"""Traces between files and the database: which reader, which services, what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from partita.errors import StoreError, TraceError
from partita.plugins.host import PluginHost
from partita.ports import Counts, Rows, TraceInfo, TraceReader
from partita.store.connection import connect
from partita.store.imports import ImportRecord, begin_import, content_hash, read_imports
from partita.store.reading import read_requests, read_rollup, read_span
from partita.traces import READERS, detect
from partita.traces.azure_llm import ONE_SERVICE
from partita.traces.changes import Changed, Changes
from partita.traces.files import read_head
from partita.traces.guard import read_blocks
from partita.traces.read_options import ReadOptions, with_options
from partita.traces.services import KEEP, ServiceMap
from partita.traces.summary import TraceSummary, summarise_blocks
from partita.traces.superposition import Alignment
from partita.traces.table import ParquetReader, TableCsvReader
from partita.traces.times import parse_instant
from partita.traces.writers import write_trace

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


def choose_reader(
    path: Path, *, forced: str | None = None, bin_s: float | None = None, options: ReadOptions | None = None
) -> TraceReader:
    """Return the reader of a file with what is said about it; ConfigError for an option that it does not take.

    With `bin_s` it must be one of counts, whose bins are then so wide. A map of columns is for a table, whatever its
    columns are called.
    """
    options = options or ReadOptions(bin_s=bin_s)
    if options.columns is not None and forced is None:
        read_head(path)
        table = ParquetReader() if ParquetReader().recognises(path, "") else TableCsvReader()
        return with_options(table, path, options)
    return with_options(detect(path, known_readers(), forced), path, options)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What is taken over from a file, and how; the same file with other options is another import.

    `services`, `begin`, `end`, `thin`, `speed` and `shift` are those of `Changes`. With `raw`, requests drawn from
    `seed` stand for the counts of a trace. `reading` is what else was said about how to read the file.
    """

    services: dict[str, str | None] = field(default_factory=dict)
    begin: str | None = None
    end: str | None = None
    bin_s: float | None = None
    raw: bool = False
    seed: int = 0
    thin: dict[str, float] = field(default_factory=dict)
    speed: float = 1.0
    shift: str | None = None
    reading: dict[str, Any] = field(default_factory=dict)

    def key(self, info: TraceInfo, alignment: Alignment | None = None) -> dict[str, Any]:
        """Return what makes the imported content differ, for the record."""
        found: dict[str, Any] = {"format": info.format}
        for name in ("services", "begin", "end", "bin_s", "thin", "shift", "reading"):
            if value := getattr(self, name):
                found[name] = value
        if self.speed != 1.0:
            found["speed"] = self.speed
        if alignment is not None:
            found["superpose"] = alignment
        if self.raw and info.kind == "counts":
            found |= {"raw": True, "seed": self.seed}
        elif self.thin or info.grid_s:
            found["seed"] = self.seed
        return found

    def changes(self) -> Changes:
        """Return what becomes of the trace."""
        return Changes(
            services=self.services,
            begin=self.begin,
            end=self.end,
            thin=self.thin,
            speed=self.speed,
            shift=self.shift,
            raw=self.raw,
            seed=self.seed,
        )


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
    return await import_traces(dsn, [(reader, path)], options, watch=watch)


async def import_traces(
    dsn: str,
    members: Sequence[tuple[TraceReader, Path]],
    options: ImportOptions | None = None,
    *,
    alignment: Alignment = "aligned",
    watch: Watch | None = None,
) -> Imported:
    """Bring one trace file, or several as one trace, into the database, exactly once and whole or not at all."""
    options = options or ImportOptions()
    before = [_stamp(*member) for member in members]
    changed = change_traces(members, options.changes(), alignment, named_after_files=True)
    infos = [reader.info(path) for reader, path in members]
    kind = "counts" if any(info.kind == "counts" for info in infos) else "requests"
    grid_s = next((info.grid_s for info in infos if info.grid_s), None)
    told = TraceInfo(changed.info.format, kind, grid_s=grid_s)
    name = " + ".join(str(path) for _, path in members)
    key = options.key(told, alignment if len(members) > 1 else None)
    async with (
        connect(dsn) as connection,
        begin_import(connection, file=name, sha256=_content(members), info=changed.info, options=key) as opened,
    ):
        added = not opened.done_before
        rows = 0
        for block in changed if added else ():
            match block:
                case Rows():
                    await opened.write_rows(block)
                case Counts():
                    await opened.write_counts(block)
            rows += block.at_ns.size
            if watch is not None:
                watch(rows)
        if added and not rows:
            raise TraceError("nothing in it is in the time and of the services asked for", file=name)
        if added and [_stamp(*member) for member in members] != before:
            raise TraceError("it changed while it was read; nothing was imported", file=name)
    return Imported(opened.record, added, changed.dropped)


def change_traces(
    members: Sequence[tuple[TraceReader, Path]],
    changes: Changes,
    alignment: Alignment = "aligned",
    *,
    named_after_files: bool = False,
) -> Changed:
    """Return what becomes of files; one that tells no services apart can lend its name to the one it has."""
    return Changed(
        [
            (reader, path, replace(changes, services=_default_rules(reader, path)))
            if named_after_files and not changes.services
            else (reader, path, changes)
            for reader, path in members
        ],
        alignment,
    )


def summarise_changed(changed: Changed, name: str) -> TraceSummary:
    """Count what a changed trace holds; TraceError if that is nothing."""
    found = summarise_blocks(changed, changed.info, ServiceMap())
    if found is None:
        raise TraceError("holds no requests in the part asked for", file=name)
    return found


@runtime_checkable
class _Snapshot(Protocol):
    """A reader of what cannot change while it is read."""

    def digest(self) -> str:
        """Return what tells its content from any other."""
        ...


def _content(members: Sequence[tuple[TraceReader, Path]]) -> str:
    """Return a SHA-256 of what is read."""
    found = [reader.digest() if isinstance(reader, _Snapshot) else content_hash(path) for reader, path in members]
    return found[0] if len(found) == 1 else sha256(" ".join(found).encode()).hexdigest()


def _stamp(reader: TraceReader, path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written to or replaced: its content was hashed before it was read."""
    if isinstance(reader, _Snapshot):
        return 0, 0, 0
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


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


class _ImportReader:
    """Reads what an import brought, as a trace."""

    def __init__(self, dsn: str, record: ImportRecord, begin: str | None, end: str | None) -> None:
        self.name = record.format
        self._dsn, self._record, self._bounds = dsn, record, {"begin": begin, "end": end}

    def recognises(self, path: Path, head: str) -> bool:
        """No file is an import."""
        return False

    def info(self, path: Path) -> TraceInfo:
        """Describe it; StoreError if it holds nothing in the part asked for."""
        with closing(exported_blocks(self._dsn, self._record, **self._bounds)) as blocks:
            first = next(blocks, None)
        if first is None:
            raise StoreError(f"import {self._record.id} holds nothing in the part asked for")
        return TraceInfo(self._record.format, self._record.kind, first[1])

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the requests or bins."""
        with closing(exported_blocks(self._dsn, self._record, **self._bounds)) as blocks:
            for block, _ in blocks:
                yield block


def export_trace(
    dsn: str,
    record: ImportRecord,
    out: Path,
    *,
    begin: str | None = None,
    end: str | None = None,
    changes: Changes | None = None,
    watch: Watch | None = None,
) -> int:
    """Write what an import brought to a file and return how many rows that are; `changes` are made to the part."""
    reader = _ImportReader(dsn, record, begin, end)
    changed = change_traces([(reader, Path(f"import {record.id}"))], changes or Changes())
    return write_changed(out, changed, watch=watch)


def write_changed(out: Path, changed: Changed, *, watch: Watch | None = None) -> int:
    """Write a trace to a file and return how many rows that are; what has no instants stays counts."""

    def watched() -> Iterator[Rows | Counts]:
        rows = 0
        for block in changed:
            rows += block.at_ns.size
            if watch is not None:
                watch(rows)
            if block.at_ns.size:
                yield block
        if not rows:
            raise TraceError("nothing is left of the trace to write", file=str(out))

    return write_trace(out, watched(), bin_s=changed.info.bin_s)
