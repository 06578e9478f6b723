"""From what plugins suggest to complete plans."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from miniature import cut, gpus, service

from partita.controller.reconcile import Candidate, Wishes, build, candidates
from partita.controller.standing import wishes_of
from partita.model.cluster import Batching
from partita.model.plan import Batchings, Capacity, Geometries, Placement, Plan, Proposal, Shares, feasible, same
from partita.model.service import Service

INVENTORY = gpus(4)
SMALL = (service("a"), service("b"), service("c"))
DEFERRED = Batching("deferred")
WISHES = Wishes({g.id: None for g in INVENTORY}, dict.fromkeys(("a", "b", "c", "big", "huge", "vast"), DEFERRED))
BIG = (service("a"), service("big", memory_gib=45.0), service("huge", memory_gib=50.0))
"""On 80 GiB, big and huge must live apart; a goes with huge, which is packed first."""


def say(name: str, gpus: int, *alternatives: int, firm: bool = False) -> tuple[str, Proposal]:
    return name, Proposal(Capacity(gpus, alternatives, firm), f"{name} says so")


def propose(
    *proposals: tuple[str, Proposal],
    standing: int = 2,
    services: Sequence[Service] = SMALL,
    rates: Sequence[float] = (1, 1, 1),
) -> list[Candidate]:
    stands = build(standing, WISHES, services, INVENTORY, rates, "stands")
    return candidates(proposals, WISHES, services, INVENTORY, rates, stands)


def numbers(found: Sequence[Candidate]) -> list[int]:
    return [len(c.plan.gpus) for c in found]


def groups(plan: Plan) -> list[tuple[tuple[str, ...], int]]:
    return [(g.services, len(g.instances)) for g in plan.sub_clusters]


# Capacity ----------------------------------------------------------------------------------------------------------


def test_each_number_of_gpus_is_a_candidate_but_the_standing_one() -> None:
    found = propose(say("p", 3, 4, 2), say("q", 1, 3))
    assert numbers(found) == [3, 4, 1]
    assert [c.label for c in found] == ["p: 3 GPUs", "p: 4 GPUs", "q: 1 GPU"]
    assert [c.plan.reason for c in found] == ["p says so", "p says so", "q says so"]
    assert [h.gpu for h in found[0].plan.gpus] == ["gpu0", "gpu1", "gpu2"]
    for candidate in found:
        assert feasible(candidate.plan, SMALL, INVENTORY) == ()


def test_wishes_beyond_the_cluster_are_brought_back_into_it() -> None:
    assert numbers(propose(say("p", 99))) == [4]
    assert numbers(propose(say("p", 0))) == [1]


def test_without_an_opinion_the_number_stays() -> None:
    assert propose() == []
    other = Wishes(WISHES.geometry, {**WISHES.batching, "a": Batching("eager")})
    stands = build(2, WISHES, SMALL, INVENTORY, [1, 1, 1], "")
    found = candidates([], other, SMALL, INVENTORY, [1, 1, 1], stands)
    assert numbers(found) == [2]
    assert "no plugin asks for another number" in found[0].plan.reason


def test_a_firm_wish_covers_its_number_only() -> None:
    found = propose(say("p", 3, 4, firm=True))
    assert [(len(c.plan.gpus), c.firm) for c in found] == [(3, True), (4, False)]


def test_a_firm_wish_is_kept_firm_whoever_else_wants_its_number() -> None:
    for proposals in ([say("p", 3), say("q", 3, firm=True)], [say("p", 3, firm=True), say("q", 3)]):
        found = propose(*proposals)
        assert [(len(c.plan.gpus), c.firm) for c in found] == [(3, True)]


def test_a_firm_wish_for_what_stands_leaves_nothing_to_weigh() -> None:
    assert propose(say("p", 4), say("q", 2, firm=True)) == []
    assert [c.firm for c in propose(say("p", 4, firm=True), say("q", 2, firm=True))] == [True]


def test_no_fewer_gpus_than_the_services_memory_needs() -> None:
    """A smaller plan could serve nobody; without this, a policy that wants one GPU would be refused for ever."""
    found = propose(say("p", 1), standing=4, services=BIG)
    assert numbers(found) == [2]
    assert found[0].plan.reason == "p says so (2 GPUs at least, for the services to fit)"
    assert feasible(found[0].plan, BIG, INVENTORY) == ()


def test_what_fits_nowhere_is_asked_for_as_it_is_and_refused_later() -> None:
    vast = (service("vast", memory_gib=500.0),)
    found = propose(say("p", 1), services=vast, rates=[1.0])
    assert numbers(found) == [1]
    assert {v.rule for v in feasible(found[0].plan, vast, INVENTORY)} == {"memory"}


# Groups ------------------------------------------------------------------------------------------------------------


def test_all_live_together_where_they_fit() -> None:
    assert groups(build(3, WISHES, SMALL, INVENTORY, [1, 1, 1], "")) == [(("a", "b", "c"), 3)]


def test_what_does_not_fit_is_packed_largest_first() -> None:
    plan = build(4, WISHES, BIG, INVENTORY, [1.0, 2.0, 1.0], "")
    assert groups(plan) == [(("a", "huge"), 2), (("big",), 2)]
    assert [(r.service, r.sub_cluster) for r in plan.routes] == [("a", "group0"), ("big", "group1"), ("huge", "group0")]


@pytest.mark.parametrize(
    ("rates", "shares"),
    [([3.0, 1.0, 0.0], [3, 1]), ([0.0, 1.0, 0.0], [1, 3]), ([0, 0, 0], [3, 1]), ([1.0, 1.0, 0.0], [2, 2])],
)
def test_instances_are_shared_out_by_rate_with_one_each(rates: list[float], shares: list[int]) -> None:
    plan = build(4, WISHES, BIG, INVENTORY, rates, "")
    assert [len(g.instances) for g in plan.sub_clusters] == shares
    used = [i.id for g in plan.sub_clusters for i in g.instances]
    assert used == [g.id for g in INVENTORY]


def test_noise_in_the_rates_does_not_move_instances_to_and_fro() -> None:
    """Moving an instance costs a load of models; three instances between two equal groups have no better share."""
    plan = build(3, WISHES, BIG, INVENTORY, [1.0, 1.0, 0.0], "")
    for rates in ([0.97, 1.03, 0.0], [1.03, 0.97, 0.0]):
        assert candidates([say("p", 3)], WISHES, BIG, INVENTORY, rates, plan) == []


def test_a_shift_of_load_does_move_instances() -> None:
    plan = build(4, WISHES, BIG, INVENTORY, [1.0, 1.0, 0.0], "")
    found = candidates([say("p", 4)], WISHES, BIG, INVENTORY, [1.0, 0.2, 0.0], plan)
    assert [groups(c.plan) for c in found] == [[(("a", "huge"), 3), (("big",), 1)]]


def test_instances_stay_in_their_group_when_gpus_come_and_go() -> None:
    """An instance that changes groups has models to load, however few GPUs are added."""

    def members(plan: Plan) -> list[list[str]]:
        return [[i.id for i in g.instances] for g in plan.sub_clusters]

    rates = [1.0, 1.0, 0.0]
    two = build(2, WISHES, BIG, INVENTORY, rates, "")
    three = build(3, WISHES, BIG, INVENTORY, rates, "", two)
    four = build(4, WISHES, BIG, INVENTORY, rates, "", three)
    assert members(two) == [["gpu0"], ["gpu1"]]
    assert members(three) == [["gpu0", "gpu2"], ["gpu1"]]
    assert members(four) == [["gpu0", "gpu2"], ["gpu1", "gpu3"]]
    back = build(3, WISHES, BIG, INVENTORY, [0.2, 1.0, 0.0], "", four)
    assert members(back) == [["gpu0"], ["gpu1", "gpu3"]]


def test_a_placement_is_followed() -> None:
    wishes = WISHES.updated([("p", Proposal(Placement(((("b", "a"), 1.0), (("c",), 3.0))), "apart"))])
    plan = build(4, wishes, SMALL, INVENTORY, [9, 9, 9], "")
    assert groups(plan) == [(("a", "b"), 1), (("c",), 3)]


# Wishes ------------------------------------------------------------------------------------------------------------


def test_wishes_stay_until_another_is_voiced() -> None:
    sevenths = cut("7x1g.10gb")
    first = WISHES.updated([("p", Proposal(Geometries((("gpu1", sevenths),)), ""))])
    then = first.updated([("p", Proposal(Batchings((("b", Batching("timeout", 0.01)),)), ""))])
    plan = build(2, then, SMALL, INVENTORY, [1, 1, 1], "")
    assert [h.geometry for h in plan.gpus] == [None, sevenths]
    assert len(plan.sub_clusters[0].instances) == 8
    assert [b.discipline for b in plan.sub_clusters[0].batching] == ["deferred", "timeout", "deferred"]
    assert then.updated([say("p", 3), ("q", Proposal(Shares((("a", "whole", 50.0),)), ""))]) == then
    assert WISHES.geometry["gpu1"] is None


def test_the_last_by_name_stands() -> None:
    eager, timeout = (Proposal(Batchings((("a", Batching(d)),)), "") for d in ("eager", "timeout"))
    assert WISHES.updated([("p", eager), ("q", timeout)]).batching["a"].discipline == "timeout"


def test_plans_are_the_same_whatever_their_reasons() -> None:
    plan = build(2, WISHES, SMALL, INVENTORY, [1, 1, 1], "one")
    assert same(plan, build(2, WISHES, SMALL, INVENTORY, [1, 1, 1], "other"))
    assert not same(plan, build(3, WISHES, SMALL, INVENTORY, [1, 1, 1], "one"))


# Batchings that are weighed ----------------------------------------------------------------------------------------

EAGER = tuple((n, Batching("eager")) for n in "abc")
LARGE = tuple((n, Batching("deferred", max_batch=32)) for n in "abc")


def batch(name: str, *alternatives: tuple[tuple[str, Batching], ...], firm: bool = False) -> tuple[str, Proposal]:
    return name, Proposal(Batchings(EAGER, alternatives, firm), "batches are too small")


def disciplines(found: Sequence[Candidate]) -> list[tuple[str, int, str]]:
    return [(c.label, len(c.plan.gpus), c.plan.sub_clusters[0].batching[0].discipline) for c in found]


def test_a_batching_that_is_not_firm_is_a_candidate_and_no_wish() -> None:
    found = propose(batch("t", LARGE))
    assert disciplines(found) == [("t: batching", 2, "eager"), ("t: batching 2", 2, "deferred")]
    assert found[1].plan.sub_clusters[0].batching[0].max_batch == 32
    assert [c.plan.reason for c in found] == ["batches are too small"] * 2
    assert WISHES.updated([batch("t", LARGE)]) == WISHES


def test_alternatives_of_a_firm_batching_are_weighed_too() -> None:
    wishes = WISHES.updated([batch("t", LARGE, firm=True)])
    assert wishes.batching["a"] == Batching("eager")
    stands = build(2, WISHES, SMALL, INVENTORY, [1, 1, 1], "stands")
    found = candidates([batch("t", LARGE, firm=True)], wishes, SMALL, INVENTORY, [1, 1, 1], stands)
    assert disciplines(found) == [("standing: 2 GPUs", 2, "eager"), ("t: batching", 2, "deferred")]


def test_a_batching_is_weighed_on_the_numbers_of_gpus_asked_for() -> None:
    found = propose(say("p", 1, 4), batch("t"))
    assert disciplines(found) == [
        ("p: 1 GPU", 1, "deferred"),
        ("p: 4 GPUs", 4, "deferred"),
        ("t: batching", 2, "eager"),
        ("t: batching, 1 GPU", 1, "eager"),
    ]
    assert found[-1].plan.reason == "p says so; batches are too small"


def test_a_batching_that_stands_already_is_no_candidate() -> None:
    stands = build(2, WISHES.batched(EAGER), SMALL, INVENTORY, [1, 1, 1], "stands")
    found = candidates([batch("t", EAGER)], WISHES.batched(EAGER), SMALL, INVENTORY, [1, 1, 1], stands)
    assert found == []
    assert disciplines(propose(batch("t", EAGER), batch("u"))) == [("t: batching", 2, "eager")]


def test_a_firm_number_that_stands_leaves_batching_to_weigh() -> None:
    assert disciplines(propose(say("p", 2, 3, firm=True), batch("t"))) == [("t: batching", 2, "eager")]
    assert [c.label for c in propose(say("p", 3, firm=True), batch("t"))] == ["p: 3 GPUs"]


def test_what_was_chosen_is_part_of_later_plans() -> None:
    chosen = propose(batch("t"))[0].plan
    wishes = wishes_of(chosen, WISHES)
    later = candidates([say("p", 3)], wishes, SMALL, INVENTORY, [1, 1, 1], chosen)
    assert disciplines(later) == [("p: 3 GPUs", 3, "eager")]
