"""The hooks a plugin may implement: the public interface for authors of policies.

A plugin is a module or object with functions marked `@hookimpl`, named in the entry-point group ``partita``. Hooks are
called one plugin at a time; an implementation may take fewer arguments than are listed here. They must be pure: all
they may know is in their arguments, all they may do is return data, and `None` means no opinion. What a policy wants
to remember goes into `Proposal.memory` and comes back as `memory` at the next tick.

Added in 0.1: all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy

from partita.model.cluster import Gpu
from partita.model.load import Forecast, Observation
from partita.model.plan import OptionValue, Plan, Proposal
from partita.model.service import Service
from partita.model.staggered import Overheads
from partita.ports import Discipline, Executor, Forecaster, TraceReader

hookspec = pluggy.HookspecMarker("partita")
hookimpl = pluggy.HookimplMarker("partita")


@hookspec
def propose_capacity(
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    observation: Observation,
    near: Forecast,
    far: Forecast,
    standing: Plan,
    overheads: Overheads,
    options: Mapping[str, OptionValue],
    memory: object,
) -> Proposal | None:
    """Say how many GPUs to hold (`Capacity`); asked at every tick.

    near: forecast over the next seconds to a minute, by service in the order of `services`
    far: forecast over the next epochs
    standing: the plan in force
    overheads: times outside the GPU, which take their part of every SLO
    options: what the operator set for this plugin
    memory: `Proposal.memory` of this hook at the last tick, None at first
    """


@hookspec
def propose_batching(
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    observation: Observation,
    near: Forecast,
    far: Forecast,
    standing: Plan,
    overheads: Overheads,
    options: Mapping[str, OptionValue],
    memory: object,
) -> Proposal | None:
    """Say how services should batch (`Batchings`); asked at every tick."""


@hookspec
def propose_shares(
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    observation: Observation,
    near: Forecast,
    far: Forecast,
    standing: Plan,
    overheads: Overheads,
    options: Mapping[str, OptionValue],
    memory: object,
) -> Proposal | None:
    """Say which GPU% services should get (`Shares`); asked at every tick."""


@hookspec
def propose_geometry(
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    observation: Observation,
    near: Forecast,
    far: Forecast,
    standing: Plan,
    overheads: Overheads,
    options: Mapping[str, OptionValue],
    memory: object,
) -> Proposal | None:
    """Say how GPUs should be partitioned (`Geometries`); asked once an epoch."""


@hookspec
def propose_placement(
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    observation: Observation,
    near: Forecast,
    far: Forecast,
    standing: Plan,
    overheads: Overheads,
    options: Mapping[str, OptionValue],
    memory: object,
) -> Proposal | None:
    """Say which services should live together (`Placement`); asked once an epoch."""


@hookspec
def veto(candidate: Plan, standing: Plan, observation: Observation, options: Mapping[str, OptionValue]) -> str | None:
    """Refuse a candidate plan by returning the reason."""


@hookspec
def score_terms(
    candidate: Plan, standing: Plan, observation: Observation, options: Mapping[str, OptionValue]
) -> Mapping[str, float] | None:
    """Add named terms to a candidate's cost, in GPU-hours times price; below zero is a bonus."""


@hookspec
def check_options(services: Sequence[Service], options: Mapping[str, OptionValue]) -> str | None:
    """Say what is wrong with the options that the operator set, before anything runs.

    The sentence names option and value; the run is then refused with it.
    """


@hookspec
def register_forecasters() -> Sequence[Forecaster] | None:
    """Bring forecasting models."""


@hookspec
def register_disciplines() -> Sequence[Discipline] | None:
    """Bring queueing disciplines for replay."""


@hookspec
def register_executors() -> Mapping[str, type[Executor]] | None:
    """Bring executors by name."""


@hookspec
def register_trace_readers() -> Sequence[TraceReader] | None:
    """Bring readers of trace formats."""
