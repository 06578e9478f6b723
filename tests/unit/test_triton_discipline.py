"""The triton discipline on cases worked by hand; a batch of b takes L(b) = 1·b + 5 ms, and there are no overheads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from miniature import BUILT_IN, gpus, service
from unit.test_disciplines import MS, Case, batches, finish_ms, serve

from partita.controller.reconcile import Wishes, build
from partita.errors import ConfigError
from partita.model.cluster import Batching, OptionValue
from partita.model.load import Arrivals
from partita.model.service import LatencyCurve
from partita.model.staggered import NO_OVERHEADS
from partita.ports import Served
from partita.replay.disciplines import Timeout, Triton
from partita.replay.pools import PoolMaker
from partita.replay.rehearsal import Rehearser

TWO = Case(max_batch=8, slo_ms=[100, 100])
NOBODY = np.empty(0, np.int64)


def serve_apart(
    settings: Sequence[dict[str, OptionValue]], *arrivals_ms: Sequence[float], case: Case = TWO, **common: str | float
) -> Served:
    """Serve with settings of each service's own."""

    class Apart(Triton):
        def advance(self, state: Any, arrivals: Any, pool: Any, until_ns: int) -> Any:
            own = tuple({**common, **mine} for mine in settings)
            return super().advance(state, arrivals, replace(pool, by_service=own), until_ns)

    return serve(Apart(), *arrivals_ms, case=case)


def test_a_batch_is_settled_when_it_is_taken_though_the_device_is_busy() -> None:
    # a: taken at 0, runs 0-6. b: taken at 1 with one request, runs 6-12; the ones of 2 and 3 wait for its model
    # instance until 12. When the device is free, at 6, a forms a batch of two (2 and 4), which runs 12-19.
    served = serve(Triton(), [0, 2, 4], [1, 2, 3], case=TWO)
    assert batches(served) == [(10, 0, 1, 0), (10, 1, 1, 6), (10, 0, 2, 12), (10, 1, 2, 19)]
    assert finish_ms(served) == [6, 19, 19, 12, 26, 26]
    # Batches formed when the device is free hold what has come by then.
    assert batches(serve(Timeout(), [0, 2, 4], [1, 2, 3], case=TWO)) == [(10, 0, 1, 0), (10, 1, 3, 6), (10, 0, 2, 14)]


def test_more_model_instances_take_more_small_batches() -> None:
    # The second instance takes the request of 1 at once: 6-12. The first is free at 6 and takes the ones of 2 and 3.
    served = serve(Triton(), [0, 1, 2, 3], case=Case(max_batch=8), instances=2)
    assert batches(served) == [(10, 0, 1, 0), (10, 0, 1, 6), (10, 0, 2, 12)]
    served = serve(Triton(), [0, 1, 2, 3], case=Case(max_batch=8))
    assert batches(served) == [(10, 0, 1, 0), (10, 0, 3, 6)]


def test_a_batch_goes_when_it_is_full_or_its_oldest_request_is_old_enough() -> None:
    case = Case(max_batch=3)
    assert batches(serve(Triton(), [0, 1, 2], case=case, timeout_ms=4.0)) == [(10, 0, 3, 2)]
    assert batches(serve(Triton(), [0, 1], case=case, timeout_ms=4.0)) == [(10, 0, 2, 4)]
    # Age runs while the model instance is taken: at 6 the request of 1 is old enough.
    assert batches(serve(Triton(), [0, 1], case=case)) == [(10, 0, 1, 0), (10, 0, 1, 6)]
    assert batches(serve(Triton(), [0, 5], case=case, timeout_ms=4.0)) == [(10, 0, 1, 4), (10, 0, 1, 10)]


def test_each_service_has_settings_of_its_own() -> None:
    # a waits 3 ms for a batch; b goes at once, with one model instance more: at 1 and 2, each behind the one before.
    served = serve_apart([{"timeout_ms": 3.0}, {"instances": 2}], [0, 1], [1, 2])
    assert batches(served) == [(10, 1, 1, 1), (10, 1, 1, 7), (10, 0, 2, 13)]


def test_what_has_waited_for_too_long_is_rejected_when_its_turn_comes() -> None:
    # The model instance is free at 11 (L(6)). The request of 1 has waited 10 by then, that of 2 only 9.
    arrivals = [0, 0, 0, 0, 0, 0, 1, 2]
    assert finish_ms(serve(Triton(), arrivals, case=Case(max_batch=6)))[6:] == [18, 18]
    late: dict[str, str | float] = {"queue_policy": "reject", "queue_timeout_ms": 10.0}
    assert finish_ms(serve(Triton(), arrivals, case=Case(max_batch=6), **late))[6:] == [-1, 17]
    # Without a limit of its own it is the SLO, 25 ms.
    assert finish_ms(serve(Triton(), arrivals, case=Case(max_batch=6), queue_policy="reject"))[6:] == [18, 18]
    tight = Case(max_batch=6, slo_ms=[10])
    assert finish_ms(serve(Triton(), arrivals, case=tight, queue_policy="reject"))[6:] == [-1, 17]
    # The same holds for the timeout discipline, where the instance is free at 11.
    assert finish_ms(serve(Timeout(), arrivals, case=Case(max_batch=6), **late))[6:] == [-1, 17]


def test_inputs_move_while_a_batch_waits_in_line() -> None:
    # a: 0 + control 1 + data 2, runs 3-9. b is taken at 1, its inputs are there at 4: it runs at 9, not at 12.
    served = serve(Triton(), [0], [1], case=replace(TWO, control_ms=1, data_ms=2))
    assert batches(served) == [(10, 0, 1, 3), (10, 1, 1, 9)]


def test_a_model_instance_is_taken_for_a_turnaround_after_its_batch() -> None:
    assert batches(serve(Triton(), [0, 1], case=Case(), turnaround_ms=2.0)) == [(10, 0, 1, 0), (10, 0, 1, 8)]


def test_one_queue_feeds_the_model_instances_of_all_devices() -> None:
    case = Case(free_ms=[0, 0], max_batch=8)
    # 10 takes the first, 11 the second; the third and fourth ride on 10, which is free at 6.
    assert batches(serve(Triton(), [0, 1, 2, 3], case=case)) == [(10, 0, 1, 0), (11, 0, 1, 1), (10, 0, 2, 6)]
    # At 20 both are idle: the lowest number, or the one idle for longest (11 was never taken).
    assert batches(serve(Triton(), [0, 20], case=case)) == [(10, 0, 1, 0), (10, 0, 1, 20)]
    assert batches(serve(Triton(), [0, 20], case=case, gpu_choice="earliest")) == [(10, 0, 1, 0), (11, 0, 1, 20)]


def test_a_device_that_is_not_there_yet_takes_nothing() -> None:
    """What is taken is settled: a batch must not wait for a device that loads its models."""
    assert batches(serve(Triton(), [0, 1], case=Case(free_ms=[1000, 4]))) == [(11, 0, 2, 4)]
    discipline, state = Triton(), Triton().initial_state(1)
    pool = Case(free_ms=[0, 0]).pool({})
    state, _ = discipline.advance(state, Arrivals.empty(1), pool, 10 * MS)
    pool.free_at_ns[0] = 50 * MS  # models load there
    arrivals = Arrivals(np.array([20 * MS, 21 * MS]), np.array([0, 2]), np.zeros(2, np.float32))
    state, served = discipline.advance(state, arrivals, pool, 40 * MS)
    assert batches(served) == [(11, 0, 1, 20), (11, 0, 1, 26)]
    arrivals = Arrivals(np.array([45 * MS, 51 * MS, 52 * MS]), np.array([0, 3]), np.zeros(3, np.float32))
    _, served = discipline.advance(state, arrivals, pool, 100 * MS)
    assert batches(served) == [(11, 0, 1, 45), (10, 0, 1, 51), (11, 0, 1, 52)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("instances", 0),
        ("instances", 1.5),
        ("instances", 65),
        ("instances", "two"),
        ("instances", True),
        ("queue_policy", "delay"),
        ("queue_timeout_ms", -1.0),
        ("queue_timeout_ms", float("inf")),
        ("timeout_ms", float("nan")),
        ("turnaround_ms", "none"),
        ("gpu_choice", "random"),
    ],
)
def test_a_wrong_parameter_is_named(key: str, value: str | float) -> None:
    wrong: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError, match=f"discipline.{key}: {value!r} is no"):
        serve(Triton(), [0], **wrong)


@pytest.mark.parametrize("key", ["gpu_choice", "turnaround_ms"])
def test_what_devices_share_cannot_differ_by_service(key: str) -> None:
    one, other = {"gpu_choice": ("min-id", "earliest"), "turnaround_ms": (0.0, 1.0)}[key]
    with pytest.raises(ConfigError, match=f"discipline.{key}: .* have different ones"):
        serve_apart([{key: one}, {key: other}], [0], [0])


# From a plan ---------------------------------------------------------------------------------------------------------

SERVICES = (service("a", slo_ms=50.0), service("b", slo_ms=80.0))


def refusal(*batching: Batching) -> str:
    wishes = Wishes({g.id: None for g in gpus(1)}, {s.name: b for s, b in zip(SERVICES, batching, strict=True)})
    return Rehearser(SERVICES, NO_OVERHEADS, BUILT_IN).refusal(build(1, wishes, SERVICES, gpus(1), [1.0, 1.0], ""))


def test_services_that_share_instances_may_batch_differently_where_the_discipline_says_so() -> None:
    reject = (("queue_policy", "reject"), ("queue_timeout_ms", 20.0))
    for name in ("timeout", "triton"):
        assert refusal(Batching(name, 0.002, 4), Batching(name, 0.005, 8, reject)) == ""
        assert "batch alike" in refusal(Batching(name), Batching("eager"))
    assert "'none' is no" in refusal(Batching("triton"), Batching("triton", options=(("instances", "none"),)))
    assert "different ones" in refusal(Batching("timeout"), Batching("timeout", options=(("gpu_choice", "earliest"),)))
    for name in ("deferred", "eager"):
        assert refusal(Batching(name, max_batch=3), Batching(name, max_batch=4)) == ""
        assert "batch alike" in refusal(Batching(name), Batching(name, options=(("drop", "timeout"),)))


def test_a_pool_has_each_services_parameters_and_largest_batch() -> None:
    # L(b) = b + 9: half of the SLO of 80 ms holds 31. What triton is set to it runs, up to the curve's end, 64.
    wishes = Wishes(
        {"gpu0": None}, {"a": Batching("triton", 0.002, 60, (("instances", 2),)), "b": Batching("triton", 0.004)}
    )
    plan = build(1, wishes, SERVICES, gpus(1), [1.0, 1.0], "")
    pool = PoolMaker(SERVICES, NO_OVERHEADS).pool(plan.sub_clusters[0], NOBODY, NOBODY)
    assert pool.by_service == ({"instances": 2, "timeout_ms": 2.0}, {"timeout_ms": 4.0})
    assert pool.max_batch.tolist() == [60, 31]
    more = replace(plan.sub_clusters[0], batching=(Batching("triton", 0.0, 500), Batching("triton", 0.0, 500)))
    made = PoolMaker(SERVICES, NO_OVERHEADS).pool(more, NOBODY, NOBODY)
    assert made.max_batch.tolist() == [64, 64]
    table = LatencyCurve.linear(1.0, 9.0, up_to=64).table_ns(64)
    np.testing.assert_array_equal(made.latency_ns[0, : len(table)], table)
