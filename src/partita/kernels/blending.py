"""Loops of the blend that as array operations would pass over millions of values many times, or sort short rows."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def weighted_middle(
    expected: NDArray[np.float64],
    weight: NDArray[np.float64],
    block: NDArray[np.int64],
    low: float,
    high: float,
    middle: NDArray[np.float64],
) -> None:
    """Fill `middle`, ``(services, origins)``, with the mean of what lies between two shares of the models' weight.

    `expected` has shape ``(models, services, origins)``, `weight` ``(models, services, blocks)`` (its sum over models
    is 1), `block` says which of them holds at each origin.
    """
    models, services, origins = expected.shape
    value, share = np.empty(models), np.empty(models)
    for s in range(services):
        for k in range(origins):
            b = block[k]
            for m in range(models):
                v, w = expected[m, s, k], weight[m, s, b]
                i = m
                while i > 0 and value[i - 1] > v:
                    value[i], share[i] = value[i - 1], share[i - 1]
                    i -= 1
                value[i], share[i] = v, w
            total, taken, below = 0.0, 0.0, 0.0
            for m in range(models):
                part = min(below + share[m], high) - max(below, low)
                if part > 0.0:
                    total += part * value[m]
                    taken += part
                below += share[m]
            middle[s, k] = total / taken if taken > 0.0 else value[models // 2]


@njit(cache=True)
def line_loss(
    came: NDArray[np.float64],
    centre: NDArray[np.float64],
    unit: NDArray[np.float64],
    quantile: NDArray[np.float64],
    levels: NDArray[np.float64],
    loss: NDArray[np.float64],
) -> None:
    """Fill `loss`, ``(services, levels)``, with the mean quantile loss of the lines ``centre + unit * quantile``.

    `came`, `centre` and `unit` have shape ``(services, origins)``; what came is NaN where it is not known.
    """
    services, origins = came.shape
    for s in range(services):
        known = 0
        loss[s, :] = 0.0
        for k in range(origins):
            if np.isnan(came[s, k]):
                continue
            known += 1
            above_centre = came[s, k] - centre[s, k]
            for i in range(levels.shape[0]):
                above = above_centre - unit[s, k] * quantile[s, i]
                loss[s, i] += levels[i] * above if above >= 0.0 else (levels[i] - 1.0) * above
        loss[s, :] /= max(known, 1)


@njit(cache=True)
def look_at(
    counts: NDArray[np.float64], filled: NDArray[np.float64], known: NDArray[np.float64], total: NDArray[np.float64]
) -> None:
    """Fill gaps, and running numbers and sums, of counts ``(services, steps)``: NaN and infinities are not measured.

    `filled` carries the last measured count on, the first one backwards; `known` and `total` have shape
    ``(services, steps + 1)`` and begin with zeros.
    """
    services, steps = counts.shape
    for s in range(services):
        first = 0
        while first < steps - 1 and not np.isfinite(counts[s, first]):
            first += 1
        last = counts[s, first]
        for t in range(steps):
            measured = np.isfinite(counts[s, t])
            if measured:
                last = counts[s, t]
            filled[s, t] = last
            known[s, t + 1] = known[s, t] + (1.0 if measured else 0.0)
            total[s, t + 1] = total[s, t] + (counts[s, t] if measured else 0.0)


@njit(cache=True)
def window_means(
    filled: NDArray[np.float64],
    known: NDArray[np.float64],
    total: NDArray[np.float64],
    at: NDArray[np.int64],
    width: int,
    means: NDArray[np.float64],
) -> None:
    """Fill `means`, ``(services, len(at))``, with the mean of what was measured in the `width` steps up to each step.

    Where nothing was it is the last known value. The others are those of `look_at`.
    """
    for s in range(filled.shape[0]):
        for i in range(at.shape[0]):
            t = at[i]
            since = max(t + 1 - width, 0)
            number = known[s, t + 1] - known[s, since]
            # running sums round: what is left of a burst must not make the silence after it negative
            means[s, i] = max(total[s, t + 1] - total[s, since], 0.0) / number if number > 0.0 else filled[s, t]


@njit(cache=True)
def ratio_medians(
    counts: NDArray[np.float64],
    level: NDArray[np.float64],
    spare: NDArray[np.float64],
    origins: NDArray[np.int64],
    ahead: NDArray[np.int64],
    day: int,
    most: float,
    curves: NDArray[np.float64],
    medians: NDArray[np.float64],
) -> None:
    """Fill `medians`, ``(services, origins)``, with former days' counts at the level of late: the median over days.

    `level`, ``(services, steps)``, is that of each step, `spare`, ``(services, origins)``, what is added to levels;
    their ratio is at most `most`, up or down. As many days are looked at as `curves` has places. NaN where nothing is
    known.
    """
    for s in range(counts.shape[0]):
        for k in range(origins.shape[0]):
            origin, number = origins[k], 0
            late = level[s, origin] + spare[s, k]
            back = (ahead[k] + day - 1) // day
            for more in range(curves.shape[0]):
                days = (back + more) * day
                at = origin + ahead[k] - days
                if at < 0 or np.isnan(counts[s, at]):
                    continue
                ratio = late / (level[s, max(origin - days, 0)] + spare[s, k])
                value = counts[s, at] * min(max(ratio, 1.0 / most), most)
                i = number
                while i > 0 and curves[i - 1] > value:
                    curves[i] = curves[i - 1]
                    i -= 1
                curves[i] = value
                number += 1
            middle = (curves[(number - 1) // 2] + curves[number // 2]) / 2.0 if number > 0 else np.nan
            medians[s, k] = middle


@njit(cache=True)
def prefix_means(
    missed: NDArray[np.float64],
    weight: NDArray[np.float64],
    prefix: NDArray[np.int64],
    means: NDArray[np.float64],
    masses: NDArray[np.float64],
) -> None:
    """Fill `means` and `masses`, ``(rows, len(prefix))``: weighted mean and summed weight of so many first values.

    `missed` has shape ``(rows, values)``, NaN where a value is not known; `prefix` rises. A mean of nothing is 0.
    """
    for r in range(missed.shape[0]):
        total, mass, taken = 0.0, 0.0, 0
        for i in range(prefix.shape[0]):
            while taken < prefix[i]:
                if not np.isnan(missed[r, taken]):
                    total += weight[taken] * missed[r, taken]
                    mass += weight[taken]
                taken += 1
            means[r, i] = total / mass if mass > 0.0 else 0.0
            masses[r, i] = mass


@njit(cache=True)
def line_slopes(counts: NDArray[np.float64], slopes: NDArray[np.float64]) -> None:
    """Fill `slopes` with that of the line through what was measured up to each step; 0 while that is less than two."""
    for s in range(counts.shape[0]):
        number, times, sums, squares, products = 0.0, 0.0, 0.0, 0.0, 0.0
        for t in range(counts.shape[1]):
            if not np.isnan(counts[s, t]):
                number += 1.0
                times += t
                sums += counts[s, t]
                squares += float(t) * t
                products += t * counts[s, t]
            apart = number * squares - times * times
            slopes[s, t] = (number * products - times * sums) / max(apart, 1.0) if number > 1.0 else 0.0
