"""The kit for authors of plugins: example inputs, and a check that a plugin keeps the rules of the hooks.

In a test of your own one line does it::

    from partita.plugins.kit import check_plugin
    import my_policy

    def test_my_policy_keeps_the_rules():
        assert check_plugin(my_policy) == []
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Any

import numpy as np

from partita.model.cluster import Batching, ClusterState, Gpu, InstanceState, Route, Status, SubCluster, instances_of
from partita.model.load import Arrivals, Forecast, Load, Observation, Outcome
from partita.model.plan import Capacity, HeldGpu, OptionValue, Plan
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import Overheads
from partita.plugins.answers import Nonsense, Scope, check_proposal, check_terms, check_veto, plain
from partita.plugins.discovery import Plugin, describe, one_line
from partita.plugins.guard import guarded_arguments
from partita.plugins.host import PROPOSE_HOOKS, PluginHost

LEVELS = (0.1, 0.5, 0.9, 0.99)
TICK_S = 10.0
EXAMPLE_OVERHEADS = Overheads(control_s=1e-4, data_s=5e-5, response_s=2e-3)
"""What a scenario that says nothing of overheads has."""


@dataclass(frozen=True, slots=True, eq=False)
class ExampleTick:
    """What the hooks of one tick are given, and what the tick is an example of."""

    label: str
    services: tuple[Service, ...]
    inventory: tuple[Gpu, ...]
    observation: Observation
    near: Forecast
    far: Forecast
    standing: Plan

    def arguments(self, hook: str) -> dict[str, Any]:
        """Return the arguments of a hook, but for `options` and `memory`; a candidate holds one GPU more."""
        if hook in PROPOSE_HOOKS:
            names = ("services", "inventory", "observation", "near", "far", "standing")
            return {**{name: getattr(self, name) for name in names}, "overheads": EXAMPLE_OVERHEADS}
        if hook == "check_options":
            return {"services": self.services}
        more = example_plan(self.services, self.inventory, held=min(len(self.standing.gpus) + 1, len(self.inventory)))
        return {"candidate": more, "standing": self.standing, "observation": self.observation}


def example_services(number: int = 3) -> tuple[Service, ...]:
    """Return services that grow slower and laxer; latency lines and SLOs are made up."""
    return tuple(
        Service(f"service-{i}", 0.025 * (i + 1), 0.99, 1.0 + i, (LatencyCurve.linear(1.0 + i / 2, 5.0 + 2 * i),))
        for i in range(number)
    )


def example_inventory(number: int = 8, *, model: str = "A100-80GB") -> tuple[Gpu, ...]:
    """Return this many GPUs of one model."""
    return tuple(Gpu(f"gpu-{i}", model, 80.0) for i in range(number))


def example_plan(services: Sequence[Service], inventory: Sequence[Gpu], *, held: int = 4) -> Plan:
    """Return a plan in which the first `held` whole GPUs serve all services together."""
    gpus = inventory[:held]
    instances = tuple(i for gpu in gpus for i in instances_of(gpu, None))
    names = tuple(s.name for s in services)
    group = SubCluster("all", instances, names, tuple(Batching("deferred") for _ in names))
    return Plan(tuple(HeldGpu(g.id) for g in gpus), (group,), tuple(Route(n, "all") for n in names), "an example")


def example_forecast(
    services: Sequence[Service], rates_rps: Sequence[float], *, made_at_s: float, step_s: float = TICK_S, steps: int = 6
) -> Forecast:
    """Return a forecast of constant rates, whose quantiles lie a fifth around them."""
    spread = np.linspace(0.8, 1.2, len(LEVELS))
    rps = np.asarray(rates_rps, np.float64)[:, None, None] * spread[None, :, None] * np.ones(steps)
    return Forecast(tuple(s.name for s in services), made_at_s, step_s, LEVELS, rps, "example", 600.0)


def example_observation(
    services: Sequence[Service],
    rates_rps: Sequence[float],
    standing: Plan,
    *,
    now_s: float = 600.0,
    behind_s: float = 1.0,
    seconds: int = int(TICK_S),
    bad_share: float = 0.0,
) -> Observation:
    """Return what a tick sees of evenly spaced requests at these rates.

    The log is `behind_s` behind; the load covers `seconds` seconds (0: nothing new) in steps of one. All instances of
    `standing` are ready; `bad_share` of the requests were answered late.
    """
    names, watermark_s = tuple(s.name for s in services), now_s - behind_s
    counts = np.repeat(np.asarray(rates_rps, np.float64)[:, None], seconds, axis=1)
    load = Load(names, watermark_s - seconds, 1.0, counts)
    offered = {name: round(total) for name, total in zip(names, counts.sum(axis=1), strict=True)}
    outcomes = {n: Outcome(k, k - round(k * bad_share), round(k * bad_share), 0) for n, k in offered.items()}
    span_s = (watermark_s - seconds, watermark_s)
    states = tuple(InstanceState(i, Status.READY, names) for g in standing.sub_clusters for i in g.instances)
    held = tuple(h.gpu for h in standing.gpus)
    cluster = ClusterState(held, states, standing.sub_clusters, standing.routes)
    recent = _even_arrivals(list(offered.values()), span_s)
    return Observation(now_s, watermark_s, load, cluster, outcomes, recent, span_s)


def example_ticks() -> tuple[ExampleTick, ...]:
    """Return an hour in miniature: a wave, then no load at all, a burst, a stale log, missed SLOs, a full cluster."""
    services, inventory = example_services(), example_inventory()
    wave: list[tuple[str, float, int, dict[str, Any]]] = [
        (f"wave {i}", 1.0 - 0.9 * cos(2 * pi * i / 12), 4, {}) for i in range(12)
    ]
    special: list[tuple[str, float, int, dict[str, Any]]] = [
        ("no load", 0.0, 4, {}),
        ("burst", 20.0, 4, {}),
        ("stale log", 1.0, 4, {"behind_s": 400.0, "seconds": 0}),
        ("missed SLOs", 1.0, 4, {"bad_share": 0.2}),
        ("one GPU", 0.1, 1, {}),
        ("full cluster", 5.0, 8, {}),
    ]
    return tuple(
        _example_tick(label, services, inventory, level, held, 600.0 + TICK_S * i, how)
        for i, (label, level, held, how) in enumerate([*wave, *special])
    )


def check_plugin(
    plugin: object,
    *,
    name: str = "plugin",
    options: Mapping[str, OptionValue] | None = None,
    ticks: Sequence[ExampleTick] | None = None,
) -> list[str]:
    """Run a plugin (module or object) over ticks, `example_ticks` by default, and list the rules it breaks.

    Checked are: hooks fit their specification; answers are of the right kind, name only what exists and stay within
    the inventory; memory is plain data; inputs stay as they are; the same inputs give the same answers, at once and
    when the whole sequence runs again.
    """
    try:
        described = plugin if isinstance(plugin, Plugin) else describe(name, plugin)
    except ValueError as problem:
        return [str(problem)]
    played = example_ticks() if ticks is None else ticks
    problems = [p for hook in sorted(described.hooks) for p in _check_hook(described, hook, options or {}, played)]
    return list(dict.fromkeys(problems))


def _check_hook(
    plugin: Plugin, hook: str, options: Mapping[str, OptionValue], ticks: Sequence[ExampleTick]
) -> Iterator[str]:
    if hook.startswith("register_"):
        yield from (f"{hook}: {o.fault}" for o in PluginHost([plugin]).brought(hook)[1])
        return
    first, problems = _play(plugin, hook, options, ticks)
    yield from problems
    second, _ = _play(plugin, hook, options, ticks)
    for tick, one, other in zip(ticks, first, second, strict=True):
        if one != other:
            yield f"{hook}, {tick.label}: the same ticks again give {_show(other)}, not {_show(one)}: hidden state"
            return


def _play(
    plugin: Plugin, hook: str, options: Mapping[str, OptionValue], ticks: Sequence[ExampleTick]
) -> tuple[list[object], list[str]]:
    """Run one hook over all ticks; return its answers (None where it failed) and what was wrong."""
    answers: list[object] = []
    problems: list[str] = []
    memory: object = None
    for tick in ticks:
        given = {**tick.arguments(hook), "options": dict(options), "memory": memory}
        frozen = pickle.dumps({name: given[name] for name in plugin.hooks[hook].arguments})
        try:
            answer = _answer_twice(plugin, hook, frozen, Scope.of(tick.services, tick.inventory))
        except Nonsense as problem:
            problems.append(f"{hook}, {tick.label}: {problem}")
            answers.append(None)
            continue
        answers.append(answer)
        memory = plain(getattr(answer, "memory", memory))
        problems += [f"{hook}, {tick.label}: {p}" for p in _beyond(answer, len(tick.inventory))]
    return answers, problems


def _answer_twice(plugin: Plugin, hook: str, frozen: bytes, scope: Scope) -> object:
    """Call once on writable inputs, to see whether they are written to, and once on guarded ones, as the host does."""
    writable, untouched = pickle.loads(frozen), pickle.loads(frozen)
    first = _answer(plugin, hook, writable, scope)
    changed = [n for n, value in writable.items() if n != "memory" and not _alike(value, untouched[n])]
    if changed:
        raise Nonsense(f"changes its input {', '.join(changed)}")
    second = _answer(plugin, hook, guarded_arguments(pickle.loads(frozen)), scope)
    if first != second:
        raise Nonsense(f"the same input twice gives {_show(first)}, then {_show(second)}")
    return second


def _answer(plugin: Plugin, hook: str, arguments: Mapping[str, Any], scope: Scope) -> object:
    try:
        answer = plugin.hooks[hook].function(**arguments)
    except (Exception, SystemExit) as problem:
        raise Nonsense(f"raised {one_line(problem)}") from problem
    if answer is None:
        return None
    match hook:
        case "veto" | "check_options":
            return check_veto(answer)
        case "score_terms":
            return check_terms(answer)
        case _:
            return check_proposal(hook, answer, scope)


def _alike(one: object, other: object) -> bool:
    """Compare by content; the values hold arrays, which have no plain equality."""
    return pickle.dumps(one) == pickle.dumps(other)


def _beyond(answer: object, inventory: int) -> list[str]:
    suggestion = getattr(answer, "suggestion", None)
    if not isinstance(suggestion, Capacity):
        return []
    asked = max(suggestion.gpus, *suggestion.alternatives, 0)
    return [f"asks for {asked} GPUs, the inventory has {inventory}"] if asked > inventory else []


def _example_tick(
    label: str,
    services: tuple[Service, ...],
    inventory: tuple[Gpu, ...],
    level: float,
    held: int,
    now_s: float,
    how: Mapping[str, Any],
) -> ExampleTick:
    rates = [level * 200.0 / (i + 1) for i in range(len(services))]
    standing = example_plan(services, inventory, held=held)
    return ExampleTick(
        label,
        services,
        inventory,
        example_observation(services, rates, standing, now_s=now_s, **how),
        example_forecast(services, rates, made_at_s=now_s),
        example_forecast(services, rates, made_at_s=now_s, step_s=600.0),
        replace(standing, reason=f"standing at {label}"),
    )


def _even_arrivals(numbers: Sequence[int], span_s: tuple[float, float]) -> Arrivals:
    start, end = (round(s * 1e9) for s in span_s)
    parts = [start + (np.arange(k, dtype=np.int64) * (end - start)) // max(k, 1) for k in numbers]
    offsets = np.concatenate([[0], np.cumsum(numbers)]).astype(np.int64)
    return Arrivals(np.concatenate(parts), offsets, np.ones(int(offsets[-1]), np.float32))


def _show(value: object) -> str:
    text = repr(getattr(value, "suggestion", value))
    return text if len(text) <= 80 else f"{text[:77]}..."
