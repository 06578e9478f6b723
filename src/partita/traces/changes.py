"""A trace, or several at once, changed on the way: cut, renamed, thinned, played faster, moved, drawn, put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from partita.errors import ConfigError
from partita.ports import Counts, Rows, TraceInfo, TraceReader
from partita.traces.guard import read_blocks
from partita.traces.moving import as_fraction, moved, parse_shift
from partita.traces.read_options import seeded
from partita.traces.select import Selection, as_rows
from partita.traces.services import ServiceMap
from partita.traces.summary import first_instant, open_arrivals
from partita.traces.superposition import Alignment, member_seed, merge
from partita.traces.thinning import Thinned, Thinning, thinned
from partita.traces.times import parse_instant

DRAWN_STEP_NS = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Changes:
    """What becomes of a trace, in this order.

    `begin` and `end` (dates, or times after its start) cut it, `services` (rules of a ServiceMap) rename, `thin` keeps
    shares of the services under their new names, `speed` plays it faster, `shift` moves its start (see `parse_shift`).
    With `raw`, requests drawn from `seed` stand for counts.
    """

    services: Mapping[str, str | None] = field(default_factory=dict)
    begin: str | None = None
    end: str | None = None
    thin: Mapping[str, float] = field(default_factory=dict)
    speed: float = 1.0
    shift: str | None = None
    raw: bool = False
    seed: int = 0


class Changed:
    """The changed trace of one file or several, each with its own changes, to be gone through once.

    Several are put into one, all beginning where the first does ("aligned") or at dates of their own ("dated").
    `dropped` counts, once it has been gone through, the requests that no rule named.
    """

    def __init__(
        self,
        members: Sequence[tuple[TraceReader, Path, Changes]],
        alignment: Alignment = "aligned",
    ) -> None:
        self._members = [_Member(reader, path, changes, at) for at, (reader, path, changes) in enumerate(members)]
        self._aligned = alignment == "aligned"
        infos = [member.info for member in self._members]
        for member, info in zip(self._members, infos, strict=True):
            if (info.kind, info.bin_s) != (infos[0].kind, infos[0].bin_s):
                text = f"{member.path} holds {_what(info)}, {self._members[0].path} {_what(infos[0])}"
                raise ConfigError(f"{text}: only like traces become one (--raw draws requests)", key="--superpose")
        self.info = replace(infos[0], format="+".join(dict.fromkeys(info.format for info in infos)))

    @property
    def dropped(self) -> int:
        """Requests of services that no rule named."""
        return sum(member.dropped for member in self._members)

    def __iter__(self) -> Iterator[Rows | Counts]:
        first = self._members[0]
        if len(self._members) == 1:
            return first.blocks(None)
        starts = [None, *(first.origin_ns() if self._aligned else None for _ in self._members[1:])]
        streams = [member.blocks(start) for member, start in zip(self._members, starts, strict=True)]
        # Bins of one service and instant are added up.
        return iter(Selection(merge(streams), ServiceMap()))


class _Member:
    """One file and what becomes of it."""

    def __init__(self, reader: TraceReader, path: Path, changes: Changes, number: int) -> None:
        self._seed = member_seed(changes.seed, number)
        self._reader, self.path, self._changes = seeded(reader, self._seed), path, changes
        self._speed = as_fraction(changes.speed)
        self._thinning = Thinning(changes.thin, self._seed)
        self._selection: Selection | None = None
        self._left_out = 0
        info = reader.info(path)
        self._draws = changes.raw and info.kind == "counts"
        bin_s = None if info.bin_s is None or self._draws else float(info.bin_s / self._speed)
        self.info = TraceInfo(info.format, "requests" if self._draws else info.kind, bin_s)

    @property
    def dropped(self) -> int:
        return self._left_out + (self._selection.dropped if self._selection is not None else 0)

    def origin_ns(self) -> int:
        """Return where the part that is taken begins."""
        first_ns = first_instant(self._reader, self.path)
        return first_ns if self._changes.begin is None else self._bound(self._changes.begin, first_ns, "--from")

    def blocks(self, start_ns: int | None) -> Iterator[Rows | Counts]:
        """Yield it, as if it had begun at `start_ns`."""
        changes, origin_ns = self._changes, self.origin_ns()
        to_ns = origin_ns if start_ns is None else start_ns
        if changes.shift is not None:
            to_ns += parse_shift(changes.shift, origin_ns=to_ns, key="--shift")
        taken = self._drawn() if self._draws else self._taken(origin_ns)
        if self._speed == 1 and to_ns == origin_ns:
            return taken
        return moved(taken, origin_ns=origin_ns, speed=self._speed, to_ns=to_ns, file=str(self.path))

    def _taken(self, origin_ns: int) -> Iterator[Rows | Counts]:
        changes = self._changes
        first_ns = origin_ns if changes.begin is None else first_instant(self._reader, self.path)
        self._selection = Selection(
            read_blocks(self._reader, self.path),
            ServiceMap(changes.services or None),
            begin_ns=None if changes.begin is None else origin_ns,
            end_ns=None if changes.end is None else self._bound(changes.end, first_ns, "--to"),
        )
        return thinned(self._selection, self._thinning) if changes.thin else iter(self._selection)

    def _drawn(self) -> Iterator[Rows | Counts]:
        changes = self._changes
        arrivals, summary = open_arrivals(
            self._reader,
            self.path,
            ServiceMap(changes.services or None),
            begin=changes.begin,
            end=changes.end,
            seed=self._seed,
        )
        self._left_out = summary.dropped
        source = Thinned(arrivals, self._thinning) if changes.thin else arrivals
        return as_rows(source, step_ns=DRAWN_STEP_NS)

    def _bound(self, text: str, first_ns: int, key: str) -> int:
        return parse_instant(text, origin_ns=first_ns, key=key)


def _what(info: TraceInfo) -> str:
    return "requests" if info.bin_s is None else f"counts in bins of {info.bin_s:g} s"
