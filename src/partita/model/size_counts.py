"""How many requests of which input size came when: counts by service, step and bucket of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class SizeCounts:
    """Requests by service, step and bucket: `counts` has shape ``(services, steps, buckets)``, NaN where not measured.

    Bucket k holds the sizes above ``edges[k - 1]`` and up to ``edges[k]``, the last one those above the last edge, so
    there is one bucket more than edges. `unknown`, ``(services, steps)``, counts requests that told no size.
    """

    services: tuple[str, ...]
    start_s: float
    step_s: float
    edges: tuple[float, ...]
    counts: NDArray[np.float64]
    unknown: NDArray[np.float64]

    @property
    def end_s(self) -> float:
        """End of the last step."""
        return self.start_s + self.step_s * int(self.counts.shape[1])

    def until(self, step: int) -> SizeCounts:
        """Return what came before a step."""
        return SizeCounts(
            self.services, self.start_s, self.step_s, self.edges, self.counts[:, :step], self.unknown[:, :step]
        )

    def of(self, services: Sequence[int]) -> SizeCounts:
        """Keep some services, by their places."""
        kept = list(services)
        names = tuple(self.services[n] for n in kept)
        return SizeCounts(names, self.start_s, self.step_s, self.edges, self.counts[kept], self.unknown[kept])


def gathered(shares: NDArray[np.float64], edges: Sequence[float], wanted: Sequence[float]) -> NDArray[np.float64]:
    """Add up the buckets (last axis) between `edges` to those between the `wanted` ones, which are among them."""
    place = np.searchsorted(np.asarray(wanted), np.append(edges, np.inf), side="left")
    return np.stack([shares[..., place == n].sum(axis=-1) for n in range(len(wanted) + 1)], axis=-1)


def size_quantile(shares: NDArray[np.float64], edges: Sequence[float], level: float) -> NDArray[np.float64]:
    """Return the size that this share of the requests does not exceed; NaN where there are none.

    Between a bucket's edges it is interpolated, on a logarithmic scale where the lower one is above zero. In the bucket
    above the last edge nothing is known but that edge.
    """
    reached = shares.cumsum(axis=-1)
    total = reached[..., -1]
    wanted = np.clip(level, 0.0, 1.0) * total
    place = np.minimum((reached < wanted[..., None] * (1 - 1e-12)).sum(axis=-1), shares.shape[-1] - 1)
    inside = np.take_along_axis(shares, place[..., None], axis=-1)[..., 0]
    before = np.take_along_axis(reached, place[..., None], axis=-1)[..., 0] - inside
    part = np.clip((wanted - before) / np.where(inside > 0, inside, 1.0), 0.0, 1.0)
    low = np.concatenate(([0.0], edges))[place]
    high = np.append(edges, edges[-1] if len(edges) else 0.0)[place]
    both = (low > 0) & (high > 0)
    growing = np.where(both, low, 1.0) * (np.where(both, high, 1.0) / np.where(both, low, 1.0)) ** part
    sizes: NDArray[np.float64] = np.where(total > 0, np.where(both, growing, low + (high - low) * part), np.nan)
    return sizes
