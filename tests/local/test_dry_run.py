"""A dry run keeps the contract over any executor, and never lets a command through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from contracts.executor_contract import ExecutorContract, Subject, plans
from miniature import cut, gpus

from partita.controller.commands import after, commands_for
from partita.errors import ExecutionError, Failed
from partita.executors.dry_run import DryRun
from partita.mig import Geometry
from partita.model.cluster import Batching, ClusterState, InstanceState, Status, instances_of
from partita.model.plan import Acquire, Command, DestroyInstance, SetShare, StartReplicas
from partita.ports import Capabilities

NOTHING = ClusterState()


class Real:
    """An executor that must only be looked at."""

    def __init__(self, state: ClusterState = NOTHING) -> None:
        self.state, self.looks = state, 0
        self.applied: list[Command] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(("timeout", "deferred"), partition=True, shares=False)

    async def apply(self, commands: Sequence[Command], *, term: int = 0) -> None:
        self.applied += commands

    async def observe(self) -> ClusterState:
        self.looks += 1
        return self.state


def halves() -> Geometry:
    geometry = cut("3g.40gb@0,3g.40gb@4")
    assert geometry is not None
    return geometry


class TestDryRun(ExecutorContract):
    def make(self) -> Subject:
        real, inventory = Real(), gpus(2)

        async def settle() -> None:
            """What is done to a shadow is done at once."""

        async def close() -> None:
            assert (real.applied, real.looks <= 1) == ([], True)

        return Subject(DryRun(real, after, inventory), inventory, settle, halves(), close)


def test_it_tells_what_it_would_do_and_does_nothing() -> None:
    gpu = gpus(1)[0]
    (instance,) = instances_of(gpu, None)
    there = ClusterState(
        (gpu.id,), (InstanceState(instance, Status.READY, ("a",), batching={"a": Batching("deferred")}),)
    )
    real, told = Real(there), list[Command]()

    async def story() -> None:
        subject = Subject(DryRun(real, after, gpus(2), told=told.append), gpus(2), _at_once)
        executor = subject.executor
        assert isinstance(executor, DryRun)
        plan = plans(subject)[1]
        wanted = commands_for(plan, await executor.observe())
        await executor.apply(wanted)
        assert told == list(executor.would) == list(wanted)
        assert commands_for(plan, await executor.observe()) == ()
        with pytest.raises(Failed, match="nowhere"):
            await executor.apply([Acquire("nowhere", ""), Acquire(gpu.id, "")])
        assert list(executor.would) == list(wanted)

    asyncio.run(story())
    assert (real.applied, real.looks, real.state) == ([], 1, there)


@pytest.mark.parametrize(
    "command",
    [
        DestroyInstance("gpu0", ""),
        SetShare("gpu0", 50.0, ""),
        StartReplicas("gpu0", ("b",), (Batching("eager"),), ""),
        StartReplicas("gpu1", ("b",), (Batching("deferred"),), ""),
    ],
    ids=lambda c: type(c).__name__,
)
def test_what_would_be_refused_is_refused(command: Command) -> None:
    (instance,) = instances_of(gpus(1)[0], None)
    real = Real(ClusterState(("gpu0",), (InstanceState(instance, Status.READY, ("a",)),)))

    async def story() -> None:
        dry = DryRun(real, after, gpus(2))
        with pytest.raises(ExecutionError) as refused:
            await dry.apply([command])
        assert refused.value.command is command
        assert list(dry.would) == []
        assert await dry.observe() == real.state

    asyncio.run(story())


async def _at_once() -> None:
    """Nothing takes time."""
