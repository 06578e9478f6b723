"""The simulated cluster: when things are there, and what holding and changing them costs, worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from miniature import SECOND, cut, gpus

from partita.errors import Failed
from partita.model.cluster import Batching, Route, Status, SubCluster, instances_of
from partita.model.plan import (
    Acquire,
    Command,
    HeldGpu,
    LoadModels,
    Plan,
    Regroup,
    Release,
    Repartition,
    UnloadModels,
)
from partita.replay.cluster import Delays, SimulatedCluster

INVENTORY = gpus(3)
DELAYS = Delays(model_load_s=20.0, repartition_s=4.0)
DEFERRED = Batching("deferred")


def begin(held: int = 1) -> SimulatedCluster:
    """Hold some whole GPUs that serve a and b together."""
    instances = tuple(i for g in INVENTORY[:held] for i in instances_of(g, None))
    group = SubCluster("all", instances, ("a", "b"), (DEFERRED, DEFERRED))
    cluster = SimulatedCluster(INVENTORY, DELAYS)
    cluster.begin_with(
        Plan(tuple(HeldGpu(g.id) for g in INVENTORY[:held]), (group,), (Route("a", "all"), Route("b", "all")))
    )
    return cluster


def at(seconds: float) -> int:
    return round(seconds * SECOND)


def apply(cluster: SimulatedCluster, seconds: float, *commands: Command) -> None:
    cluster.apply(commands, at(seconds))


def status(cluster: SimulatedCluster, seconds: float, instance: str) -> Status | None:
    state = cluster.observe(at(seconds)).state(instance)
    return state.status if state else None


def held_s(cluster: SimulatedCluster, since: float, until: float) -> float:
    return cluster.gpu_seconds(at(since), at(until))


def away_s(cluster: SimulatedCluster, since: float = 0.0, until: float = 1000.0) -> float:
    return cluster.away_gpu_seconds(at(since), at(until))


def run_until(cluster: SimulatedCluster, instance: str, seconds: float) -> None:
    """Let an instance be busy with a batch until then."""
    slot = cluster.slots[instance]
    slot.free_ns = slot.busy_ns = at(seconds)


def test_it_begins_as_the_plan_says_and_at_no_cost() -> None:
    cluster = begin(2)
    seen = cluster.observe(0)
    assert seen.held == ("gpu0", "gpu1")
    assert [(s.instance.id, s.status, s.loaded, s.loading) for s in seen.instances] == [
        ("gpu0", Status.READY, ("a", "b"), ()),
        ("gpu1", Status.READY, ("a", "b"), ()),
    ]
    assert (cluster.changes, away_s(cluster)) == (0, 0.0)


def test_a_gpu_acquired_whole_is_there_at_once_and_loads() -> None:
    cluster = begin()
    apply(cluster, 10, Acquire("gpu1", None, ""), LoadModels("gpu1", ("a", "b"), ""))
    state = cluster.observe(at(29.9)).state("gpu1")
    assert state is not None
    assert (state.status, state.loaded, state.loading) == (Status.LOADING, (), ("a", "b"))
    state = cluster.observe(at(30)).state("gpu1")
    assert state is not None
    assert (state.status, state.loaded, state.loading) == (Status.READY, ("a", "b"), ())
    assert cluster.slots["gpu1"].free_ns == cluster.settled_at_ns() == at(30)
    assert held_s(cluster, 0, 40) == 40 + 30
    assert away_s(cluster) == 20


def test_a_gpu_acquired_in_parts_is_partitioned_first() -> None:
    cluster = begin()
    halves = cut("3g.40gb@0,3g.40gb@4")
    apply(cluster, 10, Acquire("gpu1", halves, ""), LoadModels("gpu1/3g.40gb@0", ("a",), ""))
    assert status(cluster, 13.9, "gpu1/3g.40gb@0") is Status.CREATING
    assert status(cluster, 14, "gpu1/3g.40gb@0") is Status.LOADING
    assert status(cluster, 14, "gpu1/3g.40gb@4") is Status.READY
    assert status(cluster, 34, "gpu1/3g.40gb@0") is Status.READY
    # 4 s of the whole GPU, then one of its two instances for 20 s.
    assert away_s(cluster) == 4 + 20 / 2


def test_what_loads_is_not_loaded_yet() -> None:
    cluster = begin()
    apply(cluster, 10, UnloadModels("gpu0", ("b",), ""))
    apply(cluster, 20, LoadModels("gpu0", ("c",), ""))
    state = cluster.observe(at(25)).state("gpu0")
    assert state is not None
    assert (state.status, state.loaded, state.loading) == (Status.LOADING, ("a",), ("c",))
    state = cluster.observe(at(40)).state("gpu0")
    assert state is not None
    assert (state.status, state.loaded, state.loading) == (Status.READY, ("a", "c"), ())


def test_loading_waits_for_the_batch_that_runs() -> None:
    cluster = begin()
    run_until(cluster, "gpu0", 11.5)
    apply(cluster, 10, LoadModels("gpu0", ("c",), ""))
    assert cluster.slots["gpu0"].free_ns == at(31.5)


def test_a_second_load_follows_the_first_and_is_not_counted_twice() -> None:
    cluster = begin()
    apply(cluster, 10, LoadModels("gpu0", ("c",), ""))
    apply(cluster, 15, LoadModels("gpu0", ("d",), ""))
    state = cluster.observe(at(45)).state("gpu0")
    assert state is not None
    assert (state.loaded, state.loading) == (("a", "b"), ("c", "d"))
    assert cluster.slots["gpu0"].free_ns == at(50)
    assert away_s(cluster) == 40


def test_repartition_drains_then_cuts() -> None:
    cluster = begin()
    run_until(cluster, "gpu0", 12)
    sevenths = cut("7x1g.10gb")
    apply(cluster, 10, Repartition("gpu0", sevenths, ""))
    seen = cluster.observe(at(15.9))
    assert seen.geometry["gpu0"] == sevenths
    assert [s.instance.start for s in seen.instances] == [0, 1, 2, 3, 4, 5, 6]
    assert {s.status for s in seen.instances} == {Status.CREATING}
    assert {s.status for s in cluster.observe(at(16)).instances} == {Status.READY}
    assert away_s(cluster) == 6  # 2 s to drain, 4 s to cut
    assert held_s(cluster, 0, 100) == 100


def test_numbers_of_instances_rise_with_the_gpus() -> None:
    cluster = begin(3)
    apply(cluster, 1, Repartition("gpu1", cut("7x1g.10gb"), ""))
    numbers = [cluster.slots[s.instance.id].number for s in cluster.observe(at(2)).instances]
    assert numbers == sorted(set(numbers))
    assert [s.instance.gpu for s in cluster.observe(at(2)).instances] == ["gpu0", *["gpu1"] * 7, "gpu2"]


def test_a_released_gpu_is_held_until_its_last_batch_ends() -> None:
    cluster = begin(2)
    run_until(cluster, "gpu1", 13)
    apply(cluster, 10, Release("gpu1", ""))
    assert cluster.observe(at(11)).held == ("gpu0",)
    assert status(cluster, 11, "gpu1") is None
    assert held_s(cluster, 0, 100) == 100 + 13
    assert held_s(cluster, 10, 20) == 10 + 3
    assert held_s(cluster, 12, 12.5) == 0.5 + 0.5
    assert away_s(cluster) == 3


def test_a_gpu_taken_back_while_it_drains_is_held_once() -> None:
    cluster = begin(2)
    run_until(cluster, "gpu1", 13)
    apply(cluster, 10, Release("gpu1", ""))
    apply(cluster, 11, Acquire("gpu1", cut("7x1g.10gb"), ""))
    assert cluster.slots["gpu1/1g.10gb@0"].created_ns == at(17)
    assert held_s(cluster, 0, 100) == 200
    assert away_s(cluster) == 3 + 4
    assert cluster.peak(0, at(100)) == 2


def test_a_gpu_taken_back_after_it_drained_is_held_twice_with_a_gap() -> None:
    cluster = begin(2)
    run_until(cluster, "gpu1", 13)
    apply(cluster, 10, Release("gpu1", ""))
    apply(cluster, 20, Acquire("gpu1", None, ""))
    apply(cluster, 30, Release("gpu1", ""))
    assert held_s(cluster, 0, 100) == 100 + 13 + 10


@pytest.mark.parametrize("end", [Release("gpu1", ""), Repartition("gpu1", None, "")])
def test_a_load_cut_short_takes_no_longer_than_the_gpu_was_there_to_load(end: Command) -> None:
    cluster = begin()
    apply(cluster, 10, Acquire("gpu1", None, ""), LoadModels("gpu1", ("a",), ""))
    apply(cluster, 15, end)
    assert away_s(cluster) == 5 + (0 if isinstance(end, Release) else 4)


def test_the_peak_is_of_gpus_held_at_one_time() -> None:
    cluster = begin()
    apply(cluster, 10, Acquire("gpu1", None, ""))
    apply(cluster, 20, Release("gpu1", ""), Acquire("gpu2", None, ""))
    apply(cluster, 30, Acquire("gpu1", None, ""))
    assert cluster.peak(0, at(10)) == 1
    assert cluster.peak(0, at(30)) == 2
    assert cluster.peak(at(22), at(28)) == 2
    assert cluster.peak(0, at(31)) == 3


def test_changes_are_counted_by_gpu() -> None:
    cluster = begin()
    apply(cluster, 10, Acquire("gpu1", None, ""), LoadModels("gpu1", ("a",), ""), Acquire("gpu2", None, ""))
    apply(cluster, 20, Regroup((), (), ""), UnloadModels("gpu1", ("a",), ""))
    apply(cluster, 30, Release("gpu1", ""), Repartition("gpu0", cut("7x1g.10gb"), ""))
    assert cluster.changes == 4


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        ([Acquire("gpu9", None, "")], "GPU gpu9 is not there to be acquired"),
        ([Acquire("gpu0", None, "")], "GPU gpu0 is not there to be acquired"),
        ([Release("gpu1", "")], "GPU gpu1 is not held"),
        ([Repartition("gpu1", None, "")], "GPU gpu1 is not held"),
        ([LoadModels("gpu1", ("a",), "")], "there is no instance gpu1"),
        ([UnloadModels("gpu0/1g.10gb@0", ("a",), "")], "there is no instance gpu0/1g.10gb@0"),
    ],
)
def test_a_command_for_what_is_not_there_fails_and_is_named(commands: Sequence[Command], problem: str) -> None:
    cluster = begin()
    before = cluster.observe(0)
    with pytest.raises(Failed, match=problem) as failed:
        cluster.apply(commands, 0)
    assert failed.value.command is commands[0]
    assert cluster.observe(0) == before
