"""The executor that drives Triton servers, one for each GPU, which is one instance.

What a server can hold it is asked for: which models are loaded, in which state, with which configuration. The rest
stands in the book: which GPUs are held and used as instances, sub-clusters, routes, what drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from types import TracebackType
from typing import Any, Self, TypeVar, assert_never

import aiohttp

from partita.errors import Busy, ConfigError, ExecutionError, Failed, Unsupported
from partita.executors.together import together
from partita.executors.triton.api import Away, Endpoint, Refused, TritonApi
from partita.executors.triton.batching import DISCIPLINES, knobs_for, read_batching
from partita.executors.triton.loading import Models, Patience, Reload, Wish
from partita.executors.triton.open_loads import OpenLoads
from partita.model.cluster import Batching, ClusterState, Gpu, Instance, InstanceState, Status, instances_of
from partita.model.plan import (
    Acquire,
    Command,
    CreateInstance,
    DestroyInstance,
    Drain,
    Release,
    SetBatching,
    SetRoutes,
    SetShare,
    StartReplicas,
    StopReplicas,
    target,
)
from partita.ports import Book, Capabilities, Page

PATIENCE = Patience()
CAPABILITIES = Capabilities(disciplines=DISCIPLINES, partition=False, shares=False, kinds=False)

T = TypeVar("T")
Note = Acquire | Release | CreateInstance | DestroyInstance | SetShare | SetRoutes
Work = StartReplicas | SetBatching | Drain | StopReplicas


class TritonExecutor:
    """Carries commands out on Triton servers; `apply` returns once they are done, looked at and found right.

    `servers` gives each GPU's server, `models` what each service's model is called there. `slos_s` are the services'
    SLOs, for queue limits that take theirs from it; `probes` inference requests (as JSON) to try a model with after
    each change. Use it as an asynchronous context manager, or close it.
    """

    def __init__(
        self,
        servers: Mapping[str, Endpoint],
        models: Mapping[str, str],
        inventory: Sequence[Gpu],
        book: Book,
        *,
        slos_s: Mapping[str, float] | None = None,
        probes: Mapping[str, Mapping[str, Any]] | None = None,
        patience: Patience = PATIENCE,
        reload: Reload = "in_place",
    ) -> None:
        known = {g.id for g in inventory}
        if strangers := sorted(servers.keys() - known):
            raise ConfigError("there is a server for a GPU that is not in the cluster", key="servers", value=strangers)
        if len(set(models.values())) < len(models):
            raise ConfigError("two services have the same model", key="models", value=dict(models))
        self._gpus = {g.id: g for g in inventory if g.id in servers}
        self._endpoints, self._names, self._book = servers, models, book
        self._slos_s, self._probes = slos_s or {}, probes or {}
        self._patience, self._reload = patience, reload
        self._applying, self._editing = asyncio.Lock(), asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._apis: dict[str, TritonApi] = {}
        self._models: dict[str, Models] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give connections back; the servers go on as they are."""
        for models in self._models.values():
            await models.close()
        if self._session is not None:
            await self._session.close()
        self._session = None
        self._apis, self._models = {}, {}

    @property
    def capabilities(self) -> Capabilities:
        """Say what this executor can do."""
        return CAPABILITIES

    async def versions(self) -> dict[str, str]:
        """Return the version of each GPU's server; empty text for one that does not answer."""
        return dict(zip(self._gpus, await together(self._version(gpu) for gpu in self._gpus), strict=True))

    async def observe(self) -> ClusterState:
        """Look at the cluster as it is now; Failed if no server of it answers.

        An instance whose server is away is shown as still loading what its sub-clusters want there, with the problem:
        it is not ready, yet nothing is commanded at it until it has answered again.
        """
        page = await self._book.read()
        places = list(self._gpus)
        instances = sorted(page.instances, key=lambda i: places.index(i.gpu) if i.gpu in places else len(places))
        seen = await together(self._look(instance, page) for instance in instances)
        if instances and not any(isinstance(s, InstanceState) for s in seen):
            raise Failed(f"no Triton server answers: {seen[0]}", command=None)
        both = zip(instances, seen, strict=True)
        states = (s if isinstance(s, InstanceState) else _unseen(i, page, s) for i, s in both)
        held = tuple(gpu for gpu in places if gpu in page.held)
        return ClusterState(held, tuple(states), page.sub_clusters, page.routes)

    async def apply(self, commands: Sequence[Command], *, term: int = 0) -> None:
        """Carry these commands out, in order; those of one kind that follow each other go side by side.

        Refused before anything is done: an older term, and what no Triton server can do.
        """
        if not commands:
            return
        async with self._applying:
            for command in commands:
                with _naming(command):
                    self._check_possible(command)
            with _naming(commands[0]):
                await self._take_term(term)
            for _, alike in groupby(commands, key=type):
                await self._carry(list(alike), term)

    # What is seen ---------------------------------------------------------------------------------------------------

    async def _look(self, instance: Instance, page: Page) -> InstanceState | Failed:
        """Describe an instance, or return why its server cannot be asked."""
        try:
            states = await self._api(instance.gpu).states()
            services = [s for s, model in self._names.items() if states.get(model, "") in ("READY", "LOADING")]
            found = await together(self._batching(instance.gpu, s) for s in services)
            batching = dict(zip(services, found, strict=True))
        except Failed as problem:
            return problem
        loaded = tuple(s for s in services if batching[s] is not None)
        loading = tuple(s for s in services if batching[s] is None)
        draining = tuple(s for s in loaded if (instance.id, s) in page.draining)
        status = Status.DRAINING if draining else Status.LOADING if loading else Status.READY
        known = {s: b for s, b in batching.items() if b is not None}
        return InstanceState(instance, status, loaded, loading, draining, known)

    async def _batching(self, gpu: str, service: str) -> Batching | None:
        """Read how a service's replica batches, None if it does not serve yet."""
        try:
            config = await self._api(gpu).config(self._names[service])
        except Refused:
            return None
        return read_batching(config, slo_s=self._slos_s.get(service))

    async def _version(self, gpu: str) -> str:
        try:
            return await self._api(gpu).version()
        except (Away, Refused):
            return ""

    # What is done ---------------------------------------------------------------------------------------------------

    async def _take_term(self, term: int) -> None:
        """Write our term into the book before anything else is touched, so that older ones are refused from now on."""
        page = await self._book.read()
        if page.term > term:
            raise Failed(f"term {page.term} has acted already, so term {term} may not", command=None)
        if page.term < term:
            await self._book.write(replace(page, term=term))

    async def _carry(self, alike: Sequence[Command], term: int) -> None:
        """Carry out commands of one kind: those for different instances side by side, all others one by one."""
        if len({target(c) for c in alike}) == len(alike):
            await together(self._do(c, term) for c in alike)
        else:
            for command in alike:
                await self._do(command, term)

    async def _do(self, command: Command, term: int) -> None:
        with _naming(command):
            match command:
                case StartReplicas() | SetBatching() | Drain() | StopReplicas():
                    await self._work(command, term)
                case _:
                    await self._note(command, term)

    async def _note(self, command: Note, term: int) -> None:
        """Carry out what only the book is changed for."""
        async with self._editing:
            page = await self._book.read()
            match command:
                case Acquire(gpu):
                    page = replace(page, held=tuple(dict.fromkeys((*page.held, gpu))))
                case Release(gpu):
                    _check_held(page, gpu)
                    if any(i.gpu == gpu for i in page.instances):
                        raise Busy(f"GPU {gpu} still has an instance", command=command)
                    page = replace(page, held=tuple(g for g in page.held if g != gpu))
                case CreateInstance(instance):
                    _check_held(page, instance.gpu)
                    await self._api(instance.gpu).version()
                    page = replace(page, instances=tuple(dict.fromkeys((*page.instances, instance))))
                case DestroyInstance(key):
                    await self._check_empty(_instance(page, key))
                    instances = tuple(i for i in page.instances if i.id != key)
                    page = replace(page, instances=instances, draining=tuple(d for d in page.draining if d[0] != key))
                case SetShare(key):
                    _instance(page, key)
                case SetRoutes(sub_clusters, routes):
                    wanted = {(r.instance, r.service) for group in sub_clusters for r in group.replicas()}
                    draining = tuple(d for d in page.draining if d not in wanted)
                    page = replace(page, sub_clusters=sub_clusters, routes=routes, draining=draining)
                case _:
                    assert_never(command)
            await self._book.write(replace(page, term=term))

    async def _work(self, command: Work, term: int) -> None:
        """Carry out what a server is asked for, all the services named side by side."""
        gpu = _instance(await self._book.read(), command.instance).gpu
        models = self._models_of(gpu)
        match command:
            case StartReplicas(key, services, batching):
                wishes = self._wishes(services, batching, term)
                await together(models.start(self._names[s], wish) for s, wish in wishes.items())
                await self._mark(key, services, term, drains=False)
            case SetBatching(_, services, batching):
                wishes = self._wishes(services, batching, term)
                await together(models.adjust(self._names[s], wish) for s, wish in wishes.items())
            case Drain(key, services):
                await self._mark(key, services, term, drains=True)
                states = await self._api(gpu).states()
                names = [self._names[s] for s in services]
                await together(models.drain(name) for name in names if states.get(name) == "READY")
            case StopReplicas(key, services):
                # Marked as draining until routes leave them out: gateways would send requests to what is gone.
                await self._mark(key, services, term, drains=True)
                await together(models.stop(self._names[s]) for s in services)
            case _:
                assert_never(command)

    async def _mark(self, key: str, services: Sequence[str], term: int, *, drains: bool) -> None:
        """Note that replicas drain, which gateways heed, or that they do no longer."""
        named = [(key, s) for s in services]
        async with self._editing:
            page = await self._book.read()
            others = tuple(d for d in page.draining if d not in named)
            draining = tuple(sorted((*others, *named))) if drains else others
            if draining != page.draining:
                await self._book.write(replace(page, draining=draining, term=term))

    def _check_possible(self, command: Command) -> None:
        """Refuse what will never be: Unsupported for what Triton cannot do, Failed for what is not known here."""
        match command:
            case Acquire(gpu) if gpu not in self._gpus:
                raise Failed(f"there is no Triton server for GPU {gpu}", command=command)
            case CreateInstance(instance):
                gpu_known = self._gpus.get(instance.gpu)
                if gpu_known is None:
                    raise Failed(f"there is no Triton server for GPU {instance.gpu}", command=command)
                if instance not in instances_of(gpu_known, None):
                    text = f"a Triton server has its whole GPU, so {instance.id} cannot be made on {instance.gpu}"
                    raise Unsupported(text, command=command)
            case SetShare(key, gpu_percent) if gpu_percent != 100.0:
                raise Unsupported(f"Triton cannot give {key} {gpu_percent:g}% of its GPU", command=command)
            case StartReplicas(_, services, batching) | SetBatching(_, services, batching):
                self._check_services(services)
                for service, b in zip(services, batching, strict=True):
                    knobs_for(b, file_max_batch=1, slo_s=self._slos_s.get(service))
            case Drain(_, services) | StopReplicas(_, services):
                self._check_services(services)
            case _:
                pass

    def _check_services(self, services: Sequence[str]) -> None:
        if unknown := [s for s in services if s not in self._names]:
            raise Unsupported(f"no Triton model is known for service {', '.join(unknown)}", command=None)

    async def _check_empty(self, instance: Instance) -> None:
        states = await self._api(instance.gpu).states()
        if loaded := [s for s, model in self._names.items() if states.get(model, "") not in ("", "UNAVAILABLE")]:
            raise Busy(f"{', '.join(loaded)} is still loaded on {instance.id}", command=None)

    def _wishes(self, services: Sequence[str], batching: Sequence[Batching], term: int) -> dict[str, Wish]:
        return {
            s: Wish(b, term, self._slos_s.get(s), self._probes.get(s)) for s, b in zip(services, batching, strict=True)
        }

    # Connections ----------------------------------------------------------------------------------------------------

    def _api(self, gpu: str) -> TritonApi:
        if gpu not in self._endpoints:
            raise Failed(f"there is no Triton server for GPU {gpu}", command=None)
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        if gpu not in self._apis:
            patience = self._patience
            self._apis[gpu] = TritonApi(
                self._session, self._endpoints[gpu], timeout_s=patience.call_s, load_limit_s=patience.load_limit_s
            )
        return self._apis[gpu]

    def _models_of(self, gpu: str) -> Models:
        if gpu not in self._models:
            loads = OpenLoads(self._book, self._editing, gpu)
            self._models[gpu] = Models(self._api(gpu), loads, patience=self._patience, reload=self._reload)
        return self._models[gpu]


def _unseen(instance: Instance, page: Page, problem: Failed) -> InstanceState:
    wanted = (group.services for group in page.sub_clusters if instance in group.instances)
    loading = tuple(s for services in wanted for s in services)
    return InstanceState(instance, Status.LOADING, loading=loading, problem=str(problem))


def _check_held(page: Page, gpu: str) -> None:
    if gpu not in page.held:
        raise Failed(f"GPU {gpu} is not held", command=None)


def _instance(page: Page, key: str) -> Instance:
    for instance in page.instances:
        if instance.id == key:
            return instance
    raise Failed(f"there is no instance {key}", command=None)


@contextmanager
def _naming(command: Command) -> Iterator[None]:
    """Name a command in what its failure raises; what the connection knows beyond Failed stays here."""
    try:
        yield
    except ExecutionError as problem:
        for kind in (Unsupported, Busy, Failed):
            if isinstance(problem, kind):
                raise kind(str(problem), command=command) from problem
        raise
