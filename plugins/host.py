"""The plugin host: calls implementations one by one, so that a failing one costs only its own say.

Everything here is pure: what the host remembers of plugins between calls is in `HostState`, which goes in and comes
out. The result depends on the plugins' names, never on the order in which they were found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from partita import hookspecs
from partita.errors import ConfigError
from partita.model.plan import Opinion, OptionValue, Proposal
from partita.model.service import Service
from partita.plugins.answers import (
    SUGGESTIONS,
    Nonsense,
    Scope,
    check_proposal,
    check_terms,
    check_veto,
    plain,
)
from partita.plugins.discovery import Broken, Found, Plugin, describe, discover, one_line, specification
from partita.plugins.foreign_forecaster import FORECAST, ForeignForecaster, answering
from partita.plugins.guard import guarded_arguments
from partita.ports import Discipline, Forecaster

PROPOSE_HOOKS = tuple(SUGGESTIONS)
HOOKS = tuple(sorted(name for name, value in vars(hookspecs).items() if hasattr(value, "partita_spec")))

FAULTS_ALLOWED = 2
"""Faults in a row that a hook may have; one more benches its plugin."""

BENCH_TICKS = 10
BENCH_TICKS_CAP = 1280
"""The first bench lasts BENCH_TICKS; each that follows without a good answer between lasts twice as long."""

T = TypeVar("T")


class PluginFault(Exception):
    """A call that gave no usable answer; the message says in what way."""


class Caller(Protocol):
    """How an implementation is run: in this process, or fenced off in another."""

    def call(self, plugin: Plugin, hook: str, arguments: Mapping[str, object]) -> object:
        """Run one hook of one plugin and return its answer; PluginFault says why there is none."""
        ...


class DirectCaller:
    """Runs plugins in this process, without a limit of time: the same input gives the same answer."""

    def __init__(self) -> None:
        self._forecasts: dict[str, Callable[..., object]] = {}

    def call(self, plugin: Plugin, hook: str, arguments: Mapping[str, object]) -> object:
        """Run one hook on read-only views of its arguments."""
        try:
            return self._function(plugin, hook)(**guarded_arguments(arguments))
        except (Exception, SystemExit) as problem:
            raise PluginFault(f"raised {one_line(problem)}") from problem

    def _function(self, plugin: Plugin, hook: str) -> Callable[..., object]:
        if hook != FORECAST:
            return plugin.hooks[hook].function
        if plugin.name not in self._forecasts:
            self._forecasts[plugin.name] = answering(plugin)
        return self._forecasts[plugin.name]


@dataclass(frozen=True, slots=True)
class Streak:
    """Faults of one hook in as many turns in a row; a turn is a tick in which the hook was asked."""

    faults: int
    asked_tick: int
    fault_tick: int
    fault: str


@dataclass(frozen=True, slots=True)
class Bench:
    """A plugin that is not asked before `until_tick`; `times` counts benches without a good answer between."""

    until_tick: int
    times: int
    fault: str


@dataclass(frozen=True, slots=True)
class HostState:
    """What the host remembers between ticks.

    `memory` and `streaks` are by (plugin, hook), `faults` (all there ever were) and `benches` by plugin.
    """

    memory: Mapping[tuple[str, str], object] = field(default_factory=dict)
    streaks: Mapping[tuple[str, str], Streak] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    benches: Mapping[str, Bench] = field(default_factory=dict)

    def benched_until(self, plugin: str, tick: int) -> int | None:
        """Return the tick at which a plugin that is benched at `tick` is asked again; None if it is not benched."""
        bench = self.benches.get(plugin)
        return bench.until_tick if bench is not None and tick < bench.until_tick else None

    def remembering(self, plugin: str, hook: str, memory: object) -> HostState:
        """Return the state in which this hook's memory is `memory`."""
        return replace(self, memory={**self.memory, (plugin, hook): memory})

    def asked(self, plugin: str, hook: str, tick: int) -> HostState:
        """Return the state after asking a hook at a tick: a streak ends once a turn has passed without a fault."""
        key = (plugin, hook)
        streak = self.streaks.get(key)
        if streak is None or streak.asked_tick == tick:
            return self
        if streak.fault_tick == streak.asked_tick:
            return replace(self, streaks={**self.streaks, key: replace(streak, asked_tick=tick)})
        kept = {k: s for k, s in self.streaks.items() if k != key}
        if any(name == plugin and s.faults > FAULTS_ALLOWED for (name, _), s in kept.items()):
            return replace(self, streaks=kept)
        return replace(self, streaks=kept, benches={k: b for k, b in self.benches.items() if k != plugin})

    def faulted(self, plugin: str, hook: str, tick: int, fault: str) -> HostState:
        """Return the state after a fault; several in one turn count as one towards a bench."""
        key = (plugin, hook)
        state = replace(self, faults={**self.faults, plugin: self.faults.get(plugin, 0) + 1})
        before = self.streaks.get(key)
        if before is not None and before.fault_tick == tick:
            return state
        streak = Streak(before.faults + 1 if before else 1, tick, tick, fault)
        state = replace(state, streaks={**self.streaks, key: streak})
        return state._benched(plugin, tick, fault) if streak.faults > FAULTS_ALLOWED else state

    def _benched(self, plugin: str, tick: int, fault: str) -> HostState:
        times = self.benches[plugin].times + 1 if plugin in self.benches else 1
        ticks = min(BENCH_TICKS * 2 ** min(times - 1, 30), BENCH_TICKS_CAP)
        return replace(self, benches={**self.benches, plugin: Bench(tick + 1 + ticks, times, fault)})


class PluginHost:
    """The plugins in use, and the one place from which they are called."""

    def __init__(self, plugins: Iterable[Plugin], *, broken: Iterable[Broken] = (), caller: Caller | None = None):
        self.plugins = tuple(sorted(plugins, key=lambda p: p.name))
        self.broken = tuple(sorted(broken, key=lambda b: b.name))
        self._caller = caller or DirectCaller()

    @classmethod
    def load(cls, only: Collection[str] | None = None, *, caller: Caller | None = None) -> PluginHost:
        """Load the installed plugins: those named, else those of ``PARTITA_PLUGINS``, else all.

        A plugin that cannot be loaded is kept in `broken`, with its problem. Raises ConfigError for an unknown name.
        """
        found: Found = discover(only)
        return cls(found.plugins, broken=found.broken, caller=caller)

    @classmethod
    def of(cls, subjects: Mapping[str, object], *, caller: Caller | None = None) -> PluginHost:
        """Make a host of modules or objects at hand, by name; raises ValueError if one does not fit the hooks."""
        return cls([describe(name, subject) for name, subject in subjects.items()], caller=caller)

    def names(self, hooks: Collection[str] = HOOKS) -> tuple[str, ...]:
        """Return the names of the plugins that implement at least one of these hooks."""
        return tuple(p.name for p in self.plugins if any(h in p.hooks for h in hooks))

    def policies(self) -> tuple[str, ...]:
        """Return the names of the plugins that propose anything."""
        return self.names(PROPOSE_HOOKS)

    def require(self, names: Iterable[str]) -> None:
        """Raise ConfigError unless every name is a policy that can be used."""
        problems = {b.name: b.problem for b in self.broken}
        for name in names:
            if name in problems:
                raise ConfigError(f"the plugin {name!r} could not be loaded: {problems[name]}", value=name)
            if name not in self.policies():
                known = ", ".join(self.policies()) or "none"
                raise ConfigError(f"no policy is named {name!r}; there are: {known}", value=name)

    def propose(
        self, hook: str, *, tick: int, state: HostState, only: Collection[str] | None = None, **arguments: Any
    ) -> tuple[list[tuple[str, Proposal]], list[Opinion], HostState]:
        """Ask plugins (those in `only`, None: all) for proposals, in order of their names.

        `arguments` are those of the hook but for `memory`, which the host keeps; `options` holds the options of every
        plugin, by plugin name. A plugin without an opinion leaves nothing behind and keeps its memory. Each of the
        others stands in the opinions: with its reason, or with the fault that cost it its say.
        """
        scope = Scope.of(arguments["services"], arguments["inventory"])
        answers, opinions, state = self._ask(
            hook, lambda answer: check_proposal(hook, answer, scope), tick, state, only, arguments
        )
        for name, proposal in answers:
            state = state.remembering(name, hook, proposal.memory)
            opinions.append(Opinion(name, hook, proposal.reason))
        return answers, sorted(opinions, key=lambda o: o.plugin), state

    def vetoes(
        self, *, tick: int, state: HostState, only: Collection[str] | None = None, **arguments: Any
    ) -> tuple[list[tuple[str, str]], list[Opinion], HostState]:
        """Ask plugins whether they refuse one candidate; return (plugin, reason) pairs, and opinions for faults only.

        A plugin that fails has no veto.
        """
        return self._ask("veto", check_veto, tick, state, only, arguments)

    def terms(
        self, *, tick: int, state: HostState, only: Collection[str] | None = None, **arguments: Any
    ) -> tuple[dict[str, float], list[Opinion], HostState]:
        """Ask plugins for score terms of one candidate, named ``plugin.term``; opinions are for faults only."""
        answers, opinions, state = self._ask("score_terms", check_terms, tick, state, only, arguments)
        named = {f"{plugin}.{name}": value for plugin, terms in answers for name, value in terms.items()}
        return named, opinions, state

    def refuse_options(
        self, services: Sequence[Service], options: Mapping[str, Mapping[str, OptionValue]], only: Collection[str]
    ) -> None:
        """Raise ConfigError with what the plugins in `only` say is wrong with their options."""
        arguments = {"services": services, "options": options}
        answers, faults, _ = self._ask("check_options", check_veto, 0, HostState(), only, arguments)
        for name, problem in (*answers, *((o.plugin, o.fault) for o in faults)):
            raise ConfigError(problem, key=f"policies.{name}.options")

    def brought(self, hook: str) -> tuple[dict[str, object], list[Opinion]]:
        """Collect what a register hook brings, by name; where two plugins bring one name, the first plugin's stands.

        Opinions are for faults only. Built-in plugins come first, then the others by name.
        """
        found, opinions, _ = self._brought(hook)
        return found, opinions

    def forecaster(self, name: str) -> Forecaster:
        """Return a model that a plugin brings, to be asked through the caller; ConfigError if none brings it."""
        _, _, whose = self._brought("register_forecasters")
        if name not in whose:
            known = ", ".join(whose) or "none"
            raise ConfigError(f"no plugin brings a model {name!r}; they bring: {known}", value=name)
        return ForeignForecaster(name, whose[name], self._caller.call, PluginFault)

    def _brought(self, hook: str) -> tuple[dict[str, object], list[Opinion], dict[str, Plugin]]:
        """Collect what a register hook brings, and which plugin brings it."""
        found: dict[str, object] = {}
        whose: dict[str, Plugin] = {}
        opinions = []
        for plugin in sorted(self.plugins, key=lambda p: (not p.builtin, p.name)):
            if hook not in plugin.hooks:
                continue
            try:
                for name, thing in _named(hook, plugin.hooks[hook].function()):
                    if name in found:
                        raise Nonsense(f"brings {name!r}, which is there already")
                    found[name], whose[name] = thing, plugin
            except (Exception, SystemExit) as problem:
                text = str(problem) if isinstance(problem, Nonsense) else f"raised {one_line(problem)}"
                opinions.append(Opinion(plugin.name, hook, "", text))
        return found, opinions, whose

    def _ask(
        self,
        hook: str,
        check: Callable[[object], T],
        tick: int,
        state: HostState,
        only: Collection[str] | None,
        arguments: Mapping[str, Any],
    ) -> tuple[list[tuple[str, T]], list[Opinion], HostState]:
        """Call the hook of each plugin in turn and check what comes back."""
        _refuse_incomplete(hook, arguments)
        answers: list[tuple[str, T]] = []
        opinions: list[Opinion] = []
        for plugin in self.plugins:
            if hook not in plugin.hooks or (only is not None and plugin.name not in only):
                continue
            if (until := state.benched_until(plugin.name, tick)) is not None:
                last = state.benches[plugin.name].fault
                opinions.append(Opinion(plugin.name, hook, "", f"benched until tick {until}; its last fault: {last}"))
                continue
            state = state.asked(plugin.name, hook, tick)
            try:
                answer = self._caller.call(plugin, hook, _arguments_for(plugin, hook, arguments, state))
                if answer is not None:
                    answers.append((plugin.name, _checked(check, answer)))
            except PluginFault as problem:
                state = state.faulted(plugin.name, hook, tick, str(problem))
                opinions.append(Opinion(plugin.name, hook, "", str(problem)))
        return answers, opinions, state


def _arguments_for(plugin: Plugin, hook: str, arguments: Mapping[str, Any], state: HostState) -> dict[str, object]:
    """Pick the arguments that the implementation takes; its memory is a copy, so that the state stays as it is."""
    given = dict(arguments)
    given["options"] = dict(arguments["options"].get(plugin.name, {}))
    given["memory"] = plain(state.memory.get((plugin.name, hook)))
    return {name: given[name] for name in plugin.hooks[hook].arguments}


def _checked(check: Callable[[object], T], answer: object) -> T:
    try:
        return check(answer)
    except Nonsense as problem:
        raise PluginFault(str(problem)) from problem
    except Exception as problem:
        raise PluginFault(f"gave an answer that cannot be read: {one_line(problem)}") from problem


def _refuse_incomplete(hook: str, arguments: Mapping[str, Any]) -> None:
    """Raise TypeError unless the caller passes exactly what the hook takes; plugins may then take any part of it."""
    wanted = set(specification(hook)) - {"memory"}
    if wanted != set(arguments):
        raise TypeError(f"{hook} takes {', '.join(sorted(wanted))}; it was given {', '.join(sorted(arguments))}")


def _named(hook: str, things: Any) -> list[tuple[str, object]]:
    """Name what a register hook returned; raises Nonsense if it is not of the kind that the hook brings."""
    if things is None:
        return []
    if hook == "register_executors":
        if not isinstance(things, Mapping) or not all(isinstance(kind, type) for kind in things.values()):
            raise Nonsense("brings something other than executor classes by name")
        return sorted(things.items())
    if not isinstance(things, (tuple, list)):
        raise Nonsense(f"brings a {type(things).__name__} instead of a list")
    for thing in things:
        if not isinstance(getattr(thing, "name", None), str) or not _fits(hook, thing):
            raise Nonsense(f"brings a {type(thing).__name__}, which is not what {hook} is for")
    return [(thing.name, thing) for thing in things]


def _fits(hook: str, thing: object) -> bool:
    match hook:
        case "register_forecasters":
            return isinstance(thing, Forecaster)
        case "register_disciplines":
            return isinstance(thing, Discipline)
        case _:
            return all(callable(getattr(thing, verb, None)) for verb in ("recognises", "info", "blocks"))
