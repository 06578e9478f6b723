"""Runs of public schedulers, read from reference tables and run again with our disciplines.

The reference's load generator (nexuslb, ``tools/bench_dispatcher`` and ``common/gapgen.h``) uses std::mt19937 and the
distributions of libstdc++, so that the arrivals of each run can be drawn again, request by request.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from math import log, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partita.model.cluster import OptionValue
from partita.model.load import Arrivals
from partita.model.service import BATCH_CAP, LatencyCurve
from partita.ports import Discipline, Pool
from partita.replay.disciplines import Deferred, Eager, Nexus, Shepherd

SECOND_NS = 1_000_000_000
SEED_BETWEEN_SERVICES = 31
"""By how much the seeds of neighbouring services differ in the reference's load generator."""


@dataclass(frozen=True)
class Workload:
    """What is offered: times in ms, shares of the load, and the shape of the gamma law of the gaps (0: even)."""

    name: str
    shape: float
    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    slo: tuple[float, ...]
    share: tuple[float, ...]

    @property
    def slo_ns(self) -> NDArray[np.int64]:
        """The SLOs of its services."""
        return np.array([round(ms * 1e6) for ms in self.slo])


@dataclass(frozen=True)
class System:
    """A scheduler of the reference, as one of our disciplines with these settings."""

    discipline: Discipline
    parameters: Mapping[str, OptionValue] = field(default_factory=dict)
    control_ns: int = 1_000
    data_ns: int = 0
    response_ns: int = 0
    jitter_ns: int = 100_000


NETWORK = {"control_ns": 100_000, "data_ns": 50_000, "response_ns": 2_000_000}
NEWER = {"jitter_ns": 20_000}
"""The window's constant on the branch `priority`."""


def _deferred(**parameters: OptionValue) -> Mapping[str, OptionValue]:
    return {"gpu_choice": "earliest", **parameters}


SYSTEMS: Mapping[str, System] = {
    "sym": System(Deferred(), _deferred(), **NETWORK),
    "sym0": System(Deferred(), _deferred()),
    "symp": System(Deferred(), _deferred(), **NETWORK, **NEWER),
    "symp0": System(Deferred(), _deferred(), **NEWER),
    "symdt0": System(Deferred(), _deferred(drop="timeout")),
    "symfcfs0": System(Deferred(), _deferred(drop="never")),
    "eager": System(Eager(), _deferred(), **NETWORK),
    "eager0": System(Eager(), _deferred()),
    "eagerdt0": System(Eager(), _deferred(drop="timeout")),
    "latest0": System(Deferred(), _deferred(window="latest")),
    "tbs0": System(Deferred(), _deferred(window="target-batch")),
    "tqd0": System(Deferred(), _deferred(window="queueing-delay")),
    "bl_p": System(Deferred(), _deferred(window="beta-lambda"), **NETWORK, **NEWER),
    "bl_p0": System(Deferred(), _deferred(window="beta-lambda"), **NEWER),
    "to10p0": System(Deferred(), _deferred(window="slo-share", wait_share=0.1), **NEWER),
    "to20p0": System(Deferred(), _deferred(window="slo-share", wait_share=0.2), **NEWER),
    "to40p0": System(Deferred(), _deferred(window="slo-share", wait_share=0.4), **NEWER),
    "symp0eff": System(Deferred(), _deferred(order="efficiency"), **NEWER),
    "symp0ddl": System(Deferred(), _deferred(order="deadline"), **NEWER),
    "symp0pri": System(Deferred(), _deferred(match="service"), **NEWER),
    "eagerp0eff": System(Eager(), _deferred(order="efficiency"), **NEWER),
    "nexst5": System(Nexus(), {"schedule": "static", "batch": 5}, control_ns=0),
    "nexst6": System(Nexus(), {"schedule": "static", "batch": 6}, control_ns=0),
    "nexst7": System(Nexus(), {"schedule": "static", "batch": 7}, control_ns=0),
    "nexst8": System(Nexus(), {"schedule": "static", "batch": 8}, control_ns=0),
    "shepfix0": System(Shepherd(), {}, control_ns=0),
}
"""The reference's systems that are judged."""


@dataclass(frozen=True)
class Row:
    """One run of the reference: what was offered, and what came of it."""

    workload: Workload
    system: str
    gpus: int
    rate_rps: float
    warmup_s: int
    duration_s: int
    seed: int
    requests: int
    bad_rate: float
    mean_batch: float
    utilisation: float

    def __str__(self) -> str:
        return (
            f"{self.workload.name:9}{self.system:11}{self.gpus:3} GPUs {self.rate_rps:8.1f} rps "
            f"{self.duration_s:3} s, seed {self.seed}"
        )


@dataclass(frozen=True)
class Tally:
    """What was counted in the measured span of a run, or of several."""

    requests: int
    bad: int
    batches: int
    sizes: int
    busy: float
    """Share of the time of all GPUs."""

    @property
    def bad_rate(self) -> float:
        """Bad requests over all."""
        return self.bad / self.requests

    @property
    def mean_batch(self) -> float:
        """Requests in batches over batches."""
        return self.sizes / max(1, self.batches)


def together(tallies: Sequence[Tally]) -> Tally:
    """Join the counts of several runs of equal length."""
    requests, bad, batches, sizes, busy = (sum(column) for column in zip(*map(_columns, tallies), strict=True))
    return Tally(int(requests), int(bad), int(batches), int(sizes), busy / len(tallies))


def _columns(tally: Tally) -> tuple[float, ...]:
    return tally.requests, tally.bad, tally.batches, tally.sizes, tally.busy


@dataclass(frozen=True, eq=False)
class Run:
    """What our discipline made of some arrivals: which were bad; service, start, finish and size of its batches."""

    arrivals: Arrivals
    gpus: int
    bad: NDArray[np.bool_]
    batch_ns: NDArray[np.int64]
    batch_end_ns: NDArray[np.int64]
    batch_size: NDArray[np.int64]

    def between(self, since_ns: NDArray[np.int64], length_ns: int) -> Tally:
        """Count in a span, which begins for each service at an instant of its own, and for instances at the first.

        Batches that were cut short are left out, as the reference's log does.
        """
        counts = np.diff(self.arrivals.offsets)
        age = self.arrivals.ns - np.repeat(since_ns, counts)
        here = (age >= 0) & (age < length_ns)
        since = int(since_ns.min())
        end = since + length_ns
        ran = self.batch_size > 0
        batches = (self.batch_ns >= since) & (self.batch_ns < end) & ran
        busy = np.maximum(0, np.minimum(self.batch_end_ns, end) - np.maximum(self.batch_ns, since))[ran].sum()
        return Tally(
            int(here.sum()),
            int(self.bad[here].sum()),
            int(batches.sum()),
            int(self.batch_size[batches].sum()),
            float(busy / length_ns / self.gpus),
        )


def read_workloads(folder: Path) -> dict[str, Workload]:
    """Read the workloads of the reference."""
    found = {}
    for name, entry in json.loads((folder / "workloads.json").read_text()).items():
        law, _, shape = entry["arrival"].partition(":")
        columns = (tuple(float(m[key]) for m in entry["models"]) for key in ("alpha_ms", "beta_ms", "slo_ms", "share"))
        found[name] = Workload(name, float(shape) if shape else {"exp": 1.0, "const": 0.0}[law], *columns)
    return found


def read_rows(folder: Path) -> tuple[list[Row], dict[str, int]]:
    """Read the rows of our systems, and count those of the others by system."""
    workloads, rows = read_workloads(folder), []
    others: dict[str, int] = {}
    with (folder / "schedulers.csv").open() as file:
        for row in csv.DictReader(file):
            if row["system"] not in SYSTEMS:
                others[row["system"]] = others.get(row["system"], 0) + 1
                continue
            rows.append(
                Row(
                    workloads[row["workload"]],
                    row["system"],
                    int(row["n_gpus"]),
                    float(row["rate_rps"]),
                    int(row["warmup_s"]),
                    int(row["duration_s"]),
                    int(row["seed"]),
                    int(row["n_requests"]),
                    float(row["bad_rate"]),
                    float(row["mean_batch"]),
                    float(row["utilisation"]),
                )
            )
    return rows, others


def simulate(row: Row, arrivals: Arrivals, until_ns: int) -> Run:
    """Serve arrivals until `until_ns` and two SLOs more; what waits then is bad."""
    system, workload = SYSTEMS[row.system], row.workload
    slo_ns = workload.slo_ns
    pool = Pool(
        active=np.arange(len(slo_ns)),
        slo_ns=slo_ns,
        max_batch=np.full(len(slo_ns), BATCH_CAP),
        latency_ns=_latencies(workload),
        number=np.arange(row.gpus),
        free_at_ns=np.zeros(row.gpus, np.int64),
        control_ns=system.control_ns,
        data_ns=system.data_ns,
        response_ns=system.response_ns,
        jitter_ns=system.jitter_ns,
        parameters=system.parameters,
    )
    discipline = system.discipline
    state = discipline.initial_state(len(slo_ns))
    _, served = discipline.advance(state, arrivals, pool, until_ns + 2 * int(slo_ns.max()))
    slo = np.repeat(slo_ns, np.diff(arrivals.offsets))
    bad = (served.finish_ns <= 0) | (served.finish_ns >= arrivals.ns + slo)
    return Run(arrivals, row.gpus, bad, served.batch_start_ns, served.batch_finish_ns, served.batch_size)


@cache
def _latencies(workload: Workload) -> NDArray[np.int64]:
    curves = (LatencyCurve.linear(a, b) for a, b in zip(workload.alpha, workload.beta, strict=True))
    return np.stack([curve.table_ns(BATCH_CAP) for curve in curves])


# Arrivals of our own ------------------------------------------------------------------------------------------------


def own_run(row: Row, seed: int) -> Tally:
    """Serve arrivals of our own at a row's load."""
    warmup_ns, length_ns = row.warmup_s * SECOND_NS, row.duration_s * SECOND_NS
    run = simulate(row, own_arrivals(row, seed), warmup_ns + length_ns)
    return run.between(np.full(len(row.workload.share), warmup_ns), length_ns)


def own_arrivals(row: Row, seed: int) -> Arrivals:
    """Draw as many requests for the measured span as the reference's run had, and what comes before.

    The instants of each service are those of a renewal process, given how many there are; for the exponential law that
    is a Poisson process.
    """
    rng = np.random.default_rng([seed, row.gpus, round(10 * row.rate_rps), row.duration_s])
    warmup_ns, end_ns = row.warmup_s * SECOND_NS, (row.warmup_s + row.duration_s) * SECOND_NS
    shape, share = row.workload.shape, np.array(row.workload.share)
    share /= share.sum()
    before = round(row.rate_rps * row.warmup_s)
    split = rng.multinomial if shape == 1 else _split
    counts = zip(split(before, share), split(row.requests, share), strict=True)
    return joined(
        [
            np.concatenate((_instants(rng, shape, first, 0, warmup_ns), _instants(rng, shape, n, warmup_ns, end_ns)))
            for first, n in counts
        ]
    )


def _split(count: int, share: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(count * share).astype(np.int64)


def _instants(rng: np.random.Generator, shape: float, count: int, since_ns: int, until_ns: int) -> NDArray[np.int64]:
    gaps = rng.standard_gamma(shape, count + 1) if shape else np.ones(count + 1)
    if not shape:
        gaps[0] = rng.random()
        gaps[-1] = 1 - gaps[0]
    at = np.cumsum(gaps)
    return since_ns + (at[:-1] * ((until_ns - since_ns) / at[-1])).astype(np.int64)


def joined(instants: Sequence[NDArray[np.int64]]) -> Arrivals:
    """Join the instants of several services."""
    ns = np.concatenate(instants)
    offsets = np.concatenate(([0], np.cumsum([len(own) for own in instants])))
    return Arrivals(ns, offsets, np.zeros(len(ns), np.float32))


# The reference's arrivals -------------------------------------------------------------------------------------------


def their_run(row: Row) -> Tally:
    """Serve the reference's own arrivals."""
    arrivals, begin_ns = their_arrivals(row)
    run = simulate(row, arrivals, int(arrivals.ns.max()) + 1)
    return run.between(begin_ns + row.warmup_s * SECOND_NS, row.duration_s * SECOND_NS)


def their_arrivals(row: Row) -> tuple[Arrivals, NDArray[np.int64]]:
    """Draw the reference's arrivals again; return them and the instants at which the services begin.

    Each segment (warm-up, measured span) has a generator of its own, seeded one higher than the last; the request that
    ends a segment is the first at or past its end.
    """
    instants, begins = [], []
    for service, share in enumerate(row.workload.share):
        rate_rps, seed = row.rate_rps * share, row.seed + SEED_BETWEEN_SERVICES * service
        begin = end = at = int(_uniform(seed, 1)[0] * 1e9 / rate_rps)
        parts = []
        for segment, seconds in enumerate((row.warmup_s, row.duration_s)):
            end += seconds * SECOND_NS
            count = int(rate_rps * seconds + 8 * sqrt(rate_rps * seconds / (row.workload.shape or 1.0)) + 100)
            gaps = _gaps(row.workload.shape, seed + segment, 1 << count.bit_length())[:count]
            ns = at + np.cumsum((gaps / rate_rps * 1e9).astype(np.int64))
            parts.append(ns[: np.searchsorted(ns, end) + 1])
            at = parts[-1][-1]
        instants.append(np.concatenate(parts))
        begins.append(begin)
    return joined(instants), np.array(begins)


@lru_cache(maxsize=80)
def _gaps(shape: float, seed: int, count: int) -> NDArray[np.float64]:
    """Draw the gaps of a segment at rate 1."""
    if shape == 0:
        return np.ones(count)
    if shape == 1:
        return np.asarray(-np.log(1.0 - _uniform(seed, count)))
    return _gamma(shape, seed, count) / shape


def _uniform(seed: int, count: int) -> NDArray[np.float64]:
    """Draw what std::uniform_real_distribution makes of std::mt19937: two words a number, the lower one first."""
    words = np.frombuffer(np.random.RandomState(seed).bytes(8 * count), "<u4").astype(np.float64)
    return (words[0::2] + words[1::2] * 2.0**32) / 2.0**64


def _gamma(shape: float, seed: int, count: int) -> NDArray[np.float64]:
    """Draw what std::gamma_distribution of libstdc++ makes of std::mt19937, for a shape below 1.

    It is the method of Marsaglia and Tsang for shape + 1, over normal numbers by the polar method (two at a time, the
    second kept for the next call), and then a power of a uniform one.
    """
    uniform = iter(_uniform(seed, 8 * count))
    third, found = shape + 1 - 1 / 3, np.empty(count)
    scale = 1 / sqrt(9 * third)
    kept: list[float] = []
    for n in range(count):
        while True:
            if kept:
                normal = kept.pop()
            else:
                radius = 2.0
                while radius > 1 or radius == 0:
                    x, y = 2 * next(uniform) - 1, 2 * next(uniform) - 1
                    radius = x * x + y * y
                factor = sqrt(-2 * log(radius) / radius)
                kept.append(x * factor)
                normal = y * factor
            v = 1 + scale * normal
            if v <= 0:
                continue
            v = v * v * v
            u = next(uniform)
            square = normal * normal
            if u <= 1 - 0.0331 * square * square or log(u) <= 0.5 * square + third * (1 - v + log(v)):
                break
        found[n] = next(uniform) ** (1 / shape) * third * v
    return found
