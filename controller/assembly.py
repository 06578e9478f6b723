"""Putting a loop together, from what a scenario and a live cluster's file have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

import numpy as np

from partita.controller.appraise import Prices
from partita.controller.config import Scenario, Setup
from partita.controller.entries import FailureLawEntry
from partita.controller.loop import Loop
from partita.controller.models import KnownModel, known_models, named
from partita.controller.standing import beyond
from partita.controller.state import Settings
from partita.errors import ConfigError, Infeasible
from partita.forecasting import FAR, NEAR, GlobalModel
from partita.forecasting.per_service import PerService
from partita.model.plan import OptionValue, Plan, feasible
from partita.model.service import Service
from partita.plugins.host import PluginHost
from partita.ports import ANYTHING, Capabilities, Discipline, Forecaster
from partita.replay.cluster import Delays
from partita.replay.disciplines import DISCIPLINES
from partita.replay.failures import Failure, draw_failures
from partita.replay.pools import AS_MEASURED, Variation
from partita.replay.rehearsal import Rehearser
from partita.traces.services import by_detail

FAILURES, REHEARSALS, SIZES = 1, 2, 3
"""What is drawn beside the arrivals, each from the run's seed and a number of its own."""

LEAST_STALE_S, STALE_TURNS = 60.0, 3
"""A log that stands still for so long, or so many turns if that is longer, counts as missing."""


def known_disciplines(host: PluginHost) -> dict[str, Discipline]:
    """Return the built-in disciplines, and those that plugins bring under names of their own."""
    brought, _ = host.brought("register_disciplines")
    return {**cast(dict[str, Discipline], brought), **{d.name: d for d in DISCIPLINES}}


def forecasters(setup: Setup, names: Sequence[str], host: PluginHost) -> tuple[Forecaster, Forecaster]:
    """Return what makes the near and the far forecast of these services; ConfigError for a model that nobody knows.

    A plugin's model is run like its other hooks: where it may fail, and hang, at its own cost.
    """
    asked, found = setup.forecast, []
    known: dict[str, KnownModel] = {}
    made: dict[str, Forecaster] = {}
    for horizon, built_in in (("near", NEAR), ("far", FAR)):

        def model(name: str, *path: str) -> Forecaster:
            known.update(known or known_models(host))
            key = ".".join(("forecast", *path))
            one = named(name, known, key=key, file=setup.file)
            if isinstance(one.model, GlobalModel):
                text = f"{name} must be trained, and the loop trains no models: it is there for backtests"
                raise ConfigError(text, file=setup.file, key=key, value=name)
            if name not in made:
                # one for all services that ask for it, so that they are forecast together
                made[name] = host.forecaster(name) if one.origin == "plugin" else one.model
            return made[name]

        wanted = getattr(asked, horizon)
        default = built_in if wanted is None else model(wanted, horizon)
        own = {
            pattern: model(name, "services", pattern, horizon)
            for pattern, entry in asked.services.items()
            if (name := getattr(entry, horizon)) is not None
        }
        matched = {name: next((p for p in by_detail(own) if fnmatchcase(name, p)), None) for name in names}
        by_service = {name: own[pattern] for name, pattern in matched.items() if pattern is not None}
        found.append(PerService(default, by_service) if by_service else default)
    return found[0], found[1]


def delays(setup: Setup) -> Delays:
    """Return how long changes take."""
    o = setup.overhead
    return Delays(
        o.model_load_s,
        o.repartition_s,
        create_s=o.create_s,
        destroy_s=o.destroy_s,
        drain_s=o.drain_s,
        mps_restart_s=o.mps_restart_s,
    )


def variation_of(scenario: Scenario, *, seed: int) -> Variation:
    """Return how what batches take differs from their latency curves, drawn with a seed."""
    v = scenario.variation
    return Variation(v.tail, v.jitter, v.colocation, seed)


def failures_of(scenario: Scenario, *, span_s: float, seed: int) -> tuple[Failure, ...]:
    """Return what fails in a replay of this length: what the scenario lists, and what its law gives."""
    inventory, found = scenario.inventory(), list[Failure]()
    for entry in scenario.failures:
        if isinstance(entry, FailureLawEntry):
            rng = np.random.default_rng([seed, FAILURES])
            found += draw_failures(inventory, entry.mtbf_s, entry.mttr_s, span_s, rng)
        else:
            at_ns, back_ns = round(entry.at_s * 1e9), round((entry.at_s + entry.for_s) * 1e9)
            gpu, _, _ = (entry.gpu or entry.instance or "").partition("/")
            found.append(Failure(at_ns, max(back_ns, at_ns + 1), gpu, entry.instance or ""))
    return tuple(sorted(found))


def settings_of(setup: Setup, *, seed: int) -> Settings:
    """Return the loop's settings."""
    control = setup.control
    return Settings(
        near_s=control.near_s,
        epoch_s=control.epoch_s,
        rehearse_s=control.rehearse_s,
        rehearse_paths=control.rehearse_paths,
        stale_s=max(LEAST_STALE_S, STALE_TURNS * control.near_s) + setup.overhead.log_delay_s,
        seed=seed,
        objective=control.objective(),
        budgets=control.budgets(),
    )


def make_loop(
    setup: Setup,
    services: Sequence[Service],
    host: PluginHost,
    disciplines: Mapping[str, Discipline],
    *,
    policy: str | None,
    options: Mapping[str, Mapping[str, OptionValue]],
    settings: Settings,
    capabilities: Capabilities = ANYTHING,
    variation: Variation = AS_MEASURED,
) -> Loop:
    """Put the loop together; ConfigError for a discipline or an option that nobody knows."""
    batching = setup.discipline.batching()
    if batching.discipline not in disciplines:
        known = ", ".join(disciplines)
        raise ConfigError(f"no discipline is named {batching.discipline!r}; there are: {known}", key="discipline.name")
    if policy is not None:
        host.refuse_options(services, options, [policy])
    inventory = setup.inventory()
    near, far = forecasters(setup, [s.name for s in services], host)
    return Loop(
        services=tuple(services),
        inventory=inventory,
        batching=batching,
        host=host,
        policies=None if policy is None else (policy,),
        options=options,
        near=near,
        far=far,
        rehearser=Rehearser(services, setup.overheads(), disciplines, variation),
        prices=Prices(delays(setup), inventory),
        settings=settings,
        overheads=setup.overheads(),
        capabilities=capabilities,
    )


def check_beginning(plan: Plan, loop: Loop) -> None:
    """Raise Infeasible unless the cluster as given can serve everything."""
    homeless = [s for s in loop.services if not any(r.service == s.name for r in plan.routes)]
    if homeless:
        names = " and ".join(f"{s.name} ({s.memory_gib:g} GiB)" for s in homeless)
        instances = sum(len(group.instances) for group in plan.sub_clusters)
        only = f"{instances} instance{'s' if instances != 1 else ''}"
        raise Infeasible(f"no instance is left for {names}: the others fill the memory of all {only}")
    violations = feasible(plan, loop.services, loop.inventory, loop.settings.budgets, loop.overheads)
    problems = (*(v.message for v in violations), *beyond(plan, loop.services, loop.capabilities, loop.overheads))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Infeasible(f"the cluster as given cannot serve the services: {problems[0]}{more}", short=problems)
