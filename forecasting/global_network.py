"""The network of the global model, as it foretells: plain arrays, so that what has been trained needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.global_inputs import CANDIDATES, Inputs
from partita.forecasting.quantiles import LEVELS

MEDIAN = LEVELS.index(0.5)
"""Its place among the levels that are learned; those between and beyond are found from them."""

NARROWEST = 1e-3
"""Least distance of neighbouring quantiles, in units of z: so that errors can always be told in units of it."""

LAYERS = 3

LAST = CANDIDATES.index("last")

Weights = Mapping[str, NDArray[np.float32]]
"""`weight0`, ``(members, inputs, hidden)``, `bias0`, ``(members, 1, hidden)``, and so on for each layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A few small networks that were begun differently; what they foretell is averaged."""

    weights: Weights

    def quantiles(self, seen: Inputs) -> NDArray[np.float64]:
        """Return z at each of LEVELS, ``(services, origins, levels)``, rising."""
        rows = seen.rows.reshape(-1, seen.rows.shape[-1])
        candidates = seen.candidates.reshape(len(rows), -1)
        total = np.zeros((len(rows), len(LEVELS)), np.float32)
        members = len(self.weights["bias0"])
        for member in range(members):
            total += _head(self._outputs(rows, member), candidates, seen.unit.reshape(-1, 2), seen.skip.ravel())
        return (total / members).astype(np.float64).reshape(*seen.skip.shape, len(LEVELS))

    def _outputs(self, rows: NDArray[np.float32], member: int) -> NDArray[np.float32]:
        for layer in range(LAYERS):
            rows = rows @ self.weights[f"weight{layer}"][member] + self.weights[f"bias{layer}"][member]
            if layer < LAYERS - 1:
                np.maximum(rows, 0.0, out=rows)
        return rows


def outputs_of(candidates: int) -> int:
    """Return how many numbers the last layer gives: a share for each candidate, a shift, and steps to each quantile."""
    return candidates + len(LEVELS)


def _head(
    outputs: NDArray[np.float32],
    candidates: NDArray[np.float32],
    unit: NDArray[np.float32],
    skip: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Turn a network's outputs into quantiles; `global_training` has the same in torch."""
    number = candidates.shape[1]
    logits = outputs[:, :number].copy()
    logits[:, LAST] += skip
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    mixed = (shares * candidates).sum(axis=1, keepdims=True) / shares.sum(axis=1, keepdims=True)
    middle = mixed + unit[:, :1] * outputs[:, number : number + 1]
    steps = unit[:, 1:] * np.logaddexp(outputs[:, number + 1 :], np.float32(0.0)) + np.float32(NARROWEST)
    below = np.cumsum(steps[:, :MEDIAN], axis=1)[:, ::-1]
    above = np.cumsum(steps[:, MEDIAN:], axis=1)
    quantiles: NDArray[np.float32] = np.hstack([middle - below, middle, middle + above])
    return quantiles
