"""Events, holidays and bounds that an operator knows of: what they make of histories and of forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.controller.trial import Trial, forecast, judged, remark
from partita.forecasting.calendar import LATE_STEPS, NO_CALENDAR, Calendar, Event
from partita.forecasting.quantiles import LEVELS
from partita.forecasting.yardstick import DAILY_NAIVE, LAST_VALUE, WEEKLY_NAIVE
from partita.model.load import Forecast, Load
from partita.ports import Forecaster

HOUR_S, DAY_S = 3600.0, 86_400.0
NAMES = ("shop-a", "shop-b", "batch")


def history(days: float = 1.0, rate: float = 100.0) -> Load:
    """Return hourly counts of three services, `rate` a step, from instant 0."""
    return Load(NAMES, 0.0, HOUR_S, np.full((3, round(days * 24)), rate))


def made_from(load: Load, steps: int = 4) -> Forecast:
    """Return a forecast of one request a second, half of it below and twice as much above."""
    rps = np.broadcast_to(np.array([0.5, 1.0, 2.0])[None, :, None], (3, 3, steps)).copy()
    return Forecast(load.services, load.end_s, load.step_s, (0.1, 0.5, 0.9), rps, "model", 60.0)


def applied(*events: Event, steps: int = 4) -> Forecast:
    load = history()
    return Calendar(events).applied(made_from(load, steps), load)


def forecast_with(calendar: Calendar, model: Forecaster, load: Load, steps: int) -> Forecast:
    """Forecast from the history without past events, and apply the calendar to what comes of it, as the loop does."""
    seen = calendar.cleaned(load)
    return calendar.applied(model.forecast(seen, steps=steps, levels=LEVELS), seen)


def test_without_entries_everything_stays_as_it_is() -> None:
    load = history()
    made = made_from(load)
    assert NO_CALENDAR.cleaned(load) is load
    assert NO_CALENDAR.applied(made, load) is made


def test_a_factor_multiplies_the_part_of_each_step_that_it_covers() -> None:
    # The forecast begins at 24 h; the event lasts from 24.5 h to 26 h.
    made = applied(Event("sale", ("shop-*",), 24.5 * HOUR_S, 26 * HOUR_S, factor=3.0))
    assert made.rps[0, 1].tolist() == [2.0, 3.0, 1.0, 1.0]  # half of a step three times, half of it once
    assert made.rps[1, 2].tolist() == [4.0, 6.0, 2.0, 2.0]
    assert (made.rps[2] == made_from(history()).rps[2]).all()
    assert made.model == "model; calendar: sale ×3"


def test_factors_multiply_then_the_highest_floor_holds_then_the_lowest_ceiling() -> None:
    made = applied(
        Event("cap", ("batch",), ceiling_rps=5.0),
        Event("keep", ("batch",), floor_rps=7.0),
        Event("keep more", floor_rps=2.5),
        Event("one", from_s=0.0, factor=2.0),
        Event("two", ("shop-a",), from_s=0.0, to_s=25 * HOUR_S, factor=1.5),
    )
    assert made.rps[0, :, 0].tolist() == [2.5, 3.0, 6.0]
    assert made.rps[0, :, 1].tolist() == [2.5, 2.5, 4.0]
    assert made.rps[2, :, 0].tolist() == [5.0, 5.0, 5.0]
    assert made.model == "model; calendar: one ×2, two ×1.5, keep ≥7/s, keep more ≥2.5/s and 1 more"


def test_a_floor_holds_in_every_step_it_touches_and_a_ceiling_in_those_it_covers() -> None:
    made = applied(
        Event("f", ("shop-a",), 24.5 * HOUR_S, 25 * HOUR_S, floor_rps=3.0),
        Event("c", ("batch",), 24.5 * HOUR_S, 26 * HOUR_S, ceiling_rps=0.1),
    )
    assert made.rps[0, 0].tolist() == [3.0, 0.5, 0.5, 0.5]
    assert made.rps[2, 0].tolist() == [0.5, 0.1, 0.5, 0.5]


def test_an_entry_without_an_effect_is_not_named() -> None:
    load, far_off = history(), Event("later", from_s=10 * DAY_S, to_s=11 * DAY_S, factor=2.0)
    made = applied(far_off, Event("low", floor_rps=0.1), Event("nobody", ("x",), from_s=0.0, factor=2.0))
    assert made.model == "model"
    assert Calendar((far_off,)).cleaned(load) is load


def test_a_past_event_is_not_learned() -> None:
    load = history(days=14.0)
    sale = Event("sale", ("shop-*",), 7 * DAY_S, 8 * DAY_S, factor=4.0)
    load.counts[:2, 7 * 24 : 8 * 24] *= 4.0  # as it really came
    made = forecast_with(Calendar((sale,)), WEEKLY_NAIVE, load, 24)
    assert made.quantile(0.5) * HOUR_S == pytest.approx(np.full((3, 24), 100.0))
    assert made.model == "weekly-naive; calendar: sale taken out of the past"
    assert WEEKLY_NAIVE.forecast(load, steps=24).quantile(0.5)[0] * HOUR_S == pytest.approx(np.full(24, 400.0))


def test_while_an_event_lasts_the_last_value_stays_right() -> None:
    load = history()
    load.counts[:, 20:] *= 2.0
    calendar = Calendar((Event("on", from_s=20 * HOUR_S, to_s=26 * HOUR_S, factor=2.0),))
    median = forecast_with(calendar, LAST_VALUE, load, 4).quantile(0.5) * HOUR_S
    assert median[0] == pytest.approx([200.0, 200.0, 100.0, 100.0])


# Holidays -------------------------------------------------------------------------------------------------------------


def week() -> Load:
    """Return three weeks that end as a day ends: 100 a step, and 30 on each seventh day."""
    load = history(days=21.0)
    for sunday in (6, 13, 20):
        load.counts[:, sunday * 24 : (sunday + 1) * 24] = 30.0
    return load


def rest(load: Load, days: int) -> Load:
    """Return the history up to so many days."""
    return replace(load, counts=load.counts[:, : days * 24])


def test_a_holiday_takes_the_rates_of_the_day_it_is_like() -> None:
    load = rest(week(), 17)  # day 17 is the holiday, four days after the Sunday that is day 13
    holiday = Event("new year", ("shop-*",), 17 * DAY_S, 18 * DAY_S, back_s=4 * DAY_S)
    made = forecast_with(Calendar((holiday,)), DAILY_NAIVE, load, 30)
    median = made.quantile(0.5) * HOUR_S
    assert median[0, 1:23] == pytest.approx(np.full(22, 30.0))
    assert median[0, 24:] == pytest.approx(np.full(6, 100.0))
    assert median[2] == pytest.approx(np.full(30, 100.0))
    assert made.model == "daily-naive; calendar: new year like 4 days before"
    load.counts[:, 13 * 24 : 14 * 24] = np.nan  # then the Sunday before that
    assert forecast_with(Calendar((holiday,)), DAILY_NAIVE, load, 30).quantile(0.5)[0, 5] * HOUR_S == 30.0


def test_a_holiday_whose_model_day_nobody_measured_changes_nothing() -> None:
    holiday = Event("h", from_s=24 * HOUR_S, to_s=48 * HOUR_S, back_s=4 * DAY_S)
    assert applied(holiday).model == "model"


def test_quantiles_keep_their_distance_on_a_holiday() -> None:
    load = rest(week(), 17)
    made = made_from(load)
    held = Calendar((Event("h", from_s=17 * DAY_S, to_s=18 * DAY_S, back_s=4 * DAY_S),)).applied(made, load)
    assert held.rps[0, :, 2] == pytest.approx(np.array([0.5, 1.0, 2.0]) * 30.0 / HOUR_S)
    load.counts[:, 13 * 24 : 14 * 24] = 0.0  # of nothing there are no shares: what is above stays as far above
    held = Calendar((Event("h", from_s=17 * DAY_S, to_s=18 * DAY_S, back_s=4 * DAY_S),)).applied(made, load)
    assert held.rps[0, :, 2] == pytest.approx([0.0, 0.0, 1.0])


def test_a_past_holiday_is_not_measured_but_for_what_is_new() -> None:
    load = rest(week(), 18)
    holiday = Event("h", ("shop-a",), 17 * DAY_S, 18 * DAY_S, back_s=4 * DAY_S)
    seen = Calendar((holiday,)).cleaned(load)
    assert np.isnan(seen.counts[0, 17 * 24 : -LATE_STEPS]).all()
    assert np.isfinite(seen.counts[0, -LATE_STEPS:]).all()
    assert np.isfinite(seen.counts[1:]).all()
    assert np.isfinite(load.counts).all()  # what was measured stays as it was
    calendar = Calendar((holiday,))
    assert calendar.applied(made_from(seen), seen).model == "model; calendar: h taken out of the past"
    late = replace(load, start_s=load.end_s - 5 * HOUR_S, counts=load.counts[:, -5:])
    assert calendar.cleaned(late).counts.tolist() == late.counts.tolist()
    assert calendar.applied(made_from(late), late).model == "model"


# Whatever the entries -------------------------------------------------------------------------------------------------

times = st.one_of(st.just(-inf), st.floats(0.0, 40 * HOUR_S))


@st.composite
def events(draw: st.DrawFn) -> Event:
    from_s = draw(times)
    return Event(
        draw(st.sampled_from("abc")),
        (draw(st.sampled_from(["*", "shop-*", "batch"])),),
        from_s,
        draw(st.one_of(st.just(inf), st.floats(0.1, 20 * HOUR_S).map(lambda more: max(from_s, 0.0) + more))),
        draw(st.floats(0.01, 100.0)),
        draw(st.sampled_from([0.0, 0.5, 20.0])),
        draw(st.sampled_from([inf, 3.0, 0.1])),
        draw(st.sampled_from([0.0, 6 * HOUR_S, DAY_S])),
    )


@settings(deadline=None)
@given(st.lists(events(), max_size=5), st.integers(0, 2**32 - 1))
def test_forecasts_stay_sound(found: list[Event], seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = history()
    load.counts[:] = np.where(rng.random(load.counts.shape) < 0.2, np.nan, rng.poisson(5.0, load.counts.shape))
    made = made_from(load, 6)
    calendar = Calendar(tuple(found))
    seen = calendar.cleaned(load)
    after = calendar.applied(made, seen)
    assert np.isfinite(after.rps).all()
    assert (after.rps >= 0).all()
    assert (np.diff(after.rps, axis=1) >= -1e-12).all()
    assert (np.isnan(load.counts) <= np.isnan(seen.counts)).all()
    assert ("calendar: " in after.model) or (after.rps == made.rps).all()


# On trial -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dies:
    name: str = "dies"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        raise ValueError("no")


def test_the_calendar_holds_whoever_is_in_charge() -> None:
    calendar = Calendar((Event("keep", floor_rps=5.0), Event("now", from_s=DAY_S, to_s=DAY_S + HOUR_S, factor=50.0)))
    for model in (LAST_VALUE, Dies()):
        trial, made = forecast(Trial(), 1, model, LAST_VALUE, history(rate=3600.0), 3, calendar)
        assert made.quantile(0.5)[0] == pytest.approx([50.0, 5.0, 5.0])
        assert made.model.endswith("; calendar: now ×50, keep ≥5/s")
        assert trial.beyond == ()  # fifty times is what the operator says, not the model


def test_a_model_is_judged_with_the_calendar_and_so_is_the_naive_one() -> None:
    calendar = Calendar((Event("wrong", from_s=DAY_S, factor=20.0),))  # nothing of it comes
    trial, load = Trial(), history(days=3.0)
    load.counts[:] = np.random.default_rng(5).poisson(100.0, load.counts.shape)
    for length in range(24, 60):
        part = replace(load, counts=load.counts[:, :length])
        trial, _ = judged(trial, "near", part)
        trial, made = forecast(trial, length, LAST_VALUE, LAST_VALUE, part, 2, calendar)
    assert not trial.demoted.any()
    assert remark(trial, "near") == ""
    assert len(LEVELS) == made.rps.shape[1]
