"""Models on trial: who is in charge of a forecast, when that changes, and what a decision says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from miniature import Stage, even, gpus, make_loop, service

from partita.controller.recording import recorded
from partita.controller.state import Settings, State
from partita.controller.trial import (
    DEMOTE_ABOVE,
    LEAST_SCORES,
    SCORES_KEPT,
    Trial,
    forecast,
    judged,
    remark,
)
from partita.errors import ForecastError
from partita.forecasting import NEAR
from partita.forecasting.quantiles import LEVELS
from partita.forecasting.yardstick import LAST_VALUE
from partita.model.load import Forecast, Load, Scored
from partita.plugins import reactive, symphony
from partita.ports import Forecaster

NAN = np.nan
STEPS = 2


@dataclass(frozen=True)
class Odd:
    """A model that answers what it is told to, from the last value of each service."""

    answer: Callable[[np.ndarray], np.ndarray]
    name: str = "odd"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        last = self.answer(history.counts[:, -1]) / history.step_s
        rps = np.broadcast_to(np.asarray(last)[:, None, None], (len(last), len(levels), steps)).copy()
        return Forecast(history.services, history.end_s, history.step_s, tuple(levels), rps, self.name, 10.0)


RIGHT, TENFOLD = Odd(lambda last: last), Odd(lambda last: 10 * last)


@dataclass(frozen=True)
class OneWrong:
    """The naive forecast, but more for the first service."""

    factor: float
    name: str = "odd"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        plain = LAST_VALUE.forecast(history, steps=steps, levels=levels)
        return replace(plain, rps=plain.rps * np.array([self.factor, 1.0])[:, None, None], model="odd")


ONE_WORSE = OneWrong(1.3)


def flat(length: int, rows: Sequence[float] = (50.0, 20.0)) -> Load:
    """Return steps of 10 s with a little noise, so that the naive one is neither perfect nor hopeless."""
    noise = np.random.default_rng(7).poisson(np.repeat(np.array(rows)[:, None], 200, axis=1)).astype(float)
    return Load(("a", "b"), 0.0, 10.0, noise[:, :length])


def play(model: Forecaster, *, until: int, trial: Trial | None = None, begin: int = 20) -> tuple[Trial, list[Scored]]:
    """Forecast and judge at every step."""
    trial, scored = trial or Trial(), []
    for length in range(begin, until):
        trial, found = judged(trial, "near", flat(length))
        scored += found
        trial, _ = forecast(trial, length, model, LAST_VALUE, flat(length), STEPS)
    return trial, scored


def test_a_forecast_is_scored_once_when_its_last_step_has_come() -> None:
    trial, made = forecast(Trial(), 5, RIGHT, LAST_VALUE, flat(20), STEPS)
    assert judged(trial, "near", flat(21))[1] == ()
    trial, (scored,) = judged(trial, "near", flat(22))
    assert trial.waiting == ()
    assert (scored.tick, scored.horizon, scored.model, scored.naive) == (5, "near", "odd", "last-value")
    truth = flat(22).counts[:, 20:] / 10.0
    assert (scored.truth_rps == truth).all()
    wrong = np.abs(truth - made.quantile(0.5))
    assert scored.wape == pytest.approx(wrong.sum(axis=1) / truth.sum(axis=1))
    assert scored.in_charge.all()
    assert judged(trial, "near", flat(30))[1] == ()


def test_a_worse_model_gives_way_where_it_is_worse() -> None:
    before, _ = play(ONE_WORSE, until=20 + LEAST_SCORES + STEPS - 1)
    assert not before.demoted.any()  # one score is still missing
    trial, _ = play(ONE_WORSE, until=20 + LEAST_SCORES + STEPS)
    assert trial.demoted.tolist() == [True, False]
    assert trial.ratios()[0] > DEMOTE_ABOVE
    said = remark(trial, "near")
    assert said.startswith("the near forecast of a is the naive one (last-value): odd had up to ")
    assert "over its last 12 forecasts" in said
    history = flat(40)
    trial, made = forecast(trial, 40, ONE_WORSE, LAST_VALUE, history, STEPS)
    plain = LAST_VALUE.forecast(history, steps=STEPS, levels=LEVELS)
    own = ONE_WORSE.forecast(history, steps=STEPS, levels=LEVELS)
    assert (made.rps[0] == plain.rps[0]).all()
    assert (made.rps[1] == own.rps[1]).all()
    assert made.model == "odd; last-value for a"
    assert trial.waiting[-1].model.rps[0, 0, 0] == own.rps[0, 0, 0]  # it goes on being tried
    assert trial.waiting[-1].in_charge.tolist() == [False, True]


def test_the_worse_a_model_the_sooner_it_is_out() -> None:
    def scores_until_out(factor: float) -> int:
        """Return how many forecasts are scored before the first service's model is demoted."""
        trial, scored = Trial(), 0
        for length in range(20, 60):
            trial, found = judged(trial, "near", flat(length))
            scored += len(found)
            if trial.demoted.any():
                assert trial.demoted.tolist() == [True, False]
                assert "the near forecast of a is the naive one (last-value): odd had " in remark(trial, "near")
                return scored
            trial, _ = forecast(trial, length, OneWrong(factor), LAST_VALUE, flat(length), STEPS)
        raise AssertionError("it was never out")

    worse = [scores_until_out(factor) for factor in (1.3, 1.6, 10.0)]
    # Ten times the load costs more than ALARM usual losses at once.
    assert worse[0] == LEAST_SCORES
    assert 1 <= worse[1] < LEAST_SCORES
    assert worse[2] == 1


def test_one_bad_far_forecast_is_enough_once_its_first_step_has_come() -> None:
    trial, steps = Trial(), 3
    for length in range(20, 60):
        trial, _ = judged(trial, "far", flat(length))
        trial, _ = forecast(trial, length, NEAR, LAST_VALUE, flat(length), steps)
    assert not trial.demoted.any()  # forty good ones stand before it
    trial, made = forecast(trial, 60, TENFOLD, LAST_VALUE, flat(60), steps)
    assert made.quantile(0.5)[0, 0] > 20.0
    trial, _ = judged(trial, "far", flat(61))
    assert trial.demoted.all()
    assert "the far forecast of a, b is the naive one (last-value)" in remark(trial, "far")
    for length in range(61, 70):
        trial, _ = judged(trial, "far", flat(length))
        assert trial.demoted.all()  # what it lost then still counts


def test_a_model_that_is_better_again_comes_back() -> None:
    trial, _ = play(TENFOLD, until=40)
    assert trial.demoted.all()
    # Thirty forecasts on nothing of the bad ones is left, and it is as good as its last value allows.
    restored = []
    for length in range(40, 120):
        trial, _ = judged(trial, "near", flat(length))
        restored += [(length, name) for name in trial.restored]
        if trial.restored:
            assert f"{NEAR.name} makes the near forecast of" in remark(trial, "near")
        trial, _ = forecast(trial, length, NEAR, LAST_VALUE, flat(length), STEPS)
    assert sorted(name for _, name in restored) == ["a", "b"]
    assert not trial.demoted.any()
    assert remark(trial, "near") == ""


def test_a_model_as_good_as_the_naive_one_is_left_alone() -> None:
    trial, scored = play(LAST_VALUE, until=199)
    assert len(scored) > 100
    assert trial.losses.shape == (2, SCORES_KEPT)
    assert not trial.demoted.any()
    assert trial.ratios() == pytest.approx([1.0, 1.0], rel=0.05)


def test_steps_that_were_not_measured_count_for_nobody() -> None:
    trial = Trial()
    for length in range(20, 60):
        history = flat(length)
        history.counts[1, 22:] = NAN
        trial, _ = judged(trial, "near", history)
        trial, _ = forecast(trial, length, RIGHT, LAST_VALUE, flat(length), STEPS)
    assert np.isnan(trial.ratios()[1])
    assert not trial.demoted[1]


def test_a_forecast_older_than_the_history_is_forgotten() -> None:
    trial, _ = forecast(Trial(), 1, RIGHT, LAST_VALUE, flat(20), STEPS)
    later = Load(("a", "b"), 5000.0, 10.0, np.ones((2, 5)))
    trial, scored = judged(trial, "near", later)
    assert (trial.waiting, scored) == ((), ())


# Models that fail -----------------------------------------------------------------------------------------------------


class Dies:
    name = "dies"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        raise ValueError("singular\nmatrix")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Dies(), "dies gave none, it raised ValueError: singular matrix"),
        (Odd(lambda last: last * NAN), "odd gave none, odd forecast a rate that is no number"),
        (Odd(lambda last: -last), "odd gave none, odd forecast a rate below zero"),
        (Odd(lambda last: last[:1]), "odd gave none, odd forecast something else than it was asked for"),
    ],
)
def test_a_model_that_fails_is_replaced_at_once(model: Forecaster, why: str) -> None:
    trial, made = forecast(Trial(), 1, model, LAST_VALUE, flat(20), STEPS)
    plain = LAST_VALUE.forecast(flat(20), steps=STEPS, levels=LEVELS)
    assert (made.rps == plain.rps).all()
    assert made.model == f"last-value, in place of {model.name}"
    assert remark(trial, "near") == f"the near forecast is the naive one (last-value): {why}"
    assert trial.waiting == ()
    assert remark(forecast(trial, 2, RIGHT, LAST_VALUE, flat(21), STEPS)[0], "near") == ""


def test_a_model_that_goes_on_failing_is_asked_less_and_less() -> None:
    trial, asked = Trial(), []

    @dataclass
    class Counts:
        name: str = "dies"

        def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
            asked.append(tick)
            raise ValueError("no")

    for tick in range(60):
        trial, made = forecast(trial, tick, Counts(), LAST_VALUE, flat(20), STEPS)
        assert made.model == "last-value, in place of dies"
    # Three faults in a row, then 10 ticks of rest, 20, 40.
    assert asked == [0, 1, 2, 13, 34]
    assert "dies gave none, it raised ValueError: no; it is asked again at turn 75" in remark(trial, "near")
    assert trial.faults == 5
    trial, _ = forecast(trial, 75, RIGHT, LAST_VALUE, flat(20), STEPS)
    assert (trial.faults, trial.benches, trial.failed) == (0, 0, "")


def test_a_model_that_waits_for_more_history_is_no_fault() -> None:
    class Waits:
        name = "waits"

        def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
            raise ForecastError("it needs a day")

    trial = Trial()
    for tick in range(9):
        trial, _ = forecast(trial, tick, Waits(), LAST_VALUE, flat(20), STEPS)
    assert (trial.faults, trial.asked_from) == (0, 0)
    assert remark(trial, "near").endswith("waits gave none, it needs a day")


@pytest.mark.parametrize(("factor", "out"), [(1000.0, True), (0.0, True), (9.0, False), (0.3, False)])
def test_what_no_history_leads_to_is_never_used(factor: float, out: bool) -> None:
    trial, made = forecast(Trial(), 1, Odd(lambda last: factor * last), LAST_VALUE, flat(20), STEPS)
    plain = LAST_VALUE.forecast(flat(20), steps=STEPS, levels=LEVELS)
    assert (made.rps == plain.rps).all() == out
    assert ("is more than 10 times beyond all that was measured" in remark(trial, "near")) == out
    assert trial.waiting[-1].in_charge.tolist() == [not out, not out]
    assert not trial.demoted.any()  # it is tried on


def test_where_there_is_next_to_nothing_nothing_is_beyond_reach() -> None:
    few = Load(("a", "b"), 0.0, 10.0, np.array([[0.0, 0.0, 1.0, 0.0], [NAN, 3.0, 2.0, 3.0]]))
    for much in (90.0, 0.0):
        trial, _ = forecast(Trial(), 1, Odd(lambda last, much=much: np.full(2, much)), LAST_VALUE, few, STEPS)
        assert trial.beyond == ()
    trial, _ = forecast(Trial(), 1, Odd(lambda last: np.array([101.0, 99.0])), LAST_VALUE, few, STEPS)
    assert trial.beyond == ("a",)  # ten requests a step count as measured everywhere


def test_with_too_little_history_nobody_forecasts() -> None:
    with pytest.raises(ForecastError, match="a forecast needs 2"):
        forecast(Trial(), 1, NEAR, LAST_VALUE, flat(1), STEPS)
    with pytest.raises(ForecastError, match="a forecast needs 2"):
        forecast(Trial(), 1, Dies(), LAST_VALUE, flat(1), STEPS)


def test_a_long_gap_leaves_a_forecast() -> None:
    history = flat(180)
    history.counts[:, 10:] = NAN  # more than the naive one looks back
    trial, made = forecast(Trial(), 1, Dies(), LAST_VALUE, history, STEPS)
    assert np.isfinite(made.rps).all()
    assert trial.failed


# In the loop ----------------------------------------------------------------------------------------------------------

SERVICES = (service("a"), service("b"))
BUSY = (even(300.0, 900.0), even(100.0, 900.0))


def staged(near: Forecaster, policy: object = reactive) -> Stage:
    return Stage(make_loop(SERVICES, gpus(4), {"policy": policy}, near=near), BUSY, span_s=900.0)


@dataclass(frozen=True)
class Until:
    """A model that is good up to an instant, and then does something else."""

    until_s: float
    after: Forecaster
    name: str = "turned"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        model = NEAR if history.end_s <= self.until_s else self.after
        return model.forecast(history, steps=steps, levels=levels)


def test_a_worse_forecaster_is_demoted_within_an_epoch_and_decisions_say_so() -> None:
    made = staged(Odd(lambda last: 5 * last, "poisoned"))
    turns = made.turns(60)  # an epoch of 600 s
    reasons = [turn.decision.reason for turn in turns]
    first = next(n for n, reason in enumerate(reasons) if "is the naive one" in reason)
    assert first < 10
    assert "the near forecast of a, b is the naive one (last-value): poisoned had " in reasons[first]
    assert all("is the naive one" in reason for reason in reasons[first:])
    assert turns[first - 1].decision.forecast_rps == pytest.approx(2000.0, rel=0.05)
    assert turns[first].decision.forecast_rps == pytest.approx(400.0, rel=0.05)
    assert len(turns[-1].decision.reason) < 600


@pytest.mark.parametrize(
    "after",
    [Dies(), Odd(lambda last: 1000 * last, "high"), Odd(lambda last: 0 * last, "zero"), Odd(lambda last: last * NAN)],
    ids=["dies", "1000 times", "nothing", "no number"],
)
@pytest.mark.parametrize("policy", [reactive, symphony], ids=["reactive", "symphony"])
def test_a_forecaster_that_turns_bad_never_counts_and_the_load_is_served(after: Forecaster, policy: object) -> None:
    made, usual = staged(Until(200.0, after), policy), staged(NEAR, policy)
    turns, good = made.turns(60), usual.turns(60)
    before = [turn for turn in turns if turn.near is not None and turn.near.made_at_s <= 200.0]
    bad = [turn for turn in turns if turn.near is not None and turn.near.made_at_s > 200.0]
    assert not any("naive" in turn.decision.reason for turn in before)
    assert all("is the naive one (last-value)" in turn.decision.reason for turn in bad)
    for turn in bad:
        assert turn.decision.forecast_rps == pytest.approx(400.0, rel=0.1)
    assert turns[-1].decision.gpus_wanted == good[-1].decision.gpus_wanted
    assert min(t.decision.gpus_wanted for t in turns) >= min(t.decision.gpus_wanted for t in good)
    served, served_else = made.observe().outcomes, usual.observe().outcomes
    for name, outcome in served.items():
        assert outcome.good >= 0.95 * served_else[name].good > 0


@pytest.mark.parametrize("after", [Dies(), Odd(lambda last: 1000 * last), Odd(lambda last: 4 * last)])
def test_a_far_forecaster_that_turns_bad_is_out_by_the_next_epoch(after: Forecaster) -> None:
    settings = Settings(epoch_s=60.0)
    loop = make_loop(SERVICES, gpus(4), {"reactive": reactive}, settings=settings)
    made = Stage(replace(loop, far=Until(400.0, after)), BUSY, span_s=900.0)
    said = [(turn.decision.at_s, turn.far.model, turn.decision.reason) for turn in made.turns(60) if turn.far]
    assert not any("the far forecast" in reason for at_s, _, reason in said if 200.0 < at_s < 400.0)
    late = [(model, reason) for at_s, model, reason in said if at_s > 400.0 + 2 * settings.epoch_s]
    assert all("last-value" in model for model, _ in late)
    assert all("the far forecast" in reason and "is the naive one (last-value)" in reason for _, reason in late)


def test_a_forecaster_that_dies_costs_no_turn() -> None:
    turns = staged(Dies()).turns(8)
    assert turns[-1].near is not None
    assert "dies gave none" in turns[-1].decision.reason
    assert turns[-1].decision.forecast_rps == pytest.approx(400.0, rel=0.05)


def test_a_good_forecaster_is_not_mentioned_and_every_forecast_is_scored() -> None:
    turns = staged(NEAR).turns(40)
    assert not any("naive" in turn.decision.reason for turn in turns)
    made = [turn.decision.tick for turn in turns if turn.near is not None]
    scored = [s.tick for turn in turns for s in turn.scored if s.horizon == "near"]
    assert scored == made[: len(scored)]
    assert len(made) - len(scored) <= 5


def test_who_is_in_charge_survives_a_recording() -> None:
    made = staged(Odd(lambda last: 5 * last, "poisoned"))
    made.turns(25)
    state = made.state
    assert state.near_trial.demoted.all()
    back = recorded(state)
    assert isinstance(back, State)
    observation = made.observe()
    first, again = made.loop.step(state, observation), made.loop.step(back, observation)
    assert first[1].decision == again[1].decision
    assert (first[0].near_trial.losses == again[0].near_trial.losses).all()
    old = replace(state, near_trial=Trial(), far_trial=Trial())
    assert recorded(old).near_trial.demoted.size == 0


def test_a_week_without_a_log_leaves_a_loop_that_forecasts_again() -> None:
    made = staged(NEAR)
    made.turns(30)
    near, far = made.state.near, made.state.far
    silent = Load(near.steps.services, near.rest.start_s + near.rest.counts.shape[1], 1.0, np.full((2, 604_800), NAN))
    made.state = replace(made.state, near=near.extended(silent), far=far.extended(silent))
    reasons = [turn.decision.reason for turn in made.turns(20)]
    assert "no forecast yet" in reasons[0]  # nothing within the last hour
    assert not any("no forecast yet" in reason for reason in reasons[4:])
    assert not any(made.state.near_trial.demoted)
    assert made.state.near_trial.losses.shape[1] > 20  # what was scored before the gap, and since
