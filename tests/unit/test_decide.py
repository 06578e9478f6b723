"""Which of the appraised plans is had: each sentence of the rule, and a reason for every outcome."""

from __future__ import annotations

from itertools import permutations

import pytest

from partita.controller.decide import choose
from partita.model.plan import Appraisal, Objective, Plan

OBJECTIVE = Objective(margin=0.02)
NO_PLAN = Plan((), (), ())


def plan(
    label: str,
    cost: float = 1.0,
    *,
    change: float = 0.0,
    shortfall: float = 0.0,
    commands: int = 0,
    rejected: str = "",
    good: float = 0.995,
    worst: str = "bert",
    gpus: int = 1,
) -> Appraisal:
    return Appraisal(label, NO_PLAN, gpus, good, 0.001, shortfall, worst, cost, change, commands, rejected=rejected)


STANDING = plan("standing")
MISSING = plan("standing", shortfall=0.05, good=0.9)


@pytest.mark.parametrize(
    ("standing", "others", "chosen", "reason"),
    [
        # First come attainment targets: who meets them beats who does not, at any price.
        (MISSING, [plan("more", 9.0)], "more", "standing plan misses bert's target in rehearsal (90.00 % good in all)"),
        (MISSING, [plan("more", 9.0)], "more", "more meets every target"),
        (STANDING, [plan("less", 0.1, shortfall=0.001)], "standing", "less misses bert's target"),
        # If none meets them, who misses least; the standing plan if no one misses less.
        (
            MISSING,
            [plan("a", shortfall=0.02, good=0.95), plan("b", 0.1, shortfall=0.04)],
            "a",
            "a misses less (95.",
        ),
        (MISSING, [plan("a", 0.1, shortfall=0.05)], "standing", "no candidate does better"),
        (MISSING, [plan("a", 0.1, shortfall=0.06)], "standing", "no candidate does better"),
        # Among plans that meet them the cheapest wins …
        (
            STANDING,
            [plan("a", 0.8), plan("b", 0.7), plan("c", 0.9)],
            "b",
            "b meets every target in rehearsal and costs",
        ),
        (MISSING, [plan("a", 2.0), plan("b", 1.5)], "b", "b meets every target"),
        (STANDING, [plan("a", 0.5, shortfall=0.1), plan("b", 0.8)], "b", "costs 0.2 less an epoch"),
        # … the cost of the change included …
        (STANDING, [plan("a", 0.6, change=0.3), plan("b", 0.8)], "b", "b meets"),
        (STANDING, [plan("a", 0.6, change=0.5)], "standing", "a would save nothing (-0.1)"),
        # … if it saves more than the margin, 0.02 of the standing cost of 1.
        (STANDING, [plan("a", 0.97)], "a", "costs 0.03 less"),
        (STANDING, [plan("a", 0.99)], "standing", "would save too little (+0.01)"),
        # Ties go to fewer commands, then to the label.
        (STANDING, [plan("a", 0.5, commands=3), plan("b", 0.5, commands=2)], "b", "b meets"),
        (STANDING, [plan("b", 0.5, commands=2), plan("a", 0.5, commands=2)], "a", "a meets"),
        # What is rejected is not had, and its reason is kept.
        (STANDING, [plan("a", 0.1, rejected="too little memory")], "standing", "a: too little memory"),
        (MISSING, [plan("a", rejected="no"), plan("b", shortfall=0.04)], "b", "b misses less"),
        (STANDING, [], "standing", "no plugin asks for a change"),
    ],
)
def test_choice(standing: Appraisal, others: list[Appraisal], chosen: str, reason: str) -> None:
    best, why = choose(standing, others, OBJECTIVE)
    assert best.label == chosen
    assert reason in why


def test_the_order_of_candidates_does_not_matter() -> None:
    others = [
        plan("a", 0.7, change=0.1, commands=4),
        plan("b", 0.8, commands=4),
        plan("c", 0.8, commands=2),
        plan("d", 0.1, rejected="vetoed"),
        plan("e", 0.2, shortfall=0.01),
    ]
    for standing in (STANDING, MISSING):
        picked = {choose(standing, list(order), OBJECTIVE)[0].label for order in permutations(others)}
        assert picked == {"c"}


def test_a_plan_chosen_once_is_not_left_for_the_one_before() -> None:
    """With a cost of change and a margin, what was left does not look better from the other side."""
    cheap, dear = plan("cheap", 0.95), plan("dear", 1.0)
    assert choose(dear, [cheap], OBJECTIVE)[0] is cheap
    assert choose(cheap, [dear], OBJECTIVE)[0] is cheap
    near, nearer = plan("near", 1.0), plan("nearer", 0.985)
    assert choose(near, [nearer], OBJECTIVE)[0] is near
    assert choose(nearer, [near], OBJECTIVE)[0] is nearer


def test_the_margin_works_where_a_bonus_makes_costs_negative() -> None:
    standing, others = plan("standing", -1.0), [plan("a", -1.0), plan("b", -1.01), plan("worse", -0.99)]
    assert choose(standing, others, OBJECTIVE)[0] is standing
    assert choose(standing, [plan("a", -1.03)], OBJECTIVE)[0].label == "a"


def test_nothing_is_said_of_a_rehearsal_that_was_not() -> None:
    """Without recent requests nobody is rehearsed, and the cheapest plan is had for that reason."""
    standing, less = plan("standing", good=1.0, worst=""), plan("less", 0.5, good=1.0, worst="")
    best, why = choose(standing, [less], OBJECTIVE)
    assert best is less
    assert "meets every target" not in why
    assert "no recent request" in why
    best, why = choose(standing, [plan("more", 2.0, good=1.0, worst="")], OBJECTIVE)
    assert best is standing
    assert "no recent request" in why


def test_plans_on_the_same_gpus_must_miss_clearly_less() -> None:
    """Two batchings that are as good in rehearsal must not take turns; the margin is 0.02 of what is missed.

    Two errors of the rehearsal are 0.002.
    """
    one, other, better = plan("one", shortfall=0.1), plan("other", shortfall=0.0985), plan("better", shortfall=0.0975)
    assert choose(one, [other], OBJECTIVE)[0] is one
    assert choose(other, [one], OBJECTIVE)[0] is other
    assert choose(one, [other, better], OBJECTIVE)[0] is better
    more = plan("more", 2.0, shortfall=0.0985, gpus=2)
    assert choose(one, [more], OBJECTIVE)[0] is more
    assert choose(one, [plan("meets")], OBJECTIVE)[0].label == "meets"
    assert choose(plan("near", shortfall=0.01), [plan("nearer", shortfall=0.0085)], OBJECTIVE)[0].label == "near"


def test_a_batching_that_is_hardly_better_keeps_no_gpu_back() -> None:
    """More GPUs miss less, a batching least of all, but not clearly: it must not stand in the others' way."""
    standing, more = plan("standing", shortfall=0.1), plan("more", 2.0, shortfall=0.0990, gpus=2)
    batching = plan("batching", shortfall=0.0985)
    assert choose(standing, [more], OBJECTIVE)[0] is more
    assert choose(standing, [more, batching], OBJECTIVE)[0] is more
    best, why = choose(standing, [batching], OBJECTIVE)
    assert best is standing
    assert "no candidate does better" in why
    assert choose(standing, [more, plan("clear", shortfall=0.0975)], OBJECTIVE)[0].label == "clear"


def test_a_batching_that_meets_every_target_is_had_before_more_gpus() -> None:
    batching, more = plan("batching"), plan("more", 2.0, change=0.1, gpus=2)
    assert choose(MISSING, [more, batching], OBJECTIVE)[0] is batching
    assert choose(STANDING, [batching], OBJECTIVE)[0] is STANDING
