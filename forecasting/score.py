"""How good a forecast was, once the truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.model.load import Forecast, Load


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A forecast against the truth, by service; NaN where nothing was measured.

    `pinball` is the mean quantile loss in requests a second, shape ``(services, levels)``; `coverage`, of the same
    shape, is the share of steps at or below the quantile, which should be the level itself; `wape` is the sum of
    absolute errors of the median over the sum of what arrived (at least one request), shape ``(services,)``.
    """

    services: tuple[str, ...]
    levels: tuple[float, ...]
    steps: int
    pinball: NDArray[np.float64]
    coverage: NDArray[np.float64]
    wape: NDArray[np.float64]


def score(forecast: Forecast, truth: Load) -> Score:
    """Compare a forecast with the load that came, over the steps both cover; unmeasured steps do not count.

    Raises ForecastError where services or step differ, or where no step is covered by both.
    """
    if truth.services != forecast.services or truth.step_s != forecast.step_s:
        raise ForecastError("a forecast can only be scored on the same services and the same step")
    skip = round((truth.start_s - forecast.made_at_s) / forecast.step_s)
    first, last = max(skip, 0), min(forecast.rps.shape[2], skip + truth.counts.shape[1])
    if last <= first:
        raise ForecastError(f"no step of the forecast from {forecast.made_at_s:g} s on lies in the load given")
    came = truth.counts[:, None, first - skip : last - skip] / truth.step_s
    expected = forecast.rps[:, :, first:last]
    level = np.asarray(forecast.levels)[None, :, None]
    above = came - expected
    loss = np.where(above >= 0, level * above, (level - 1) * above)
    wrong = np.abs(came[:, 0] - forecast.quantile(0.5)[:, first:last])
    sums = np.maximum(np.where(np.isnan(came[:, 0]), 0.0, came[:, 0]).sum(axis=1), 1 / truth.step_s)
    return Score(
        services=forecast.services,
        levels=forecast.levels,
        steps=last - first,
        pinball=_mean(loss),
        coverage=_mean(np.where(np.isnan(above), np.nan, (above <= 0).astype(np.float64))),
        wape=_mean(wrong) * np.isfinite(wrong).sum(axis=1) / sums,
    )


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis without its NaN; NaN where there is nothing else."""
    known = np.isfinite(values)
    number = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    mean: NDArray[np.float64] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return mean
