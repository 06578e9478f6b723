"""Scoring a forecast against what came, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from partita.errors import ForecastError
from partita.forecasting import score
from partita.model.load import Forecast, Load


def forecast(rows: list[list[list[float]]], levels: tuple[float, ...] = (0.5, 0.9)) -> Forecast:
    names = tuple("abc"[: len(rows)])
    return Forecast(names, 100.0, 10.0, levels, np.array(rows), "by hand", 60.0)


def truth(rows: list[list[float]], start_s: float = 100.0) -> Load:
    return Load(tuple("abc"[: len(rows)]), start_s, 10.0, np.array(rows))


def test_losses_by_hand() -> None:
    made = forecast([[[2.0, 2.0], [4.0, 4.0]]])
    found = score(made, truth([[10.0, 50.0]]))  # rates 1 and 5
    # median 2: half of |1 - 2| and half of |5 - 2|: mean (0.5 + 1.5)/2
    # P90 4: 1 lies 3 below, 0.1 x 3; 5 lies 1 above, 0.9 x 1: mean (0.3 + 0.9)/2
    assert found.pinball[0] == pytest.approx([1.0, 0.6])
    assert found.coverage[0] == pytest.approx([0.5, 0.5])
    assert found.wape[0] == pytest.approx((1 + 3) / (1 + 5))
    assert found.steps == 2


def test_a_perfect_forecast_loses_nothing() -> None:
    found = score(forecast([[[2.0, 3.0], [2.0, 3.0]]]), truth([[20.0, 30.0]]))
    assert not found.pinball.any()
    assert not found.wape.any()
    assert (found.coverage == 1.0).all()


def test_only_steps_of_both_count() -> None:
    made = forecast([[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]])
    late = score(made, truth([[20.0, 0.0, 99.0]], start_s=110.0))  # covers the second and third step
    assert late.steps == 2
    assert late.pinball[0] == pytest.approx([0.5 * 3 / 2, 0.1 * 3 / 2])
    early = score(made, truth([[99.0, 99.0, 10.0]], start_s=80.0))  # its third step is the first forecast
    assert (early.steps, early.wape[0]) == (1, 0.0)


def test_unmeasured_steps_do_not_count() -> None:
    made = forecast([[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    found = score(made, truth([[np.nan, 20.0], [np.nan, np.nan]]))
    assert found.coverage[0] == pytest.approx([0.0, 0.0])
    assert found.wape[0] == pytest.approx(0.5)
    assert np.isnan(found.wape[1])
    assert np.isnan(found.pinball[1]).all()


def test_an_idle_service_is_measured_against_one_request() -> None:
    found = score(forecast([[[0.3, 0.0], [0.5, 0.5]]]), truth([[0.0, 0.0]]))
    assert found.wape[0] == pytest.approx(3.0)  # three requests expected, none came


def test_what_cannot_be_compared_is_refused() -> None:
    made = forecast([[[1.0], [1.0]]])
    for other, message in [
        (Load(("x",), 100.0, 10.0, np.ones((1, 1))), "same services"),
        (Load(("a",), 100.0, 5.0, np.ones((1, 1))), "same step"),
        (truth([[1.0]], start_s=110.0), "no step"),
        (truth([[1.0]], start_s=90.0), "no step"),
    ]:
        with pytest.raises(ForecastError, match=message):
            score(made, other)
