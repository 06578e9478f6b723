"""What every executor must do, whatever it drives: a suite to run one through.

A test module makes a class out of it that says how its executor is set up; it needs two GPUs, services named a, b and c
that fit together on each, and, if GPUs can be partitioned, a geometry of two halves each of which holds all three::

    class TestMine(ExecutorContract):
        def make(self) -> Subject: ...

What an executor says it cannot do (`Capabilities`) it must refuse with Unsupported; the rest of the suite leaves that
out.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from partita.controller.commands import Progress, commands_for, progress
from partita.errors import ExecutionError, Failed, Unsupported
from partita.mig import Geometry
from partita.model.cluster import Batching, ClusterState, Gpu, Instance, Route, Status, SubCluster, instances_of
from partita.model.plan import (
    Acquire,
    Command,
    CreateInstance,
    DestroyInstance,
    Drain,
    HeldGpu,
    Plan,
    Release,
    SetBatching,
    SetRoutes,
    SetShare,
    StartReplicas,
    StopReplicas,
)
from partita.ports import Executor

ONE, OTHER = Batching("timeout", 0.002, 4), Batching("timeout", 0.01, 8)
"""Two ways to batch that every executor must be able to do."""


@dataclass(frozen=True)
class Subject:
    """An executor whose cluster holds nothing yet, and what to try it with.

    `settle` lets so much time pass that everything started is done; `close` gives back what the subject took.
    """

    executor: Executor
    inventory: tuple[Gpu, ...]
    settle: Callable[[], Awaitable[None]]
    halves: Geometry | None = None
    close: Callable[[], Awaitable[None]] | None = None


class ExecutorContract(ABC):
    """The suite; `make` is the one thing to fill in."""

    @abstractmethod
    def make(self) -> Subject | Awaitable[Subject]:
        """Return a subject of its own for each test; called inside the event loop that the test runs in."""

    # Applying the difference makes the plan

    @pytest.mark.parametrize("number", range(8))
    def test_the_difference_applied_and_settled_is_the_plan(self, number: int) -> None:
        async def story(subject: Subject) -> None:
            known = plans(subject)
            if number >= len(known):
                pytest.skip("this executor cannot partition GPUs")
            await become(subject, known[number])
            assert_is(await subject.executor.observe(), known[number])

        self._play(story)

    def test_from_each_plan_to_each_other(self) -> None:
        async def story(subject: Subject) -> None:
            known = plans(subject)
            for step in range(1, len(known)):
                for n in range(len(known)):
                    plan = known[n * step % len(known)]
                    await become(subject, plan)
                    assert_is(await subject.executor.observe(), plan)

        self._play(story)

    def test_the_difference_applied_twice_does_nothing_the_second_time(self) -> None:
        async def story(subject: Subject) -> None:
            for plan in plans(subject):
                await subject.executor.apply(commands_for(plan, await subject.executor.observe()))
                assert commands_for(plan, await subject.executor.observe()) == ()
                await subject.settle()
                before = await subject.executor.observe()
                assert commands_for(plan, before) == ()
                await subject.executor.apply(())
                assert await subject.executor.observe() == before

        self._play(story)

    def test_every_command_leaves_the_progress_that_it_should(self) -> None:
        async def story(subject: Subject) -> None:
            for plan in plans(subject):
                for command in commands_for(plan, await subject.executor.observe()):
                    await subject.executor.apply([command])
                    await subject.settle()
                    seen = progress(command, await subject.executor.observe())
                    assert seen is Progress.DONE or isinstance(command, Drain), command

        self._play(story)

    def test_a_plan_given_up_half_way_leaves_nothing_behind(self) -> None:
        async def story(subject: Subject) -> None:
            known = plans(subject)
            for plan in known:
                await subject.executor.apply(commands_for(plan, await subject.executor.observe()))
            await subject.settle()
            assert_is(await subject.executor.observe(), known[-1])

        self._play(story)

    # One command at a time

    def test_a_gpu_acquired_is_held_and_empty(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[1]
            await subject.executor.apply([Acquire(gpu.id, "")])
            await subject.settle()
            seen = await subject.executor.observe()
            assert (seen.held, seen.instances) == ((gpu.id,), ())

        self._play(story)

    def test_instances_come_up_empty_and_ready(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0]
            wanted = instances_of(gpu, subject.halves)
            await subject.executor.apply([Acquire(gpu.id, ""), *(CreateInstance(i, "") for i in wanted)])
            await subject.settle()
            seen = await subject.executor.observe()
            assert [s.instance for s in seen.instances] == list(wanted)
            assert {(s.status, s.loaded, s.loading) for s in seen.instances} == {(Status.READY, (), ())}

        self._play(story)

    def test_a_gpu_released_is_gone_with_its_instances(self) -> None:
        async def story(subject: Subject) -> None:
            first, second = subject.inventory[:2]
            await subject.executor.apply([*_whole(first), *_whole(second)])
            await subject.settle()
            await subject.executor.apply([DestroyInstance(first.id, ""), Release(first.id, "")])
            await subject.settle()
            seen = await subject.executor.observe()
            assert seen.held == (second.id,)
            assert [s.instance.gpu for s in seen.instances] == [second.id]

        self._play(story)

    def test_one_half_is_replaced_while_the_other_keeps_what_it_holds(self) -> None:
        async def story(subject: Subject) -> None:
            if subject.halves is None:
                pytest.skip("this executor cannot partition GPUs")
            first, second = instances_of(subject.inventory[0], subject.halves)
            await subject.executor.apply(
                [Acquire(first.gpu, ""), CreateInstance(first, ""), CreateInstance(second, "")]
            )
            await subject.settle()
            await subject.executor.apply([StartReplicas(second.id, ("a",), (ONE,), ""), DestroyInstance(first.id, "")])
            await subject.settle()
            await subject.executor.apply([CreateInstance(first, "")])
            await subject.settle()
            seen = await subject.executor.observe()
            assert {s.instance.id: s.loaded for s in seen.instances} == {first.id: (), second.id: ("a",)}

        self._play(story)

    def test_services_are_loaded_beside_those_there_and_unloaded_alone(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0]
            await subject.executor.apply([*_whole(gpu), StartReplicas(gpu.id, ("a", "b"), (ONE, ONE), "")])
            await subject.settle()
            await subject.executor.apply([StartReplicas(gpu.id, ("c",), (OTHER,), "")])
            await subject.settle()
            state = (await subject.executor.observe()).state(gpu.id)
            assert state is not None
            assert (state.status, set(state.loaded)) == (Status.READY, {"a", "b", "c"})
            assert dict(state.batching) == {"a": ONE, "b": ONE, "c": OTHER}
            await subject.executor.apply([Drain(gpu.id, ("b",), ""), StopReplicas(gpu.id, ("b",), "")])
            await subject.settle()
            state = (await subject.executor.observe()).state(gpu.id)
            assert state is not None
            assert set(state.loaded) == {"a", "c"}

        self._play(story)

    def test_batching_changes_for_those_named_and_nobody_else(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0]
            await subject.executor.apply([*_whole(gpu), StartReplicas(gpu.id, ("a", "b"), (ONE, ONE), "")])
            await subject.settle()
            await subject.executor.apply([SetBatching(gpu.id, ("b",), (OTHER,), "")])
            await subject.settle()
            state = (await subject.executor.observe()).state(gpu.id)
            assert state is not None
            assert dict(state.batching) == {"a": ONE, "b": OTHER}
            assert set(state.loaded) == {"a", "b"}

        self._play(story)

    def test_a_drained_replica_that_is_wanted_again_serves_again(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0]
            plan = plans(subject)[0]
            await become(subject, plan)
            await subject.executor.apply([Drain(gpu.id, ("a",), "")])
            await become(subject, plan)
            assert_is(await subject.executor.observe(), plan)

        self._play(story)

    def test_what_is_started_shows_at_once_as_there_or_on_its_way(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0]
            await subject.executor.apply([*_whole(gpu), StartReplicas(gpu.id, ("a",), (ONE,), "")])
            seen = await subject.executor.observe()
            state = seen.state(gpu.id)
            assert seen.held == (gpu.id,)
            assert state is not None
            assert {*state.loaded, *state.loading} == {"a"}
            # Never both, and never ready with something still loading.
            assert not set(state.loaded) & set(state.loading)
            assert state.status is not Status.READY or not state.loading

        self._play(story)

    def test_groups_and_routes_come_into_force_as_given(self) -> None:
        async def story(subject: Subject) -> None:
            plan = plans(subject)[0]
            await become(subject, plan)
            renamed = replace(plan.sub_clusters[0], name="other")
            routes = tuple(Route(name, "other") for name in "abc")
            await subject.executor.apply([SetRoutes((renamed,), routes, "")])
            seen = await subject.executor.observe()
            assert (seen.sub_clusters, seen.routes) == ((renamed,), routes)

        self._play(story)

    # What it refuses

    def test_a_command_that_cannot_be_is_refused_and_named(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0]
            stranger = Instance("nowhere", "nowhere", gpu.memory_gib)
            impossible: tuple[Command, ...] = (
                Release(gpu.id, ""),
                Acquire("nowhere", ""),
                CreateInstance(stranger, ""),
                StartReplicas(gpu.id, ("a",), (ONE,), ""),
            )
            for command in impossible:
                before = await subject.executor.observe()
                with pytest.raises(ExecutionError) as refused:
                    await subject.executor.apply([command])
                assert refused.value.command == command
                assert await subject.executor.observe() == before

        self._play(story)

    def test_what_it_says_it_cannot_do_is_unsupported(self) -> None:
        async def story(subject: Subject) -> None:
            gpu, can = subject.inventory[0], subject.executor.capabilities
            await subject.executor.apply(_whole(gpu))
            await subject.settle()
            beyond: list[Command] = []
            if not can.shares:
                beyond.append(SetShare(gpu.id, 30.0, ""))
            if not can.partition:
                part = Instance(f"{gpu.id}/3g.40gb@0", gpu.id, gpu.memory_gib / 2, "3g.40gb")
                beyond.append(CreateInstance(part, ""))
            if can.disciplines is not None:
                beyond.append(StartReplicas(gpu.id, ("a",), (Batching("no such discipline"),), ""))
            for command in beyond:
                with pytest.raises(Unsupported):
                    await subject.executor.apply([command])

        self._play(story)

    def test_an_older_term_is_refused_and_changes_nothing(self) -> None:
        async def story(subject: Subject) -> None:
            first, second = subject.inventory[:2]
            await subject.executor.apply([Acquire(first.id, "")], term=7)
            await subject.settle()
            before = await subject.executor.observe()
            with pytest.raises(Failed, match="term"):
                await subject.executor.apply([Acquire(second.id, "")], term=6)
            assert await subject.executor.observe() == before
            await subject.executor.apply([Acquire(second.id, "")], term=8)
            await subject.settle()
            assert set((await subject.executor.observe()).held) == {first.id, second.id}

        self._play(story)

    def _play(self, story: Callable[[Subject], Coroutine[Any, Any, None]]) -> None:
        async def played() -> None:
            made = self.make()
            subject = made if isinstance(made, Subject) else await made
            try:
                await story(subject)
            finally:
                if subject.close is not None:
                    await subject.close()

        asyncio.run(played())


def plans(subject: Subject) -> list[Plan]:
    """Return plans that hold one GPU or both, whole or cut, with the services together or apart."""
    one, two = subject.inventory[:2]
    whole = [
        _plan([(one, None)], [("abc", 0, 1)], ONE),
        _plan([(one, None), (two, None)], [("abc", 0, 2)], ONE),
        _plan([(two, None), (one, None)], [("ab", 0, 1), ("c", 1, 2)], OTHER),
        _plan([(one, None)], [("ab", 0, 1)], OTHER),
        _plan([(two, None)], [("bc", 0, 1)], ONE),
    ]
    h = subject.halves
    if h is None:
        return whole
    return [
        *whole,
        _plan([(one, h)], [("a", 0, 1), ("bc", 1, 2)], ONE),
        _plan([(one, None), (two, h)], [("ac", 0, 1), ("b", 1, 3)], OTHER),
        _plan([(one, h), (two, h)], [("abc", 0, 4)], ONE),
    ]


def _plan(
    held: Sequence[tuple[Gpu, Geometry | None]], groups: Sequence[tuple[str, int, int]], batching: Batching
) -> Plan:
    """Make a plan; a group is its services, and the first and last of its instances."""
    instances = [i for gpu, geometry in held for i in instances_of(gpu, geometry)]
    made = tuple(
        SubCluster(f"group{n}", tuple(instances[a:b]), tuple(names), (batching,) * len(names))
        for n, (names, a, b) in enumerate(groups)
    )
    routes = tuple(Route(name, group.name) for group in made for name in group.services)
    return Plan(tuple(HeldGpu(gpu.id, geometry) for gpu, geometry in held), made, routes)


def _whole(gpu: Gpu) -> list[Command]:
    """Hold a GPU as one instance."""
    return [Acquire(gpu.id, ""), *(CreateInstance(i, "") for i in instances_of(gpu, None))]


async def become(subject: Subject, plan: Plan) -> None:
    """Apply what is missing and wait."""
    await subject.executor.apply(commands_for(plan, await subject.executor.observe()))
    await subject.settle()


def assert_is(cluster: ClusterState, plan: Plan) -> None:
    """Compare all that can be observed with what is wanted."""
    assert set(cluster.held) == {h.gpu for h in plan.gpus}
    assert (cluster.sub_clusters, cluster.routes) == (plan.sub_clusters, plan.routes)
    wanted = {i: dict(zip(g.services, g.batching, strict=True)) for g in plan.sub_clusters for i in g.instances}
    assert {s.instance for s in cluster.instances} == set(wanted)
    for state in cluster.instances:
        assert (state.status, set(state.loaded), state.loading) == (Status.READY, wanted[state.instance].keys(), ())
        assert dict(state.batching) == wanted[state.instance]
        assert state.draining == ()
