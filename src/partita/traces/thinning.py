"""Keeping a share of a trace's requests, each by a chance of its own.

Whether a request stays depends on the seed, its service, its instant and its number among those of the same instant,
and on nothing else: so it is the same however time is cut, and what a small share keeps, a larger one keeps too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.model.load import Arrivals
from partita.ports import Counts, Rows
from partita.traces.arrivals import ArrivalSource
from partita.traces.blocks import join_rows, pick
from partita.traces.draw import bin_keys, chances, service_key
from partita.traces.services import by_detail


class Thinning:
    """The share to keep of each service: by pattern, the one that says most first; what matches none is kept whole."""

    def __init__(self, shares: Mapping[str, float], seed: int = 0) -> None:
        for pattern, share in shares.items():
            if not 0.0 < share <= 1.0:
                raise ConfigError(f"{share:g} is not a share above 0 and up to 1", key="thin", value=pattern)
        self.shares, self.seed = dict(shares), seed
        self._keys: dict[str, np.uint64] = {}

    def seeded(self, seed: int) -> Thinning:
        """Return the same shares, drawn from another seed."""
        return Thinning(self.shares, seed)

    def share(self, service: str) -> float:
        """Return what is kept of a service."""
        if service in self.shares:
            return self.shares[service]
        matching = (self.shares[p] for p in by_detail(self.shares) if fnmatchcase(service, p))
        return next(matching, 1.0)

    def key(self, service: str) -> np.uint64:
        """Return what a service's chances are drawn from."""
        if service not in self._keys:
            self._keys[service] = service_key(self.seed, f"thin/{service}")
        return self._keys[service]

    def keeps(self, service: str, at_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which of a service's requests are kept; they rise, and all of an instant are among them."""
        share = self.share(service)
        if share == 1.0:
            return np.ones(at_ns.size, np.bool_)
        first = np.searchsorted(at_ns, at_ns)
        kept: NDArray[np.bool_] = chances(bin_keys(self.key(service), at_ns), np.arange(at_ns.size) - first) < share
        return kept


class Thinned:
    """A share of the requests of another source."""

    def __init__(self, source: ArrivalSource, thinning: Thinning) -> None:
        self._source, self._thinning = source, thinning
        self.services, self.origin_ns, self.span_ns = source.services, source.origin_ns, source.span_ns

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        a = self._source.until(ns)
        bounds = zip(self.services, a.offsets[:-1].tolist(), a.offsets[1:].tolist(), strict=True)
        parts = [self._thinning.keeps(name, self.origin_ns + a.ns[low:high]) for name, low, high in bounds]
        keep = np.concatenate(parts) if parts else np.zeros(0, np.bool_)
        offsets = np.concatenate([[0], np.cumsum([part.sum() for part in parts], dtype=np.int64)])
        return Arrivals(a.ns[keep], offsets, a.size[keep])


def thinned(blocks: Iterable[Rows | Counts], thinning: Thinning) -> Iterator[Rows | Counts]:
    """Yield what is kept of a trace's blocks.

    Of a bin's count, each request is kept by the same chance; the law of its gaps stays.
    """
    held: list[Rows] = []
    for block in blocks:
        match block:
            case Rows():
                # The last instant waits: the next block may go on with it.
                whole = join_rows([*held, block])
                cut = int(np.searchsorted(whole.at_ns, whole.at_ns[-1])) if whole.at_ns.size else 0
                held = [pick(whole, slice(cut, None))]
                yield _thin_rows(pick(whole, slice(cut)), thinning)
            case Counts():
                yield _thin_counts(block, thinning)
    for rows in held:
        yield _thin_rows(rows, thinning)


def _thin_rows(block: Rows, thinning: Thinning) -> Rows:
    keep = np.ones(block.at_ns.size, np.bool_)
    for name, chosen in _by_service(block.service):
        keep[chosen] = thinning.keeps(name, block.at_ns[chosen])
    return pick(block, keep)


def _by_service(names: NDArray[np.object_]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield the rows of each service, rising."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names.tolist()))}
    number = np.fromiter(map(numbers.__getitem__, names.tolist()), np.int64, names.size)
    order = np.argsort(number, kind="stable")
    edges = np.searchsorted(number[order], np.arange(len(numbers) + 1)).tolist()
    for name, low, high in zip(numbers, edges[:-1], edges[1:], strict=True):
        yield name, order[low:high]


def _thin_counts(block: Counts, thinning: Thinning) -> Counts:
    count = block.count.copy()
    for name, rows in _by_service(block.service):
        share = thinning.share(name)
        if share < 1.0:
            chosen = rows[count[rows] > 0]
            keys = bin_keys(thinning.key(name), block.at_ns[chosen])
            for row, key in zip(chosen.tolist(), keys.tolist(), strict=True):
                count[row] = np.random.Generator(np.random.SFC64(key)).binomial(count[row], share)
    return Counts(block.at_ns, block.service, count, block.law, block.shape)
