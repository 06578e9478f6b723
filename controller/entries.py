"""The entries of a scenario file, each a mapping that is strict about its types and its keys.

Every key has its description here, a paragraph in docs/scenario.md and a place in the JSON schema.
Services and load have files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from partita.controller.entry import Batch, Entry, Name, NotNegative, Positive, refuse
from partita.model.plan import Batching, Budgets, Objective, OptionValue


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
    rehearse_paths: int = Field(
        0,
        ge=0,
        le=100,
        description="joint futures of the services that they are rehearsed on; 0: one, each service at its own level",
    )
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
