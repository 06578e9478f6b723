"""GPUs held and machines on them: what commands do to them, with the same refusals as the simulated cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import assert_never

from partita.errors import Busy, Failed, Unsupported
from partita.executors.local.machine import Machine, OnBroken, OnRan
from partita.executors.local.settings import Settings
from partita.executors.refusals import refusal
from partita.model.cluster import ClusterState, Instance, Route, SubCluster
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
)
from partita.model.service import WHOLE_GPU
from partita.ports import Capabilities

INSTANCES_A_GPU = 64
"""Numbers kept free for the instances of one GPU, so that an instance's number grows with its GPU's."""


class Fleet:
    """Everything that commands change.

    `regroup` puts sub-clusters and routes into force, `changed` hears of every change of what can serve.
    """

    def __init__(
        self,
        settings: Settings,
        capabilities: Capabilities,
        *,
        ran: OnRan,
        broken: OnBroken,
        regroup: Callable[[SetRoutes], None],
        changed: Callable[[], None],
    ) -> None:
        self._settings, self.capabilities = settings, capabilities
        self._services = {s.name for s in settings.services}
        self._ran, self._broken, self._regroup, self._changed = ran, broken, regroup, changed
        self._held: dict[str, bool] = {}
        """GPU -> whether it is partitioned, or was when it last held instances."""
        self._machines: dict[str, Machine] = {}
        self._sub_clusters: tuple[SubCluster, ...] = ()
        self._routes: tuple[Route, ...] = ()

    def state(self) -> ClusterState:
        """Describe the cluster as it is now."""
        machines = sorted(self._machines.values(), key=lambda m: m.number)
        held = tuple(g.id for g in self._settings.inventory if g.id in self._held)
        return ClusterState(held, tuple(m.state() for m in machines), self._sub_clusters, self._routes)

    def machines(self) -> tuple[Machine, ...]:
        """List all machines."""
        return tuple(self._machines.values())

    def serving(self, group: SubCluster) -> list[Machine]:
        """List the machines that can take a group's batches now, by number."""
        there = (self._machines.get(i.id) for i in group.instances)
        return sorted((m for m in there if m is not None and m.serves(group.services)), key=lambda m: m.number)

    def forget(self, machine: Machine) -> None:
        """Leave out a machine whose worker is gone."""
        if self._machines.get(machine.instance.id) is machine:
            del self._machines[machine.instance.id]
        self._changed()

    async def carry_out(self, command: Command) -> None:
        """Carry out one command and return when it is done; Busy, Unsupported or Failed otherwise."""
        self._check(command)
        try:
            await self._act(command)
        finally:
            self._changed()

    async def _act(self, command: Command) -> None:
        match command:
            case Acquire(gpu):
                self._held[gpu] = False
            case Release(gpu):
                del self._held[gpu]
            case CreateInstance(instance):
                await self._create(instance, command)
            case SetRoutes(sub_clusters, routes):
                self._regroup(command)
                self._sub_clusters, self._routes = sub_clusters, routes
            case SetShare():
                raise Unsupported("the local runtime cannot set a GPU%", command=command)
            case _:
                machine = self._machines[command.instance]
                async with machine.turn:
                    self._check(command)  # somebody else's command may have come first
                    if machine.gone:
                        raise Failed(f"there is no instance {command.instance} any more", command=command)
                    await self._change(machine, command)

    async def _change(
        self, machine: Machine, command: DestroyInstance | StartReplicas | Drain | StopReplicas | SetBatching
    ) -> None:
        match command:
            case DestroyInstance():
                await machine.stop()
                self.forget(machine)
            case StartReplicas():
                await self._start(machine, command)
            case Drain(_, services):
                await self._drain(machine, services, command)
            case StopReplicas(_, services):
                await self._drain(machine, services, command)
                for service in services:
                    if machine.loaded.pop(service, None) is not None:
                        machine.unload(service)
                    machine.draining.discard(service)
            case SetBatching(_, services, batching):
                machine.loaded |= dict(zip(services, batching, strict=True))
            case _:
                assert_never(command)

    def _check(self, command: Command) -> None:
        problem = refusal(command, self.state(), self._settings.inventory, self.capabilities)
        if problem is not None:
            raise problem

    async def close(self) -> None:
        """End all workers."""
        machines = self.machines()
        self._machines.clear()
        await asyncio.gather(*(m.stop() for m in machines))

    async def _create(self, instance: Instance, command: Command) -> None:
        """Create an instance; a GPU that is not, or no longer, whole takes its time for that."""
        there = self._machines.get(instance.id)
        if there is not None:
            async with there.turn:  # by now it is made, or its maker has failed
                if there.gone:
                    raise Failed(f"{instance.id} could not be created", command=command)
            return
        place = next(n for n, gpu in enumerate(self._settings.inventory) if gpu.id == instance.gpu)
        cut = self._held[instance.gpu] or instance.profile != WHOLE_GPU
        self._held[instance.gpu] = instance.profile != WHOLE_GPU
        number = place * INSTANCES_A_GPU + instance.start
        machine = Machine(instance, number, self._settings.services, self._ran, self._broken)
        self._machines[instance.id] = machine
        async with machine.turn:
            try:
                await asyncio.sleep(self._settings.repartition_s if cut else 0.0)
                if machine.gone:
                    raise Failed("the runtime is being stopped", command=command)
                await machine.start(self._settings.device, self._settings.device.locks.get(instance.gpu), command)
            except BaseException:  # a command that is cancelled too must leave no worker behind that nobody knows of
                self.forget(machine)
                await machine.stop()
                raise
            machine.creating = False

    async def _start(self, machine: Machine, command: StartReplicas) -> None:
        """Load what is not loaded, side by side; a replica that was being drained takes requests again."""
        if unknown := sorted(set(command.services) - self._services):
            raise Failed(f"there is no service {unknown[0]}", command=command)
        wanted = dict(zip(command.services, command.batching, strict=True))
        machine.draining -= wanted.keys()
        machine.loading = {s: b for s, b in wanted.items() if s not in machine.loaded}
        machine.loaded |= {s: b for s, b in wanted.items() if s in machine.loaded}
        self._changed()
        try:
            if machine.loading:
                await asyncio.sleep(self._settings.model_load_s)
            for service in tuple(machine.loading):
                await machine.load(service, command)
                machine.loaded[service] = machine.loading.pop(service)
        finally:
            machine.loading = {}

    async def _drain(self, machine: Machine, services: Sequence[str], command: Command) -> None:
        """Let these services' replicas take nothing new and finish what they run; Busy if that takes too long."""
        marked = set(services) & machine.loaded.keys() - machine.draining
        machine.draining |= marked
        self._changed()
        try:
            await asyncio.wait_for(machine.quiet(services), self._settings.drain_s)
        except TimeoutError:
            machine.draining -= marked
            busy = f"{machine.instance.id} still runs {', '.join(services)} after {self._settings.drain_s:g} s"
            raise Busy(busy, command=command) from None
