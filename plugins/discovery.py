"""Finding plugins: the installed ones by entry point, or those handed over, checked against the hook specifications."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

import pluggy

from partita import __version__, hookspecs
from partita.errors import ConfigError

GROUP = "partita"
VARIABLE = "PARTITA_PLUGINS"
"""Environment variable with the names of the plugins to load, separated by commas; set but empty means none."""


@dataclass(frozen=True, slots=True)
class Implementation:
    """One hook as a plugin implements it, and the arguments it takes."""

    function: Callable[..., object]
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plugin:
    """A plugin that may be called.

    `subject` is the module or object that implements the hooks; `locator` is where another process finds it
    (``module:attribute``), empty for an object made on the spot.
    """

    name: str
    subject: object
    hooks: Mapping[str, Implementation]
    version: str = ""
    distribution: str = ""
    locator: str = ""
    builtin: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """A plugin that is installed and cannot be used, and why."""

    name: str
    problem: str
    version: str = ""
    distribution: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search for plugins gave, each part in order of the names."""

    plugins: tuple[Plugin, ...] = ()
    broken: tuple[Broken, ...] = ()


def discover(only: Collection[str] | None = None) -> Found:
    """Load the installed plugins, or those named in `only`, or where that is None those of ``PARTITA_PLUGINS``.

    A plugin that cannot be loaded is returned as broken. Raises ConfigError for a name that nothing installed has.
    """
    wanted, key = (only, None) if only is not None else (_names_in(os.environ.get(VARIABLE)), VARIABLE)
    points = sorted(entry_points(group=GROUP), key=_precedence)
    if wanted is not None:
        _refuse_unknown(wanted, {p.name for p in points}, key)
        points = [p for p in points if p.name in wanted]
    plugins: dict[str, Plugin] = {}
    broken = []
    for point in points:
        if point.name in plugins:
            other = plugins[point.name].distribution
            broken.append(_broken(point, f"its name is taken by the plugin of {other}"))
            continue
        try:
            plugins[point.name] = _load(point)
        except (Exception, SystemExit) as problem:
            broken.append(_broken(point, one_line(problem)))
    return Found(tuple(sorted(plugins.values(), key=lambda p: p.name)), tuple(sorted(broken, key=lambda b: b.name)))


def describe(name: str, subject: object) -> Plugin:
    """Make a plugin of a module or object that is at hand; raises ValueError if it does not fit the hooks."""
    locator = subject.__name__ if isinstance(subject, ModuleType) else ""
    return Plugin(name, subject, implementations(name, subject), locator=locator)


def implementations(name: str, subject: object) -> dict[str, Implementation]:
    """Return the hooks that `subject` implements, by name; raises ValueError if one does not fit its specification."""
    if isinstance(subject, type):
        raise ValueError(f"names the class {subject.__name__}; a plugin is a module or an object")
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(subject, name)
        manager.check_pending()
    except pluggy.PluginValidationError as problem:
        raise ValueError(one_line(problem, name=False)) from problem
    found = {
        caller.name: _implementation(caller, impl)
        for caller in manager.get_hookcallers(subject) or ()
        for impl in caller.get_hookimpls()
        if caller.spec is not None
    }
    if not found:
        raise ValueError("implements no hook: mark its functions with @hookimpl of partita.hookspecs")
    return dict(sorted(found.items()))


def resolve(locator: str) -> object:
    """Import what a locator (``module:attribute`` or ``module``) names."""
    return EntryPoint("", locator, GROUP).load()


@cache
def specification(hook: str) -> tuple[str, ...]:
    """Return the arguments of a hook, in order."""
    return tuple(inspect.signature(getattr(hookspecs, hook)).parameters)


def one_line(problem: BaseException, *, name: bool = True) -> str:
    """Return an exception as one line of readable text, after its type unless `name` is False."""
    text = " ".join(str(problem).split())[:300]
    if not name:
        return text
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _implementation(caller: pluggy.HookCaller, impl: pluggy.HookImpl) -> Implementation:
    if impl.wrapper or impl.hookwrapper:
        raise ValueError(f"{caller.name} is a hook wrapper; plugins are called one by one, so none can wrap another")
    if inspect.iscoroutinefunction(impl.function) or inspect.isgeneratorfunction(impl.function):
        raise ValueError(f"{caller.name} is a coroutine or generator; hooks are plain functions that return data")
    known = specification(caller.name)
    parameters = inspect.signature(impl.function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return Implementation(impl.function, known)
    for p in parameters:
        if p.name not in known and p.default is p.empty and p.kind is not p.VAR_POSITIONAL:
            raise ValueError(f"{caller.name} has no argument {p.name}; it has: {', '.join(known)}")
    return Implementation(impl.function, tuple(p.name for p in parameters if p.name in known))


def _load(point: EntryPoint) -> Plugin:
    subject = point.load()
    distribution = point.dist.name if point.dist else ""
    return Plugin(
        point.name,
        subject,
        implementations(point.name, subject),
        _version(point),
        distribution,
        point.value,
        builtin=distribution == GROUP,
    )


def _broken(point: EntryPoint, problem: str) -> Broken:
    return Broken(point.name, problem, _version(point), point.dist.name if point.dist else "")


def _version(point: EntryPoint) -> str:
    """Return the distribution's version; our own from the source, which an editable installation may lag behind."""
    if point.dist is None:
        return ""
    return __version__ if point.dist.name == GROUP else point.dist.version


def _precedence(point: EntryPoint) -> tuple[str, bool, str]:
    """Sort by name; where two distributions use one name, ours first, then by distribution."""
    distribution = point.dist.name if point.dist else ""
    return point.name, distribution != GROUP, distribution


def _names_in(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(n.strip() for n in text.split(",") if n.strip())


def _refuse_unknown(wanted: Iterable[str], known: set[str], key: str | None) -> None:
    for name in sorted(set(wanted) - known):
        installed = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"no plugin is named {name!r}; installed: {installed}", key=key, value=name)
