"""Per-second counts, gathered into the steps of a forecast."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from partita.controller.history import History
from partita.model.load import Load

NAMES = ("a", "b")


def load(start_s: float, seconds: list[float]) -> Load:
    """One row a service; b has ten times what a has."""
    row = np.array(seconds, np.float64)
    return Load(NAMES, start_s, 1.0, np.stack([row, 10 * row]))


def grown(parts: list[list[float]], *, step_s: float = 3.0, keep: int = 100) -> History:
    history, at_s = History.empty(NAMES, start_s=0.0, step_s=step_s, keep=keep), 0.0
    for seconds in parts:
        history = history.extended(load(at_s, seconds))
        at_s += len(seconds)
    return history


def test_whole_steps_are_summed_and_the_rest_waits() -> None:
    history = grown([[1, 2, 3, 4, 5, 6, 7]])
    np.testing.assert_array_equal(history.steps.counts, [[6, 15], [60, 150]])
    np.testing.assert_array_equal(history.rest.counts, [[7], [70]])
    assert (history.steps.start_s, history.steps.end_s) == (0.0, 6.0)
    assert (history.rest.start_s, history.rest.end_s) == (6.0, 7.0)


@pytest.mark.parametrize("parts", [[1] * 11, [2, 0, 5, 0, 4], [11], [10, 1], [0, 0, 11]])
def test_however_the_log_comes_in_the_steps_are_the_same(parts: list[int]) -> None:
    seconds = list(map(float, range(1, 12)))
    ends = np.cumsum([0, *parts])
    history = grown([seconds[a:b] for a, b in pairwise(ends)])
    whole = grown([seconds])
    np.testing.assert_array_equal(history.steps.counts, whole.steps.counts)
    np.testing.assert_array_equal(history.rest.counts, whole.rest.counts)
    assert (history.steps.start_s, history.rest.start_s) == (whole.steps.start_s, whole.rest.start_s) == (0.0, 9.0)


def test_only_the_last_steps_are_kept() -> None:
    history = grown([[1.0] * 3] * 5, keep=2)
    np.testing.assert_array_equal(history.steps.counts, [[3, 3], [30, 30]])
    assert (history.steps.start_s, history.steps.end_s) == (9.0, 15.0)


def test_a_step_with_a_second_that_was_not_measured_is_not_measured() -> None:
    history = grown([[1, np.nan, 1, 2, 2, 2]])
    np.testing.assert_array_equal(history.steps.counts, [[np.nan, 6], [np.nan, 60]])


@pytest.mark.parametrize(("step_s", "seconds"), [(0.4, 1.0), (1.0, 1.0), (2.5, 2.0), (3.6, 4.0)])
def test_steps_are_whole_seconds_so_that_rates_are_right(step_s: float, seconds: float) -> None:
    """The log counts by the second: a step of 2.5 s cannot be gathered, nor may 2 s be taken for it."""
    history = grown([[5.0] * 24], step_s=step_s)
    assert history.steps.step_s == seconds
    np.testing.assert_allclose(history.steps.rate_rps(), [5.0, 50.0])
    assert history.steps.end_s == 24.0


def test_extending_changes_nothing_in_the_history_before() -> None:
    before = grown([[1, 2, 3, 4]])
    counts = before.steps.counts.copy()
    before.extended(load(4.0, [5, 6, 7]))
    np.testing.assert_array_equal(before.steps.counts, counts)
    assert before.rest.counts.shape == (2, 1)
