"""Input sizes for requests that have none: drawn from a mix of sizes, request by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from partita.model.load import Arrivals
from partita.traces.arrivals import ArrivalSource


class DrawnSizes:
    """The requests of another source, with sizes drawn for some of its services.

    `mixes` gives shares by size, which sum to 1. Each service draws in the order of its requests from a generator of
    its own, so that however the time is cut, a request has the same size.
    """

    def __init__(self, source: ArrivalSource, mixes: Mapping[str, Mapping[float, float]], seed: Sequence[int]) -> None:
        self._source = source
        self.services, self.origin_ns, self.span_ns = source.services, source.origin_ns, source.span_ns
        place = {name: s for s, name in enumerate(source.services)}
        self._mixes = {place[name]: _Mix(shares, [*seed, place[name]]) for name, shares in sorted(mixes.items())}

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        arrivals = self._source.until(ns)
        size = arrivals.size.copy()
        for s, mix in self._mixes.items():
            rows = slice(arrivals.offsets[s], arrivals.offsets[s + 1])
            size[rows] = mix.draw(int(arrivals.offsets[s + 1] - arrivals.offsets[s]))
        return Arrivals(arrivals.ns, arrivals.offsets, size)


class _Mix:
    """Sizes of one service, and the generator that draws them."""

    def __init__(self, shares: Mapping[float, float], seed: Sequence[int]) -> None:
        self._sizes = np.array(sorted(shares), np.float32)
        self._upper = np.cumsum([shares[size] for size in sorted(shares)])
        self._rng = np.random.default_rng(seed)

    def draw(self, count: int) -> NDArray[np.float32]:
        """Draw so many sizes."""
        drawn = np.searchsorted(self._upper, self._rng.random(count), side="right")
        sizes: NDArray[np.float32] = self._sizes[np.minimum(drawn, len(self._sizes) - 1)]
        return sizes
