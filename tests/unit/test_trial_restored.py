"""A model's standing, found again from stored scores: what whoever led before had learnt is not learnt anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from miniature import Stage, even, gpus, make_loop, service

from partita.controller.trial import DEMOTE_ABOVE, SCORES_KEPT, remark, restored_trial
from partita.forecasting import NEAR
from partita.forecasting.yardstick import LAST_ARRIVALS
from partita.model.load import Forecast, Load, Scored
from partita.plugins import reactive

SERVICES = ("a", "b")


class OneWrong:
    """The forecast in use, but eight times as much for the first service."""

    name = "one-wrong"

    def forecast(self, history: Load, *, steps: int, levels: tuple[float, ...]) -> Forecast:
        made = NEAR.forecast(history, steps=steps, levels=levels)
        return replace(made, rps=made.rps * np.array([8.0, 1.0])[:, None, None], model=self.name)


def scored(ratios: tuple[float, ...], *, model: str = "m", demoted: tuple[bool, ...] = (False, False)) -> Scored:
    """A score in which the model lost so many times what the naive one lost."""
    number = len(ratios)
    ones = np.ones((number, 2))
    lost = np.array(ratios)[:, None]
    return Scored(
        tick=1,
        horizon="near",
        model=model,
        naive="n",
        services=SERVICES[:number],
        levels=(0.5, 0.9),
        truth_rps=np.zeros((number, 3)),
        wape=lost[:, 0],
        pinball=lost * ones,
        coverage=ones,
        naive_wape=np.ones(number),
        naive_pinball=ones,
        in_charge=~np.array(demoted),
    )


def nothing_of(services: tuple[str, ...]) -> Load:
    return Load(services, 0.0, 10.0, np.empty((len(services), 0)))


def restored(scores: list[Scored], services: tuple[str, ...] = SERVICES) -> list[bool]:
    flags: list[bool] = restored_trial(scores, nothing_of(services), name="m", naive_name="n").demoted.tolist()
    return flags


def test_it_is_the_standing_that_the_scores_came_from() -> None:
    services = tuple(service(name) for name in SERVICES)
    loop = make_loop(services, gpus(4), {"reactive": reactive}, near=OneWrong())
    stage = Stage(loop, (even(300.0, 600.0), even(100.0, 600.0)), span_s=600.0)
    turns = stage.turns(50)
    was = stage.state.near_trial
    scores = [s for turn in turns for s in turn.scored if s.horizon == "near"]
    assert was.losses.shape == (2, SCORES_KEPT)
    assert len(scores) > SCORES_KEPT
    found = restored_trial(scores, nothing_of(SERVICES), name="one-wrong", naive_name=LAST_ARRIVALS.name)
    for name in ("losses", "naive_losses", "rates", "demoted"):
        np.testing.assert_array_equal(getattr(found, name), getattr(was, name), err_msg=name)
    assert found.demoted.tolist() == [True, False]
    assert (found.services, found.name, found.naive_name) == (was.services, was.name, was.naive_name)
    assert remark(found, "near") == remark(was, "near") != ""


@pytest.mark.parametrize(("was", "is_now"), [(False, False), (True, True)])
def test_between_the_two_bounds_a_model_stays_what_it_was(was: bool, is_now: bool) -> None:
    between = (1.0 + DEMOTE_ABOVE) / 2
    assert restored([scored((between, 1.0), demoted=(was, False))] * 20) == [is_now, False]


def test_a_model_that_was_demoted_and_is_better_by_now_is_in_charge_but_not_named_as_news() -> None:
    found = restored_trial(
        [scored((0.5, 1.0), demoted=(True, False))] * 20, nothing_of(SERVICES), name="m", naive_name="n"
    )
    assert found.demoted.tolist() == [False, False]
    assert found.restored == ()


def test_few_scores_leave_who_was_in_charge() -> None:
    assert restored([scored((9.0, 9.0), demoted=(True, False))]) == [True, False]


def test_scores_of_another_model_or_against_another_naive_one_say_nothing() -> None:
    bad = scored((9.0, 9.0), demoted=(True, True))
    assert restored([replace(bad, model="other"), replace(bad, naive="other")] * 20) == [False, False]


def test_services_are_found_by_name_and_new_ones_begin_anew() -> None:
    bad_b = scored((1.0, 9.0), demoted=(False, True))
    assert restored([bad_b] * 20, ("b", "new", "a")) == [True, False, False]


def test_without_scores_the_model_is_in_charge() -> None:
    assert restored([]) == [False, False]


def test_one_forecast_that_was_not_used_is_no_demotion() -> None:
    used, out = (scored((1.08,), demoted=(flag,)) for flag in (False, True))
    # worse than the naive one, but within what is chance: who is in charge stays so, who is out stays out
    assert restored([*[used] * 19, out], ("a",)) == [False]
    assert restored([*[used] * 18, out, out], ("a",)) == [True]
