"""What can be said about a file that it does not say itself, and which readers take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from partita.errors import ConfigError
from partita.ports import TraceReader
from partita.traces.column_map import ColumnMap
from partita.traces.counts import CountsReader
from partita.traces.litellm import ServiceBy, SpendLogsReader
from partita.traces.mooncake import MooncakeReader, Spread
from partita.traces.table import ParquetReader, TableCsvReader


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a file; None is the reader's own choice."""

    bin_s: float | None = None
    columns: ColumnMap | None = None
    service_by: ServiceBy | None = None
    status: str | None = None
    grid_s: float | None = None
    spread: Spread | None = None

    def given(self) -> dict[str, Any]:
        """Return what is said, by name."""
        return {field.name: v for field in fields(self) if (v := getattr(self, field.name)) is not None}


TAKEN: Mapping[type, tuple[str, ...]] = {
    CountsReader: ("bin_s",),
    TableCsvReader: ("columns", "bin_s"),
    ParquetReader: ("columns", "bin_s"),
    SpendLogsReader: ("service_by", "status"),
    MooncakeReader: ("grid_s", "spread"),
}
"""Which of the options the readers take."""

FLAGS = {
    "bin_s": "--bin",
    "columns": "--columns",
    "service_by": "--service-by",
    "status": "--status",
    "grid_s": "--grid",
    "spread": "--spread",
}


def with_options(reader: TraceReader, path: Path, options: ReadOptions) -> TraceReader:
    """Return the reader with these options; ConfigError for one that it does not take."""
    given, taken = options.given(), TAKEN.get(type(reader), ())
    if "bin_s" in taken and "columns" in taken and "columns" not in given:
        taken = tuple(name for name in taken if name != "bin_s")
    for name in given:
        if name not in taken:
            text = "tells the width of its bins itself" if name == "bin_s" else "does not take this option"
            raise ConfigError(f"the format {reader.name} of {path} {text}", key=FLAGS[name])
    return type(reader)(**given) if given else reader


@runtime_checkable
class _Drawing(Protocol):
    def seeded(self, seed: int) -> TraceReader: ...


def seeded(reader: TraceReader, seed: int) -> TraceReader:
    """Return the reader drawing from a seed, if it draws at all."""
    return reader.seeded(seed) if isinstance(reader, _Drawing) else reader
