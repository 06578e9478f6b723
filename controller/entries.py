"""The entries of a scenario file, each a mapping that is strict about its types and its keys.

Every key has its description here, a paragraph in docs/scenario.md and a place in the JSON schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from difflib import get_close_matches
from itertools import pairwise
from math import inf
from os.path import expanduser, expandvars
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    PrivateAttr,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from partita.errors import PartitaError
from partita.model.plan import Batching, Budgets, Objective, OptionValue
from partita.model.service import BATCH_CAP, WHOLE_GPU, Bucket, LatencyCurve, Service

if TYPE_CHECKING:
    from partita.traces.latency_tables import LatencyTable

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Batch = Annotated[int, Field(ge=1, le=100_000)]
Name = Annotated[str, Field(min_length=1)]


def _as_size(key: object) -> object:
    """Return the number that a key stands for; in JSON, as in results, all keys are text."""
    if isinstance(key, str):
        with suppress(ValueError):
            return float(key)
    return key


Size = Annotated[float, Field(gt=0), BeforeValidator(_as_size)]


def refuse(text: str, *path: str | int) -> NoReturn:
    """Raise a problem for the user to read; `path` leads from the value being checked to the culprit."""
    raise PydanticCustomError("refused", "{text}", {"text": text, "path": path})


def closest(word: str, known: Sequence[str]) -> str:
    """Say which known word was probably meant, or which there are."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


class Entry(BaseModel):
    """A mapping in the file: types are strict, unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _have_the_right_keys(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            refuse(f"{shorten(data)} should be a mapping with the keys {', '.join(_names(cls))}")
        for key in data:
            if key not in _names(cls):
                refuse(f"unknown key {key!r}: {closest(str(key), _names(cls))}", key)
        for name, field in cls.model_fields.items():
            if field.is_required() and (field.alias or name) not in data:
                refuse(f"{field.alias or name} is missing: {field.description}")
        return data


def shorten(value: object, limit: int = 60) -> str:
    """Write a value from the file so that it fits into a sentence."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _names(entry: type[BaseModel]) -> list[str]:
    """List the keys of an entry, those that it needs first."""
    fields = sorted(entry.model_fields.items(), key=lambda item: not item[1].is_required())
    return [field.alias or name for name, field in fields]


class ClusterEntry(Entry):
    """A number of equal GPUs."""

    gpu: Name = Field(description="the GPU model, as `partita mig geometries` lists them")
    count: int = Field(ge=1, le=100_000, description="how many of them there are")
    geometry: str | None = Field(None, description="MIG geometry of each; left out: whole GPUs")
    shares: list[Annotated[float, Field(gt=0, lt=100)]] = Field(
        default_factory=list,
        max_length=48,
        description="GPU% of the MPS shares that each GPU or MIG instance is divided into; empty: undivided",
    )
    price_per_hour: NotNegative = Field(1.0, description="what one costs an hour, in any currency")


class Line(Entry):
    """Latency of a batch of b: alpha·b + beta."""

    alpha_ms: NotNegative = Field(description="milliseconds that each request adds to a batch")
    beta_ms: NotNegative = Field(description="milliseconds that every batch takes")

    def curve(self, profile: str, max_batch: int | None) -> LatencyCurve:
        """Turn into a curve that ends at `max_batch`."""
        return LatencyCurve.linear(self.alpha_ms, self.beta_ms, profile=profile, up_to=max_batch or BATCH_CAP)

    @model_validator(mode="after")
    def _take_time(self) -> Self:
        if self.alpha_ms + self.beta_ms <= 0:
            refuse("alpha_ms and beta_ms cannot both be 0")
        return self


class Points(Entry):
    """Measured latencies by batch size."""

    points: dict[Batch, Positive] = Field(min_length=1, description="batch size: milliseconds, as measured")

    def curve(self, profile: str, max_batch: int | None) -> LatencyCurve:
        """Turn into a curve that ends at `max_batch`, or at the last measurement if that comes first."""
        measured = LatencyCurve(profile, tuple((b, ms / 1e3) for b, ms in sorted(self.points.items())))
        return _cut(measured, max_batch)

    @model_validator(mode="after")
    def _never_fall(self) -> Self:
        ordered = sorted(self.points.items())
        for (b, ms), (c, less) in pairwise(ordered):
            if less < ms:
                refuse(f"a batch of {c} cannot be faster ({less:g} ms) than one of {b} ({ms:g} ms)", "points", c)
        return self


class Table(Entry):
    """Latencies out of a file of measurements."""

    table: Name = Field(description="file of measured latencies, seen from the scenario's folder: CSV or Parquet")
    model: Name | None = Field(None, description="model in the file; left out: the only one, or the service's name")
    format: Literal["partita", "parvagpu", "hasgpu"] | None = Field(
        None, description="format of the file; left out: as its columns tell"
    )
    processes: Annotated[int, Field(ge=1)] = Field(1, description="MPS processes of the model that run side by side")
    time_quota_percent: float = Field(100.0, gt=0, le=100, description="share of the time that is granted")

    _table: LatencyTable = PrivateAttr()

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        from partita.traces.latency_tables import read_latency_table

        path = (info.context or {}).get("folder", Path()) / expandvars(expanduser(self.table))
        try:
            self._table = read_latency_table(path, format=self.format)
        except PartitaError as problem:
            refuse(str(problem), "table")
        return self

    def measured(self, service: str, buckets: Sequence[float]) -> tuple[Sequence[LatencyCurve], Sequence[str]]:
        """Return the curves for a service, and what was done to the measurements; ConfigError if there are none."""
        models = self._table.models()
        model = self.model or (service if service in models else None)
        return self._table.curves(
            model, processes=self.processes, time_quota_percent=self.time_quota_percent, buckets=buckets
        )


def _cut(curve: LatencyCurve, max_batch: int | None) -> LatencyCurve:
    """End a measured curve at a largest batch."""
    if max_batch is None or max_batch >= curve.max_batch:
        return curve
    kept = tuple((b, s) for b, s in curve.points if b < max_batch)
    return replace(curve, points=(*kept, (max_batch, curve.latency_s(max_batch))))


def _curve_kind(value: object) -> str:
    return "<points>" if isinstance(value, Points) or (isinstance(value, Mapping) and "points" in value) else "<line>"


def _bare_kind(value: object) -> str:
    if not isinstance(value, Mapping):
        return _curve_kind(value)
    by_profile = value and "points" not in value and all(isinstance(v, Mapping | Entry) for v in value.values())
    return "<by profile>" if by_profile else _curve_kind(value)


def _latency_kind(value: object) -> str:
    if isinstance(value, Table) or (isinstance(value, Mapping) and "table" in value):
        return "<table>"
    sizes = isinstance(value, Mapping) and value and all(isinstance(_as_size(k), int | float) for k in value)
    return "<by size>" if sizes else _bare_kind(value)


Curve = Annotated[Annotated[Line, Tag("<line>")] | Annotated[Points, Tag("<points>")], Discriminator(_curve_kind)]
Bare = Annotated[
    Annotated[Line, Tag("<line>")]
    | Annotated[Points, Tag("<points>")]
    | Annotated[dict[Name, Curve], Tag("<by profile>")],
    Discriminator(_bare_kind),
]
Latency = Annotated[
    Annotated[Line, Tag("<line>")]
    | Annotated[Points, Tag("<points>")]
    | Annotated[Table, Tag("<table>")]
    | Annotated[dict[Name, Curve], Tag("<by profile>")]
    | Annotated[dict[Size, Bare], Tag("<by size>")],
    Discriminator(_latency_kind),
]

SHARE = re.compile(r"^(?P<profile>.+)@(?P<percent>\d+(\.\d+)?)%$")
"""A share of a profile under MPS, such as ``whole@50%``."""


def _by_profile(latency: Line | Points | Mapping[str, Line | Points], max_batch: int | None) -> Iterator[LatencyCurve]:
    """Yield the curves of one latency: of the whole GPU, or of each profile and share that is named."""
    named = {WHOLE_GPU: latency} if isinstance(latency, Line | Points) else latency
    for key, curve in named.items():
        share = SHARE.match(key)
        if share is None:
            yield curve.curve(key, max_batch)
        else:
            yield replace(curve.curve(share["profile"], max_batch), gpu_percent=float(share["percent"]))


class ServiceEntry(Entry):
    """One model behind an SLO; a name with ``*`` or ``?`` stands for every service of the trace that matches."""

    name: Name = Field(description="what it is called; with * or ? a template for the services of a trace")
    slo_ms: Positive = Field(description="milliseconds within which a request must be answered")
    attainment: float = Field(0.99, gt=0, le=1, description="share of requests that must meet the SLO")
    memory_gib: NotNegative = Field(1.0, description="GPU memory that one loaded copy takes")
    latency: Latency = Field(description="latency of a batch: whole GPU, by MIG profile or GPU%, by size, a table")
    max_batch: Batch | None = Field(None, description="largest batch to run; left out: what the SLO allows")
    buckets: list[Positive] = Field(
        default_factory=list, description="upper edges of input sizes that are served apart; empty: those of latency"
    )
    from_s: NotNegative = Field(0.0, description="seconds into the replay at which its requests begin")
    until_s: Positive | None = Field(None, description="seconds into the replay at which they end; left out: never")

    @property
    def is_template(self) -> bool:
        """Say whether the name is a pattern."""
        return "*" in self.name or "?" in self.name

    def curves(self) -> tuple[LatencyCurve, ...]:
        """List the latency curves: of each profile, GPU% and bucket of sizes."""
        if isinstance(self.latency, Table):
            return tuple(_cut(curve, self.max_batch) for curve in self.latency.measured(self.name, self.buckets)[0])
        if isinstance(self.latency, Mapping) and (sizes := [k for k in self.latency if not isinstance(k, str)]):
            kept = sorted(self.buckets or sizes)
            ranges = {edge: Bucket(over, edge) for over, edge in pairwise([0.0, *kept])}
            return tuple(
                replace(curve, bucket=ranges[edge])
                for edge in kept
                for curve in _by_profile(self.latency[edge], self.max_batch)  # type: ignore[index]
            )
        return tuple(_by_profile(self.latency, self.max_batch))  # type: ignore[arg-type]

    def remarks(self) -> tuple[str, ...]:
        """Say what was done to measured latencies before they could be used."""
        return tuple(self.latency.measured(self.name, self.buckets)[1]) if isinstance(self.latency, Table) else ()

    def service(self, name: str | None = None) -> Service:
        """Turn into a service, under its own name or one that its pattern stands for."""
        return Service.measured(name or self.name, self.slo_ms / 1e3, self.attainment, self.memory_gib, self.curves())

    @model_validator(mode="after")
    def _be_measured(self) -> Self:
        """See that there is a latency for each bucket, and that profiles are measured for all of them or for none."""
        if self.until_s is not None and self.until_s <= self.from_s:
            refuse(f"{self.until_s:g} must be after from_s, {self.from_s:g}", "until_s")
        if len(set(self.buckets)) < len(self.buckets):
            refuse("an edge is given twice", "buckets")
        sizes = [k for k in self.latency if not isinstance(k, str)] if isinstance(self.latency, Mapping) else []
        if self.buckets and not sizes and not isinstance(self.latency, Table):
            refuse("each bucket needs a latency of its own: give latency by size, or a table", "buckets")
        for edge in self.buckets:
            if sizes and edge not in sizes:
                refuse(f"there is no latency for sizes up to {edge:g}, only for {_listed(sizes)}", "buckets")
        try:
            service = Service.measured(self.name, 1.0, 1.0, 0.0, self.curves())
        except PartitaError as problem:
            refuse(str(problem), "latency")
        for curve in service.curves:
            for lane in service.lanes():
                if lane.curve(curve.profile) is None:
                    edge = lane.buckets()[0].up_to
                    refuse(f"{curve.profile} has a latency for larger sizes but none up to {edge:g}", "latency")
        return self


def _listed(sizes: Sequence[float]) -> str:
    return ", ".join(f"{size:g}" for size in sorted(sizes))


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
    refuse(f"{shorten(value)} should be a time after the start like 90, 30m or 1.5h, or a date like 2023-11-16T18:30")


Instant = Annotated[
    float | str,
    PlainValidator(_read_instant),
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


class TraceEntry(Window):
    """A trace file."""

    file: Name = Field(
        description="the file, seen from the scenario's folder; ~ and $VARIABLES stand in it, .gz and .zst are read"
    )
    format: Name | None = Field(None, description="name of the format; left out: detected")


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


class OverheadsEntry(Entry):
    """Times outside the GPU, and how long changes take."""

    control_us: NotNegative = Field(100.0, description="microseconds from decision to GPU, once a batch")
    data_us_per_request: NotNegative = Field(50.0, description="microseconds that moving the input takes, a request")
    response_us: NotNegative = Field(2000.0, description="microseconds kept free of each deadline for the answer")
    jitter_us: NotNegative = Field(100.0, description="safety in the start windows of deferred batching")
    model_load_s: NotNegative = Field(22.0, description="seconds until a model answers after loading began")
    repartition_s: NotNegative = Field(4.0, description="seconds a GPU is away to change its MIG geometry")
    create_s: NotNegative | None = Field(
        None, description="seconds that creating a MIG instance takes; left out: repartition_s"
    )
    destroy_s: NotNegative = Field(0.0, description="seconds that destroying an instance takes, after its last batch")
    drain_s: NotNegative = Field(0.0, description="seconds that draining an instance takes at least")
    mps_restart_s: NotNegative | None = Field(
        None, description="seconds until a model answers again after its GPU% was set; left out: model_load_s"
    )
    log_delay_s: NotNegative = Field(1.0, description="seconds after which the request log is complete")


class VariationEntry(Entry):
    """How what batches take differs from their latency curves; replay only."""

    tail: float = Field(1.0, ge=1, le=100, description="disciplines count on this times the latency; batches take 1")
    jitter: float = Field(
        0.0, ge=0, le=2, description="standard deviation of the logarithm of what a batch takes over its latency"
    )
    colocation: float = Field(
        0.0, ge=0, le=100, description="part by which a batch takes longer for a whole GPU of other shares beside it"
    )


class FailureEntry(Entry):
    """A GPU or an instance that fails at an instant, and comes back."""

    gpu: Name | None = Field(None, description="the GPU that fails, with all that is on it")
    instance: Name | None = Field(None, description="or the one instance that fails")
    at_s: NotNegative = Field(description="seconds into the replay at which it fails")
    for_s: Positive = Field(description="seconds until it is back; its models then load again")

    @model_validator(mode="after")
    def _name_one(self) -> Self:
        if (self.gpu is None) == (self.instance is None):
            refuse("name either a gpu or an instance that fails")
        return self


class FailureLawEntry(Entry):
    """Failures drawn for each GPU: exponential times between them, and until it is back."""

    mtbf_s: Positive = Field(description="mean seconds that a GPU works until it fails")
    mttr_s: Positive = Field(description="mean seconds until it is back")


FailureOrLaw = Annotated[
    Annotated[FailureEntry, Tag("<failure>")] | Annotated[FailureLawEntry, Tag("<law>")],
    Discriminator(
        lambda value: (
            "<law>"
            if isinstance(value, FailureLawEntry)
            or (isinstance(value, Mapping) and {"mtbf_s", "mttr_s"} & value.keys())
            else "<failure>"
        )
    ),
]


BUILT_IN = (
    "deferred",
    "eager",
    "adaptive",
    "timeout",
    "triton",
    "shepherd",
    "clockwork",
    "nexus",
    "clipper",
    "temporal",
)
"""The disciplines that no plugin needs to bring."""

OF_SOME = {
    "drop": ("deferred", "eager", "clipper", "temporal"),
    "gpu_choice": ("deferred", "eager", "adaptive", "timeout", "triton", "clockwork", "clipper"),
    "timeout_ms": ("timeout", "triton", "clipper"),
    "queue_policy": ("timeout", "triton"),
}
"""Keys that only these of the built-in disciplines have; what a plugin's has is its own affair."""


class DisciplineEntry(Entry):
    """How queued requests become batches."""

    name: Name = Field("deferred", description=f"{', '.join(BUILT_IN)}, or one that a plugin brings")
    drop: Literal["window", "timeout", "never", "expired", "none"] | None = Field(
        None, description="give up what cannot ride in the batch wanted (window) or not even alone (timeout), …"
    )
    gpu_choice: Literal["min-id", "earliest"] | None = Field(
        None, description="among free GPUs the lowest number, or the one free earliest"
    )
    timeout_ms: NotNegative | None = Field(
        None, description="timeout, triton and clipper only: longest wait for a batch to fill"
    )
    max_batch: Batch | None = Field(None, description="largest batch of any service")
    queue_policy: Literal["none", "reject"] | None = Field(
        None, description="timeout and triton only: reject what has waited for its SLO, or keep it"
    )
    options: dict[str, OptionValue] = Field(default_factory=dict, description="what else the discipline takes")

    @model_validator(mode="after")
    def _know_its_own_keys(self) -> Self:
        for key, owners in OF_SOME.items():
            if getattr(self, key) is not None and not _takes(self.name, key):
                refuse(f"the discipline {self.name} has no {key}; {', '.join(owners)} have", key)
        return self

    def renamed(self, name: str) -> DisciplineEntry:
        """Return the entry of another discipline, with the keys that it has too."""
        kept = self.model_dump(exclude={"name", *(key for key in OF_SOME if not _takes(name, key))})
        return DisciplineEntry.model_validate({**kept, "name": name})

    def batching(self) -> Batching:
        """Turn into the batching every service starts with."""
        given = {"drop": self.drop, "gpu_choice": self.gpu_choice, "queue_policy": self.queue_policy}
        options = {**{k: v for k, v in given.items() if v is not None}, **self.options}
        timeout_s = (self.timeout_ms or 0.0) / 1e3
        return Batching(self.name, timeout_s, self.max_batch, tuple(sorted(options.items())))


def _takes(discipline: str, key: str) -> bool:
    """Say whether a discipline may have a key."""
    return discipline not in BUILT_IN or discipline in OF_SOME[key]


class PolicyEntry(Entry):
    """A policy and what is set for it."""

    name: Name = Field(description="the plugin's name, as `partita plugins list` shows it")
    options: dict[str, OptionValue] = Field(default_factory=dict, description="what the plugin takes")


Policy = Annotated[
    Annotated[Name, Tag("<name>")] | Annotated[PolicyEntry, Tag("<entry>")],
    Discriminator(lambda value: "<name>" if isinstance(value, str) else "<entry>"),
]


class ControlEntry(Entry):
    """How often the loop turns and what it weighs."""

    near_s: Positive = Field(10.0, description="seconds between two turns of the loop")
    epoch_s: Positive = Field(600.0, description="seconds between two far plans, and what costs are counted over")
    rehearse_s: Positive = Field(60.0, description="seconds of recent log that candidates are rehearsed on")
    margin: NotNegative = Field(0.02, description="share of the standing cost that a change must save")
    tolerance: NotNegative = Field(0.0, description="how far below its target an attainment still counts as met")
    max_gpus: Annotated[int, Field(ge=1)] | None = Field(None, description="never hold more GPUs than this")
    max_price_per_hour: Positive | None = Field(None, description="never pay more than this an hour")

    @model_validator(mode="after")
    def _nest(self) -> Self:
        if self.epoch_s < self.near_s:
            refuse(f"{self.epoch_s:g} must be at least near_s, {self.near_s:g}", "epoch_s")
        return self

    def objective(self) -> Objective:
        """Turn into the objective that decisions are made by."""
        return Objective(period_s=self.epoch_s, margin=self.margin, tolerance=self.tolerance)

    def budgets(self) -> Budgets:
        """Turn into the limits a plan must keep."""
        return Budgets(self.max_gpus, inf if self.max_price_per_hour is None else self.max_price_per_hour)
