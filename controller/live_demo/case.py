"""What is demonstrated: two models on one device, their SLOs, how a server may be set, and the files that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from partita.controller.live_demo.load import Step
from partita.executors.triton.emulated_model import EmulatedModel
from partita.model.cluster import Batching, Gpu, Instance, OptionValue, Route, SubCluster
from partita.model.plan import HeldGpu, Plan
from partita.model.service import LatencyCurve, Service

GPU = Gpu("gpu0", "A100-80GB", 80.0)
"""The one device, under the name that a cluster file gives it."""

DEFAULT_MAX_BATCH = 4
"""Triton's default-max-batch-size. Source: its user guide, model configuration, "Default Max Batch Size and Dynamic
Batcher": where a configuration is completed automatically, batches go up to 4 and dynamic batching is on, which waits
for no request and rejects none; one model instance a GPU ("Multiple Model Instances")."""

SPAN_S, SEED = 45.0, 1
NEAR_S, EPOCH_S, REHEARSE_S, LOG_DELAY_S = 2.0, 60.0, 10.0, 0.9
"""A day's course in less than a minute asks for a fast controller: a turn every two seconds, on a log a second old."""

POLICY: dict[str, Any] = {"name": "tuner", "options": {"utilisation": 0.7, "tolerance": 0.5}}
"""More room than usual for what comes between two turns, and fewer changes, since each is a reload under load."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the demonstration: a batch of b takes alpha·b + beta; answers must be there within the SLO."""

    name: str
    alpha_ms: float
    beta_ms: float
    slo_ms: float

    def emulated(self) -> EmulatedModel:
        """Return it as Triton would serve it by default."""
        return EmulatedModel(self.name, self.alpha_ms, self.beta_ms, max_batch=DEFAULT_MAX_BATCH)


MODELS = (Model("detect", 4.0, 30.0, 450.0), Model("embed", 1.2, 15.0, 300.0))
NAMES = tuple(model.name for model in MODELS)
SLOS_S = tuple(model.slo_ms / 1e3 for model in MODELS)

STEPS = (
    Step(0.0, (12.0, 24.0)),
    Step(0.10, (14.0, 30.0)),
    Step(0.45, (75.0, 115.0)),
    Step(0.56, (75.0, 115.0)),
    Step(0.66, (75.0, 25.0)),
    Step(0.82, (80.0, 20.0)),
    Step(0.90, (20.0, 40.0)),
    Step(1.0, (12.0, 24.0)),
)
"""Quiet; a rise to a peak that the default cannot carry; then mostly the slower model; then quiet again."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """What this machine adds to the times of the models, in milliseconds, measured before the runs.

    `lead` from a client's request to its batch on a free device; `held` beyond its time for each batch, the hand-over
    to the next included; `turnaround` until the same model instance takes another batch; `back` from a batch's end to
    the client. The last is taken off the SLOs that servers are told.
    """

    lead_ms: float
    held_ms: float
    turnaround_ms: float
    back_ms: float


@dataclass(frozen=True, slots=True)
class Setting:
    """How a server is set: a name to show, and each service's batching."""

    name: str
    batching: tuple[Batching, ...]

    def plan(self) -> Plan:
        """Return the plan that has it on the one device."""
        return plan_of(self.batching)


@dataclass(frozen=True, slots=True)
class Knobs:
    """What a scan tries for one service; `queue_ms` is how long a request may wait before it is rejected."""

    max_batch: int
    timeout_ms: float = 0.0
    instances: int = 1
    queue_ms: float = inf

    def batching(self) -> Batching:
        """Return the batching."""
        options: dict[str, OptionValue] = {"instances": self.instances}
        if self.queue_ms < inf:
            options |= {"queue_policy": "reject", "queue_timeout_ms": self.queue_ms}
        return Batching("triton", self.timeout_ms / 1e3, self.max_batch, tuple(sorted(options.items())))


LOCAL_LEAD_MS, LOCAL_BACK_MS = 2.5, 4.0
"""From a request to its batch at our own runtime (one turn, and the way to the worker), and back to the client."""

DEFAULT = Setting("Triton as it comes", (Knobs(DEFAULT_MAX_BATCH).batching(),) * len(MODELS))


def services(overhead: Overhead) -> tuple[Service, ...]:
    """Return the services as a server on this machine has them: its own times added, the way back off the SLO."""
    return tuple(
        Service(
            model.name,
            (model.slo_ms - overhead.back_ms) / 1e3,
            0.99,
            2.0,
            (LatencyCurve.linear(model.alpha_ms, model.beta_ms + overhead.held_ms, up_to=128),),
        )
        for model in MODELS
    )


def plan_of(batching: Sequence[Batching]) -> Plan:
    """Return the plan with both services on the one device."""
    instance = Instance(GPU.id, GPU.id, GPU.memory_gib)
    group = SubCluster("all", (instance,), NAMES, tuple(batching))
    return Plan(
        (HeldGpu(GPU.id),), (group,), tuple(Route(name, "all") for name in NAMES), "the demonstration's setting"
    )


def setup(overhead: Overhead, discipline: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cluster file and the scenario that predicts it have in common."""
    return {
        "cluster": [{"gpu": GPU.model, "count": 1}],
        "services": [
            {
                "name": model.name,
                "slo_ms": round(model.slo_ms - overhead.back_ms, 3),
                "attainment": 0.99,
                "memory_gib": 2.0,
                "latency": {"alpha_ms": model.alpha_ms, "beta_ms": round(model.beta_ms + overhead.held_ms, 3)},
            }
            for model in MODELS
        ],
        "overheads": {
            "control_us": round(overhead.lead_ms * 1e3, 1),
            "data_us_per_request": 0.0,
            "response_us": 0.0,
            "jitter_us": 1000.0,
            "model_load_s": 0.5,
            "repartition_s": 0.0,
            "log_delay_s": LOG_DELAY_S,
        },
        "discipline": dict(discipline),
        "control": {"near_s": NEAR_S, "epoch_s": EPOCH_S, "rehearse_s": REHEARSE_S},
    }


def triton_discipline(overhead: Overhead) -> dict[str, Any]:
    """Return how servers batch until the controller says otherwise: as they come."""
    options = {"instances": 1, "turnaround_ms": round(overhead.turnaround_ms, 3)}
    return {"name": "triton", "timeout_ms": 0.0, "max_batch": DEFAULT_MAX_BATCH, "options": options}
