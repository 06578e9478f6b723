"""The options of `partita trace` that say where a trace is, how to read it, and what becomes of it on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from partita.controller.tracefiles import ImportOptions
    from partita.ports import TraceReader
    from partita.traces.changes import Changes
    from partita.traces.read_options import ReadOptions
    from partita.traces.superposition import Alignment

    Member = tuple[TraceReader, Path]

URL = ("postgresql://", "postgres://")

# Written out here as well as in partita.traces, which --help must not wait for.
_SERVICES_BY, _SPREADS, _ALIGNMENTS = ("model_group", "model"), ("poisson", "even", "none"), ("aligned", "dated")
_READING = ("forced", "bin_s", "columns", "service_by", "status", "table", "grid_s", "spread")

_ABOVE_0 = click.FloatRange(min=0, min_open=True)
_OPTIONS = (
    click.option("--format", "forced", metavar="NAME", help="Format of the file, where it is not told rightly."),
    click.option("--bin", "bin_s", type=_ABOVE_0, metavar="SECONDS", help="Width of bins."),
    click.option(
        "--columns",
        metavar="OURS=THEIRS,...",
        help="Columns of a table: ts (ts=NAME:ms for numbers), service, size, output_size, count, bin_s, law, shape.",
    ),
    click.option("--service-by", type=click.Choice(_SERVICES_BY), help="What a service is in LiteLLM's spend logs."),
    click.option("--status", metavar="NAME", help="Take only rows of this status from LiteLLM's spend logs."),
    click.option("--table", metavar="NAME", help="Table of LiteLLM's database.  [default: LiteLLM_SpendLogs]"),
    click.option(
        "--grid", "grid_s", type=_ABOVE_0, metavar="SECONDS", help="Step of the instants of a Mooncake trace."
    ),
    click.option("--spread", type=click.Choice(_SPREADS), help="How its requests are spread over a step."),
    click.option("--service", metavar="NAME", help="Name of the one service that the trace is for."),
    click.option(
        "--map", "rules", multiple=True, metavar="PATTERN=NAME", help="Rename services; what matches none is left out."
    ),
    click.option(
        "--from", "begin", metavar="WHEN", help="Start: a date, or a time after the trace's start (90, 1.5h)."
    ),
    click.option("--to", "end", metavar="WHEN", help="End, likewise."),
    click.option(
        "--thin", "shares", multiple=True, metavar="[PATTERN=]SHARE", help="Keep this share of each service's requests."
    ),
    click.option("--speed", type=_ABOVE_0, default=1.0, show_default=True, help="2 plays it twice as fast."),
    click.option("--shift", metavar="WHEN", help="Move its start: to a date, or by +TIME or -TIME (+2d, -90)."),
    click.option(
        "--superpose",
        type=click.Choice(_ALIGNMENTS),
        help="Make one trace of all: begun together with the first, or each at its dates.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="What is drawn is drawn from."
    ),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """Traces as they were asked for on the command line."""

    files: tuple[Path | str, ...]
    forced: str | None
    bin_s: float | None
    columns: str | None
    service_by: Any
    status: str | None
    table: str | None
    grid_s: float | None
    spread: Any
    services: dict[str, str | None]
    begin: str | None
    end: str | None
    thin: dict[str, float]
    speed: float
    shift: str | None
    superpose: Alignment | None
    seed: int
    reading: dict[str, Any] = field(default_factory=dict)
    """What was said about how to read the files, by option, as it was written."""

    @property
    def superposes(self) -> bool:
        """Whether the files become one trace."""
        return self.superpose is not None

    @property
    def alignment(self) -> Alignment:
        """How they do."""
        return self.superpose or "aligned"

    def changes(self, *, raw: bool = False) -> Changes:
        """Return what becomes of the traces."""
        return self.import_options(raw=raw).changes()

    def import_options(self, *, raw: bool = False) -> ImportOptions:
        """Return the same for an import."""
        from partita.controller.tracefiles import ImportOptions

        return ImportOptions(
            services=self.services,
            begin=self.begin,
            end=self.end,
            bin_s=self.bin_s,
            raw=raw,
            seed=self.seed,
            thin=self.thin,
            speed=self.speed,
            shift=self.shift,
            reading={name: value for name, value in self.reading.items() if name not in ("forced", "bin_s")},
        )

    def refuse_reading_options(self) -> None:
        """Raise UsageError if something was said about how to read files, of which there are none."""
        if self.reading or self.superposes:
            raise click.UsageError(f"{_flag(next(iter(self.reading), 'superpose'))} is for FILEs, and none is given")

    def groups(self, members: Sequence[Member]) -> list[Sequence[Member]]:
        """Return what belongs together: all of them, or each alone."""
        return [members] if self.superposes else [[member] for member in members]

    @contextmanager
    def open(self) -> Iterator[list[Member]]:
        """Find the readers of the files and connect to the databases for the length of a block."""
        from partita.controller.tracefiles import choose_reader

        options = self._read_options()
        with ExitStack() as stack:
            members: list[Member] = []
            for file in self.files:
                if isinstance(file, Path):
                    self._refuse_table()
                    members.append((choose_reader(file, forced=self.forced, options=options), file))
                else:
                    members.append(stack.enter_context(self._open_database(file)))
            yield members

    def _read_options(self) -> ReadOptions:
        from partita.traces.column_map import ColumnMap
        from partita.traces.read_options import ReadOptions

        columns = None if self.columns is None else ColumnMap.parse(self.columns)
        return ReadOptions(self.bin_s, columns, self.service_by, self.status, self.grid_s, self.spread)

    def _refuse_table(self) -> None:
        if self.table is not None:
            raise click.UsageError("--table is for databases, postgresql://…, and not for files")

    def _open_database(self, dsn: str) -> Any:
        from partita.controller.spend_database import open_spend_logs
        from partita.traces.litellm import TABLE

        for name in self.reading:
            if name not in ("service_by", "status", "table") and (name, self.forced) != ("forced", "litellm"):
                raise click.UsageError(f"{_flag(name)} is for files, and not for a database of LiteLLM's")
        return open_spend_logs(
            dsn, table=self.table or TABLE, service_by=self.service_by or "model_group", status=self.status
        )


def _sources(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Path | str, ...]:
    """Take addresses of databases as they are: as a path, one would lose a slash."""
    return tuple(value if value.startswith(URL) else Path(value) for value in values)


def source_options(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add FILE... and the options above to a command, which takes them as one `Asked` in its argument `asked`."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_sources(
            *args: Any,
            service: str | None,
            rules: tuple[str, ...],
            shares: tuple[str, ...],
            **others: Any,
        ) -> Any:
            names = [name for name in Asked.__dataclass_fields__ if name in others]
            own = {name: others.pop(name) for name in names}
            reading = {name: own[name] for name in _READING if own[name] is not None}
            services, thin = _service_rules(service, rules), _shares(shares)
            return command(*args, asked=Asked(**own, services=services, thin=thin, reading=reading), **others)

        found: Callable[..., Any] = with_sources
        for option in reversed(_OPTIONS):
            found = option(found)
        metavar = "FILE..." if required else "[FILE...]"
        return click.argument("files", nargs=-1, required=required, metavar=metavar, callback=_sources)(found)

    return add


def _service_rules(service: str | None, rules: tuple[str, ...]) -> dict[str, str | None]:
    if service is not None and rules:
        raise click.UsageError("give --service or --map, not both")
    found: dict[str, str | None] = {} if service is None else {"*": service}
    for rule in rules:
        pattern, equals, name = rule.rpartition("=")
        if not (pattern and equals and name):
            raise click.BadParameter(f"{rule!r} is not PATTERN=NAME", param_hint="--map")
        found[pattern] = name
    return found


def _shares(shares: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in shares:
        pattern, equals, share = text.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not 0.0 < value <= 1.0 or (equals and not pattern):
            hint = "a share above 0 and up to 1, or PATTERN=SHARE"
            raise click.BadParameter(f"{text!r} is not {hint}", param_hint="--thin")
        found[pattern or "*"] = value
    return found


def _flag(name: str) -> str:
    return "--" + {"forced": "format", "bin_s": "bin", "grid_s": "grid"}.get(name, name).replace("_", "-")
