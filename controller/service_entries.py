"""The entries of what is served: services and their latencies, as curves, points or tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf
from os.path import expanduser, expandvars
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Discriminator, Field, PrivateAttr, Tag, ValidationInfo, model_validator

from partita.controller.entry import Batch, Entry, Name, NotNegative, Positive, Size, as_size, refuse
from partita.errors import PartitaError
from partita.model.service import BATCH_CAP, WHOLE_GPU, Bucket, LatencyCurve, Service, label

if TYPE_CHECKING:
    from partita.traces.latency_tables import LatencyTable


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
    sizes = isinstance(value, Mapping) and value and all(isinstance(as_size(k), int | float) for k in value)
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
    sizes: Literal["padded", "exact"] = Field(
        "padded",
        description="inputs are padded to their bucket's edge, or a batch takes as long as its largest one",
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
        return Service.measured(
            name or self.name,
            self.slo_ms / 1e3,
            self.attainment,
            self.memory_gib,
            self.curves(),
            exact_sizes=self.sizes == "exact",
        )

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
        if self.sizes == "exact":
            self._rise_with_size(service)
        return self

    def _rise_with_size(self, service: Service) -> None:
        """See that latency can be told between two sizes: known at both, and no shorter for the larger one."""
        buckets = service.by_bucket()
        if len(buckets) == 1:
            refuse("there is one latency for all sizes: exact sizes need latency by size", "sizes")
        if buckets[-1].buckets()[0].up_to == inf:
            refuse("exact sizes need an upper edge for the largest ones", "sizes")
        for smaller, larger in pairwise(buckets):
            for curve in (*larger.curves, *larger.finer):
                known, edge = smaller.curve(curve.profile, curve.gpu_percent), smaller.buckets()[0].up_to
                if known is None:
                    where = label(curve.profile, curve.gpu_percent)
                    refuse(f"{where} has a latency for larger sizes but none up to {edge:g}", "latency")
                for b in sorted({b for b, _ in (*curve.points, *known.points) if b <= curve.max_batch}):
                    if known.latency_s(b) > curve.latency_s(b):
                        refuse(_shorter(b, edge, known.latency_s(b), curve), "latency")


def _shorter(batch: int, edge: float, seconds: float, larger: LatencyCurve) -> str:
    """Say that a batch takes longer with smaller inputs."""
    where = label(larger.profile, larger.gpu_percent)
    known = f"{seconds * 1e3:g} ms" if seconds < inf else "not measured"
    return (
        f"with exact sizes a batch of {batch} on {where} cannot take longer for sizes up to {edge:g} ({known})"
        f" than up to {larger.bucket.up_to:g} ({larger.latency_s(batch) * 1e3:g} ms)"
    )


def _listed(sizes: Sequence[float]) -> str:
    return ", ".join(f"{size:g}" for size in sorted(sizes))
