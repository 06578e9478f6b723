"""What a load is like besides its rate: finer counts, from which burstiness is told, and counts by input size.

Both are taken while a source's blocks pass by on their way into a series, so that nothing is read twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from partita.controller.cluster_file import ClusterFile
from partita.controller.scenario_file import read_file, read_scenario
from partita.errors import ConfigError
from partita.model.load import Load
from partita.model.service import Service
from partita.model.size_counts import SizeCounts
from partita.ports import Counts, Rows
from partita.store.reading import Sized
from partita.traces.buckets import OCTAVES, Buckets, BySize, merged_edges, size_counts
from partita.traces.series import Series, Tally
from partita.traces.services import ServiceMap

FINE_S = 10.0
"""Width of the steps that burstiness is told from, that of the loop's turns; a count trace's own bins where wider."""

SIZES_S = 60.0
"""Width of the steps that sizes are counted in."""

KEY = "--buckets"


def parse_buckets(text: str) -> Buckets:
    """Read edges such as ``128,512,2048``, or the services' own ones from a scenario or cluster file of that name."""
    if not text.strip():
        raise ConfigError("give edges of input sizes like 128,512,2048, or a scenario file", key=KEY)
    try:
        edges = tuple(float(part) for part in text.split(","))
    except ValueError:
        return _buckets_of_file(Path(text))
    return Buckets(edges)


def _buckets_of_file(path: Path) -> Buckets:
    if not path.is_file():
        raise ConfigError(
            f"{str(path)!r} is neither edges of input sizes like 128,512,2048 nor a file", key=KEY, value=str(path)
        )
    try:
        entries = read_scenario(path).service_entries
    except ConfigError as problem:
        try:
            entries = read_file(ClusterFile, path).service_entries
        except ConfigError:
            raise problem from None
    found = own_edges(entry.service() for entry in entries if not entry.is_template)
    if not found:
        raise ConfigError("none of its services has buckets of sizes", key=KEY, value=str(path))
    return Buckets(own=found)


def own_edges(services: Iterable[Service]) -> dict[str, tuple[float, ...]]:
    """Return the edges of the services that are served by size."""
    edges = {s.name: tuple(b.up_to for b in s.buckets() if np.isfinite(b.up_to)) for s in services}
    return {name: found for name, found in edges.items() if found}


def edges_in(document: Mapping[str, object]) -> Buckets:
    """Return the services' own edges as a journaled scenario or cluster file tells them; none where it does not."""
    found: dict[str, tuple[float, ...]] = {}
    services = document.get("services")
    for entry in services if isinstance(services, list) else ():
        latency, buckets = entry.get("latency"), entry.get("buckets")
        sized = [key for key in latency if _is_number(key)] if isinstance(latency, dict) else []
        edges = sorted({float(edge) for edge in buckets or sized})
        if edges and isinstance(entry.get("name"), str):
            found[entry["name"]] = tuple(edges)
    return Buckets(own=found)


def _is_number(text: object) -> bool:
    try:
        return 0 < float(str(text)) < np.inf
    except ValueError:
        return False


class Detail:
    """Takes finer counts and counts by size from the blocks of a source; with `buckets` it names requests by them.

    `only` names the one service that is asked about. Sizes are counted between `edges`, and those of the buckets.
    `fine` are the counts that burstiness is told from, `sizes` those by size, None where the source tells none. Both
    are there once `finish` has been called.
    """

    def __init__(
        self, buckets: Buckets | None = None, *, edges: Iterable[float] = OCTAVES, only: str | None = None
    ) -> None:
        self.only = only
        self.buckets = buckets
        self.fine: Load | None = None
        self.sizes: SizeCounts | None = None
        self.by_size = None if buckets is None else BySize(buckets)
        edges = merged_edges(edges, () if buckets is None else buckets.all_edges())
        self._grid = BySize(Buckets(edges))
        self._fine: Tally | None = None
        self._sizes: Tally | None = None
        self._sized = False

    @property
    def edges(self) -> tuple[float, ...]:
        """The edges between which sizes are counted."""
        return self._grid.buckets.edges

    def begin(self, bin_s: float | None = None, watermark_s: float | None = None) -> None:
        """Begin with a source whose bins are so wide and which is complete so far; see `Tally`."""
        step_s = FINE_S if not bin_s or (FINE_S % bin_s == 0) else bin_s
        mapping = None if self.only is None else ServiceMap(None, [self.only])
        if self.by_size is not None:
            mapping = self.by_size.mapping
        self._fine = Tally(step_s, bin_s=bin_s, mapping=mapping, watermark_s=watermark_s)
        self._sizes = Tally(SIZES_S, mapping=self._grid.mapping, watermark_s=watermark_s)

    def through(self, blocks: Iterable[Rows | Counts], bin_s: float | None) -> Iterator[Rows | Counts]:
        """Pass blocks on, under the names of their buckets where there are any."""
        self.begin(bin_s)
        for block in blocks:
            if isinstance(block, Rows):
                self._add_sizes(self._grid.rows(block), sized=bool(np.isfinite(block.size).any()))
            named = block if self.by_size is None else self.by_size.rows(block)
            self.add_fine(named)
            yield named

    def add_fine(self, block: Rows | Counts) -> None:
        """Take counts in."""
        if self._fine is not None:
            self._fine.add(block)

    def add_sized(self, found: Sized) -> None:
        """Take in what the database has counted between all the edges."""
        self._add_sizes(_as_counts(found, self._grid, self.edges), sized=bool((found.bucket >= 0).any()))

    def _add_sizes(self, block: Rows | Counts, *, sized: bool) -> None:
        self._sized |= sized
        if self._sizes is not None:
            self._sizes.add(block)

    def finish(
        self,
        *,
        begin_s: float | None = None,
        sized_s: float | None = None,
        gaps: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Lay out what was taken: see `Tally.series`; sizes were taken from `sized_s` on, by default from the begin."""
        if self._fine is None or self._sizes is None:
            return
        self.fine = self._fine.series(begin_s=begin_s, gaps=gaps).load
        if self._sized:
            load = self._sizes.series(begin_s=sized_s or begin_s, gaps=gaps).load
            self.sizes = size_counts(load, self._grid.buckets, self._grid.services)


def split_counts(found: Sized, by_size: BySize, edges: Sequence[float]) -> Counts:
    """Turn what the database has counted between all the edges into counts under the names of buckets."""
    return _as_counts(found, by_size, edges)


def _as_counts(found: Sized, by_size: BySize, edges: Sequence[float]) -> Counts:
    stands_for = np.append(np.asarray(edges, np.float32), [np.inf, np.nan]).astype(np.float32)
    names = by_size.names(found.service, stands_for[found.bucket])  # -1 is the last: NaN
    number = len(names)
    return Counts(found.at_ns, names, found.requests, np.full(number, "poisson", object), np.ones(number))


def shared_step_s(*steps_s: float) -> float:
    """Return a width of whole seconds that all of these are multiples of, or the least of them."""
    whole = [round(step) for step in steps_s]
    fits = all(w >= 1 and abs(w - step) < 1e-9 for w, step in zip(whole, steps_s, strict=True))
    return float(np.gcd.reduce(whole)) if fits else min(steps_s)


def since_newest(series: Series, most: int) -> float:
    """Return the time from which a series holds no more than so many requests."""
    load = series.load
    later = np.nan_to_num(load.counts).sum(axis=0)[::-1].cumsum()
    return load.end_s - load.step_s * int(np.searchsorted(later, most, side="right"))
