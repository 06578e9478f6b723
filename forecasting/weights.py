"""Who is listened to: weights from what each model has missed up to then, for each service and horizon."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.kernels.blending import prefix_means, weighted_middle

SHARPNESS = 8.0
"""How fast a weight falls with the mean error: a model whose error is an eighth larger gets 1/e of the weight."""

FORGET_DAYS = 3.0
"""Half-life of an error: long enough to hold several days of every hour."""

POOLED = 0.4
"""Share in a model's standing of how it does for all services: one service's own errors are few."""

BLOCKS = 12
"""Times at which the weights are renewed over the origins judged."""

MIDDLE = (0.4, 0.6)
"""Shares of weight between which the models' values are averaged: a median that does not jump.

A mean would foretell some load wherever one model does; of a service silent most of the time the median is zero.
"""


def running_loss(
    missed: NDArray[np.float64], origins: NDArray[np.int64], ahead: int, at: NDArray[np.int64], half_life: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean of the errors known at each of the steps `at`, old ones forgotten, and their summed weight.

    `missed`, ``(..., origins)``, is NaN where an error is not known; one made `ahead` steps ahead of its origin is
    known from then on. `at` rises. Where none is, the mean is 0.
    """
    weight = 0.5 ** ((origins[-1] - origins) / half_life)
    known = np.searchsorted(origins, at - ahead, side="right")
    rows = np.ascontiguousarray(missed).reshape(-1, missed.shape[-1])
    means, masses = np.empty((2, len(rows), len(at)))
    prefix_means(rows, weight, known, means, masses)
    shape = (*missed.shape[:-1], len(at))
    return means.reshape(shape), masses.reshape(shape)


def standing(
    loss: NDArray[np.float64], known: NDArray[np.bool_], sharpness: float, pooled: float
) -> NDArray[np.float64]:
    """Turn losses ``(models, services, …)`` into weights: exp(-sharpness × what is lost more than the best loses).

    A model's standing is the geometric mean of its relative loss for the service and for all of them. Where nothing is
    known all weigh the same.
    """
    typical = loss.mean(axis=0)
    relative = np.log(np.clip((loss + 1e-12) / (typical + 1e-12), 1e-3, 1e3))
    relative = np.where(known & (typical > 0), relative, 0.0)
    relative = (1 - pooled) * relative + pooled * relative.mean(axis=1, keepdims=True)
    weight = np.exp(-sharpness * np.expm1(relative - relative.min(axis=0)))
    shared: NDArray[np.float64] = weight / weight.sum(axis=0)
    return shared


def combine(
    expected: NDArray[np.float64], came: NDArray[np.float64], origins: NDArray[np.int64], ahead: int, half_life: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Combine expected counts ``(models, services, origins)``, each origin by what was known then.

    Returns the combined counts, and the newest weights ``(models, services)``.
    """
    starts = np.unique(np.linspace(0, len(origins) - 1, BLOCKS).astype(np.int64))
    loss, mass = running_loss(np.abs(expected - came), origins, ahead, origins[starts], half_life)
    weight = standing(loss, mass > 0, SHARPNESS, POOLED)
    block = np.searchsorted(starts, np.arange(len(origins)), side="right") - 1
    return middle(expected, weight, block), weight[..., -1]


def middle(expected: NDArray[np.float64], weight: NDArray[np.float64], block: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average the models' values ``(models, services, origins)`` in the middle of their weight."""
    combined = np.empty(expected.shape[1:])
    weighted_middle(np.ascontiguousarray(expected), np.ascontiguousarray(weight), block, *MIDDLE, combined)
    return combined
