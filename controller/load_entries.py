"""The entries of where requests come from: a law, a trace or the log."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from partita.controller.entry import Entry, Name, NotNegative, Positive, Size, refuse, shorten
from partita.errors import PartitaError

if TYPE_CHECKING:
    from partita.traces.read_options import ReadOptions


class ArrivalsEntry(Entry):
    """Requests drawn from a law."""

    process: Literal["constant", "poisson", "gamma"] = Field(description="law of the gaps between requests")
    shape: Positive = Field(1.0, description="shape of the gamma law: below 1 is burstier than Poisson")
    rate_rps: Positive = Field(description="requests a second, all services together")
    warmup_s: NotNegative = Field(0.0, description="seconds at the start that are served but not counted")
    duration_s: Positive = Field(description="seconds that are counted")


def _read_instant(value: object) -> float | str:
    from partita.traces.times import parse_instant

    if isinstance(value, date):
        value = value.isoformat()
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        with suppress(PartitaError):
            parse_instant(value, origin_ns=0, key="")
            return value
    return refuse(
        f"{shorten(value)} should be a time after the start like 90, 30m or 1.5h, or a date like 2023-11-16T18:30"
    )


Instant = Annotated[
    float | str,
    PlainValidator(_read_instant),
    PlainSerializer(lambda instant: instant),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}),
]


class Window(Entry):
    """Which part of a log is replayed, how fast, and which of the scenario's services its services are."""

    services: dict[Name, Name | None] = Field(
        default_factory=dict, description="pattern of the trace's service names: service; null leaves them out"
    )
    from_: Instant | None = Field(None, alias="from", description="first instant: a time after the start, or a date")
    to: Instant | None = Field(None, description="end: a time after the start, or a date")
    speed: Positive = Field(1.0, description="2 plays the trace twice as fast, at twice the rate")
    thin: dict[Name, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict, description="pattern of the scenario's service names: share of its requests to keep"
    )

    def span_ns(self, first_ns: int) -> tuple[int | None, int | None]:
        """Return the part to replay of a trace that begins at `first_ns`, as unix time; None at an end left open."""
        from partita.traces.times import parse_instant

        return (
            None if self.from_ is None else parse_instant(self.from_, origin_ns=first_ns, key="load.trace.from"),
            None if self.to is None else parse_instant(self.to, origin_ns=first_ns, key="load.trace.to"),
        )

    @model_validator(mode="after")
    def _run_forward(self) -> Self:
        start, end = self.from_ or 0.0, self.to
        if not isinstance(start, str) and not isinstance(end, str | None) and end <= start:
            refuse(f"{end:g} must be after the start, {start:g}", "to")
        return self


class FileEntry(Window):
    """A trace file, and what it does not say itself."""

    file: Name = Field(
        description="the file, seen from the scenario's folder; ~ and $VARIABLES stand in it, .gz and .zst are read"
    )
    format: Name | None = Field(None, description="name of the format; left out: detected")
    bin_s: Positive | None = Field(None, description="width of the bins of counts in seconds; left out: detected")
    columns: dict[Name, Name] = Field(default_factory=dict, description="our column: the table's column")
    service_by: Literal["model_group", "model"] | None = Field(
        None, description="what a service is in LiteLLM's spend logs; left out: model_group"
    )
    status: Name | None = Field(None, description="take only rows of this status from LiteLLM's spend logs")
    grid_s: Positive | None = Field(None, description="step of the instants of a Mooncake trace; left out: detected")
    spread: Literal["poisson", "even", "none"] | None = Field(
        None, description="how its requests are spread over a step; left out: poisson"
    )

    def read_options(self) -> ReadOptions:
        """Return what is said about the file."""
        from partita.traces.column_map import ColumnMap
        from partita.traces.read_options import ReadOptions

        columns = ColumnMap.of(self.columns, key="load.trace.columns") if self.columns else None
        return ReadOptions(self.bin_s, columns, self.service_by, self.status, self.grid_s, self.spread)


class MemberEntry(FileEntry):
    """A trace file that is replayed at the same time as another one."""

    after_s: NotNegative = Field(0.0, description="seconds after the first trace's beginning at which it begins")


class TraceEntry(FileEntry):
    """A trace file, and others to be replayed at the same time."""

    with_: list[MemberEntry] = Field(default_factory=list, alias="with", description="traces played at the same time")


class LogEntry(Window):
    """Requests that are in the database."""

    import_: Annotated[int, Field(ge=1)] | None = Field(
        None, alias="import", description="number of the import, as `partita trace import` prints it; none: the newest"
    )


class LoadEntry(Entry):
    """Where requests come from: a law, a trace file, or the request log."""

    arrivals: ArrivalsEntry | None = Field(None, description="requests drawn from a law")
    share: dict[Name, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict, description="share of each service in `arrivals`; they sum to 1"
    )
    sizes: dict[Name, Annotated[dict[Size, Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]] = Field(
        default_factory=dict, description="share of each input size by service in `arrivals`; left out: all have size 1"
    )
    trace: TraceEntry | None = Field(None, description="requests of a trace file")
    log: LogEntry | None = Field(None, description="requests that were imported into the database")

    def traces(self) -> list[FileEntry]:
        """List the trace files, the first one before those that are played with it."""
        return [] if self.trace is None else [self.trace, *self.trace.with_]

    @model_validator(mode="after")
    def _come_from_one_place(self) -> Self:
        given = [name for name in ("arrivals", "trace", "log") if getattr(self, name) is not None]
        if len(given) != 1:
            named = f"{' and '.join(given)} are" if given else "none of arrivals, trace and log is"
            refuse(f"{named} given: name exactly one of them")
        for key in ("share", "sizes"):
            if getattr(self, key) and not self.arrivals:
                refuse(f"{key} belongs to arrivals; a {given[0]} brings its own", key)
        for name, shares in self.sizes.items():
            if abs(sum(shares.values()) - 1.0) > 1e-6:
                refuse(f"the shares must sum to 1, they sum to {sum(shares.values()):g}", "sizes", name)
        return self
