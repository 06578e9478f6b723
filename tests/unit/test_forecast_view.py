"""The chart of a forecast at the terminal, and what the status says of it."""

from __future__ import annotations

import numpy as np
import pytest

from partita.controller.forecastview import Shown, charges_of, chart_lines
from partita.model.load import Forecast, Load, Scored

LEVELS = (0.5, 0.95)


def shown(middle: list[float], upper: list[float], before: list[float] | None = None) -> Shown:
    made = Forecast(("a",), 100.0, 10.0, LEVELS, np.array([[middle, upper]]), "m", 60.0)
    past = None if before is None else Load(("a",), 60.0, 10.0, np.array([before]) * 10.0)
    return Shown("near", 3, made, 0, past)


def test_bars_are_the_median_and_dots_p95() -> None:
    lines = list(chart_lines(shown([40.0, 20.0], [80.0, 60.0]), width=2))
    assert [line[10:].ljust(2) for line in lines] == ["· ", "  ", " ·", "  ", "█ ", "█ ", "██", "██"]
    assert lines[0].split()[0] == "80.0"


def test_what_came_stands_at_the_left_and_what_was_not_measured_is_marked() -> None:
    lines = list(chart_lines(shown([40.0], [80.0], [80.0, np.nan, 0.0]), width=10))
    assert lines[0][10:14] == "█  │"
    assert lines[-1][10:14] == "█? │"


def test_rates_that_are_nearly_alike_can_be_told_apart() -> None:
    lines = list(chart_lines(shown([100.0, 101.0], [102.0, 103.0]), width=2))
    assert lines[0].split()[0] == "103.0"
    assert len({line[10:].rstrip() for line in lines}) > 3


def test_a_chart_of_nothing_is_empty() -> None:
    assert len(list(chart_lines(shown([0.0], [0.0])))) == 8


def scored(loss: float, naive: float, *, in_charge: bool = True, tick: int = 1) -> Scored:
    one, two = np.array([[loss, loss]]), np.array([[naive, naive]])
    return Scored(
        tick, "near", "m", "last-value", ("a",), LEVELS, np.array([[10.0]]), np.array([0.1]), one,
        np.array([[1.0, 1.0]]), np.array([0.2]), two, np.array([in_charge]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "naive", "verdict"),
    [
        (0.4, 0.9, "beats last-value by 50 %"),  # (0.4 + 0.1) / (0.9 + 0.1): 1 % of the load of 10 is added
        (1.4, 0.9, "loses to last-value by 50 %"),
        (0.9, 0.9, "as good as last-value"),
        (np.nan, np.nan, "not scored yet"),
    ],
)
def test_the_verdict_is_a_ratio_of_losses(loss: float, naive: float, verdict: str) -> None:
    (charge,) = charges_of([scored(loss, naive), scored(loss, naive, tick=2)])
    assert charge.verdict == verdict
    assert (charge.wape, charge.naive_wape, charge.covered_p95) == (0.1, 0.2, 1.0)


def test_the_naive_one_is_in_charge_where_the_model_was_demoted() -> None:
    (charge,) = charges_of([scored(1.0, 1.0), scored(1.0, 1.0, in_charge=False)])
    assert charge.in_charge == "last-value"
    assert list(charges_of([])) == []
