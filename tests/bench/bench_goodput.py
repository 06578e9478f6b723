"""Compare the goodput of all disciplines, each with its better drop rule: `make bench-goodput`.

A row is a workload: GPUs, services (10 of one kind, or those of a reference workload), law of arrivals, and overheads.
The goodput of a discipline is the highest offered rate at which at most 1 % of the requests are bad, all services
together, as the mean over seeds; every discipline is offered the same requests, stretched in time. Eight workloads come
from ``reference/workloads.json`` under PARTITA_REFERENCE_DIR (without it, they are left out).

It fails if `adaptive` is below 0.99 of the best other discipline in a row, if its geometric mean over the reference
workloads is below 1.04 times that of `deferred`, or if it uses over 5 % more GPU time than `deferred` at 40 % of what
`deferred` can take.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import exp, fsum, log, sqrt
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from partita.model.load import Arrivals
from partita.model.service import BATCH_CAP, LatencyCurve, Service
from partita.model.staggered import NO_OVERHEADS, Overheads, fluid_rps, staggered_rps
from partita.ports import Discipline, Pool
from partita.replay.disciplines import DISCIPLINES

SECOND_NS = 1_000_000_000
BAD = 0.01
PRECISION = 0.002
"""How far apart the last good and the first bad rate may be."""
WARMUP_S = 6.0
"""Longer than the rate meters look back."""
REQUESTS, LEAST_S = 150_000, 8.0
"""Requests that are counted at each rate and seed, and the shortest span that they are counted over."""
CHUNK_S = 10.0

DEFAULT = Overheads(control_s=1e-4, data_s=5e-5, response_s=2e-3, jitter_s=1e-4)
ZERO = Overheads(control_s=1e-6, jitter_s=1e-4)

CANDIDATES: Mapping[str, Sequence[tuple[str, Mapping[str, str | float]]]] = {
    "adaptive": [("adaptive", {})],
    "deferred": [("deferred", {"drop": drop}) for drop in ("window", "timeout")],
    "eager": [("eager", {"drop": drop}) for drop in ("window", "timeout")],
    "beta-lambda": [("deferred", {"window": "beta-lambda", "drop": drop}) for drop in ("window", "timeout")],
    "target": [("deferred", {"window": "target-batch", "drop": drop}) for drop in ("window", "timeout")],
    "timeout": [("timeout", {"timeout_ms": 0.0, "queue_policy": policy}) for policy in ("none", "reject")],
    "shepherd": [("shepherd", {})],
    "clockwork": [("clockwork", {"look_ahead_ms": 0.0, "gpu_choice": "earliest"}), ("clockwork", {})],
    "clipper": [("clipper", {"variant": "aimd", "budget": budget}) for budget in (0.5, 1.0)],
    "temporal": [("temporal", {})],
}
"""What is compared: a name, and the settings of which the better one counts."""


@dataclass(frozen=True)
class Row:
    """A workload: times in ms, shares of the load, and the shape of the gamma law of the gaps (1: Poisson; 0: even)."""

    name: str
    gpus: int
    shape: float
    overheads: Overheads
    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    slo: tuple[float, ...]
    share: tuple[float, ...]
    reference: bool = False

    @property
    def services(self) -> list[Service]:
        """The services, one a curve."""
        curves = (LatencyCurve.linear(a, b) for a, b in zip(self.alpha, self.beta, strict=True))
        return [Service(f"s{n}", self.slo[n] / 1e3, 0.99, 1.0, (curve,)) for n, curve in enumerate(curves)]


@dataclass(frozen=True)
class Probe:
    """What came of one rate: the share of bad requests, and of the GPUs' time in use."""

    bad: float
    busy: float


def reference_rows(path: Path) -> Iterator[Row]:
    """Make the rows of the reference workloads, without and with overheads."""
    for name, entry in json.loads(path.read_text()).items():
        law, _, shape = entry["arrival"].partition(":")
        models = entry["models"]
        columns = [tuple(float(m[key]) for m in models) for key in ("alpha_ms", "beta_ms", "slo_ms", "share")]
        for label, overheads in (("", ZERO), (" +net", DEFAULT)):
            shapes = {"exp": 1.0, "const": 0.0}
            yield Row(name + label, entry["n_gpus"], shapes.get(law) if law in shapes else float(shape), overheads,
                      *columns, reference=True)  # fmt: skip


def ten_services() -> Iterator[Row]:
    """Ten services of one curve on 64 and on 32 GPUs, over SLOs, shares, laws and overheads."""
    for gpus in (64, 32):
        for slo in (15.0, 25.0, 50.0, 100.0):
            for skew, weight in (("even", 0.0), ("zipf", 0.9)):
                weights = [1 / (n + 1) ** weight for n in range(10)]
                shares = tuple(w / fsum(weights) for w in weights)
                for shape in (1.0, 0.3, 0.1, 0.05):
                    for label, overheads in (("", ZERO), (" +net", DEFAULT)):
                        name = f"10 on {gpus} slo{slo:g} {skew} gamma{shape:g}{label}"
                        yield Row(name, gpus, shape, overheads, (1.082,) * 10, (5.204,) * 10, (slo,) * 10, shares)


@cache
def _gaps(shape: float, count: int, seed: int, service: int) -> NDArray[np.float64]:
    """Draw the first offset and the gaps of one service at rate 1."""
    rng = np.random.default_rng([seed, service, round(1e6 * shape)])
    first = rng.random()
    gaps = np.ones(count) if shape == 0 else rng.gamma(shape, 1 / shape, count)
    return np.concatenate(([first], gaps)).cumsum()


def draw(row: Row, rate_rps: float, span_s: float, seed: int) -> Arrivals:
    """Draw what arrives within a span."""
    parts = []
    for n, share in enumerate(row.share):
        own = rate_rps * share
        count = 1 << int(np.ceil(np.log2(own * span_s + 8 * sqrt(own * span_s / (row.shape or 1.0)) + 50)))
        ns = (_gaps(row.shape, count, seed, n) / own * 1e9).astype(np.int64)
        parts.append(ns[: np.searchsorted(ns, span_s * SECOND_NS)])
    offsets = np.concatenate(([0], np.cumsum([len(ns) for ns in parts])))
    return Arrivals(np.concatenate(parts), offsets, np.zeros(offsets[-1], np.float32))


def probe(row: Row, discipline: Discipline, parameters: Mapping[str, str | float], rate_rps: float, seed: int) -> Probe:
    """Serve a workload at a rate."""
    span_s = max(LEAST_S, REQUESTS / rate_rps)
    services = row.services
    blind = getattr(discipline, "blind", False)
    largest = [min(BATCH_CAP, s.largest_batch("whole", s.slo_s / 2 if blind else s.slo_s)) for s in services]
    pool = Pool(
        active=np.arange(len(services)),
        slo_ns=np.array([round(s.slo_s * 1e9) for s in services]),
        max_batch=np.array([max(1, b) for b in largest]),
        latency_ns=np.stack([s.curves[0].table_ns(max(largest)) for s in services]),
        number=np.arange(row.gpus),
        free_at_ns=np.zeros(row.gpus, np.int64),
        control_ns=round(row.overheads.control_s * 1e9),
        data_ns=round(row.overheads.data_s * 1e9),
        response_ns=round(row.overheads.response_s * 1e9),
        jitter_ns=round(row.overheads.jitter_s * 1e9),
        parameters=dict(parameters),
    )
    until = round((WARMUP_S + span_s) * SECOND_NS) + 2 * int(pool.slo_ns.max())
    arrivals = draw(row, rate_rps, WARMUP_S + span_s, seed)
    _, served = discipline.advance(discipline.initial_state(len(services)), arrivals, pool, until)
    ns = served.arrivals.ns
    slo = np.repeat(pool.slo_ns, np.diff(served.arrivals.offsets))
    counted = (ns >= WARMUP_S * SECOND_NS) & (ns < (WARMUP_S + span_s) * SECOND_NS)
    bad = (served.finish_ns <= 0) | (served.finish_ns >= ns + slo)
    since, end = round(WARMUP_S * SECOND_NS), round((WARMUP_S + span_s) * SECOND_NS)
    busy = np.maximum(0, np.minimum(served.batch_finish_ns, end) - np.maximum(served.batch_start_ns, since)).sum()
    return Probe(float(bad[counted].mean()), float(busy / (end - since) / row.gpus))


def goodput(row: Row, name: str, parameters: Mapping[str, str | float], seeds: int) -> float:
    """Search the highest rate at which at most 1 % is bad."""
    discipline = next(d for d in DISCIPLINES if d.name == name)
    bound = fluid_rps(row.services, row.share, row.gpus)
    low, high = 0.05 * bound, 1.02 * bound
    while high / low > 1 + PRECISION:
        rate = sqrt(low * high)
        bad = fsum(probe(row, discipline, parameters, rate, seed).bad for seed in range(1, seeds + 1)) / seeds
        low, high = (rate, high) if bad <= BAD else (low, rate)
    return low


@dataclass(frozen=True)
class Result:
    """The goodput of every discipline in one workload, its bounds, and GPU time at low load over that of deferral."""

    row: Row
    goodput: Mapping[str, float]
    fluid: float
    staggered: float
    gpu_time: float

    @property
    def ratio(self) -> float:
        """Goodput of `adaptive` over that of the best other discipline."""
        return self.goodput["adaptive"] / max(g for name, g in self.goodput.items() if name != "adaptive")


def measure(row: Row, names: Sequence[str], seeds: int) -> Result:
    """Measure one workload."""
    found = {
        name: max(goodput(row, discipline, parameters, seeds) for discipline, parameters in CANDIDATES[name])
        for name in names
    }
    known = {d.name: d for d in DISCIPLINES}
    low = 0.4 * found["deferred"]
    busy = [
        fsum(probe(row, known[d], {}, low, seed).busy for seed in range(1, seeds + 1)) for d in ("adaptive", "deferred")
    ]
    services = row.services
    overheads = NO_OVERHEADS if row.overheads is ZERO else row.overheads
    return Result(
        row,
        found,
        fluid_rps(services, row.share, row.gpus),
        staggered_rps(services, row.share, row.gpus, overheads=overheads),
        busy[0] / busy[1],
    )


def _measure(task: tuple[Row, Sequence[str], int]) -> Result:
    return measure(*task)


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--disciplines", default=",".join(CANDIDATES))
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    names = options.disciplines.split(",")
    folder = os.environ.get("PARTITA_REFERENCE_DIR")
    rows = [*(reference_rows(Path(folder) / "reference" / "workloads.json") if folder else ()), *ten_services()]
    rows = [row for row in rows if options.only in row.name]
    print(
        f"{'':36}" + "".join(f"{name:>12}" for name in names) + "   best other  of fluid  of stagg.  GPU time at 40 %"
    )
    began, results = monotonic(), []
    with ProcessPoolExecutor(options.workers) as workers:
        for result in workers.map(_measure, [(row, names, options.seeds) for row in rows]):
            results.append(result)
            ours = result.goodput["adaptive"]
            print(
                f"{result.row.name:36}"
                + "".join(f"{result.goodput[name]:12.1f}" for name in names)
                + f"  {result.ratio:11.3f}  {ours / result.fluid:8.3f}  {ours / result.staggered:9.3f}"
                + f"  {result.gpu_time:8.3f}{'  BELOW' if result.ratio < 0.99 or result.gpu_time > 1.05 else ''}",
                flush=True,
            )
    if options.csv:
        _write(options.csv, results, names)
    below = [r.row.name for r in results if r.ratio < 0.99]
    costly = [r.row.name for r in results if r.gpu_time > 1.05]
    gains = [log(r.goodput["adaptive"] / r.goodput["deferred"]) for r in results if r.row.reference]
    gain = exp(fsum(gains) / len(gains)) if gains else 1.04
    print(f"\n{len(results)} rows in {monotonic() - began:.0f} s; smallest ratio {min(r.ratio for r in results):.3f}")
    print(f"geometric mean over deferred, reference workloads: {gain:.3f}" if gains else "no reference workloads")
    print(f"below 0.99 of the best other: {', '.join(below) or 'none'}")
    print(f"over 1.05 of deferred's GPU time at 40 % load: {', '.join(costly) or 'none'}")
    return 1 if below or costly or gain < 1.04 else 0


def _write(path: Path, results: Sequence[Result], names: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["workload", *names, "fluid_rps", "staggered_rps", "best_other", "gpu_time_over_deferred"])
        for r in results:
            values = (r.fluid, r.staggered, r.ratio, r.gpu_time)
            writer.writerow([r.row.name, *(round(r.goodput[n], 1) for n in names), *(round(v, 4) for v in values)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
