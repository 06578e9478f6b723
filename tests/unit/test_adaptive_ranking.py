"""What adaptive batching makes of its trials: who is in charge, and when the next trial is."""

from dataclasses import replace
from itertools import pairwise

import pytest

from partita.replay.disciplines.adaptive import CONFIRMED, LONGEST_PAUSE, Ranking


def learn(ranking: Ranking, own: float, **rivals: float) -> None:
    """Enter a trial; rivals are named ``r1``, ``r2`` …"""
    ranking.learn(own, {int(name[1:]): lost for name, lost in rivals.items()})


def test_a_rival_must_be_clearly_better() -> None:
    ranking = Ranking()
    learn(ranking, 0.10, r1=0.09, r3=0.20)
    assert ranking.leader == 0, "a tenth less is not clear"
    learn(ranking, 0.10, r1=0.02, r3=0.20)
    assert ranking.leader == 1
    assert ranking.worse[1] == 0.0
    assert ranking.worse[0] > 0, "what led before now stands behind"
    assert ranking.own == pytest.approx(0.051 - 0.3 * 0.08 - 0.7 * 0.3 * 0.01)


def test_the_first_rule_comes_back_where_it_would_do_as_well() -> None:
    ranking = Ranking(leader=3, own=0.0005, worse=[0.0002, 0.0, 0.0, 0.0, 0.0])
    learn(ranking, 0.0, r0=0.0, r1=0.0)
    assert ranking.leader == 0


def test_the_first_rule_stays_away_while_it_would_lose_more() -> None:
    ranking = Ranking(leader=3, own=0.0005, worse=[0.03, 0.0, 0.0, 0.0, 0.0])
    learn(ranking, 0.0, r0=0.0, r1=0.0)
    assert ranking.leader == 3


def test_rivals_take_turns_without_the_one_in_charge() -> None:
    ranking = Ranking(leader=2)
    assert [ranking.rival() for _ in range(8)] == [1, 3, 4, 0, 1, 3, 4, 0]


def test_nothing_is_tried_while_the_first_rule_loses_nothing() -> None:
    ranking = Ranking(own=0.01, worse=[0.0, 0.1, 0.0, 0.0, 0.0], unchanged=9, pause=3)
    assert not ranking.wants_a_trial(lost=2, arrived=1000)
    assert (ranking.own, ranking.worse[1]) == pytest.approx((0.007, 0.07))
    assert ranking.wants_a_trial(lost=3, arrived=1000), "the pause is over with the calm"


@pytest.mark.parametrize("leader", [0, 3])
def test_a_step_without_arrivals_says_nothing(leader: int) -> None:
    """How many of them there are hangs on how time is cut: a silence is passed over at once if nobody looks."""
    ranking = Ranking(leader=leader, own=0.01, worse=[0.02] * 5, unchanged=9, pause=3)
    before = replace(ranking, worse=[*ranking.worse])
    assert not ranking.wants_a_trial(lost=0, arrived=0)
    assert ranking == before


def test_another_rule_is_tried_even_where_nothing_is_lost() -> None:
    assert Ranking(leader=4).wants_a_trial(lost=0, arrived=1000)


def test_trials_that_change_nothing_come_less_often() -> None:
    ranking, tried = Ranking(), []
    for step in range(200):
        if ranking.wants_a_trial(lost=20, arrived=1000):
            learn(ranking, 0.02, r1=0.02, r2=0.03)
            tried.append(step)
    gaps = [later - earlier for earlier, later in pairwise(tried)]
    assert gaps[: 3 * CONFIRMED] == [1] * (CONFIRMED - 1) + [2] * CONFIRMED + [4] * CONFIRMED + [8]
    assert set(gaps[3 * CONFIRMED :]) == {LONGEST_PAUSE}


def test_a_surprise_ends_the_pause() -> None:
    ranking = Ranking(own=0.02, unchanged=20, pause=7)
    assert not ranking.wants_a_trial(lost=49, arrived=1000)
    assert ranking.wants_a_trial(lost=51, arrived=1000)
