"""The tuner: batches just large enough, waits that SLOs allow, rejection of what is too late, and when it is silent.

Unless a test says otherwise a batch of b takes L(b) = 1·b + 9 ms, and there are no overheads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import BUILT_IN, SECOND, Stage, gpus, make_loop, random_instants, service

from partita.controller.reconcile import Wishes, build
from partita.model.cluster import Batching, OptionValue
from partita.model.load import Arrivals
from partita.model.plan import Batchings, Plan, Proposal
from partita.model.service import Bucket, LatencyCurve, Service
from partita.model.staggered import NO_OVERHEADS, Overheads
from partita.plugins import tuner
from partita.plugins.kit import check_plugin, example_forecast, example_observation, example_ticks
from partita.replay.rehearsal import Rehearser

A, B = service("a"), service("b", slo_ms=60.0)
INVENTORY = gpus(4)
MEDIAN = 14 / 15
"""The example forecast's median lies this far above its rate, at 1/5 spread over four levels."""
TRITON = Batching("triton")
SIZED = Service.measured(
    "sized",
    0.1,
    0.99,
    2.0,
    [
        replace(LatencyCurve.linear(1.0, 9.0, up_to=64), bucket=Bucket(0.0, 8.0)),
        replace(LatencyCurve.linear(2.0, 18.0, up_to=64), bucket=Bucket(8.0, inf)),
    ],
)


def stands(services: Sequence[Service], *batching: Batching, held: int = 1) -> Plan:
    wishes = Wishes({g.id: None for g in INVENTORY}, {s.name: b for s, b in zip(services, batching, strict=True)})
    return build(held, wishes, services, INVENTORY, [1.0] * len(services), "stands")


def propose(
    services: Sequence[Service],
    rates_rps: Sequence[float],
    standing: Plan,
    overheads: Overheads = NO_OVERHEADS,
    now_s: float = 1000.0,
    memory: object = None,
    **options: OptionValue,
) -> Proposal | None:
    """Ask the tuner; the rates are those that it sees at its quantile."""
    near = example_forecast(services, [r / MEDIAN for r in rates_rps], made_at_s=now_s)
    seen = example_observation(services, [0.0] * len(services), standing, now_s=now_s)
    return tuner.propose_batching(services, seen, near, standing, overheads, {"quantile": 0.5, **options}, memory)


def wanted(services: Sequence[Service], rates_rps: Sequence[float], standing: Plan, **how: Any) -> list[Batching]:
    proposal = propose(services, rates_rps, standing, **how)
    assert proposal is not None
    assert isinstance(proposal.suggestion, Batchings)
    assert not proposal.suggestion.firm
    by_service = dict(proposal.suggestion.by_service)
    return [by_service[s.name] for s in services]


def variants(
    services: Sequence[Service], rates_rps: Sequence[float], standing: Plan, **how: Any
) -> list[list[Batching]]:
    """Return all that is proposed, each in the order of the services."""
    proposal = propose(services, rates_rps, standing, **how)
    assert proposal is not None
    assert isinstance(proposal.suggestion, Batchings)
    proposed = (proposal.suggestion.by_service, *proposal.suggestion.alternatives)
    return [[dict(by_service)[s.name] for s in services] for by_service in proposed]


def arrivals(rates_rps: Sequence[float]) -> Arrivals:
    """Return 20 s of random requests."""
    parts = [random_instants(rate, 20.0, seed) for seed, rate in enumerate(rates_rps, start=1)]
    offsets = np.cumsum([0, *map(len, parts)])
    return Arrivals(np.concatenate(parts), offsets, np.zeros(offsets[-1], np.float32))


def share_good(services: Sequence[Service], batching: Sequence[Batching], load: Arrivals) -> float:
    done = Rehearser(services, NO_OVERHEADS, BUILT_IN).rehearse(stands(services, *batching), load, 20 * SECOND)
    return float(done.good.sum() / done.offered.sum())


def option(batching: Batching, key: str) -> Any:
    return dict(batching.options)[key]


def test_it_keeps_the_rules_of_the_hooks() -> None:
    assert check_plugin(tuner) == []
    ticks = [
        replace(
            tick,
            standing=replace(
                tick.standing,
                sub_clusters=tuple(replace(g, batching=(TRITON,) * 3) for g in tick.standing.sub_clusters),
            ),
        )
        for tick in example_ticks()
    ]
    assert check_plugin(tuner, ticks=ticks) == []


@pytest.mark.parametrize(("rate", "size"), [(10, 1), (80, 1), (81, 2), (400, 8), (500, 14)])
def test_batches_are_the_smallest_that_keep_the_instances_below_the_target(rate: float, size: int) -> None:
    # Load = rate·(b + 9)/b ms ≤ 0.8: at 80/s b = 1 (0.8 exactly), at 81 b = 2 (0.4455), at 400 b = 9 (0.8) … and at 500
    # b = 15 (0.8). The rates are a hair below, so that rounding does not decide.
    [batching] = wanted([A], [rate - 0.01], stands([A], TRITON))
    expected = next(b for b in range(1, 65) if (rate - 0.01) * (b + 9) / b / 1e3 <= 0.8)
    assert batching.max_batch == expected
    assert abs(expected - size) <= 1


@pytest.mark.parametrize(("mix", "size"), [((), 9), ((0.75, 0.25), 5), ((1.0, 0.0), 3)])
def test_batches_are_as_large_as_the_mix_of_sizes_asks_for(mix: tuple[float, ...], size: int) -> None:
    # Large ones take 2·(b + 9) ms, so that load is (2 | 1.25 | 1)·200·(b + 9)/b ms ≤ 0.8: b ≥ 9, 4.1, 3.
    service = replace(SIZED, mix=mix)
    [batching] = wanted([service], [200 - 0.01], stands([service], TRITON))
    assert batching.max_batch == size


def test_however_few_are_large_two_executions_of_theirs_must_fit_into_the_slo() -> None:
    # 4·(b + 9) ≤ 100 ends at 16; without them 900/s would need more.
    service = replace(SIZED, mix=(0.99, 0.01))
    [batching] = wanted([service], [900], stands([service], TRITON))
    assert batching.max_batch == 16


def test_two_executions_must_fit_into_the_slo() -> None:
    # 900/s would need b = 72 at 0.8·…; 2·(b + 9) ≤ 100 ends at 41. The instances are more than busy at 1100/s.
    [batching] = wanted([A], [1100], stands([A], TRITON))
    assert batching.max_batch == 41
    proposal = propose([A], [1100], stands([A], TRITON))
    assert proposal is not None
    assert "more than busy" in proposal.reason
    # With b, whose SLO is 60 ms: L_b + max(L_a, L_b) ≤ 60 and L_a + max ≤ 100.
    a, b = wanted([A, B], [900, 900], stands([A, B], TRITON, TRITON))
    assert a.max_batch is not None
    assert b.max_batch is not None
    longest = max(a.max_batch, b.max_batch) + 9
    assert b.max_batch + 9 + longest <= 60
    assert a.max_batch + 9 + longest <= 100
    assert longest + 1 + b.max_batch + 9 > 60 or longest + b.max_batch + 10 > 60


def test_batches_are_waited_for_as_long_as_they_take_to_gather() -> None:
    # 300/s need b = 6 (0.75); five more come in 5/300 s = 16.7 ms, in whole ms 16.
    [batching] = wanted([A], [300], stands([A], TRITON))
    assert (batching.max_batch, batching.timeout_s) == (6, 0.016)
    # At an SLO of 40 ms two executions (30 ms) leave 10.
    [batching] = wanted([service("a", slo_ms=40.0)], [300], stands([A], TRITON))
    assert (batching.max_batch, batching.timeout_s) == (6, 0.010)
    # Single requests wait for nobody.
    [batching] = wanted([A], [50], stands([A], Batching("triton", 0.02)))
    assert (batching.max_batch, batching.timeout_s) == (1, 0.0)


def test_what_can_no_longer_be_answered_in_time_is_rejected() -> None:
    # b = 6 runs 15 ms: 85 of 100 are left when it is taken.
    [alone] = wanted([A], [300], stands([A], Batching("timeout")))
    assert (option(alone, "queue_policy"), option(alone, "queue_timeout_ms")) == ("reject", 85.0)
    assert "instances" not in dict(alone.options)
    # On a shared device the other's batch may stand in front: 150·15/6 + 150·14/5 = 0.795, so that batches of 6 and 5
    # take 29 ms in all, and 71 of a's 100 ms and 31 of b's 60 are left. In these no fewer come.
    pair = wanted([A, B], [150, 150], stands([A, B], TRITON, TRITON))
    assert [b.max_batch for b in pair] == [6, 5]
    assert [option(b, "queue_timeout_ms") for b in pair] == [pytest.approx(71, abs=1), pytest.approx(31, abs=1)]
    # The way to the instance and back comes off.
    slower = Overheads(control_s=0.001, data_s=0.0005, response_s=0.002)
    [alone] = wanted([A], [300], stands([A], Batching("timeout")), overheads=slower)
    assert option(alone, "queue_timeout_ms") == 79.0  # 100 - 2 - 1 - 6·0.5 - 15


def test_a_second_model_instance_hides_the_way_to_the_instance() -> None:
    slower = Overheads(control_s=0.005)
    [alone] = wanted([A], [300], stands([A], TRITON), overheads=slower)
    assert option(alone, "instances") == 2
    assert option(wanted([A], [300], stands([A], TRITON))[0], "instances") == 1
    pair = wanted([A, B], [100, 100], stands([A, B], TRITON, TRITON), overheads=slower)
    assert [option(b, "instances") for b in pair] == [1, 1]


def test_instances_share_the_load() -> None:
    # 600/s on two instances are 300/s on each: b = 6, which gather from the one queue in 5/600 s.
    [batching] = wanted([A], [600], stands([A], TRITON, held=2))
    assert (batching.max_batch, batching.timeout_s) == (6, 0.008)


def test_what_else_is_set_stays() -> None:
    before = Batching("triton", options=(("gpu_choice", "earliest"), ("turnaround_ms", 0.5)))
    [batching] = wanted([A], [300], stands([A], before))
    assert option(batching, "gpu_choice") == "earliest"
    assert option(batching, "turnaround_ms") == 0.5


def test_other_disciplines_are_left_alone() -> None:
    assert propose([A], [300], stands([A], Batching("deferred"))) is None
    big, huge = service("big", memory_gib=45.0), service("huge", memory_gib=50.0)
    apart = stands([big, huge], Batching("deferred"), TRITON, held=2)
    proposal = propose([big, huge], [300, 300], apart)
    assert proposal is not None
    assert isinstance(proposal.suggestion, Batchings)
    for by_service in (proposal.suggestion.by_service, *proposal.suggestion.alternatives):
        assert [name for name, _ in by_service] == ["huge"]


def test_settings_near_those_in_force_change_nothing() -> None:
    [batching] = wanted([A], [300], stands([A], TRITON))
    assert propose([A], [300], stands([A], batching)) is None
    # 6 and 7 requests, 16 and 18 ms differ by less than a quarter; 400/s want 8 and more, which does not.
    assert propose([A], [330], stands([A], batching)) is None
    assert propose([A], [330], stands([A], batching), tolerance=0.0) is not None
    assert propose([A], [450], stands([A], batching)) is not None
    for other in (replace(batching, max_batch=None), replace(batching, options=()), replace(batching, timeout_s=0.0)):
        assert propose([A], [300], stands([A], other)) is not None


def test_under_overload_time_in_the_queue_keeps_rounds_short() -> None:
    # Two services of 350/s and 60 ms: with batches of b a round takes 2·(b + 9) ms, and 60 less that is what may be
    # waited. Of 0.35·(60 − 36) = 8.4 the ceiling is 9, the batch whose round takes 36 ms; 8 take 34, in which 9.1 come.
    pair = [service("a", slo_ms=60.0), service("b", slo_ms=60.0)]
    made = wanted(pair, [350, 350], stands(pair, TRITON, TRITON))
    assert [option(b, "queue_timeout_ms") for b in made] == [pytest.approx(24, abs=1)] * 2
    # A batch that is formed when the instance is free finishes an execution later: 0.35·(60 − 22) = 13.3 come in what
    # a batch of 13 leaves (22 ms).
    made = wanted(pair, [350, 350], stands(pair, Batching("timeout"), Batching("timeout")))
    assert [option(b, "queue_timeout_ms") for b in made] == [pytest.approx(37, abs=1)] * 2


def test_a_wait_ends_before_its_requests_are_rejected() -> None:
    """Requests as old as the limit are rejected: with a wait as long, so is every batch that does not fill.

    At 25/s, 3 requests gather in 80 ms; in a round of three services, L(b) = b + 20 ms, at most 26 of 90 ms are left.
    """
    three = [service(n, slo_ms=90.0, beta_ms=20.0) for n in "abc"]
    load = arrivals([25.0] * 3)
    for variant in variants(three, [25.0] * 3, stands(three, TRITON, TRITON, TRITON))[:2]:
        for batching in variant:
            assert batching.timeout_s * 1e3 == pytest.approx(option(batching, "queue_timeout_ms") - 2)
        assert share_good(three, variant, load) > 0.8


def test_a_short_slo_is_left_a_queue() -> None:
    """A tenth of 8 ms is less than the shortest limit, and a limit of 0 rejects everything."""
    three = [service(n, slo_ms=8.0, alpha_ms=0.1, beta_ms=3.0) for n in "abc"]
    for variant in variants(three, [25.0] * 3, stands(three, TRITON, TRITON, TRITON)):
        assert [option(b, "queue_timeout_ms") for b in variant] == [1.0] * 3
        assert share_good(three, variant, arrivals([25.0] * 3)) > 0.9
    # 3.1 ms of 4.0 leave less than one.
    short = [service("a", slo_ms=4.0, alpha_ms=0.1, beta_ms=3.0)]
    assert propose(short, [25.0], stands(short, TRITON)) is None
    assert propose([service("a", slo_ms=4.2, alpha_ms=0.1, beta_ms=3.0)], [25.0], stands(short, TRITON)) is not None


def test_a_change_stands_for_a_while() -> None:
    first = propose([A], [300], stands([A], TRITON))
    assert first is not None
    for chosen in variants([A], [300], stands([A], TRITON)):
        changed = stands([A], *chosen)
        # 340/s on one instance are less than a quarter more than 300; tolerance 0 sees a difference.
        again = {"now_s": 1010.0, "tolerance": 0.0}
        assert propose([A], [340], changed, **again) is not None
        assert propose([A], [340], changed, memory=first.memory, **again) is None
        assert propose([A], [340], changed, memory=first.memory, **{**again, "now_s": 1060.0}) is not None
        assert propose([A], [340], changed, memory=first.memory, **again, hold_s=10.0) is not None
        # It was made for other loads.
        for rate in (400, 200):
            assert propose([A], [rate], changed, memory=first.memory, **again) is not None


def test_what_was_not_taken_up_is_proposed_again() -> None:
    first = propose([A], [300], stands([A], TRITON))
    assert first is not None
    again = propose([A], [300], stands([A], TRITON), now_s=1010.0, memory=first.memory)
    assert again is not None
    assert again.suggestion == first.suggestion
    assert again.memory != first.memory


def test_what_stood_before_a_proposal_is_no_change() -> None:
    """The variant that stands may be proposed again beside others; when those are not taken up, nothing has changed."""
    chosen = stands([A], *variants([A], [300], stands([A], TRITON))[-1])
    beside = propose([A], [300], chosen)
    assert beside is not None
    assert chosen.sub_clusters[0].batching[0] in [v[0] for v in variants([A], [300], chosen)]
    assert propose([A], [300], chosen, now_s=1010.0, memory=beside.memory) is not None


def test_groups_are_held_apart() -> None:
    big, huge = service("big", memory_gib=45.0), service("huge", memory_gib=50.0)
    both = [big, huge]
    standing = stands(both, TRITON, TRITON, held=2)
    first = propose(both, [300, 300], standing)
    assert first is not None
    assert isinstance(first.suggestion, Batchings)
    made = dict(first.suggestion.by_service)
    changed = stands(both, TRITON, made["huge"], held=2)
    again = propose(both, [300, 300], changed, now_s=1010.0, memory=first.memory, tolerance=0.0)
    assert again is not None
    assert isinstance(again.suggestion, Batchings)
    assert [name for name, _ in again.suggestion.by_service] == ["big"]


def test_a_surge_gets_limits_of_its_own_at_once() -> None:
    """Limits hold for the load they were made for: at four times that, batches are fuller, and what waited is late."""
    pair = [service("a", slo_ms=60.0), service("b", slo_ms=60.0)]
    shipped = stands(pair, Batching("timeout"), Batching("timeout"))
    first = propose(pair, [150, 150], shipped)
    assert first is not None
    largest = variants(pair, [150, 150], shipped)[-1]
    assert share_good(pair, largest, arrivals([150.0] * 2)) > 0.99
    surge = arrivals([600.0] * 2)
    now = {"now_s": 1010.0, "memory": first.memory}
    shorter = variants(pair, [600, 600], stands(pair, *largest), **now)[0]
    assert option(shorter[0], "queue_timeout_ms") < option(largest[0], "queue_timeout_ms")
    assert share_good(pair, shorter, surge) > share_good(pair, largest, surge) + 0.1


def test_larger_batches_are_worth_a_try() -> None:
    proposal = propose([A], [300], stands([A], TRITON))
    assert proposal is not None
    assert isinstance(proposal.suggestion, Batchings)
    [[(_, calmer)], [(_, at_once)], [(_, largest)]] = proposal.suggestion.alternatives
    assert (calmer.max_batch, calmer.timeout_s) == (9, 0.026)  # 300·18/9 = 0.6 = 0.75·0.8; 8 more come in 26.7 ms
    assert (at_once.max_batch, at_once.timeout_s) == (6, 0.0)
    assert (largest.max_batch, largest.timeout_s) == (41, 0.0)  # 2·(41 + 9) = 100


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 3000.0), st.integers(5, 400), st.floats(0.05, 4.0), st.floats(0.5, 20.0)),
        min_size=1,
        max_size=5,
    ),
    st.floats(0.05, 0.95),
    st.sampled_from(["timeout", "triton"]),
)
def test_settings_always_leave_time_for_two_executions(
    drawn: list[tuple[float, int, float, float]], utilisation: float, kind: str
) -> None:
    services = [service(f"s{n}", slo_ms=slo, alpha_ms=a, beta_ms=b) for n, (_, slo, a, b) in enumerate(drawn)]
    standing = stands(services, *[Batching(kind)] * len(services))
    proposal = propose(services, [d[0] for d in drawn], standing, utilisation=utilisation)
    if proposal is None:
        return
    assert isinstance(proposal.suggestion, Batchings)
    for by_service in (proposal.suggestion.by_service, *proposal.suggestion.alternatives):
        made = dict(by_service)
        run = {s.name: s.curves[0].latency_s(made[s.name].max_batch or 0) for s in services}
        grown = any(b.max_batch != 1 for b in made.values())
        for s in services:
            left = s.slo_s - run[s.name] - max(run.values())
            assert not grown or left >= -1e-9
            assert made[s.name].timeout_s <= max(left, 0.0) + 1e-9
            limit_ms = option(made[s.name], "queue_timeout_ms")
            assert 1.0 <= limit_ms <= (s.slo_s - s.curves[0].latency_s(1)) * 1e3 + 1e-6
            assert made[s.name].timeout_s == 0.0 or made[s.name].timeout_s * 1e3 <= limit_ms - 1.0
        assert Rehearser(services, NO_OVERHEADS, BUILT_IN).refusal(stands(services, *made.values())) == ""


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"goal": 0.5}, "goal: there is no such option"), ({"utilisation": 1.0}, "utilisation: 1.0 is not a number")],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, OptionValue], problem: str) -> None:
    assert problem in (tuner.check_options(options) or "")
    assert tuner.check_options({"utilisation": 0.6}) is None


@pytest.mark.parametrize(
    ("kind", "rate"), [("triton", 250.0), ("triton", 350.0), ("timeout", 350.0), ("timeout", 500.0)]
)
def test_rehearsal_prefers_what_it_proposes(kind: str, rate: float) -> None:
    """Small batches overload the instance, and without rejection everybody is answered too late."""
    services = [service("a", slo_ms=60.0), service("b", slo_ms=60.0)]
    load = arrivals([rate, rate])

    def good(*batching: Batching) -> float:
        return share_good(services, batching, load)

    small, shipped = Batching(kind, max_batch=4), Batching(kind)
    tuned = wanted(services, [rate, rate], stands(services, small, small))
    assert good(*tuned) > good(small, small) + 0.1
    assert good(*tuned) > good(shipped, shipped) + 0.1


def test_the_loop_takes_up_what_rehearsal_has_chosen_and_keeps_it() -> None:
    """Batches of four overload one instance; after the change nothing goes back, and later plans have it too."""
    pair = (service("a", slo_ms=60.0), service("b", slo_ms=60.0))
    loop = make_loop(pair, gpus(1), {"tuner": tuner}, batching=Batching("triton", max_batch=4))
    stage = Stage(loop, [random_instants(150.0, 120.0, seed) for seed in (1, 2)], span_s=120.0)
    decisions = [turn.decision for turn in stage.turns(11)]
    acted = [d for d in decisions if d.commands]
    assert [d.chosen.split(":")[0] for d in acted] == ["tuner"]
    standing = acted[0].candidates[0]
    assert standing.attainment is not None
    assert standing.attainment < 0.2
    [group] = stage.state.standing.sub_clusters
    assert stage.state.wishes.batching == dict(zip(group.services, group.batching, strict=True))
    last = decisions[-1].candidates[0]
    assert last.attainment is None or last.attainment > 0.9
    assert not any(c.label.startswith("standing: ") for d in decisions[-3:] for c in d.candidates)
