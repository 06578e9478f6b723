"""Traces: readers of request logs and counts, arrivals drawn from them for replay, and made-up traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from partita.errors import TraceError
from partita.ports import TraceReader
from partita.traces.azure_llm import AzureLlmReader
from partita.traces.counts import CountsReader
from partita.traces.files import read_head
from partita.traces.guard import recognises
from partita.traces.litellm import SpendLogsReader
from partita.traces.mooncake import MooncakeReader
from partita.traces.request_log import RequestLogReader
from partita.traces.servegen import ServeGenReader
from partita.traces.table import ParquetReader, TableCsvReader

READERS: tuple[TraceReader, ...] = (
    ParquetReader(),
    TableCsvReader(),
    AzureLlmReader(),
    ServeGenReader(),
    SpendLogsReader(),
    MooncakeReader(),
    RequestLogReader(),
    CountsReader(),
)
"""The built-in readers, the most particular first."""


def detect(path: Path, readers: Sequence[TraceReader] = READERS, forced: str | None = None) -> TraceReader:
    """Return the reader of this file: the one named `forced`, else the first that recognises it; TraceError if none."""
    names = ", ".join(reader.name for reader in readers)
    if forced is not None:
        found = next((reader for reader in readers if reader.name == forced), None)
        if found is None:
            raise TraceError(f"there is no format {forced!r}; known are {names}", file=str(path))
        return found
    head = read_head(path)
    found = next((reader for reader in readers if recognises(reader, path, head)), None)
    if found is None:
        what = "its format is not known" if head else "it is neither text nor Parquet"
        raise TraceError(f"{what} (known formats: {names}; --format forces one)", file=str(path))
    return found
