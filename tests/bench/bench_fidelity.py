"""Hold deferred and eager batching against runs of the public Symphony scheduler, row by row of a reference table.

Run by `make bench-fidelity`; PARTITA_REFERENCE_DIR names the folder that holds ``reference/schedulers.csv``. Three
tables, any row of which may fail (exit code 1):

1. **Own arrivals.** Five seeds a row: bad rate within max(0.3 points, 3 binomial standard deviations), mean batch
   within 3 %. A seed draws as many requests for the measured span as the reference's run had, at Poisson instants;
   drawing their number too (``--plain``) moves the bad rate of an overloaded row by 0.2 points by itself. A row that
   misses with five seeds is decided by the same limits on forty: binomial deviations are too small for a queue, where
   bad requests come together.
2. **The reference's arrivals**, drawn again: its load generator (nexuslb, ``tools/bench_dispatcher`` and
   ``common/gapgen.h``) uses std::mt19937 and inversion, so that the requests of each row can be had exactly.
3. **Rows with two regimes.** Eager with drop at timeout can collapse: once the oldest request fits only alone, batches
   shrink to one, and the queue hardly ever recovers. When that happens is chance, so that near the edge no independent
   run can be asked to show the bad rate of the reference's single one. A row stands here if, of 40 seeds, neither
   nearly all are healthy nor nearly all are collapsed throughout the measured span. Its value must be that of one of
   the two regimes as we measure them (bad rate within 0.3 points, mean batch within 3 %), and at least one seed in 40
   must spend the whole measured span in that regime.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import inf, sqrt
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from partita.model.load import Arrivals
from partita.model.service import BATCH_CAP, LatencyCurve
from partita.ports import Pool
from partita.replay.disciplines import Deferred, Eager

SECOND_NS = 1_000_000_000
SLO_NS = 25_000_000
CURVE = LatencyCurve.linear(1.053, 5.072)
SYSTEMS = ("sym", "sym0", "eager0", "eagerdt0")
SEEDS, MANY_SEEDS = 5, 40
RARE = 0.025
"""What fewer runs than this do is left out of account: one in 40."""

SAME_BAD = {"sym": 0.0002, "sym0": 0.0002, "eager0": 0.003, "eagerdt0": 0.003}
SAME_BATCH = {"sym": 0.0005, "sym0": 0.0005, "eager0": 0.015, "eagerdt0": 0.015}
"""Tolerances on the reference's own arrivals. Only microseconds differ; with eager, all that follows hangs on them."""


@dataclass(frozen=True)
class Row:
    """One run of the reference: what was offered, and what came of it."""

    system: str
    gpus: int
    rate_rps: float
    warmup_s: int
    duration_s: int
    seed: int
    requests: int
    bad_rate: float
    mean_batch: float

    def __str__(self) -> str:
        return f"{self.system:9}{self.gpus:3} GPUs {self.rate_rps:7.1f} rps {self.duration_s:3} s, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Run:
    """What our discipline made of some arrivals: which were bad, and start and size of its batches."""

    ns: NDArray[np.int64]
    bad: NDArray[np.bool_]
    batch_ns: NDArray[np.int64]
    batch_size: NDArray[np.int64]

    def between(self, since_s: float, until_s: float) -> NDArray[np.int64]:
        """Count requests, bad ones, batches and their sizes in a span."""
        since, until = (round(s * SECOND_NS) for s in (since_s, until_s))
        here = (self.ns >= since) & (self.ns < until)
        batches = (self.batch_ns >= since) & (self.batch_ns < until)
        return np.array([here.sum(), self.bad[here].sum(), batches.sum(), self.batch_size[batches].sum()])

    def by_second(self, seconds: int) -> NDArray[np.int64]:
        """Count requests, bad ones, batches and their sizes in each second; shape ``(4, seconds)``."""
        arrived, started = self.ns // SECOND_NS, self.batch_ns // SECOND_NS
        columns = (
            np.bincount(arrived, minlength=seconds),
            np.bincount(arrived, self.bad, minlength=seconds),
            np.bincount(started, minlength=seconds),
            np.bincount(started, self.batch_size, minlength=seconds),
        )
        return np.stack([column[:seconds].astype(np.int64) for column in columns])


def read_rows(path: Path) -> list[Row]:
    """Read the rows of one service on several GPUs with Poisson arrivals, for our systems."""
    with path.open() as file:
        return [
            Row(
                row["system"],
                int(row["n_gpus"]),
                float(row["rate_rps"]),
                int(row["warmup_s"]),
                int(row["duration_s"]),
                int(row["seed"]),
                int(row["n_requests"]),
                float(row["bad_rate"]),
                float(row["mean_batch"]),
            )
            for row in csv.DictReader(file)
            if row["workload"] == "res1g8" and row["arrival"] == "poisson" and row["system"] in SYSTEMS
        ]


def simulate(system: str, gpus: int, ns: NDArray[np.int64], until_ns: int) -> Run:
    """Serve arrivals until `until_ns` and two SLOs more; what waits then is bad."""
    full = system == "sym"
    pool = Pool(
        active=np.zeros(1, np.int64),
        slo_ns=np.array([SLO_NS]),
        max_batch=np.array([BATCH_CAP]),
        latency_ns=CURVE.table_ns(BATCH_CAP)[None, :],
        number=np.arange(gpus),
        free_at_ns=np.zeros(gpus, np.int64),
        control_ns=100_000 if full else 1_000,
        data_ns=50_000 if full else 0,
        response_ns=2_000_000 if full else 0,
        jitter_ns=100_000,
        parameters={"gpu_choice": "earliest", "drop": "timeout" if system == "eagerdt0" else "window"},
    )
    discipline = Deferred() if system.startswith("sym") else Eager()
    arrivals = Arrivals(ns, np.array([0, len(ns)]), np.zeros(len(ns), np.float32))
    _, served = discipline.advance(discipline.initial_state(1), arrivals, pool, until_ns + 2 * SLO_NS)
    bad = (served.finish_ns <= 0) | (served.finish_ns >= ns + SLO_NS)
    return Run(ns, bad, served.batch_start_ns, served.batch_size)


@cache
def own_run(row: Row, seed: int, *, plain: bool = False) -> Run:
    """Serve Poisson arrivals of our own at a row's load."""
    rng = np.random.default_rng([seed, row.gpus, round(10 * row.rate_rps), row.duration_s])
    warmup_ns, end_ns = row.warmup_s * SECOND_NS, (row.warmup_s + row.duration_s) * SECOND_NS
    requests = rng.poisson(row.rate_rps * row.duration_s) if plain else row.requests
    before = rng.integers(0, warmup_ns, rng.poisson(row.rate_rps * row.warmup_s))
    counted = rng.integers(warmup_ns, end_ns, requests)
    return simulate(row.system, row.gpus, np.concatenate((np.sort(before), np.sort(counted))), end_ns)


def their_arrivals(row: Row) -> tuple[NDArray[np.int64], int]:
    """Draw the reference's arrivals again; return them and the instant of the first segment's begin.

    Each segment (warm-up, measured span) has a generator of its own, seeded one higher than the last; the request that
    ends a segment is the first at or past its end.
    """
    begin = end = at = int(_uniform(row.seed, 1)[0] * 1e9 / row.rate_rps)
    parts = []
    for segment, seconds in enumerate((row.warmup_s, row.duration_s)):
        end += seconds * SECOND_NS
        draws = _uniform(row.seed + segment, int(row.rate_rps * seconds * 1.2) + 1000)
        ns = at + np.cumsum((-np.log(1.0 - draws) / row.rate_rps * 1e9).astype(np.int64))
        parts.append(ns[: np.searchsorted(ns, end) + 1])
        at = parts[-1][-1]
    return np.concatenate(parts), begin


def _uniform(seed: int, count: int) -> NDArray[np.float64]:
    """Draw what std::uniform_real_distribution makes of std::mt19937: two words a number, the lower one first."""
    words = np.frombuffer(np.random.RandomState(seed).bytes(8 * count), "<u4").astype(np.float64)
    return (words[0::2] + words[1::2] * 2.0**32) / 2.0**64


def own_arrivals_hold(row: Row, *, plain: bool, seeds: int = SEEDS) -> tuple[bool, str]:
    """Judge a row on seeds of our own; on more of them where a few miss."""
    span = (row.warmup_s, row.warmup_s + row.duration_s)
    counts = np.stack([own_run(row, seed, plain=plain).between(*span) for seed in range(seeds)])
    requests, bad, batches, sizes = counts.sum(axis=0)
    rate, batch = bad / requests, sizes / batches
    spread = max(rate, row.bad_rate)
    allowed = max(0.003, 3 * sqrt(spread * (1 - spread) / requests))
    ok, text = _judge(row, rate, batch, allowed, 0.03)
    if ok or seeds == MANY_SEEDS:
        return ok, text
    ok, more = own_arrivals_hold(row, plain=plain, seeds=MANY_SEEDS)
    return ok, f"{text}\n    misses; with {MANY_SEEDS} seeds: {more}"


def their_arrivals_hold(row: Row) -> tuple[bool, str]:
    """Judge a row on the reference's own arrivals."""
    ns, begin = their_arrivals(row)
    span = (begin / SECOND_NS + row.warmup_s, begin / SECOND_NS + row.warmup_s + row.duration_s)
    requests, bad, batches, sizes = simulate(row.system, row.gpus, ns, int(ns[-1]) + 1).between(*span)
    ok, text = _judge(row, bad / requests, sizes / batches, SAME_BAD[row.system], SAME_BATCH[row.system])
    return ok and requests == row.requests, text if requests == row.requests else f"{text}, {requests} requests"


def _judge(row: Row, rate: float, batch: float, bad_allowed: float, batch_allowed: float) -> tuple[bool, str]:
    ok = abs(rate - row.bad_rate) <= bad_allowed and abs(batch / row.mean_batch - 1) <= batch_allowed
    return ok, (
        f"bad {100 * rate:7.3f} % ({100 * (rate - row.bad_rate):+7.3f}, allowed {100 * bad_allowed:5.3f})  "
        f"batch {batch:7.3f} ({100 * (batch / row.mean_batch - 1):+6.2f} %)"
    )


@dataclass(frozen=True)
class Regimes:
    """Both regimes of a row over 40 seeds: bad rate and mean batch in each, and how runs are spread over them."""

    healthy: tuple[float, float]
    collapsed: tuple[float, float]
    healthy_throughout: float
    collapsed_throughout: float
    collapses_per_s: float


@cache
def regimes(row: Row) -> Regimes:
    """Measure both regimes of a row, second by second; a second counts if its neighbours are of the same regime."""
    end = row.warmup_s + row.duration_s
    counts = np.stack([own_run(row, seed).by_second(end) for seed in range(MANY_SEEDS)])
    down = counts[:, 1] > 0.5 * counts[:, 0]
    began = (down[:, 1:] & ~down[:, :-1]).sum()
    measured, before, after = down[:, row.warmup_s : -1], down[:, row.warmup_s - 1 : -2], down[:, row.warmup_s + 1 :]

    def rate_and_batch(seconds: NDArray[np.bool_]) -> tuple[float, float]:
        requests, bad, batches, sizes = np.moveaxis(counts[:, :, row.warmup_s : -1], 1, 0)[:, seconds].sum(axis=1)
        return (bad / requests, sizes / batches) if batches else (inf, inf)

    return Regimes(
        rate_and_batch(~measured & ~before & ~after),
        rate_and_batch(measured & before & after),
        (~down[:, row.warmup_s :]).all(axis=1).mean(),
        down[:, row.warmup_s :].all(axis=1).mean(),
        began / max(1, (~down).sum()),
    )


def has_two_regimes(row: Row) -> bool:
    """Say whether chance decides the regime of this row."""
    if row.system != "eagerdt0":
        return False
    seen = regimes(row)
    return max(seen.healthy_throughout, seen.collapsed_throughout) < 1 - RARE


def regime_holds(row: Row) -> tuple[bool, str]:
    """Judge a row that lies in one of two regimes by chance."""
    seen = regimes(row)
    both = (
        ("healthy", *seen.healthy, seen.healthy_throughout),
        ("collapsed", *seen.collapsed, seen.collapsed_throughout),
    )
    name, _, _, share = min(both, key=lambda regime: abs(regime[1] - row.bad_rate))
    _, rate, batch, _ = next(regime for regime in both if regime[0] == name)
    ok, text = _judge(row, rate, batch, 0.003, 0.03)
    spread = ", ".join(f"{100 * regime[3]:.0f} % {regime[0]}" for regime in both)
    chances = f"of {MANY_SEEDS} runs throughout: {spread}; {seen.collapses_per_s:.3f} collapses a second"
    return ok and share >= RARE, f"{name}: {text}\n    {chances}"


def report(rows: list[Row], *, plain: bool) -> Iterator[tuple[bool, str]]:
    """Judge everything; yield verdicts with their lines, and headings as passed."""
    apart = [row for row in rows if has_two_regimes(row)]
    single = [row for row in rows if row not in apart]
    yield True, f"\nOwn arrivals: {SEEDS} seeds a row"
    for row in single:
        ok, text = own_arrivals_hold(row, plain=plain)
        yield ok, f"{row}  {text}"
    yield True, "\nThe reference's own arrivals"
    for row in single:
        ok, text = their_arrivals_hold(row)
        yield ok, f"{row}  {text}"
    yield True, "\nRows with two regimes"
    for row in apart:
        ok, text = regime_holds(row)
        same, theirs = their_arrivals_hold(row)
        yield (
            ok,
            f"{row}  {text}\n    on the reference's arrivals: {'the same regime' if same else 'differs'}, {theirs}",
        )


def main(arguments: list[str]) -> int:
    """Print the tables and a summary; return 1 if a row fails, 2 if there is no reference."""
    folder = os.environ.get("PARTITA_REFERENCE_DIR")
    path = Path(folder or ".") / "reference" / "schedulers.csv"
    if folder is None or not path.exists():
        print(f"There is no {path}: set PARTITA_REFERENCE_DIR to the folder that holds it.", file=sys.stderr)
        return 2
    rows = read_rows(path)
    failed = 0
    for ok, line in report(rows, plain="--plain" in arguments):
        failed += not ok
        print(line if ok else f"{line}  FAILS", flush=True)
    print(f"\n{len(rows)} rows, {failed} checks failed")
    return min(failed, 1)


def test_fidelity() -> None:
    if "PARTITA_REFERENCE_DIR" not in os.environ:
        pytest.skip("PARTITA_REFERENCE_DIR is not set: there are no reference tables")
    assert main([]) == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
