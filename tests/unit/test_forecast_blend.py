"""The blend in small: each model by hand, who is listened to, what quantiles are made of, and what no model may do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from partita.forecasting import BLEND, BLEND_NEAR, FORECASTERS, LEVELS, Blend
from partita.forecasting.bands import Judged, independent_errors, least_tail, tailed
from partita.forecasting.blend import LATE, SEASONAL
from partita.forecasting.change import MOST, NARROWING, widened, widening
from partita.forecasting.judging import fitting
from partita.forecasting.naive import LevelRatio, Recent, SameTime
from partita.forecasting.origins import judged_horizons, judged_origins
from partita.forecasting.past import Model, Past, fitted
from partita.forecasting.regression import Autoregression
from partita.forecasting.theta import Exponential, Theta
from partita.forecasting.weights import combine, running_loss, standing
from partita.model.load import Load

HOUR_S, DAY = 3600.0, 24
nan = float("nan")


def past(*rows: list[float] | NDArray[np.float64], step_s: float = HOUR_S) -> Past:
    return Past.of(np.array(rows, dtype=np.float64), step_s)


def load(counts: NDArray[np.float64], step_s: float = 600.0) -> Load:
    return Load(tuple(f"s{i}" for i in range(len(counts))), 0.0, step_s, np.asarray(counts, dtype=np.float64))


def steps(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def test_a_past_carries_on_what_was_measured_last() -> None:
    found = past([nan, 4.0, nan, 6.0, nan])
    assert found.filled.tolist() == [[4.0, 4.0, 4.0, 6.0, 6.0]]
    # the means of 3 steps: of nothing (the first value stands in), 4, 4, (4 + 6) / 2, 6
    assert found.level(np.arange(5), 3).tolist() == [[4.0, 4.0, 4.0, 5.0, 6.0]]
    assert found.change(steps(3), 2).tolist() == [[1.0]]  # (2 + 0) / 2
    assert (found.day, past([1.0], step_s=7.0).day) == (24, 0)


def test_recent_is_the_mean_of_the_last_measured() -> None:
    rule = fitted(Recent("mean-3", 3), past([9.0, 1.0, nan, 3.0, 100.0]), 2)
    assert rule(steps(3, 3), steps(1, 2)).tolist() == [[2.0, 2.0]]


def test_the_same_time_is_that_of_the_last_season_known() -> None:
    days = np.concatenate([100.0 * day + np.arange(DAY) for day in (1, 2, 3)])
    once, twice = fitted(SameTime(), past(days), 30), fitted(SameTime("days-2", 1, 2), past(days), 30)
    # from the last step of the third day: 1 and 24 steps ahead lie a day back, 25 steps ahead two days
    assert once(steps(71, 71, 71), steps(1, 24, 25)).tolist() == [[300.0, 323.0, 300.0]]
    assert twice(steps(71), steps(1)).tolist() == [[250.0]]


def test_a_level_ratio_scales_the_former_day() -> None:
    curve = 1000.0 + 500.0 * np.sin(2 * np.pi * np.arange(DAY) / DAY)
    found = fitted(LevelRatio(width_s=HOUR_S), past(np.concatenate([curve, 1.5 * curve])), 5)(steps(47), steps(5))
    # late 1.5 x then, each with 1 + 5 % of the day's mean (1500) added
    late, then, spare = 1.5 * curve[23], curve[23], 1.0 + 0.05 * 1500
    assert found[0, 0] == pytest.approx(1.5 * curve[4] * (late + spare) / (then + spare))


def test_a_level_ratio_does_not_explode_after_silence() -> None:
    counts = np.concatenate([np.zeros(DAY), np.full(DAY, 1e6)])
    found = fitted(LevelRatio(), past(counts), 1)(steps(DAY), steps(1))
    assert found[0, 0] <= 4 * counts.max()


def test_a_median_over_days_leaves_out_what_is_not_known() -> None:
    days = [np.full(DAY, level) for level in (100.0, 300.0, 200.0, 200.0)]
    days[0][5], days[1][5], days[2][5], days[1][6] = 50.0, nan, 260.0, nan
    rule = fitted(LevelRatio("ratio-3", HOUR_S, 3), past(np.concatenate(days)), 8)
    found = rule(steps(4 * DAY - 1, 4 * DAY - 1), steps(6, 7))
    # the level is 200 now and was 200 a day before, 300 two days before, each with 1 + 5 % of 200 added
    assert found[0] == pytest.approx([(200 + 260 * 211 / 311) / 2, (200 + 200 * 211 / 311) / 2])
    assert np.isfinite(fitted(LevelRatio(), past(np.full(30, 7.0)), 1)(steps(2), steps(1))).all()


@pytest.mark.parametrize("model", [Theta(), Autoregression()], ids=lambda m: m.name)
def test_models_of_a_daily_shape_find_a_clean_one(model: Theta | Autoregression) -> None:
    time = np.arange(8 * DAY)
    wave = 5000.0 + 3000.0 * np.sin(2 * np.pi * time / DAY)
    rule = fitted(model, past(wave), DAY)
    ahead = np.arange(1, DAY + 1)
    expected = 5000.0 + 3000.0 * np.sin(2 * np.pi * (time[-1] + ahead) / DAY)
    # a straight line between coefficients, and what is added to shares, leave a few hundredths of the swing of 6000
    assert np.abs(rule(np.full(DAY, time[-1]), ahead)[0] - expected).mean() < 0.05 * 6000


def test_exponential_smoothing_goes_on_with_a_line() -> None:
    line = 100 + 3.0 * np.arange(60)
    rule = fitted(Exponential(), past(line), 6)
    assert rule(np.full(6, 59), np.arange(1, 7))[0] == pytest.approx(100 + 3.0 * np.arange(60, 66))


UNFITTED = [model for model in (*LATE, *SEASONAL) if not isinstance(model, (Exponential, Theta, Autoregression))]
"""Models without parameters; those of the others are chosen on the whole past."""


@pytest.mark.parametrize("model", UNFITTED, ids=lambda model: model.name)
def test_no_model_looks_beyond_its_origin(model: Model) -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(200, (2, 12 * DAY)).astype(np.float64)
    origin, ahead = np.full(30, 9 * DAY), np.arange(1, 31)
    before = fitted(model, past(*counts), 30)(origin, ahead)
    counts[:, 9 * DAY + 1 :] *= 100
    assert np.array_equal(fitted(model, past(*counts), 30)(origin, ahead), before)


def test_origins_end_with_the_newest_step_and_see_all_times_of_day() -> None:
    found = judged_origins(past(np.ones(14 * 144), step_s=600.0), 288)
    assert found[-1] == 14 * 144 - 1
    assert (np.diff(found)[-16:] == 1).all()
    assert len(found) <= 288 + 16
    assert len(set((found % 144).tolist())) == 144


def test_judged_horizons_leave_errors_to_learn_from_and_keep_clear_of_whole_days() -> None:
    whole = past(np.ones(2016), step_s=600.0)
    # an eighth of a day is 18 steps
    assert judged_horizons(144, whole, 7).tolist() == [1, 2, 5, 12, 27, 63, 144 - 18]
    assert judged_horizons(300, whole, 3).tolist() == [1, 17, 288 - 18]
    assert judged_horizons(144, past(np.ones(30), step_s=600.0), 7)[-1] == 10  # a third of the history


def test_a_loss_counts_from_when_its_truth_is_known() -> None:
    origins, missed = steps(0, 1, 2, 3), np.array([[1.0, 3.0, nan, 100.0]])
    # two steps ahead: at step 2 only the first is known, at 3 the first two; half of a weight is lost in a step
    mean, mass = running_loss(missed, origins, 2, steps(1, 2, 3), 1.0)
    assert mass[0].tolist() == [0.0, 1 / 8, 3 / 8]
    assert mean[0] == pytest.approx([0.0, 1.0, (1 / 8 * 1 + 1 / 4 * 3) / (3 / 8)])


def test_standing_falls_with_what_is_lost_more_than_the_best() -> None:
    loss = np.array([[1.0], [1.5]])
    weight = standing(loss, np.ones((2, 1), np.bool_), 8.0, 0.0)
    assert weight[1, 0] / weight[0, 0] == pytest.approx(np.exp(-8.0 * 0.5))
    assert standing(loss, np.zeros((2, 1), np.bool_), 8.0, 0.0).tolist() == [[0.5], [0.5]]


def test_the_better_model_is_followed_once_it_is_known_to_be_better() -> None:
    origins = np.arange(100)
    came = np.full((1, 100), 10.0)
    expected = np.stack([np.full((1, 100), 10.0), np.full((1, 100), 50.0), np.full((1, 100), 50.0)])
    combined, weight = combine(expected, came, origins, 1, 20.0)
    assert combined[0, 0] == pytest.approx(50.0)  # nothing is known yet, and two of three say so
    assert combined[0, 50:] == pytest.approx(np.full(50, 10.0))
    assert weight[0, 0] > 0.99


def test_a_jump_widens_at_once_and_narrows_slowly() -> None:
    calm = np.tile([1.0, -1.0], 8)[None, :]
    assert widening(calm, np.array([1.0])).tolist() == [1.0]
    jump = calm.copy()
    jump[0, -1] = 40.0
    at_once = widening(jump, np.array([1.0]))[0]
    # (0.6 x what was usual before + 40²) / the weights, rooted, is far above the alarm: the most there is
    assert at_once == MOST
    later = np.hstack([jump, np.full((1, 12), 1.0)])[:, -16:]
    assert 1.0 < widening(later, np.array([1.0]))[0] < at_once
    assert widening(np.full((1, 16), nan), np.array([0.0])).tolist() == [1.0]


def test_a_widening_fades_along_the_horizon() -> None:
    lines = np.array([[[12.0, 12.0], [8.0, 8.0]]])
    found = widened(lines, np.full((1, 2), 10.0), np.array([3.0]))
    assert found[0, 0] == pytest.approx([10 + 2 * 3.0, 10 + 2 * (1 + 2 * NARROWING)])
    assert found[0, 1] == pytest.approx([10 - 2 * 3.0, 10 - 2 * (1 + 2 * NARROWING)])


def test_far_lines_of_few_errors_are_never_thinner_than_a_heavy_tail() -> None:
    levels = np.array([0.05, 0.5, 0.95, 0.99])
    lines = np.array([[[12.0], [11.0], [20.0], [21.0]]])
    tail = least_tail(levels, np.array([99.0, 101.0]))
    found = tailed(lines, np.array([[10.0]]), levels, tail[:1, :, None], np.ones(4))[0, :, 0]
    # on their own side of the middle; 0.99 lies as much farther out than 0.95 as in Student's law of two degrees
    assert found == pytest.approx([10.0, 10.0, 20.0, 10 + 10 * stats.t.ppf(0.99, 2) / stats.t.ppf(0.95, 2)])
    assert tail[1].tolist() == [0.0] * 4  # of 101 one lies beyond 0.99


def test_neighbouring_errors_that_go_together_count_less() -> None:
    rng = np.random.default_rng(7)
    steps_apart = np.arange(0, 4000, 4)
    alone, noise = rng.normal(0, 1, (2, 1000))
    together = np.zeros(1000)
    for t in range(1, 1000):
        together[t] = 0.9 * together[t - 1] + noise[t]
    came = np.stack([alone, together])
    judged = Judged(4, steps_apart, np.zeros_like(came), came, np.zeros((5, *came.shape)))
    found = independent_errors(judged, np.ones(came.shape, np.bool_))
    # all of those without memory (less what they share with the other); (1 - 0.9) / (1 + 0.9) of the others
    assert 700 < found[0] <= 1000
    assert 40 < found[1] < 75
    # looking 400 steps ahead, ten times as far as there is past, four errors each time at most
    far = Judged(400, steps_apart, np.zeros_like(came), came, np.zeros((5, *came.shape)))
    assert independent_errors(far, np.ones(came.shape, np.bool_))[0] == pytest.approx(4 * 3996 / 400)


@pytest.mark.parametrize("held", [97, 100, 103])
def test_a_history_that_drops_a_step_for_each_new_one_is_learned_once_a_renewal(held: int) -> None:
    counts = np.random.default_rng(12).poisson(80, (1, 200)).astype(np.float64)
    blend = Blend("near", members=LATE, renewed=3)
    learned = set()
    for end in range(120, 150):
        seen, length = blend.seen(Load(("a",), (end - held) * 60.0, 60.0, counts[:, end - held : end]))
        first = end - seen.shape[1]
        learned.add((first, first + length))
    assert len(learned) == 10


def test_a_blend_learns_anew_at_the_same_steps_however_its_history_was_cut() -> None:
    counts = np.random.default_rng(3).poisson(80, (2, 700)).astype(np.float64)

    def told(blend: Blend, first: int, end: int) -> NDArray[np.float64]:
        history = Load(("a", "b"), first * 60.0, 60.0, counts[:, first:end])
        return blend.forecast(history, steps=5, levels=LEVELS).rps

    fresh = lambda: Blend("near", members=LATE, window=200, renewed=30)  # noqa: E731
    used = fresh()
    for end in range(600, 660):
        # one that has learned before, one that has not, and one that holds an hour less
        assert np.array_equal(told(used, 0, end), told(fresh(), 0, end))
        assert np.array_equal(told(used, 0, end), told(fresh(), end - 260, end))


def test_what_is_kept_is_not_taken_for_another_history() -> None:
    counts = np.random.default_rng(4).poisson(80, (1, 300)).astype(np.float64)
    blend = Blend("near", members=LATE, window=200, renewed=30)
    once = blend.forecast(load(counts), steps=3, levels=LEVELS).rps
    counts[0, 150] *= 50
    assert not np.array_equal(blend.forecast(load(counts), steps=3, levels=LEVELS).rps, once)
    assert len(blend._kept) == 1


def test_many_services_are_taken_in_parts_that_learn_at_different_steps() -> None:
    counts = np.random.default_rng(5).poisson(80, (7, 200)).astype(np.float64)
    blend = Blend("near", members=LATE, window=150, renewed=30, together=3)
    found = blend.forecast(load(counts), steps=3, levels=LEVELS)
    assert found.services == load(counts).services
    alone = Blend("near", members=LATE, window=150, renewed=30)
    # three parts of 3, 2 and 2; the first learns at multiples of 30 steps, the second ten steps before them
    assert np.array_equal(found.rps[:3], alone.forecast(load(counts[:3]), steps=3, levels=LEVELS).rps)
    assert blend.seen(load(counts))[1] == 150
    assert [blend.seen(load(counts), phase)[0].shape[1] for phase in (0, 10, 20)] == [150 + 20, 150, 150 + 10]


def test_a_newcomer_goes_by_itself_until_the_others_learn_anew() -> None:
    counts = np.random.default_rng(9).poisson(80, (3, 400)).astype(np.float64)
    counts[2, :355] = nan
    blend = Blend("near", members=LATE, window=150, renewed=30)
    alone = Blend("near", members=LATE, window=150, renewed=30)
    for end in (358, 359):
        found = blend.forecast(load(counts[:, :end]), steps=3, levels=LEVELS).rps
        assert np.array_equal(found[:2], alone.forecast(load(counts[:2, :end]), steps=3, levels=LEVELS).rps)
        assert np.isfinite(found).all()
    assert set(blend._kept) == {("s0", "s1"), ("s2",)}
    blend.forecast(load(counts[:, :361]), steps=3, levels=LEVELS)
    assert set(blend._kept) == {("s0", "s1", "s2")}


def test_a_newcomer_does_not_make_other_parts_forget() -> None:
    counts = np.random.default_rng(11).poisson(80, (3, 400)).astype(np.float64)
    counts[2, :355] = nan
    blend = Blend("near", members=LATE, window=150, renewed=30, together=1)
    learned = []
    for end in range(362, 369):  # no part is renewed; the newcomer's, which would be at 370, is learned at each
        blend.forecast(load(counts[:, :end]), steps=3, levels=LEVELS)
        learned.append({services: id(kept.lessons) for services, kept in blend._kept.items()})
    for part in (("s0",), ("s1",)):
        assert len({each[part] for each in learned}) == 1


def test_no_services_have_a_forecast_without_rows() -> None:
    nothing = Load((), 0.0, 600.0, np.empty((0, 30)))
    assert BLEND.forecast(nothing, steps=4, levels=LEVELS).rps.shape == (0, len(LEVELS), 4)


def test_a_blend_that_is_changed_has_learned_nothing() -> None:
    history = load(np.random.default_rng(10).poisson(80, (2, 300)).astype(np.float64))
    blend = Blend("near", members=LATE, window=150, renewed=30)
    blend.forecast(history, steps=3, levels=LEVELS)
    other = replace(blend, members=LATE[:1])
    assert other.forecast(history, steps=3, levels=LEVELS).model == "last"


def test_a_gauge_that_hardly_moves_gets_narrow_quantiles_once_that_is_known() -> None:
    gauge = 50.0 + np.random.default_rng(6).normal(0, 0.1, (1, 1000))
    line = LEVELS.index(0.95)
    known = BLEND_NEAR.forecast(load(gauge), steps=1, levels=LEVELS).rps[0, line, 0] * 600
    new = BLEND_NEAR.forecast(load(gauge[:, :20]), steps=1, levels=LEVELS).rps[0, line, 0] * 600
    assert known < 51
    assert new > 60  # until then it may be counts, which scatter by the root of 50 at least


def test_short_histories_leave_models_out_and_say_so() -> None:
    counts = np.random.default_rng(2).poisson(50, (2, 100)).astype(np.float64)
    text = BLEND.forecast(load(counts), steps=3, levels=LEVELS).model
    assert text.startswith("blend of 5 models: ")
    assert text.endswith("the history of 0.69 days is too short for 9 models (the first needs 1.5)")
    assert BLEND.forecast(load(counts, step_s=7.0), steps=3, levels=LEVELS).model.endswith(
        "no daily cycle: a day is no whole number of steps"
    )
    assert fitting((SameTime(),), past(np.ones(30))) == (Recent(),)


def test_every_model_has_a_name_of_its_own() -> None:
    names = [forecaster.name for forecaster in FORECASTERS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", ["noise", "walk"])
def test_no_cycle_is_invented(kind: str) -> None:
    rng = np.random.default_rng(3)
    days, services = 8, 20
    noise = rng.normal(0, 30, (services, (days + 1) * DAY))
    truth = 1000 + (noise if kind == "noise" else noise.cumsum(axis=1))
    history, future = truth[:, : days * DAY], truth[:, days * DAY :]
    counts = BLEND.forecast(load(history, HOUR_S), steps=DAY, levels=LEVELS).rps[:, LEVELS.index(0.5)] * HOUR_S
    best = history.mean(axis=1)[:, None] if kind == "noise" else history[:, -1:]
    # what nobody can beat: the mean of noise, the last value of a walk
    assert np.abs(future - counts).mean() < 1.1 * np.abs(future - best).mean()
    # and hardly a wave over the day: its swing is a small part of what the series does
    assert np.median(counts.std(axis=1)) < 0.35 * np.median(history.std(axis=1))


def test_a_daily_cycle_is_found_from_two_days_on() -> None:
    time = np.arange(4 * 144)
    mean = 600 * (1 + 0.8 * np.sin(2 * np.pi * time / 144))
    counts = np.random.default_rng(1).poisson(mean, (20, len(time))).astype(np.float64)
    found = BLEND.forecast(load(counts[:, : 3 * 144]), steps=144, levels=LEVELS).rps[:, LEVELS.index(0.5)] * 600
    # Poisson's own mean absolute error at 600 is about 20, of one day repeated root two of that
    assert np.abs(found - counts[:, 3 * 144 :]).mean() < 30


@pytest.mark.parametrize("forecaster", [BLEND_NEAR, BLEND], ids=["near", "far"])
def test_permuting_services_permutes_the_forecast(forecaster: Blend) -> None:
    rng = np.random.default_rng(4)
    counts = rng.poisson(rng.uniform(1, 500, (5, 1)), (5, 6 * DAY)).astype(np.float64)
    counts[rng.random(counts.shape) < 0.05] = nan
    order = np.array([3, 0, 4, 1, 2])
    one = forecaster.forecast(load(counts, HOUR_S), steps=10, levels=LEVELS)
    other = forecaster.forecast(load(counts[order], HOUR_S), steps=10, levels=LEVELS)
    assert other.rps == pytest.approx(one.rps[order], rel=1e-6)


def test_a_near_forecast_follows_a_new_level() -> None:
    rng = np.random.default_rng(5)
    jump = np.concatenate([rng.poisson(100, 200), rng.poisson(1000, 30)]).astype(np.float64)
    found = BLEND_NEAR.forecast(load(jump[None], 10.0), steps=6, levels=LEVELS).rps[0, LEVELS.index(0.5)] * 10
    assert found == pytest.approx(np.full(6, 1000.0), rel=0.1)


def test_members_by_themselves_are_calibrated_alike() -> None:
    rng = np.random.default_rng(6)
    counts = rng.poisson(40.0, (300, 201)).astype(np.float64)
    for model in LATE:
        blend = Blend(model.name, members=(model,), horizons=3)
        upper = blend.forecast(load(counts[:, :200], 10.0), steps=1, levels=LEVELS).rps[:, LEVELS.index(0.95), 0] * 10
        share = (counts[:, 200] <= upper).mean()
        # four standard deviations of 300 draws are 0.05
        assert 0.90 <= share <= 1.0, model.name
