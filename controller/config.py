"""The scenario: what a user may write in a file, checked as a whole and turned into the values the loop works with.

`entries`, `service_entries` and `load_entries` hold its parts; `scenario_file` reads the file and says in one sentence
what is wrong with it. What it has in common with the file of a live cluster (`cluster_file`) is a `Setup`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from os.path import expanduser, expandvars
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from partita import mig
from partita.controller.entries import (
    ClusterEntry,
    ControlEntry,
    DisciplineEntry,
    FailureEntry,
    FailureLawEntry,
    FailureOrLaw,
    OverheadsEntry,
    Policy,
    VariationEntry,
)
from partita.controller.entry import Entry, closest, refuse
from partita.controller.forecast_entries import ForecastEntry, is_date
from partita.controller.load_entries import FileEntry, LoadEntry, Window
from partita.controller.service_entries import ServiceEntry
from partita.errors import ConfigError, PartitaError
from partita.model.cluster import MOST_ON_A_GPU, Gpu, Instance, instances_of
from partita.model.mix import as_given
from partita.model.plan import OptionValue
from partita.model.service import Service, label
from partita.model.staggered import Overheads, answers
from partita.traces.services import KEEP, by_detail


class Setup(Entry):
    """A cluster, its services, and how they are run."""

    cluster: list[ClusterEntry] = Field(min_length=1, description="the GPUs there are, held or not")
    service_entries: list[ServiceEntry] = Field(alias="services", min_length=1, description="what is served")
    overhead: OverheadsEntry = Field(
        default_factory=OverheadsEntry, alias="overheads", description="times outside the GPU"
    )
    discipline: DisciplineEntry = Field(default_factory=DisciplineEntry, description="how requests are batched")
    control: ControlEntry = Field(default_factory=ControlEntry, description="how often the loop turns")
    forecast: ForecastEntry = Field(default_factory=ForecastEntry, description="how load is forecast")
    seed: int = Field(1, ge=0, le=2**63 - 1, description="seed of everything that is drawn")

    _folder: Path = PrivateAttr(default=Path())
    _file: str | None = PrivateAttr(default=None)

    @property
    def file(self) -> str | None:
        """What the file is called where something in it is wrong; None if it came from none."""
        return self._file

    def inventory(self) -> tuple[Gpu, ...]:
        """List the GPUs in the order of the file, numbered from ``gpu0`` with as many digits as the last needs."""
        digits = len(str(sum(entry.count for entry in self.cluster) - 1))
        numbered = enumerate(entry for entry in self.cluster for _ in range(entry.count))
        return tuple(_gpu(f"gpu{number:0{digits}}", entry) for number, entry in numbered)

    def overheads(self) -> Overheads:
        """Return the times outside the GPU."""
        o = self.overhead
        return Overheads(o.control_us / 1e6, o.data_us_per_request / 1e6, o.response_us / 1e6, o.jitter_us / 1e6)

    def remarks(self) -> tuple[str, ...]:
        """Say what was done to measured latencies before they could be used, and what stays idle, a sentence each."""
        measured = tuple(remark for entry in self.service_entries for remark in entry.remarks())
        return (*measured, *self._idle())

    def _idle(self) -> Iterator[str]:
        """Name the kinds of instances on which no service can be answered in time."""
        gpus = [_gpu(f"gpu{at}", entry) for at, entry in enumerate(self.cluster)]
        services = [entry.service() for entry in self.service_entries]
        for kind in sorted({(i.profile, i.gpu_percent) for gpu in gpus for i in instances_of(gpu, gpu.geometry)}):
            if not any(answers(service, *kind, overheads=self.overheads()) for service in services):
                yield f"no service can be answered in time on {label(*kind)}: such instances stay idle"

    def document(self) -> dict[str, Any]:
        """Return everything as plain data, every default filled in."""
        plain: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return plain

    def _check_cluster(self) -> list[Instance]:
        instances: list[Instance] = []
        for at, entry in enumerate(self.cluster):
            try:
                mig.gpu_model(entry.gpu)
            except PartitaError as problem:
                refuse(str(problem), "cluster", at, "gpu")
            try:
                gpu = _gpu(f"gpu{at}", entry)
            except PartitaError as problem:
                refuse(str(problem), "cluster", at, "geometry")
            found = instances_of(gpu, gpu.geometry)
            if len(found) > MOST_ON_A_GPU:
                text = f"a GPU runs {MOST_ON_A_GPU} MPS shares at most, these make {len(found)}"
                refuse(text, "cluster", at, "shares")
            instances += found
        if not instances:
            refuse("no GPU of the cluster has an instance", "cluster")
        return instances

    def _check_services(self, instances: Sequence[Instance], *, templates: bool) -> None:
        seen = set[str]()
        for at, entry in enumerate(self.service_entries):
            if entry.name in seen:
                refuse(f"there are two services {entry.name!r}", "services", at, "name")
            seen.add(entry.name)
            if entry.is_template and not templates:
                refuse(f"{entry.name!r} is a pattern, which only a trace can fill", "services", at, "name")
            for problem, key in _never_served(entry.service(), instances, self.overheads()):
                refuse(problem, "services", at, key)

    def _check_forecast(self, *, dated: bool, begins: bool) -> None:
        """Refuse patterns that match nothing, dates where time has none, and times after a start that there is not."""
        names = [entry.name for entry in self.service_entries]
        open_ended = any(entry.is_template for entry in self.service_entries)  # what it stands for, the trace says

        def unknown(pattern: str) -> bool:
            return not open_ended and not any(fnmatchcase(name, pattern) for name in names)

        for pattern in filter(unknown, self.forecast.services):
            refuse(f"there is no service {pattern!r}: {closest(pattern, names)}", "forecast", "services", pattern)
        for at, entry in enumerate(self.forecast.calendar):
            for place, pattern in enumerate(entry.services):
                if unknown(pattern):
                    text = f"there is no service {pattern!r}: {closest(pattern, names)}"
                    refuse(text, "forecast", "calendar", at, "services", place)
            for key, value in entry.instants():
                if is_date(value) and not dated:
                    text = f"{value!r} is a date, and requests drawn from a law have none: give a time after the start"
                    refuse(text, "forecast", "calendar", at, key)
                if not is_date(value) and not begins:
                    refuse(f"{value!r} should be a date like 2026-11-27T00:00Z", "forecast", "calendar", at, key)


class Scenario(Setup):
    """A cluster, its services, their load, and how they are run."""

    demand: LoadEntry = Field(alias="load", description="where requests come from")
    variation: VariationEntry = Field(
        default_factory=VariationEntry, description="how what batches take differs from their latency"
    )
    failures: list[FailureOrLaw] = Field(
        default_factory=list, description="GPUs and instances that fail and come back: instants, or a law"
    )
    policies: list[Policy] = Field(
        default_factory=list, description="policies to compare; empty: the cluster as given, no controller"
    )

    @model_validator(mode="before")
    @classmethod
    def _take_a_trace_at_the_top(cls, data: object) -> object:
        """A trace may stand beside `load` as well as in it: it is what the scenario is about."""
        if not isinstance(data, Mapping) or "trace" not in data:
            return data
        load = data.get("load", {})
        if not isinstance(load, Mapping) or "trace" in load:
            return data
        rest = {key: value for key, value in data.items() if key != "trace"}
        return {**rest, "load": {**load, "trace": data["trace"]}}

    @classmethod
    def load(cls, path: Path) -> Scenario:
        """Read a scenario file; ConfigError says in one sentence what is wrong with it."""
        from partita.controller.scenario_file import read_scenario

        return read_scenario(path)

    # What the loop works with

    def presence_s(self, found: Sequence[str]) -> tuple[tuple[float, float], ...]:
        """Return from when until when each service of the run has requests, in seconds of the replay."""
        entries = [self._entry(name) for name in found]
        return tuple((e.from_s, inf if e.until_s is None else e.until_s) for e in entries)

    def services(self, found: Sequence[str] | None = None) -> tuple[Service, ...]:
        """List the services; of a trace those `found`, named as `trace_rules` names them, in that order.

        ConfigError if one of them is none of the scenario's.
        """
        if found is None:
            return tuple(self._mixed(entry.service()) for entry in self.service_entries)
        return tuple(self._mixed(self._entry(name).service(name)) for name in found)

    def trace_rules(self, window: Window | None = None) -> dict[str, str | None]:
        """Return which service of the run each service of the trace is, as rules of a ServiceMap.

        `window` is one of several traces, by default the first. What no rule of the user's matches keeps its name, so
        that `services` can name it.
        """
        templates = {entry.name for entry in self.service_entries if entry.is_template}
        patterns = self._patterns(window or self._windows()[0])
        rules = {pattern: KEEP if name in templates else name for pattern, name in patterns.items()}
        return rules if "*" in rules else {**rules, "*": KEEP}

    def policy_options(self) -> dict[str, dict[str, OptionValue]]:
        """List the policies to compare with what is set for each, in order."""
        return {p if isinstance(p, str) else p.name: {} if isinstance(p, str) else p.options for p in self.policies}

    def trace_path(self, trace: FileEntry | None = None) -> Path:
        """Return a trace's file, by default the first one's, seen from the scenario's folder.

        ``~`` and environment variables stand in it.
        """
        entry = trace or self.demand.trace
        assert entry is not None
        return self._folder / expandvars(expanduser(entry.file))

    def trace_paths(self) -> tuple[Path, ...]:
        """List the files of the traces that are replayed."""
        return tuple(self.trace_path(entry) for entry in self.demand.traces())

    def _mixed(self, service: Service) -> Service:
        """Return a service with the mix of sizes that a law draws; what mix a trace has, only its requests say."""
        return as_given(service, self.demand.sizes.get(service.name, {1.0: 1.0})) if self.demand.arrivals else service

    def _windows(self) -> Sequence[Window]:
        """List the traces that are replayed, or the log."""
        return [self.demand.log] if self.demand.log else self.demand.traces()

    def _entry(self, name: str) -> ServiceEntry:
        """Find the entry of a service of the run: its own, or the template that the trace's service is mapped to."""
        entries = {entry.name: entry for entry in self.service_entries}
        if name in entries and not entries[name].is_template:
            return entries[name]
        for window in self._windows():
            patterns = self._patterns(window)
            target = next((patterns[pattern] for pattern in by_detail(patterns) if fnmatchcase(name, pattern)), None)
            if target is not None and entries[target].is_template:
                return entries[target]
        shown = ", ".join(dict.fromkeys(pattern for window in self._windows() for pattern in self._patterns(window)))
        raise ConfigError(
            f"the trace's service {name!r} matches none of {shown}: add it, or '*': null to leave out the rest",
            key="load.trace.services",
            value=name,
        )

    def _patterns(self, window: Window) -> dict[str, str | None]:
        if rules := window.services:
            return dict(rules)
        if len(self.service_entries) == 1:
            only = self.service_entries[0]
            return {only.name if only.is_template else "*": only.name}
        exact_first = sorted(self.service_entries, key=lambda entry: entry.is_template)
        return {entry.name: entry.name for entry in exact_first}

    # What only shows when the parts are seen together

    @model_validator(mode="after")
    def _hold_together(self, info: ValidationInfo) -> Self:
        self._folder, self._file = (info.context or {}).get("folder", Path()), (info.context or {}).get("file")
        instances = self._check_cluster()
        self._check_services(instances, templates=self.demand.arrivals is None)
        self._check_share()
        self._check_trace()
        self._check_failures()
        self._check_forecast(dated=self.demand.arrivals is None, begins=True)
        names = [p if isinstance(p, str) else p.name for p in self.policies]
        for at, name in enumerate(names):
            if name in names[:at]:
                refuse(f"the policy {name!r} is listed twice", "policies", at)
        return self

    def _check_share(self) -> None:
        names = [entry.name for entry in self.service_entries]
        share = self.demand.share
        for key, given in (("share", share), ("sizes", self.demand.sizes)):
            for name in given:
                if name not in names:
                    refuse(f"there is no service {name!r}: {closest(name, names)}", "load", key, name)
        if self.demand.arrivals and not share and len(names) > 1:
            refuse("share is missing: which part of the requests each service gets", "load")
        if share and abs(sum(share.values()) - 1.0) > 1e-6:
            refuse(f"the shares must sum to 1, they sum to {sum(share.values()):g}", "load", "share")

    def _check_failures(self) -> None:
        gpus = [gpu.id for gpu in self.inventory()]
        laws = 0
        for at, entry in enumerate(self.failures):
            if isinstance(entry, FailureLawEntry):
                laws += 1
                if laws > 1:
                    refuse("there can be one law of failures only", "failures", at)
                continue
            assert isinstance(entry, FailureEntry)
            for key, name in (("gpu", entry.gpu), ("instance", entry.instance)):
                if name is not None and (gpu := name.partition("/")[0]) not in gpus:
                    few = gpus if len(gpus) <= 8 else [*gpus[:3], "…", gpus[-1]]
                    refuse(f"there is no GPU {gpu!r}: {closest(gpu, few)}", "failures", at, key)

    def _check_trace(self) -> None:
        if self.demand.arrivals:
            return
        names = [entry.name for entry in self.service_entries]
        for at, window in enumerate(self._windows()):
            place: tuple[str | int, ...] = ("load", "trace" if self.demand.trace else "log")
            place = (*place, "with", at - 1) if at else place
            for pattern, name in window.services.items():
                if name is not None and name not in names:
                    refuse(f"there is no service {name!r}: {closest(name, names)}", *place, "services", pattern)
            for pattern in window.thin:
                # What a template stands for, only the trace says.
                if not any(entry.is_template or fnmatchcase(entry.name, pattern) for entry in self.service_entries):
                    refuse(f"there is no service {pattern!r}: {closest(pattern, names)}", *place, "thin", pattern)
            if isinstance(window, FileEntry) and not (path := self.trace_path(window)).is_file():
                there = "is a folder" if path.is_dir() else "does not exist"
                refuse(f"the trace file {str(path)!r} {there}", *place, "file")


def _gpu(gpu_id: str, entry: ClusterEntry) -> Gpu:
    model = mig.gpu_model(entry.gpu)
    geometry = None if entry.geometry is None else mig.parse(entry.gpu, entry.geometry)
    price, shares = entry.price_per_hour, tuple(entry.shares)
    return Gpu(gpu_id, model.name, model.memory_gib, geometry, price_per_hour=price, shares=shares)


def _never_served(service: Service, instances: Sequence[Instance], overheads: Overheads) -> Iterator[tuple[str, str]]:
    """Say why no instance of the cluster can ever serve this service, with the key to blame; nothing if one can."""
    kinds = sorted({(i.profile, i.gpu_percent) for i in instances})
    curves = [curve for kind in kinds if (curve := service.curve(*kind))]
    if not curves:
        has, measured = ", ".join(label(*kind) for kind in kinds), ", ".join(_measured(service))
        yield f"no latency for the cluster's instances ({has}), only for {measured}", "latency"
        return
    largest = max(i.memory_gib for i in instances if service.curve(i.profile, i.gpu_percent))
    if service.memory_gib > largest:
        yield f"{service.memory_gib:g} fits no instance, the largest has {largest:g} GiB", "memory_gib"
    fastest = min(curve.latency_s(1) for curve in curves)
    around = overheads.control_s + overheads.data_s + overheads.response_s
    if fastest + around > service.slo_s:
        alone = f"one request alone takes {fastest * 1e3:g} ms on the fastest instance"
        yield f"{service.slo_s * 1e3:g} can never be met: {alone}, plus {around * 1e3:g} ms of overheads", "slo_ms"


def _measured(service: Service) -> list[str]:
    """List the profiles and shares that a service was measured on."""
    found = {(c.profile, c.gpu_percent) for c in (*service.curves, *service.finer)}
    whole = [c.profile for c in service.curves]
    return [*whole, *(label(p, percent) for p, percent in sorted(found) if percent != 100.0)]
