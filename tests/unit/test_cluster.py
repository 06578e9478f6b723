"""The simulated cluster: when things are there, and what holding and changing them costs, worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from miniature import SECOND, cut, gpus

from partita.errors import Busy, Failed
from partita.mig import Geometry
from partita.model.cluster import Batching, Instance, Route, Status, SubCluster, instances_of
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
from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.failures import Failure

INVENTORY = gpus(3)
DELAYS = Delays(model_load_s=20.0, repartition_s=4.0)
DEFERRED, EAGER = Batching("deferred"), Batching("eager")
HALVES, SEVENTHS = cut("3g.40gb@0,3g.40gb@4"), cut("7x1g.10gb")


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


def create(number: int, geometry: Geometry | None = None) -> list[Command]:
    """Create all instances of a GPU."""
    return [CreateInstance(i, "") for i in instances_of(INVENTORY[number], geometry)]


def acquire(number: int, geometry: Geometry | None = None) -> list[Command]:
    """Hold a GPU and create its instances."""
    return [Acquire(INVENTORY[number].id, ""), *create(number, geometry)]


def release(instance: str) -> list[Command]:
    """Give back a GPU that is one instance."""
    return [DestroyInstance(instance, ""), Release(instance, "")]


def start(instance: str, *services: str) -> Command:
    return StartReplicas(instance, services, (DEFERRED,) * len(services), "")


def part(instances: int, geometry: Geometry | None) -> float:
    """Return the part of a GPU's memory that so many of its instances have; a half has 39.25 GiB of 80."""
    return sum(i.memory_gib for i in instances_of(INVENTORY[0], geometry)[:instances]) / INVENTORY[0].memory_gib


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
    apply(cluster, 10, *acquire(1), start("gpu1", "a", "b"))
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
    apply(cluster, 10, *acquire(1, HALVES), start("gpu1/3g.40gb@0", "a"))
    assert status(cluster, 13.9, "gpu1/3g.40gb@0") is Status.CREATING
    assert status(cluster, 14, "gpu1/3g.40gb@0") is Status.LOADING
    assert status(cluster, 14, "gpu1/3g.40gb@4") is Status.READY
    assert status(cluster, 34, "gpu1/3g.40gb@0") is Status.READY
    # 4 s of each instance's memory, then one of the two for 20 s.
    assert away_s(cluster) == pytest.approx(4 * part(2, HALVES) + 20 / 2)


def test_what_loads_is_not_loaded_yet() -> None:
    cluster = begin()
    apply(cluster, 10, StopReplicas("gpu0", ("b",), ""))
    apply(cluster, 20, start("gpu0", "c"))
    state = cluster.observe(at(25)).state("gpu0")
    assert state is not None
    assert (state.status, state.loaded, state.loading) == (Status.LOADING, ("a",), ("c",))
    state = cluster.observe(at(40)).state("gpu0")
    assert state is not None
    assert (state.status, state.loaded, state.loading) == (Status.READY, ("a", "c"), ())


def test_loading_waits_for_the_batch_that_runs() -> None:
    cluster = begin()
    run_until(cluster, "gpu0", 11.5)
    apply(cluster, 10, start("gpu0", "c"))
    assert cluster.slots["gpu0"].free_ns == at(31.5)


def test_a_second_load_follows_the_first_and_is_not_counted_twice() -> None:
    cluster = begin()
    apply(cluster, 10, start("gpu0", "c"))
    apply(cluster, 15, start("gpu0", "d"))
    state = cluster.observe(at(45)).state("gpu0")
    assert state is not None
    assert (state.loaded, state.loading) == (("a", "b"), ("c", "d"))
    assert cluster.slots["gpu0"].free_ns == at(50)
    assert away_s(cluster) == 40


def test_batching_changes_at_once_and_loads_nothing() -> None:
    cluster = begin()
    apply(cluster, 10, SetBatching("gpu0", ("b",), (EAGER,), ""))
    state = cluster.observe(at(10)).state("gpu0")
    assert state is not None
    assert (state.status, dict(state.batching)) == (Status.READY, {"a": DEFERRED, "b": EAGER})
    assert away_s(cluster) == 0


def test_another_share_starts_what_is_there_again() -> None:
    cluster = begin()
    apply(cluster, 10, SetShare("gpu0", 40.0, ""))
    state = cluster.observe(at(29.9)).state("gpu0")
    assert state is not None
    assert (state.instance.gpu_percent, state.status, state.loading) == (40.0, Status.LOADING, ("a", "b"))
    assert status(cluster, 30, "gpu0") is Status.READY
    assert away_s(cluster) == 20


def test_what_drains_is_there_until_it_is_stopped() -> None:
    cluster = begin()
    before = cluster.observe(at(10))
    apply(cluster, 10, Drain("gpu0", ("b",), ""))
    assert cluster.observe(at(10)) == before
    apply(cluster, 11, StopReplicas("gpu0", ("b",), ""))
    state = cluster.observe(at(11)).state("gpu0")
    assert state is not None
    assert (state.loaded, dict(state.batching)) == (("a",), {"a": DEFERRED})


def test_a_gpu_cut_anew_drains_first() -> None:
    cluster = begin()
    run_until(cluster, "gpu0", 12)
    apply(cluster, 10, DestroyInstance("gpu0", ""), *create(0, SEVENTHS))
    seen = cluster.observe(at(15.9))
    assert tuple(s.instance for s in seen.instances) == instances_of(INVENTORY[0], SEVENTHS)
    assert [s.instance.start for s in seen.instances] == [0, 1, 2, 3, 4, 5, 6]
    assert {s.status for s in seen.instances} == {Status.CREATING}
    assert {s.status for s in cluster.observe(at(16)).instances} == {Status.READY}
    assert away_s(cluster) == pytest.approx(2 + 4 * part(7, SEVENTHS))  # 2 s to drain, 4 s to cut
    assert held_s(cluster, 0, 100) == 100


def test_a_gpu_made_whole_again_takes_as_long_as_cutting_it() -> None:
    cluster = begin()
    apply(cluster, 10, DestroyInstance("gpu0", ""), *create(0, SEVENTHS))
    apply(cluster, 20, *(DestroyInstance(i.id, "") for i in instances_of(INVENTORY[0], SEVENTHS)), *create(0))
    assert status(cluster, 23.9, "gpu0") is Status.CREATING
    assert status(cluster, 24, "gpu0") is Status.READY
    # What was whole already takes no time to be made again.
    apply(cluster, 30, DestroyInstance("gpu0", ""), *create(0))
    assert status(cluster, 30, "gpu0") is Status.READY
    assert away_s(cluster) == pytest.approx(4 * part(7, SEVENTHS) + 4)


def test_one_half_cut_anew_leaves_the_other_in_peace() -> None:
    cluster = begin()
    apply(cluster, 10, *acquire(1, HALVES), start("gpu1/3g.40gb@0", "a"), start("gpu1/3g.40gb@4", "b"))
    run_until(cluster, "gpu1/3g.40gb@0", 52)
    small = instances_of(INVENTORY[1], cut("2g.20gb@0,3g.40gb@4"))[0]
    apply(cluster, 50, DestroyInstance("gpu1/3g.40gb@0", ""), CreateInstance(small, ""))
    assert status(cluster, 50, "gpu1/3g.40gb@4") is Status.READY
    assert status(cluster, 55.9, small.id) is Status.CREATING
    assert status(cluster, 56, small.id) is Status.READY
    # Both halves were cut and loaded; then one drained, and a quarter was made in its place.
    quarter, half = 19.5 / 80, 39.25 / 80
    assert away_s(cluster) == pytest.approx(4 * 2 * half + 20 + 2 * half + 4 * quarter)


def test_numbers_of_instances_rise_with_the_gpus() -> None:
    cluster = begin(3)
    apply(cluster, 1, DestroyInstance("gpu1", ""), *create(1, SEVENTHS))
    numbers = [cluster.slots[s.instance.id].number for s in cluster.observe(at(2)).instances]
    assert numbers == sorted(set(numbers))
    assert [s.instance.gpu for s in cluster.observe(at(2)).instances] == ["gpu0", *["gpu1"] * 7, "gpu2"]


def test_a_released_gpu_is_held_until_its_last_batch_ends() -> None:
    cluster = begin(2)
    run_until(cluster, "gpu1", 13)
    apply(cluster, 10, *release("gpu1"))
    assert cluster.observe(at(11)).held == ("gpu0",)
    assert status(cluster, 11, "gpu1") is None
    assert held_s(cluster, 0, 100) == 100 + 13
    assert held_s(cluster, 10, 20) == 10 + 3
    assert held_s(cluster, 12, 12.5) == 0.5 + 0.5
    assert away_s(cluster) == 3


def test_a_gpu_taken_back_while_it_drains_is_held_once() -> None:
    cluster = begin(2)
    run_until(cluster, "gpu1", 13)
    apply(cluster, 10, *release("gpu1"))
    apply(cluster, 11, *acquire(1, SEVENTHS))
    assert cluster.slots["gpu1/1g.10gb@0"].created_ns == at(17)
    assert held_s(cluster, 0, 100) == 200
    assert away_s(cluster) == pytest.approx(3 + 4 * part(7, SEVENTHS))
    assert cluster.peak(0, at(100)) == 2


def test_a_gpu_taken_back_after_it_drained_is_held_twice_with_a_gap() -> None:
    cluster = begin(2)
    run_until(cluster, "gpu1", 13)
    apply(cluster, 10, *release("gpu1"))
    apply(cluster, 20, *acquire(1))
    apply(cluster, 30, *release("gpu1"))
    assert held_s(cluster, 0, 100) == 100 + 13 + 10


@pytest.mark.parametrize("end", [release("gpu1"), [DestroyInstance("gpu1", ""), *create(1, SEVENTHS)]])
def test_a_load_cut_short_takes_no_longer_than_the_gpu_was_there_to_load(end: Sequence[Command]) -> None:
    cluster = begin()
    apply(cluster, 10, *acquire(1), start("gpu1", "a"))
    apply(cluster, 15, *end)
    assert away_s(cluster) == pytest.approx(5 + (4 * part(7, SEVENTHS) if len(end) > 2 else 0))


def test_the_peak_is_of_gpus_held_at_one_time() -> None:
    cluster = begin()
    apply(cluster, 10, Acquire("gpu1", ""))
    apply(cluster, 20, Release("gpu1", ""), Acquire("gpu2", ""))
    apply(cluster, 30, Acquire("gpu1", ""))
    assert cluster.peak(0, at(10)) == 1
    assert cluster.peak(0, at(30)) == 2
    assert cluster.peak(at(22), at(28)) == 2
    assert cluster.peak(0, at(31)) == 3


def test_changes_are_counted_by_gpu() -> None:
    cluster = begin()
    apply(cluster, 10, *acquire(1), start("gpu1", "a"), Acquire("gpu2", ""))
    apply(cluster, 20, SetRoutes((), (), ""), Drain("gpu1", ("a",), ""), StopReplicas("gpu1", ("a",), ""))
    apply(cluster, 30, *release("gpu1"), DestroyInstance("gpu0", ""), *create(0, SEVENTHS))
    assert cluster.changes == 4


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        ([Acquire("gpu9", "")], "GPU gpu9 is not there to be acquired"),
        ([Acquire("gpu0", "")], "GPU gpu0 is not there to be acquired"),
        ([Release("gpu1", "")], "GPU gpu1 is not held"),
        (create(1), "GPU gpu1 is not held"),
        (create(0), "the instance gpu0 is there already"),
        ([DestroyInstance("gpu1", "")], "there is no instance gpu1"),
        ([start("gpu1", "a")], "there is no instance gpu1"),
        ([Drain("gpu1", ("a",), "")], "there is no instance gpu1"),
        ([SetShare("gpu1", 50.0, "")], "there is no instance gpu1"),
        ([SetBatching("gpu1", ("a",), (EAGER,), "")], "there is no instance gpu1"),
        ([StopReplicas("gpu0/1g.10gb@0", ("a",), "")], "there is no instance gpu0/1g.10gb@0"),
    ],
)
def test_a_command_for_what_is_not_there_fails_and_is_named(commands: Sequence[Command], problem: str) -> None:
    cluster = begin()
    before = cluster.observe(0)
    with pytest.raises(Failed, match=problem) as failed:
        cluster.apply(commands, 0)
    assert failed.value.command is commands[0]
    assert cluster.observe(0) == before


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (Release("gpu0", ""), "GPU gpu0 still has instances"),
        (create(0, HALVES)[0], "gpu0 is where gpu0/3g.40gb@0 should be"),
        (create(1)[0], "gpu1/3g.40gb@0 is where gpu1 should be"),
        (create(1, SEVENTHS)[0], "3g.40gb"),
    ],
)
def test_a_command_for_what_is_not_free_yet_is_busy_and_changes_nothing(command: Command, problem: str) -> None:
    cluster = begin()
    apply(cluster, 0, *acquire(1, HALVES))
    before = cluster.observe(0)
    with pytest.raises(Busy, match=problem) as busy:
        cluster.apply([command], 0)
    assert busy.value.command is command
    assert cluster.observe(0) == before


# Times by command, and MPS shares ------------------------------------------------------------------------------------


def with_delays(**delays: float) -> SimulatedCluster:
    """Hold one GPU in halves that serve a, with these delays beside loading for 20 s and repartitioning for 4 s."""
    cluster = SimulatedCluster(INVENTORY, Delays(20.0, 4.0, **delays))
    group = SubCluster("all", instances_of(INVENTORY[0], HALVES), ("a",), (DEFERRED,))
    cluster.begin_with(Plan((HeldGpu("gpu0", HALVES),), (group,), (Route("a", "all"),)))
    return cluster


def recut(cluster: SimulatedCluster, seconds: float) -> None:
    """Drain and destroy both halves and create sevenths in their place."""
    for half in list(cluster.slots):
        apply(cluster, seconds, Drain(half, ("a",), ""), StopReplicas(half, ("a",), ""), DestroyInstance(half, ""))
    apply(cluster, seconds, *create(0, SEVENTHS))


@pytest.mark.parametrize(
    ("delays", "busy_s", "created_s"),
    [
        ({}, 0.0, 14.0),  # at 10 s, and 4 s of repartition
        ({"create_s": 1.5}, 0.0, 11.5),
        ({"destroy_s": 3.0}, 0.0, 17.0),
        ({"drain_s": 5.0}, 0.0, 19.0),
        ({"drain_s": 5.0, "destroy_s": 3.0, "create_s": 1.5}, 0.0, 19.5),
        ({"drain_s": 5.0, "destroy_s": 3.0}, 12.0, 22.0),  # the batch ends before the drain does
        ({"drain_s": 5.0, "destroy_s": 3.0}, 16.0, 23.0),  # and after it
    ],
)
def test_each_command_takes_its_own_time(delays: dict[str, float], busy_s: float, created_s: float) -> None:
    cluster = with_delays(**delays)
    if busy_s:
        run_until(cluster, "gpu0/3g.40gb@0", busy_s)
    recut(cluster, 10.0)
    assert {slot.created_ns for slot in cluster.slots.values()} == {at(created_s)}


def test_a_drained_gpu_is_paid_until_it_is_destroyed() -> None:
    cluster = with_delays(drain_s=5.0, destroy_s=3.0)
    for half in list(cluster.slots):
        apply(cluster, 10.0, Drain(half, ("a",), ""), DestroyInstance(half, ""))
    apply(cluster, 10.0, Release("gpu0", ""))
    assert held_s(cluster, 0.0, 100.0) == 18.0
    assert away_s(cluster) == pytest.approx(8.0 * part(2, HALVES))


@pytest.mark.parametrize(("delays", "ready_s"), [({}, 30.0), ({"mps_restart_s": 6.0}, 16.0)])
def test_setting_a_share_starts_the_models_process_anew(delays: dict[str, float], ready_s: float) -> None:
    """A change never reaches a running client: at 10 s the process ends, and it answers again when it has loaded."""
    cluster = with_delays(**delays)
    apply(cluster, 10.0, SetShare("gpu0/3g.40gb@0", 50.0, ""))
    assert status(cluster, ready_s - 0.001, "gpu0/3g.40gb@0") is Status.LOADING
    assert status(cluster, ready_s, "gpu0/3g.40gb@0") is Status.READY
    assert cluster.slots["gpu0/3g.40gb@0"].instance.gpu_percent == 50.0
    # Loading a model that is new there takes its own time.
    apply(cluster, 40.0, start("gpu0/3g.40gb@4", "b"))
    assert status(cluster, 59.9, "gpu0/3g.40gb@4") is Status.LOADING


def share(name: str, percent: float, profile: str = "whole", start_: int = 0) -> Instance:
    return Instance(name, "gpu0", 40.0, profile, start_, percent)


def test_shares_of_one_place_stand_beside_each_other_under_numbers_of_their_own() -> None:
    cluster = SimulatedCluster(INVENTORY, DELAYS)
    apply(cluster, 0.0, Acquire("gpu0", ""))
    apply(cluster, 0.0, *(CreateInstance(share(f"s{n}", p), "") for n, p in enumerate((50.0, 25.0, 25.0))))
    assert [slot.number for slot in cluster.slots.values()] == [0, 16, 17]
    with pytest.raises(Busy):
        apply(cluster, 1.0, CreateInstance(share("all", 100.0), ""))
    with pytest.raises(Busy):
        apply(cluster, 1.0, CreateInstance(share("half", 50.0, "3g.40gb"), ""))


def test_shares_inside_mig_instances() -> None:
    cluster = with_delays()
    apply(cluster, 1.0, DestroyInstance("gpu0/3g.40gb@4", ""))
    apply(cluster, 1.0, *(CreateInstance(share(n, 50.0, "3g.40gb", 4), "") for n in "xy"))
    assert [slot.number for slot in cluster.slots.values()] == [0, 4, 16]
    with pytest.raises(Busy):
        apply(cluster, 2.0, CreateInstance(share("z", 50.0, "3g.40gb", 0), ""))


def test_a_gpu_that_fails_while_it_drains_is_not_paid_beyond_its_failure() -> None:
    """Its last batch would have run until second 30; it failed at 10, and is given back at 12."""
    cluster = begin()
    cluster.slots["gpu0"].busy_ns = at(30)
    apply(cluster, 5, DestroyInstance("gpu0", ""))
    cluster.fail(Failure(at(10), at(90), gpu="gpu0"))
    apply(cluster, 12, Release("gpu0", ""))
    assert cluster.gpu_seconds(0, at(60)) == 12
