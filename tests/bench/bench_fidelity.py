"""Our disciplines against runs of public schedulers, row by row of a reference table.

Run by `make bench-fidelity`; PARTITA_REFERENCE_DIR names the folder that holds ``reference/schedulers.csv``. A row is a
run of the reference: one system, one workload, one rate, one seed. It is run again at its own rate, and may differ by

- bad rate: max(0.2 points, 3 binomial standard deviations over five seeds) below saturation, 1.5 points above. A row is
  below saturation if at most 1 % of the reference's requests were bad, which is where its goodput is measured too;
- mean batch 3 %, utilisation 2 % (of the reference's value);
- for Nexus and Shepherd only the bad rate counts, below saturation only, and 1 point is allowed;
- goodput, the rate at which 1 % is bad by straight lines between rates, 1.5 %; of Nexus and Shepherd it is only shown.
  Rows of several seeds at one rate count as their mean.

**Own arrivals.** Five seeds a row, forty if five miss. A seed draws as many requests for the measured span as the
reference's run had; drawing their number too would move an overloaded row by 0.2 points by itself. Binomial deviations
are too small for a queue, where bad requests come together, so that many a row of the reference is an outlier itself.

**The reference's arrivals.** They can be drawn again, request by request (`reference_runs`), so that what is left is
the difference of the rules. A row that misses on arrivals of our own and holds on these misses by chance.

A row that misses is listed with the reason, one of

- *one seed*: it holds on the reference's arrivals;
- *two regimes*: of forty seeds some collapse and some do not (over 5 points of bad rate apart), and the reference's
  value lies between;
- a rule of the public code that ours leaves out or has otherwise (`DIFFERENT`); see docs/disciplines.md.

A row that misses for none of these fails. Afterwards the rows of one service on eight GPUs are looked at more closely
(`fidelity_closely`). Exit code 1 if anything fails. ``--markdown FILE`` writes the table.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import inf, sqrt
from pathlib import Path
from statistics import fmean
from time import monotonic

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest has it, for what tests share

from bench import fidelity_closely
from reference_runs import Row, Tally, own_run, read_rows, their_run, together

SEEDS, MANY_SEEDS = 5, 40
SATURATED = 0.01
"""Bad rate of the reference above which a row is above saturation."""
LEAST_BAD, MOST_BAD, PLANNED_BAD = 0.002, 0.015, 0.01
"""Differences of bad rate allowed: at least, above saturation, and for systems that plan otherwise."""
BATCH, BUSY, GOODPUT = 0.03, 0.02, 0.015
NOT_JUDGED = {
    "nexus": "whose dynamic plan breaks down where ours keeps all instances at work",
    "nexusf": "the same with another idle cycle",
    "shep": "with the defects that ours mends",
    "shep0": "with the defects that ours mends",
}
APART = 0.05
"""Bad rates of two seeds that are further apart belong to two regimes."""

COLLAPSING = ("eagerdt0", "symdt0", "shepfix0")
DIFFERENT: Sequence[tuple[str, Callable[[Row], bool]]] = (
    (
        "their wanted start may lie behind the latest start, so that no batch is larger than what fits then",
        lambda row: row.system.startswith("to"),
    ),
    (
        "the timer of an instance that was taken meanwhile still fires, and sends pending services away",
        lambda row: row.system in ("eager", "bl_p", "symdt0") and len(row.workload.share) > 1,
    ),
    (
        "their clock lets arrivals within some ten nanoseconds join one batch; here a third of the gaps are below 1 us",
        lambda row: row.workload.name == "res1g8b1",
    ),
)
"""Where the public code has another rule than ours, and for which rows."""


@dataclass(frozen=True)
class Difference:
    """How far a run of ours is from the reference's: bad rate in points of 1, the others over the reference's value."""

    bad: float
    batch: float
    busy: float
    allowed: float
    planned: bool
    """Whether only the bad rate counts."""

    @classmethod
    def of(cls, row: Row, tally: Tally) -> Difference:
        """Compare some runs with a row."""
        spread = max(tally.bad_rate, row.bad_rate)
        deviation = sqrt(spread * (1 - spread) / (SEEDS * row.requests))
        planned, saturated = is_planned(row), row.bad_rate > SATURATED
        if planned:
            allowed = inf if saturated else PLANNED_BAD
        else:
            allowed = MOST_BAD if saturated else max(LEAST_BAD, 3 * deviation)
        return cls(
            tally.bad_rate - row.bad_rate,
            tally.mean_batch / row.mean_batch - 1,
            tally.busy / row.utilisation - 1,
            allowed,
            planned,
        )

    @property
    def holds(self) -> bool:
        """Say whether it is within what is allowed."""
        return abs(self.bad) <= self.allowed and (self.planned or (abs(self.batch) <= BATCH and abs(self.busy) <= BUSY))

    def __str__(self) -> str:
        return f"bad {100 * self.bad:+7.3f} points, batch {100 * self.batch:+6.2f} %, busy {100 * self.busy:+6.2f} %"


def is_planned(row: Row) -> bool:
    """Say whether a row is of Nexus or Shepherd."""
    return row.system.startswith(("nexst", "shep"))


@dataclass(frozen=True)
class Verdict:
    """What came of a row: on five seeds of our own and on the reference's arrivals, and why it misses, if it does."""

    row: Row
    own: Tally
    difference: Difference
    theirs: Difference
    reason: str = ""
    detail: str = ""
    fails: bool = False


def judge(row: Row) -> Verdict:
    """Run a row again and compare."""
    tallies = [own_run(row, seed) for seed in range(SEEDS)]
    own, theirs = together(tallies), Difference.of(row, their_run(row))
    difference = Difference.of(row, own)
    if difference.holds:
        return Verdict(row, own, difference, theirs)
    rule = other_rule(row)
    if rule and not theirs.holds and row.system not in COLLAPSING:
        return Verdict(row, own, difference, theirs, rule)
    tallies += [own_run(row, seed) for seed in range(SEEDS, MANY_SEEDS)]
    many = Difference.of(row, together(tallies))
    if many.holds:
        return Verdict(row, own, many, theirs)
    lowest, highest = (pick(tally.bad_rate for tally in tallies) for pick in (min, max))
    two = row.system in COLLAPSING and highest - lowest > APART
    if two and lowest - LEAST_BAD <= row.bad_rate <= highest + LEAST_BAD:
        share = sum(tally.bad_rate > lowest + APART for tally in tallies) / MANY_SEEDS
        return Verdict(row, own, many, theirs, "two regimes", f"; {100 * share:.0f} % of our runs collapse")
    if theirs.holds:
        return Verdict(row, own, many, theirs, "one seed")
    return Verdict(row, own, many, theirs, rule or "unknown", fails=not rule)


def other_rule(row: Row) -> str:
    """Return what the public code does otherwise that shows in a row, if it is known."""
    return next((rule for rule, applies in DIFFERENT if applies(row)), "")


@dataclass(frozen=True)
class Curve:
    """Goodput at 1 % of a system on a workload, in requests a second: the reference's, and ours on either arrivals."""

    members: Sequence[Verdict]
    theirs_rps: float
    own_rps: float
    same_rps: float

    @property
    def row(self) -> Row:
        """One of its rows."""
        return self.members[0].row

    @property
    def own(self) -> float:
        """Ours over theirs on arrivals of our own, less one."""
        return self.own_rps / self.theirs_rps - 1

    @property
    def same(self) -> float:
        """Ours over theirs on the reference's arrivals, less one."""
        return self.same_rps / self.theirs_rps - 1

    @property
    def reason(self) -> str:
        """Why it misses, if it does."""
        if is_planned(self.row) or abs(self.own) <= GOODPUT:
            return ""
        two = any(v.reason == "two regimes" for v in self.members)
        return "one seed" if abs(self.same) <= GOODPUT else "two regimes" if two else other_rule(self.row) or "unknown"


def curves(verdicts: Sequence[Verdict]) -> Iterator[Curve]:
    """Read goodput off the rows of a system, wherever 1 % lies between its rates."""
    for _, group in groupby(sorted(verdicts, key=_place), key=lambda v: _place(v)[:3]):
        members = list(group)
        rates = sorted({v.row.rate_rps for v in members})
        at = [[v for v in members if v.row.rate_rps == rate] for rate in rates]
        theirs = crossing(rates, [fmean(v.row.bad_rate for v in some) for some in at])
        own = crossing(rates, [fmean(v.own.bad_rate for v in some) for some in at])
        same = crossing(rates, [fmean(v.row.bad_rate + v.theirs.bad for v in some) for some in at])
        if theirs and own and same:
            yield Curve(members, theirs, own, same)


def _place(verdict: Verdict) -> tuple[str, str, int, float]:
    row = verdict.row
    return row.workload.name, row.system, row.gpus, row.rate_rps


def crossing(rates: Sequence[float], bad: Sequence[float]) -> float:
    """Return the highest rate at which a line through these points passes 1 % from below; 0 if none does."""
    found = 0.0
    for (low, below), (high, above) in pairwise(zip(rates, bad, strict=True)):
        if below <= SATURATED < above:
            found = low + (SATURATED - below) / (above - below) * (high - low)
    return found


# Tables -------------------------------------------------------------------------------------------------------------

HEADINGS = (
    "system",
    "workload",
    "rows",
    "missed",
    *("bad", "same", "batch", "same", "busy", "same", "goodput", "same"),
)


def table(verdicts: Sequence[Verdict], goodput: Sequence[Curve]) -> Iterator[tuple[str, ...]]:
    """Give the largest differences by system and workload, of all rows but those with two regimes."""

    def key(verdict: Verdict) -> tuple[str, str]:
        return verdict.row.system, verdict.row.workload.name

    for (system, workload), group in groupby(sorted(verdicts, key=key), key=key):
        members = list(group)
        cells = [system, workload, str(len(members)), str(sum(bool(v.reason) for v in members) or "")]
        calm = [v for v in members if v.reason != "two regimes"]
        for name in ("bad", "batch", "busy"):
            for side in ("difference", "theirs"):
                largest = max((abs(getattr(getattr(v, side), name)) for v in calm), default=inf)
                cells.append(f"{100 * largest:.2f}" if largest < inf else "–")
        found = [curve for curve in goodput if key(curve.members[0]) == (system, workload)]
        furthest = max(found, key=lambda c: abs(c.own), default=None)
        yield (*cells, *(f"{100 * d:+.2f}" for d in (furthest.own, furthest.same))) if furthest else (*cells, "–", "–")


def markdown(lines: Sequence[tuple[str, ...]]) -> str:
    """Write the table as Markdown."""
    rule = ("---", "---", *("--:" for _ in HEADINGS[2:]))
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEADINGS, rule, *lines)) + "\n"


def missed(verdicts: Sequence[Verdict], goodput: Sequence[Curve]) -> Iterator[str]:
    """List the rows and curves that miss, by reason."""
    for reason, group in groupby(sorted(verdicts, key=lambda v: v.reason), key=lambda v: v.reason):
        members = list(group)
        if reason:
            yield f"\nMiss, {reason}: {len(members)} rows"
            for v in members:
                yield f"  {v.row}  own: {v.difference}; same arrivals: {v.theirs}{v.detail}"
    yield "\nGoodput at 1 % that misses"
    for curve in goodput:
        if curve.reason:
            row = curve.row
            yield (
                f"  {row.workload.name:9}{row.system:11}{row.gpus:3} GPUs {curve.theirs_rps:8.1f} rps, ours "
                f"{curve.own_rps:8.1f} ({100 * curve.own:+.2f} %), same arrivals {curve.same_rps:8.1f} "
                f"({100 * curve.same:+.2f} %): {curve.reason}"
            )


def _with_later_border(verdicts: Sequence[Verdict]) -> str:
    """Say what another border between below and above saturation would change."""
    calm = [v for v in verdicts if not v.reason and not is_planned(v.row) and SATURATED < v.row.bad_rate <= 0.05]
    more = 0
    for v in calm:
        deviation = sqrt(v.row.bad_rate * (1 - v.row.bad_rate) / (SEEDS * v.row.requests))
        more += abs(v.difference.bad) > max(LEAST_BAD, 3 * deviation)
    return f"were 5 % the border, {more} more of {len(calm)} rows would miss"


def main(arguments: Sequence[str]) -> int:
    """Print the tables and a summary; return 1 if a row fails, 2 if there is no reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose line holds this text")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    folder = os.environ.get("PARTITA_REFERENCE_DIR")
    path = Path(folder or ".") / "reference"
    if folder is None or not (path / "schedulers.csv").exists():
        print(
            f"There is no {path / 'schedulers.csv'}: set PARTITA_REFERENCE_DIR to the folder that holds reference.",
            file=sys.stderr,
        )
        return 2
    rows, others = read_rows(path)
    rows = [row for row in rows if options.only in str(row)]
    began = monotonic()
    with ProcessPoolExecutor(options.workers) as workers:
        verdicts = []
        for verdict in workers.map(judge, rows, chunksize=4):
            verdicts.append(verdict)
            if len(verdicts) % 100 == 0:
                print(f"{len(verdicts)} of {len(rows)} rows", file=sys.stderr, flush=True)
    goodput = list(curves(verdicts))
    lines = list(table(verdicts, goodput))
    for line in (HEADINGS, *lines):
        print(f"{line[0]:11}{line[1]:9}" + "".join(f"{cell:>9}" for cell in line[2:]))
    print(*missed(verdicts, goodput), sep="\n", flush=True)
    if options.markdown:
        options.markdown.write_text(markdown(lines))
    failed = sum(v.fails for v in verdicts) + sum(curve.reason == "unknown" for curve in goodput)
    for name, count in others.items():
        print(f"\nnot judged: {count} rows of {name}, {NOT_JUDGED.get(name, 'which has no counterpart here')}", end="")
    print()
    print(f"{len(rows)} rows in {monotonic() - began:.0f} s; {sum(bool(v.reason) for v in verdicts)} miss; ", end="")
    print(f"{failed} rows or goodputs miss for no known reason; {_with_later_border(verdicts)}")
    closely = fidelity_closely.main(rows)
    return 1 if failed or closely else 0


def test_fidelity() -> None:
    if "PARTITA_REFERENCE_DIR" not in os.environ:
        pytest.skip("PARTITA_REFERENCE_DIR is not set: there are no reference tables")
    assert main([]) == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
