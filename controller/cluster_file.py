"""The file of a live cluster: what `partita run` controls, through what, how carefully, and how it is seen.

It shares cluster, services, overheads, discipline and control with a scenario, so that what is replayed is what is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from partita.controller.config import Setup
from partita.controller.entries import Policy
from partita.controller.entry import Entry, Name, NotNegative, Positive, closest, refuse
from partita.controller.live.patience import Patience
from partita.controller.state import OnDrift, OnMissing
from partita.model.cluster import OptionValue
from partita.model.service import Service

Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+(:\d+)?/?$")]
Listen = Annotated[str, Field(pattern=r"^[^:\s]*:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$")]


class TritonEntry(Entry):
    """Triton servers, one a GPU."""

    servers: dict[Name, Url] = Field(min_length=1, description="GPU: address of its server's HTTP port")
    metrics: dict[Name, Url] = Field(
        default_factory=dict, description="GPU: address of its server's metrics port; left out: port 8002 beside it"
    )
    models: dict[Name, Name] = Field(
        default_factory=dict, description="service: name of its model; left out: the service's own name"
    )
    reload: Literal["in_place", "unload_first"] = Field(
        "in_place", description="how a changed configuration is loaded: over the old one, or after unloading it"
    )
    timeout_s: Positive = Field(5.0, description="seconds that a call of a server may take, but for loading a model")
    load_s: Positive = Field(
        120.0, description="seconds that loading a model may take; for so long an unfinished load is left alone"
    )
    drain_s: Positive = Field(60.0, description="seconds that a drain may take before it counts as busy")
    counters: bool = Field(
        False, description="write the servers' own counters into the roll-up, where no gateway logs requests"
    )


class LocalEntry(Entry):
    """Partita's own runtime, started by `partita runtime`."""

    url: Url = Field("http://127.0.0.1:8700", description="where the runtime answers")
    device: Literal["emulated", "torch"] = Field(
        "emulated", description="what runs batches: a lock held for as long as the latency says, or a torch model"
    )
    locks: dict[Name, Name] = Field(
        default_factory=dict, description="GPU: lock file of its device, where devices are shared with others"
    )
    timeout_s: Positive = Field(120.0, description="seconds that one command may take")
    drain_s: Positive = Field(60.0, description="seconds that a drain may take before it counts as busy")


class PluginEntry(Entry):
    """An executor that a plugin brings."""

    name: Name = Field(description="the executor's name, as `partita plugins list` shows it")
    options: dict[str, OptionValue] = Field(default_factory=dict, description="what it takes")


class ExecutorEntry(Entry):
    """Through what the cluster is controlled: exactly one of these."""

    triton: TritonEntry | None = Field(None, description="Triton Inference Server")
    local: LocalEntry | None = Field(None, description="Partita's own batching runtime")
    plugin: PluginEntry | None = Field(None, description="an executor that a plugin brings")

    @model_validator(mode="after")
    def _be_one(self) -> Self:
        given = [name for name in ("triton", "local", "plugin") if getattr(self, name) is not None]
        if len(given) != 1:
            named = f"{' and '.join(given)} are" if given else "none of triton, local and plugin is"
            refuse(f"{named} given: name exactly one of them")
        return self


class MissingEntry(Entry):
    """What to do while a signal is missing; nothing here ever takes capacity away."""

    then: Literal["hold", "floor", "open"] = Field(
        "hold", description="keep the last good plan, hold at least floor_gpus, or hold every GPU that is allowed"
    )
    floor_gpus: Annotated[int, Field(ge=0)] = Field(0, description="GPUs to hold at least, with then: floor")
    log_s: Positive | None = Field(
        None,
        description="seconds after which a log that stands still is missing; left out: 3 turns, at least 60",
    )
    lost_writer_s: Positive = Field(
        600.0, description="seconds after which a gateway that was not heard of no longer holds the log up"
    )

    def on_missing(self) -> OnMissing:
        """Return the rule."""
        return OnMissing(self.then)


class ChangesEntry(Entry):
    """How carefully plans are carried out."""

    drift: Literal["repair", "adopt"] = Field(
        "repair", description="what becomes of changes made by others: put right again, or taken as the plan"
    )
    keep_need: bool = Field(
        True, description="drain nothing where fewer replicas than the near forecast needs would be left"
    )
    room_s: Positive = Field(600.0, description="seconds to wait for that before the plan is given up")
    done_s: Positive = Field(300.0, description="seconds to wait for what was started before it counts as failed")
    busy_tries: Annotated[int, Field(ge=1)] = Field(10, description="how often what is busy is tried")
    quarantine_s: Positive = Field(
        300.0, description="seconds to leave what failed alone; doubled each time, up to a day"
    )
    grace_s: NotNegative = Field(20.0, description="seconds that a command in flight gets when the controller ends")

    def patience(self) -> Patience:
        """Turn into what carries commands out."""
        return Patience(
            done_s=self.done_s,
            room_s=self.room_s,
            busy_tries=self.busy_tries,
            quarantine_s=self.quarantine_s,
            keep_need=self.keep_need,
        )

    def on_drift(self) -> OnDrift:
        """Return the rule."""
        return OnDrift(self.drift)


class WatchEntry(Entry):
    """How the controller is seen from outside."""

    listen: Listen | None = Field(
        "127.0.0.1:9464", description="where /metrics, /healthz and /readyz are served; null: nowhere"
    )
    keep_observations_h: NotNegative = Field(
        24.0, description="hours for which what each turn saw is kept, for `partita replay --recorded`; 0: not at all"
    )
    keep_forecasts_d: Positive = Field(14.0, description="days for which the forecasts made are kept")
    keep_scores_d: Positive = Field(90.0, description="days for which what came of them is kept")


class ClusterFile(Setup):
    """A live cluster: what is controlled, through what, by whose policy, and how carefully."""

    name: Name = Field("default", description="what the cluster is called; controllers of one name stand by each other")
    executor: ExecutorEntry = Field(description="through what it is controlled")
    policy: Policy = Field("symphony", description="the policy, by name or with options")
    missing: MissingEntry = Field(default_factory=MissingEntry, description="what to do while a signal is missing")
    changes: ChangesEntry = Field(default_factory=ChangesEntry, description="how plans are carried out")
    watch: WatchEntry = Field(default_factory=WatchEntry, description="how the controller is seen")

    @classmethod
    def load(cls, path: Path) -> ClusterFile:
        """Read a cluster file; ConfigError says in one sentence what is wrong with it."""
        from partita.controller.scenario_file import read_file

        return read_file(cls, path)

    def services(self) -> tuple[Service, ...]:
        """List the services in the order of the file."""
        return tuple(entry.service() for entry in self.service_entries)

    def policy_name(self) -> str:
        """Return the policy's name."""
        return self.policy if isinstance(self.policy, str) else self.policy.name

    def policy_options(self) -> dict[str, dict[str, OptionValue]]:
        """Return what is set for the policy, by its name."""
        return {self.policy_name(): {} if isinstance(self.policy, str) else dict(self.policy.options)}

    @model_validator(mode="after")
    def _hold_together(self, info: ValidationInfo) -> Self:
        self._folder, self._file = (info.context or {}).get("folder", Path()), (info.context or {}).get("file")
        self._check_services(self._check_cluster(), templates=False)
        self._check_forecast(dated=True, begins=False)
        triton = self.executor.triton
        gpus = [gpu.id for gpu in self.inventory()]
        names = [entry.name for entry in self.service_entries]
        for key, given, known in self._references(gpus, names):
            for name in given:
                if name not in known:
                    refuse(f"there is no {name!r}: {closest(name, known)}", "executor", *key, name)
        if triton is not None and (bare := [gpu for gpu in gpus if gpu not in triton.servers]):
            refuse(f"{bare[0]} has no server", "executor", "triton", "servers")
        return self

    def _references(
        self, gpus: Sequence[str], names: Sequence[str]
    ) -> Iterator[tuple[tuple[str, str], Iterable[str], Sequence[str]]]:
        """Yield where the executor's entry names GPUs or services, what it names, and what there is."""
        if triton := self.executor.triton:
            yield ("triton", "servers"), triton.servers, gpus
            yield ("triton", "metrics"), triton.metrics, gpus
            yield ("triton", "models"), triton.models, names
        if local := self.executor.local:
            yield ("local", "locks"), local.locks, gpus
