"""From a cluster file to what a controller is made of: executor and loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from partita.client.triton_counters import TritonCounterLog
from partita.controller.assembly import check_beginning, known_disciplines, make_loop, settings_of
from partita.controller.cluster_file import ClusterFile, LocalEntry, TritonEntry
from partita.controller.commands import after
from partita.controller.loop import Loop
from partita.errors import ConfigError
from partita.executors.dry_run import DryRun
from partita.executors.local.dispatcher import REPLAY_ONLY, preempts
from partita.executors.local.executor import LocalExecutor
from partita.executors.triton.api import Endpoint
from partita.executors.triton.executor import TritonExecutor
from partita.executors.triton.loading import Patience as TritonPatience
from partita.model.plan import Command
from partita.plugins.fence import FencedCaller
from partita.plugins.host import PluginHost
from partita.ports import Book, Discipline, Executor, Page
from partita.store.line import Line

PLUGIN_LIMIT_S = 5.0
"""How long one call of a foreign plugin may take, live; its process is killed then."""
METRICS_PORT = 8002


@dataclass(frozen=True, slots=True)
class Parts:
    """What a controller turns: `close` ends what its plugins run in; `book_line` is what its book is read over."""

    file: ClusterFile
    loop: Loop
    executor: Executor
    close: Callable[[], None]
    book_line: Line | None = None


def assemble(file: ClusterFile, book: Book, *, advisory: Callable[[Command], None] | None = None) -> Parts:
    """Put the parts together; with `advisory` nothing reaches the executor, and that is told of each command instead.

    ConfigError or Infeasible say what is wrong with the file; nothing outside has been touched then.
    """
    caller = FencedCaller(PLUGIN_LIMIT_S)
    try:
        return _assembled(file, book, caller, advisory)
    except BaseException:  # whatever is wrong with the file, no plugin's process must stay behind
        caller.close()
        raise


def _assembled(
    file: ClusterFile, book: Book, caller: FencedCaller, advisory: Callable[[Command], None] | None
) -> Parts:
    host = PluginHost.load(caller=caller)
    policy = file.policy_name()
    host.require([policy])
    disciplines = known_disciplines(host)
    executor = _executor(file, book, host, disciplines)
    if advisory is not None:
        executor = DryRun(executor, after, file.inventory(), told=advisory)
    settings = settings_of(file, seed=file.seed)
    settings = replace(
        settings,
        stale_s=file.missing.log_s or settings.stale_s,
        on_missing=file.missing.on_missing(),
        floor_gpus=file.missing.floor_gpus,
        on_drift=file.changes.on_drift(),
    )
    loop = make_loop(
        file,
        file.services(),
        host,
        disciplines,
        policy=policy,
        options=file.policy_options(),
        settings=settings,
        capabilities=executor.capabilities,
    )
    loop = replace(loop, calendar=file.forecast.calendar_of())
    check_beginning(loop.begin().standing, loop)
    return Parts(file, loop, executor, caller.close)


def checked(file: ClusterFile) -> None:
    """Raise ConfigError or Infeasible if a controller of this file could not begin; nothing is touched."""
    assemble(file, NO_BOOK).close()


class _NoBook:
    """A book for parts that are only looked at."""

    async def read(self) -> Page:
        """Return an empty page."""
        return Page()

    async def write(self, page: Page) -> None:
        """Write nothing."""


NO_BOOK = _NoBook()


async def close_executor(executor: Executor) -> None:
    """Close an executor's connections, if it has any."""
    close = getattr(executor, "close", None)
    if close is not None:
        await close()


def counter_logs(file: ClusterFile, dsn: str) -> list[TritonCounterLog]:
    """Return what writes the servers' own counters into the roll-up, where the file wants that."""
    triton = file.executor.triton
    if triton is None or not triton.counters:
        return []
    services = {triton.models.get(name, name): name for name in (s.name for s in file.services())}
    urls = [triton.metrics.get(gpu) or _beside(url) for gpu, url in triton.servers.items()]
    return [TritonCounterLog(dsn, url, services=services) for url in urls]


def _executor(file: ClusterFile, book: Book, host: PluginHost, disciplines: Mapping[str, Discipline]) -> Executor:
    entry = file.executor
    if entry.triton is not None:
        return _triton(file, entry.triton, book)
    if entry.local is not None:
        return _local(entry.local, runnable(file, disciplines))
    assert entry.plugin is not None
    brought, _ = host.brought("register_executors")
    if entry.plugin.name not in brought:
        known = f"there are: {', '.join(sorted(brought))}" if brought else "no plugin brings any"
        raise ConfigError(f"no executor is named {entry.plugin.name!r}; {known}", key="executor.plugin.name")
    try:
        return cast(Executor, cast(Any, brought[entry.plugin.name])(**entry.plugin.options))
    except TypeError as problem:
        raise ConfigError(
            f"{entry.plugin.name} does not take these: {problem}", key="executor.plugin.options"
        ) from None


def _triton(file: ClusterFile, entry: TritonEntry, book: Book) -> Executor:
    endpoints = {
        g: Endpoint(u.rstrip("/"), (entry.metrics.get(g) or _beside(u)).rstrip("/")) for g, u in entry.servers.items()
    }
    return TritonExecutor(
        endpoints,
        {s.name: entry.models.get(s.name, s.name) for s in file.services()},
        file.inventory(),
        book,
        slos_s={s.name: s.slo_s for s in file.services()},
        patience=TritonPatience(
            call_s=entry.timeout_s, load_s=entry.load_s, load_limit_s=entry.load_s, drain_s=entry.drain_s
        ),
        reload=entry.reload,
    )


def runnable(file: ClusterFile, disciplines: Mapping[str, Discipline]) -> list[str]:
    """Name the disciplines that the local runtime can batch by; ConfigError if the file's is one that it cannot."""
    name = file.discipline.name
    if name in disciplines and preempts(disciplines[name]):
        raise ConfigError(REPLAY_ONLY.format(name), key="discipline.name", value=name)
    return [known for known, discipline in disciplines.items() if not preempts(discipline)]


def _local(entry: LocalEntry, disciplines: list[str]) -> Executor:
    return LocalExecutor(entry.url, disciplines, control_s=entry.timeout_s)


def _beside(url: str) -> str:
    """Return the address of the metrics port where a server has its usual ones."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, f"{parts.hostname}:{METRICS_PORT}", "", "", ""))
