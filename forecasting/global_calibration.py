"""How far the global model's quantiles must be moved to keep their promise, from errors on steps it was not trained on.

Conformal prediction with scaled scores (Papadopoulos et al. 2002; Romano et al. 2019): an error is taken in units of
the distance from the median to the quantile in question, so what is learned at night says something about noon.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from partita.forecasting.bands import TRUST
from partita.forecasting.global_inputs import View
from partita.forecasting.global_network import MEDIAN, Network
from partita.forecasting.past import Steps
from partita.forecasting.quantiles import LEVELS, error_quantiles

LEAST_FACTOR, MOST_FACTOR = 0.25, 4.0
"""Bounds of what a distance from the median is multiplied by: beyond, a few errors would rule."""

OVERLAP = 0.4
"""Share of the steps ahead by which errors of neighbouring origins are taken to be the same error."""

Array = NDArray[np.float64]


def judged_errors(view: View, network: Network, first: int, ahead: int, most: int, reach: int) -> tuple[Array, float]:
    """Return errors in units of each quantile's distance from the median, and how many are independent.

    They are ``(services, steps, levels)`` on at most so many steps from `first` on, evenly spread; NaN where not known,
    and 0 at the median. Independent are the errors of one service.
    """
    low, length = max(first, ahead), view.past.length
    stride = max(1, -(-(length - low) // most))
    targets = np.arange(length - 1, low - 1, -stride)[::-1]
    if not len(targets):
        return np.empty((view.past.counts.shape[0], 0, len(LEVELS))), 0.0
    seen = view.inputs(targets - ahead, np.full_like(targets, ahead), reach)
    lines = network.quantiles(seen)
    came = view.past.counts[:, targets]
    known = np.isfinite(came)
    z = np.where(known, seen.scaled(np.where(known, came, 0.0)), np.nan)
    middle = lines[..., MEDIAN]
    apart = lines - middle[..., None]
    apart[..., MEDIAN] = np.inf
    return (z - middle)[..., None] / apart, len(targets) / (1 + OVERLAP * (ahead - 1) / stride)


def pooled_factors(errors: Sequence[Array]) -> Array:
    """Return by level what distances must be multiplied by, over the errors of all services."""
    together = np.concatenate([each.reshape(1, -1, len(LEVELS)) for each in errors], axis=1)
    return _factors(together)[0] if together.shape[1] else np.ones(len(LEVELS))


def own_factors(errors: Array, independent: float, pooled: Array) -> Array:
    """Return by service and level what distances must be multiplied by, ``(services, levels)``.

    A service's own factor counts as far as its errors are enough to see so rare a miss, else that of all of them.
    """
    if not errors.shape[1]:
        return np.broadcast_to(pooled, (len(errors), len(LEVELS)))
    known = np.isfinite(errors[..., 0]).sum(axis=1) / errors.shape[1]
    tail = np.minimum(LEVELS, 1 - np.asarray(LEVELS))
    number = independent * known[:, None]
    trust = number / (number + TRUST / tail)
    own = np.log(np.where(known[:, None] > 0, _factors(errors), pooled))
    factors: Array = np.exp(trust * own + (1 - trust) * np.log(pooled))
    return factors


def _factors(errors: Array) -> Array:
    """Return what keeps each level on these errors, ``(series, levels)``: both sides count away from the median."""
    factors = np.ones((len(errors), len(LEVELS)))
    for i, level in enumerate(LEVELS):
        if i != MEDIAN:
            outwards = max(level, 1 - level)
            kept = error_quantiles(errors[..., i], (outwards,), mirrored=False)[:, 0]
            factors[:, i] = np.clip(np.nan_to_num(kept, nan=1.0), LEAST_FACTOR, MOST_FACTOR)
    return factors


def between(at: Steps, factors: Sequence[Array], ahead: Steps) -> Array:
    """Carry factors, ``(services, levels)`` at each of the horizons `at`, to every step: ``(services, steps, levels)``.

    They are linear in the logarithm of the horizon, and stay beyond the last one.
    """
    weights = np.stack([np.interp(np.log(ahead), np.log(at), unit) for unit in np.eye(len(at))])
    carried: Array = np.einsum("hsl,ht->stl", np.stack(factors), weights)
    return carried


def at_levels(lines: Array, levels: Sequence[float]) -> Array:
    """Find other levels, ``(services, levels, steps)``, from the lines at LEVELS, ``(services, steps, levels)``.

    In between they are linear in the normal score; beyond the outermost the tails are exponential.
    """
    known, found = special.ndtri(LEVELS), []
    for level in levels:
        if LEVELS[0] <= level <= LEVELS[-1]:
            weights = np.array([np.interp(special.ndtri(level), known, unit) for unit in np.eye(len(LEVELS))])
            found.append(lines @ weights)
        else:
            end = 0 if level < 0.5 else -1
            farther = np.log(max(min(level, 1 - level), 1e-12)) / np.log(LEVELS[0])
            middle = lines[..., MEDIAN]
            found.append(middle + (lines[..., end] - middle) * farther)
    return np.stack(found, axis=1)
