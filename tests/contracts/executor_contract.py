"""What every executor must do, whatever it drives: a suite to run one through.

A test module makes a class out of it that says how its executor is set up; it needs two GPUs that may be cut in two
halves, and services named a, b and c that fit together on each half::

    class TestMine(ExecutorContract):
        def make(self) -> Subject: ...
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from partita.controller.commands import commands_for
from partita.errors import ExecutionError
from partita.mig import Geometry
from partita.model.cluster import Batching, ClusterState, Gpu, Route, Status, SubCluster, instances_of
from partita.model.plan import Acquire, HeldGpu, LoadModels, Plan, Regroup, Release, Repartition, UnloadModels
from partita.ports import Executor


@dataclass(frozen=True)
class Subject:
    """An executor whose cluster holds nothing yet, and what to try it with.

    `settle` lets so much time pass that everything started is done.
    """

    executor: Executor
    inventory: tuple[Gpu, ...]
    halves: Geometry
    settle: Callable[[], Awaitable[None]]


class ExecutorContract(ABC):
    """The suite; `make` is the one thing to fill in."""

    @abstractmethod
    def make(self) -> Subject:
        """Return a subject of its own for each test."""

    # Applying the difference makes the plan

    @pytest.mark.parametrize("number", range(6))
    def test_the_difference_applied_and_settled_is_the_plan(self, number: int) -> None:
        async def story(subject: Subject) -> None:
            plan = plans(subject)[number]
            await become(subject, plan)
            assert_is(await subject.executor.observe(), plan)

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
            await subject.executor.apply([Acquire(gpu.id, subject.halves, "")])
            await subject.settle()
            seen = await subject.executor.observe()
            assert (seen.held, dict(seen.geometry)) == ((gpu.id,), {gpu.id: subject.halves})
            assert [s.instance for s in seen.instances] == list(instances_of(gpu, subject.halves))
            assert {(s.status, s.loaded, s.loading) for s in seen.instances} == {(Status.READY, (), ())}

        self._play(story)

    def test_a_gpu_released_is_gone_with_its_instances(self) -> None:
        async def story(subject: Subject) -> None:
            first, second = subject.inventory[:2]
            await subject.executor.apply([Acquire(first.id, None, ""), Acquire(second.id, None, "")])
            await subject.settle()
            await subject.executor.apply([Release(first.id, "")])
            await subject.settle()
            seen = await subject.executor.observe()
            assert seen.held == (second.id,)
            assert [s.instance.gpu for s in seen.instances] == [second.id]

        self._play(story)

    def test_repartition_replaces_the_instances_and_what_they_held(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0]
            await subject.executor.apply([Acquire(gpu.id, None, ""), LoadModels(gpu.id, ("a",), "")])
            await subject.settle()
            for geometry in (subject.halves, None):
                await subject.executor.apply([Repartition(gpu.id, geometry, "")])
                await subject.settle()
                seen = await subject.executor.observe()
                assert [s.instance for s in seen.instances] == list(instances_of(gpu, geometry))
                assert {s.loaded for s in seen.instances} == {()}

        self._play(story)

    def test_services_are_loaded_beside_those_there_and_unloaded_alone(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0].id
            await subject.executor.apply([Acquire(gpu, None, ""), LoadModels(gpu, ("a", "b"), "")])
            await subject.settle()
            await subject.executor.apply([LoadModels(gpu, ("c",), "")])
            await subject.settle()
            state = (await subject.executor.observe()).state(gpu)
            assert state is not None
            assert (state.status, set(state.loaded)) == (Status.READY, {"a", "b", "c"})
            await subject.executor.apply([UnloadModels(gpu, ("b",), "")])
            await subject.settle()
            state = (await subject.executor.observe()).state(gpu)
            assert state is not None
            assert set(state.loaded) == {"a", "c"}

        self._play(story)

    def test_what_is_started_shows_at_once_as_there_or_on_its_way(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0].id
            await subject.executor.apply([Acquire(gpu, None, ""), LoadModels(gpu, ("a",), "")])
            seen = await subject.executor.observe()
            state = seen.state(gpu)
            assert seen.held == (gpu,)
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
            renamed = replace(plan.sub_clusters[0], name="other", batching=(Batching("timeout", 0.01),) * 3)
            routes = tuple(Route(name, "other") for name in "abc")
            await subject.executor.apply([Regroup((renamed,), routes, "")])
            seen = await subject.executor.observe()
            assert (seen.sub_clusters, seen.routes) == ((renamed,), routes)

        self._play(story)

    def test_a_command_that_cannot_be_is_refused_and_named(self) -> None:
        async def story(subject: Subject) -> None:
            gpu = subject.inventory[0].id
            for command in (Release(gpu, ""), Repartition(gpu, None, ""), LoadModels(gpu, ("a",), "")):
                before = await subject.executor.observe()
                with pytest.raises(ExecutionError) as refused:
                    await subject.executor.apply([command])
                assert refused.value.command is command
                assert await subject.executor.observe() == before

        self._play(story)

    def _play(self, story: Callable[[Subject], Coroutine[Any, Any, None]]) -> None:
        asyncio.run(story(self.make()))


def plans(subject: Subject) -> list[Plan]:
    """Return plans that hold one GPU or both, whole or cut, with the services together or apart."""
    one, two = subject.inventory[:2]
    h = subject.halves
    return [
        _plan([(one, None)], [("abc", 0, 1)]),
        _plan([(one, None), (two, None)], [("abc", 0, 2)]),
        _plan([(two, None), (one, None)], [("ab", 0, 1), ("c", 1, 2)]),
        _plan([(one, h)], [("a", 0, 1), ("bc", 1, 2)]),
        _plan([(one, None), (two, h)], [("ac", 0, 1), ("b", 1, 3)]),
        _plan([(one, h), (two, h)], [("abc", 0, 4)]),
    ]


def _plan(held: Sequence[tuple[Gpu, Geometry | None]], groups: Sequence[tuple[str, int, int]]) -> Plan:
    """Make a plan; a group is its services, and the first and last of its instances."""
    instances = [i for gpu, geometry in held for i in instances_of(gpu, geometry)]
    made = tuple(
        SubCluster(f"group{n}", tuple(instances[a:b]), tuple(names), (Batching("deferred"),) * len(names))
        for n, (names, a, b) in enumerate(groups)
    )
    routes = tuple(Route(name, group.name) for group in made for name in group.services)
    return Plan(tuple(HeldGpu(gpu.id, geometry) for gpu, geometry in held), made, routes)


async def become(subject: Subject, plan: Plan) -> None:
    """Apply what is missing and wait."""
    await subject.executor.apply(commands_for(plan, await subject.executor.observe()))
    await subject.settle()


def assert_is(cluster: ClusterState, plan: Plan) -> None:
    """Compare all that can be observed with what is wanted."""
    assert set(cluster.held) == {h.gpu for h in plan.gpus}
    assert dict(cluster.geometry) == {h.gpu: h.geometry for h in plan.gpus}
    assert (cluster.sub_clusters, cluster.routes) == (plan.sub_clusters, plan.routes)
    wanted = {i: set(g.services) for g in plan.sub_clusters for i in g.instances}
    assert {s.instance for s in cluster.instances} == set(wanted)
    for state in cluster.instances:
        assert (state.status, set(state.loaded), state.loading) == (Status.READY, wanted[state.instance], ())
