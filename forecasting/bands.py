"""Quantiles around a combined forecast, from how wrong it was at each horizon.

A quantile line is a centre plus a unit times a quantile of past errors in that unit. Which centre and unit suit depends
on the service and on the level: load that scatters like arrivals, load whose noise grows and falls with its own recent
errors, load that is on or off whatever the forecast. So several lines are made, and averaged by what each would have
lost at that level, service and horizon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from partita.forecasting.quantiles import FEW_ERRORS, error_quantiles, scatter
from partita.forecasting.weights import running_loss, standing
from partita.kernels.blending import line_loss

SHARPNESS, POOLED = 20.0, 0.3
"""As for models (see weights): lines differ by less, and more from service to service."""

CLIPPED = 3.0
"""Errors above so many mean ones count as that much where it is asked how far neighbours go together."""

CLOSEST = 0.98
"""Largest correlation of neighbours taken for true: a hundred of them are then worth one."""

PRIOR_PAIRS = 50.0
"""Pairs of neighbours that all services together count for, where one has few of its own."""

PER_LENGTH = 4.0
"""Independent errors at most in a time as long as the horizon: what a day brings is not seen anew every hour of it."""

FREEDOM = 2.0
"""Degrees of freedom of Student's law, which gives the tail that few errors cannot show: a load may double for good."""

LEAST_TAIL = 1 / 3
"""What is left at least of the share beyond a level when few errors are independent: else one freak day rules."""

TRUST = 3.0
"""Misses to be expected before a shortfall counts by half."""

FULL_LEVEL = 0.95
"""Up to this level errors speak for themselves; beyond, few of them do and a tail is laid on."""

RECENT_DAYS = 1 / 12
"""Half-life of the errors that are recent to the unit: two hours."""

USUAL_DAYS = 3.0
"""Half-life of those that are usual."""

MOST_ROWS = 20_000
"""Errors that the unit is fitted to."""

SWEEPS = 100
"""Rounds of fitting the unit's coefficients: what is left to gain then is far below a hundredth."""

MANY_ERRORS = 80
"""Errors of a service from which more than the plainest lines are tried: a choice among few fits chance."""

LATE_STEPS = 6
"""Steps whose mean change is the newest volatility."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A combined forecast at one horizon: what was foretold from each origin, and what came (NaN: not known).

    Arrays are ``(services, origins)``, the last origin the newest step. `features`, ``(features, services, origins)``,
    is what a unit may be made of.
    """

    ahead: int
    origins: NDArray[np.int64]
    middle: NDArray[np.float64]
    came: NDArray[np.float64]
    features: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """What was learned at one horizon: quantiles of errors and weights by line, ``(services, levels)`` each.

    `mix` are the coefficients of the features in the unit. `tail`, ``(services, levels)``, is how far out a line is to
    be, as a multiple of the full level's line at least; `stretch`, by level, is what it is then multiplied by.
    """

    quantiles: Mapping[str, NDArray[np.float64]]
    weights: Mapping[str, NDArray[np.float64]]
    mix: NDArray[np.float64]
    tail: NDArray[np.float64]
    stretch: NDArray[np.float64]


def unit_features(
    middle: NDArray[np.float64], recent: NDArray[np.float64], usual: NDArray[np.float64], late: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Stack what the size of an error may depend on: chance, level, recent and usual errors, late changes."""
    level = np.maximum(middle, 0.0)
    return np.stack([np.sqrt(level + 1), level, recent, usual, np.broadcast_to(late, level.shape)])


def errors_so_far(
    middle: NDArray[np.float64],
    came: NDArray[np.float64],
    origins: NDArray[np.int64],
    ahead: int,
    day: float,
    at: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the recent and the usual mean error known at each of the steps `at`."""
    missed = np.abs(came - middle)
    usual, _ = running_loss(missed, origins, ahead, at, USUAL_DAYS * day)
    recent, mass = running_loss(missed, origins, ahead, at, max(RECENT_DAYS * day, 3.0))
    return np.where(mass > 0, recent, usual), usual


def learn(judged: Judged, levels: NDArray[np.float64], size: NDArray[np.float64]) -> Band:
    """Learn the band at one horizon; `size`, by service, is what counts as much for it."""
    known = np.isfinite(judged.came)
    independent = independent_errors(judged, known)
    number = known.sum(axis=1).max(initial=0)
    mix = _unit_mix(judged, known, size)
    lines = _lines(judged.middle, judged.features, mix, plain=number < MANY_ERRORS)
    quantiles, weights = _fit(judged.came, lines, levels, _inside(levels, independent))
    stretch = np.ones(len(levels))
    if number >= MANY_ERRORS and (levels > FULL_LEVEL).any():
        stretch = _stretch(judged, known, lines, levels, independent / number)
    return Band(quantiles, weights, mix, least_tail(levels, independent), stretch)


def independent_errors(judged: Judged, known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return by service how many independent errors those known are worth: less where neighbours go together.

    n (1 - r) / (1 + r) with r the correlation of an error and the next one, evenly spaced, as of an autoregression; and
    at most PER_LENGTH for each time that the steps ahead fit into the past judged.
    """
    gaps = np.diff(judged.origins)
    if not len(gaps):
        return np.ones(len(known))
    even = gaps == np.median(gaps)
    errors = np.where(known, judged.came - judged.middle, 0.0)
    size = np.abs(errors).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    errors = np.clip(errors / np.where(size > 0, size, 1.0)[:, None], -CLIPPED, CLIPPED)
    pairs = (known[:, 1:] & known[:, :-1])[:, even]
    one, other = errors[:, :-1][:, even] * pairs, errors[:, 1:][:, even] * pairs
    number = pairs.sum(axis=1)
    square = np.maximum((one * one + other * other).sum(axis=1) / 2, 1e-12)
    together = np.clip((one * other).sum(axis=1) / square, 0.0, CLOSEST)
    shared = float(together[number > 0].mean()) if (number > 0).any() else 0.0
    together = (number * together + PRIOR_PAIRS * shared) / (number + PRIOR_PAIRS)
    independent = np.maximum(known.sum(axis=1) * (1 - together) / (1 + together), 1.0)
    lengths = float(judged.origins[-1] - judged.origins[0]) / judged.ahead
    bounded: NDArray[np.float64] = np.minimum(independent, max(PER_LENGTH * lengths, 1.0))
    return bounded


def spread_lines(
    band: Band, middle: NDArray[np.float64], features: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the lines ``(services, levels, steps)`` of a band whose arrays have a last axis of steps."""
    lines = _lines(middle, features, band.mix[:, None, :], plain="own" not in band.quantiles)
    total = np.zeros((middle.shape[0], len(levels), middle.shape[1]))
    for name, (centre, unit) in lines.items():
        total += band.weights[name] * (centre[:, None, :] + unit[:, None, :] * band.quantiles[name])
    return tailed(total, middle, levels, band.tail, band.stretch)


def least_tail(levels: NDArray[np.float64], independent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far out each level's line is at least, in distances of the full level's line from the middle.

    Shape ``(services, levels)``. That of a heavy tail where a service's independent errors hold no more than one beyond
    the level; else 0.
    """
    full = levels[np.argmin(np.abs(levels - FULL_LEVEL))]
    few = (levels > max(FULL_LEVEL, full)) & (independent[:, None] * (1 - levels) < 1)
    heavy = special.stdtrit(FREEDOM, np.minimum(levels, 1 - 1e-12)) / special.stdtrit(FREEDOM, full)
    return np.where(few, heavy, 0.0)


def tailed(
    lines: NDArray[np.float64],
    middle: NDArray[np.float64],
    levels: NDArray[np.float64],
    tail: NDArray[np.float64],
    stretch: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Put lines ``(services, levels, steps)`` on their side of the middle, those beyond the full level far enough out.

    `tail`, ``(services, levels, steps)``, and `stretch`, ``(levels,)`` or ``(levels, steps)``, are those of a Band.
    """
    rise = lines - middle[:, None, :]
    above, below = levels > 0.5, levels < 0.5
    rise[:, above] = np.maximum(rise[:, above], 0.0)
    rise[:, below] = np.minimum(rise[:, below], 0.0)
    rise[:, ~above & ~below] = 0.0
    full = int(np.argmin(np.abs(levels - FULL_LEVEL)))
    for i in np.flatnonzero(levels > max(FULL_LEVEL, levels[full])):
        rise[:, i] = np.maximum(rise[:, i], rise[:, full] * tail[:, i]) * stretch[i]
    return rise + middle[:, None, :]


def _lines(
    middle: NDArray[np.float64], features: NDArray[np.float64], mix: NDArray[np.float64], *, plain: bool
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return centre and unit of each line; with few errors only those that hardly need any."""
    flat = np.ones_like(middle)
    lines = {"flat": (middle, flat), "scatter": (middle, scatter(middle))}
    if not plain:
        unit = np.maximum((mix.reshape(len(features), 1, -1) * features).sum(axis=0), 1e-6)
        lines |= {"own": (middle, unit), "level": (np.zeros_like(middle), flat)}
    return lines


def _unit_mix(judged: Judged, known: NDArray[np.bool_], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit the mean absolute error as a sum of features with coefficients never below zero, over all services."""
    taken = np.flatnonzero(known)
    taken = taken[:: -(-len(taken) // MOST_ROWS) or 1]
    whose = size[taken // known.shape[1]]
    scaled = judged.features.reshape(len(judged.features), -1)[:, taken] / whose
    weight = 1 / (scaled[3] + 0.02)
    missed = np.minimum(np.abs(judged.came - judged.middle).ravel()[taken] / whose * weight, 10.0)
    rows = scaled * weight
    if rows.shape[1] < len(rows):
        return np.zeros(len(rows))
    return _never_negative(rows @ rows.T, rows @ missed)


def _never_negative(gram: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimise the squares with these normal equations over coefficients never below zero, one at a time in turn."""
    found = np.zeros(len(wanted))
    for _ in range(SWEEPS):
        for i, own in enumerate(np.diag(gram)):
            if own > 0:
                found[i] = max(0.0, found[i] + (wanted[i] - gram[i] @ found) / own)
    return found


def _inside(levels: NDArray[np.float64], independent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move levels outwards by what so few independent errors cannot tell: (level - 1/2) / n; by service."""
    tail = np.minimum(levels, 1 - levels)
    moved = np.maximum(tail * LEAST_TAIL, tail - (0.5 - tail) / independent[:, None])
    return np.where(levels > 0.5, 1 - moved, np.where(levels < 0.5, moved, levels))


def _fit(
    came: NDArray[np.float64],
    lines: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    levels: NDArray[np.float64],
    inside: NDArray[np.float64],
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Return for each line the quantiles of errors and its weight, ``(services, levels)``."""
    quantiles, losses = {}, []
    for name, (centre, unit) in lines.items():
        errors = (came - centre) / unit
        quantiles[name] = np.nan_to_num(error_quantiles(errors, inside, mirrored=name != "level"))
        loss = np.empty((len(came), len(levels)))
        line_loss(came, centre, unit, quantiles[name], levels, loss)
        losses.append(loss)
    loss = np.stack(losses)
    weight = standing(loss, np.ones(loss.shape, np.bool_), SHARPNESS, POOLED)
    return quantiles, dict(zip(lines, weight, strict=True))


def _stretch(
    judged: Judged,
    known: NDArray[np.bool_],
    lines: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    levels: NDArray[np.float64],
    worth: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Find by how much far lines learned on the older half fell short on the newer half, over all services.

    The level-quantile of what came in units of the line: 1 where the line kept its promise. It counts only as far as
    there are errors enough to see so rare a miss, and never narrows.
    """
    stretch = np.ones(len(levels))
    seen = np.flatnonzero(known.any(axis=0))
    cut = judged.origins[seen[len(seen) // 2]]
    old = known & (judged.origins + judged.ahead <= cut)
    new = known & (judged.origins >= cut)
    far = np.flatnonzero(levels > FULL_LEVEL)
    if old.any(axis=0).sum() < FEW_ERRORS or not new.any():
        return stretch
    independent = np.maximum(old.sum(axis=1) * worth, 1.0)
    wanted = np.concatenate(([FULL_LEVEL], levels[far]))
    quantiles, weights = _fit(np.where(old, judged.came, np.nan), lines, wanted, _inside(wanted, independent))
    total = sum(
        weights[name][:, :, None] * (centre[:, None, :] + unit[:, None, :] * quantiles[name][:, :, None])
        for name, (centre, unit) in lines.items()
    )
    tail = least_tail(wanted, independent)
    lain = tailed(np.asarray(total), judged.middle, wanted, tail[:, :, None], np.ones(len(wanted)))
    rise = lain - judged.middle[:, None, :]
    trusted = max(float((new.sum(axis=1) * worth).sum()), 1.0)
    for place, i in enumerate(far, start=1):
        counted = new & (rise[:, place] > 1e-9)
        if counted.sum() < FEW_ERRORS:
            continue
        short = np.quantile((judged.came - judged.middle)[counted] / rise[:, place][counted], levels[i])
        trust = trusted / (trusted + TRUST / (1 - levels[i]))
        stretch[i] = np.clip(short, 1.0, 3.0) ** trust
    return stretch
