"""Serving by a plan of batch sizes, after Nexus.

Source: Nexus (SOSP 2019), its public code (github.com/uwsampl/nexus) and its emulation in Symphony's public scheduler
(github.com/abcdabcd987/nexuslb). With `schedule: static` the plan stands from the beginning: the same batch everywhere,
or packed from the rates that are given. With `schedule: epoch` rates are measured and the plan follows them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.kernels import nexus as kernel
from partita.kernels.lanes import UNIT
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import common_choice
from partita.replay.disciplines.lanes import Hall, Round, carried, instances_of
from partita.replay.disciplines.squishy import (
    EMPTY,
    Packer,
    Plan,
    adapt,
    house,
    largest_batches,
    pack,
    spread,
    throughput_rps,
)

SCHEDULES = ("epoch", "static")
IDLE_US = 50.0
NET_MS = 2.0
MOST_RPS = 1e9

BEACON_NS = 1_000_000_000
"""Time between two looks at the rates."""
WEIGHT = 1.0 - exp(-1.0 / 10.0)
"""Weight of the last beacon's count in the mean rate."""
BEACONS_BEFORE_PLANS = 30
EPOCH_NS, SHORTEST_EPOCH_NS = 30_000_000_000, 10_000_000_000
"""After how long a plan is renewed, and how long it stands at least."""
TOO_SLOW, TOO_FAST = 0.8, 1.1
"""Rates, as shares of the planned throughput, below and above which a plan is renewed early."""


@dataclass(slots=True, eq=False)
class Watch:
    """What the scheduler knows: arrivals since the last beacon, mean rates, the plan that stands and since when."""

    counts: NDArray[np.int64]
    rates_rps: NDArray[np.float64]
    began_ns: int = -1
    beacons: int = 0
    renewed_ns: int = -1
    plan: Plan = field(default_factory=dict)
    packed_for: bytes = b""

    @classmethod
    def of(cls, services: int) -> Watch:
        """Return the watch over this many services before anything has arrived."""
        return cls(np.zeros(services, np.int64), np.zeros(services))


@dataclass(slots=True, eq=False)
class NexusState:
    """What lives between advances: who waits, the instances' rounds, the plan, and when the last advance ended."""

    hall: Hall
    rounds: NDArray[np.int64]
    watch: Watch
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Nexus:
    """Let every instance go round its services with batches of a planned size.

    Parameters of all services that share instances: `schedule` (epoch, static), `headroom` (0, by which rates are
    raised before packing), `net_ms` (2), `cycle_us` (50); by service, with a static schedule: `batch` (the largest
    that runs in half of SLO less `net_ms`), or `rate_rps` of every service.
    """

    name: str = "nexus"
    by_service: bool = True

    def initial_state(self, services: int) -> NexusState:
        """Return the state of this many services with empty queues."""
        return NexusState(Hall.empty(services), np.empty((0, kernel.COLUMNS), np.int64), Watch.of(services))

    def advance(self, state: NexusState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[NexusState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        this_round = Round.open(state.hall, arrivals, pool)
        rounds = carried(state.hall.number, pool.number, state.rounds, _first_rounds(pool))
        idle_ns = round(number(pool, "cycle_us", IDLE_US) * 1e3)
        at_ns = state.at_ns
        for end_ns, batch, throughput in _schedule(state.watch, arrivals, pool, at_ns, until_ns):
            lanes = this_round.lanes(pool, shares(throughput), at_ns, end_ns, pool.control_ns + pool.data_ns)
            this_round.logged = kernel.advance_nexus(
                lanes,
                instances_of(pool, this_round.places(pool, lanes)),
                kernel.Plan(batch, pool.slo_ns - pool.response_ns, idle_ns),
                pool.active,
                rounds,
                pool.free_at_ns,
                at_ns,
                end_ns,
                this_round.log,
                this_round.logged,
            )
            this_round.settle(lanes)
            at_ns = end_ns
        hall, served = this_round.close(pool)
        return NexusState(hall, rounds, state.watch, until_ns), served


Stretch = tuple[int, NDArray[np.int64], NDArray[np.float64]]
"""Until when a plan stands, its batches and its throughputs, ``(instances, services)``."""


def _schedule(watch: Watch, arrivals: Arrivals, pool: Pool, since_ns: int, until_ns: int) -> list[Stretch]:
    """Return the plans of one advance, each with the instant at which the next one takes over."""
    if not len(pool.active):
        nothing = np.zeros((len(pool.number), len(pool.slo_ns)), np.int64)
        return [(until_ns, nothing, nothing.astype(np.float64))]
    if common_choice(SCHEDULES, pool, "schedule", "epoch") == "epoch":
        return _epochs(watch, arrivals, pool, since_ns, until_ns)
    given = [s for s in pool.active if "rate_rps" in pool.parameters_of(s)]
    if not given:
        batch = planned_batches(pool)
        return [(until_ns, batch, round_throughput(pool, batch))]
    if len(given) < len(pool.active):
        raise ConfigError("some services that share instances have one and some have not", key="discipline.rate_rps")
    return [(until_ns, *tables(pool, _packed(watch, pool)))]


def _packed(watch: Watch, pool: Pool) -> Plan:
    """Return the plan for the rates given; it is found anew when they or the pool have changed."""
    kinds, rates = pool.by_kind(), np.zeros(len(pool.slo_ns))
    for s in pool.active:
        rates[s] = number_of(pool, s, "rate_rps", 0.0, MOST_RPS)
    rates *= 1.0 + headroom(pool)
    parts = (pool.number, kinds.of, kinds.max_batch, kinds.planned_ns, pool.slo_ns, pool.active, rates)
    key = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    if key != watch.packed_for:
        watch.plan, watch.packed_for = pack(_packer(pool), rates), key
    return watch.plan


def _epochs(watch: Watch, arrivals: Arrivals, pool: Pool, since_ns: int, until_ns: int) -> list[Stretch]:
    """Follow the rates from beacon to beacon."""
    packer, raised = _packer(pool), 1.0 + headroom(pool)
    _take_up(watch, packer, raised, since_ns)
    if watch.began_ns < 0 and len(arrivals):
        watch.began_ns = int(arrivals.ns.min()) // BEACON_NS * BEACON_NS
    stretches: list[Stretch] = []
    seen = arrivals.offsets[:-1].copy()
    while watch.began_ns >= 0:
        beacon_ns = watch.began_ns + (watch.beacons + 1) * BEACON_NS
        upto = min(beacon_ns, until_ns)
        for s in pool.active:
            rows = slice(seen[s], arrivals.offsets[s + 1])
            came = int(np.searchsorted(arrivals.ns[rows], upto))
            watch.counts[s] += came
            seen[s] += came
        if beacon_ns > until_ns:
            break
        before = watch.plan
        _beacon(watch, packer, raised, beacon_ns)
        if watch.plan != before and beacon_ns > since_ns:
            stretches.append((beacon_ns, *tables(pool, before)))
    if not stretches or stretches[-1][0] < until_ns:
        stretches.append((until_ns, *tables(pool, watch.plan)))
    return stretches


def _take_up(watch: Watch, packer: Packer, raised: float, now_ns: int) -> None:
    """Keep what of the plan the pool can still run; what was lost, or is new, finds a place."""
    if not watch.plan:
        watch.plan = spread(packer)
        return
    kept: Plan = {}
    for n in packer.numbers:
        cycle = watch.plan.get(n, EMPTY)
        loads = {s: load for s, load in cycle.load_rps.items() if s in packer.services and packer.cap(n, s) > 0}
        fits = all(cycle.batch[s] <= packer.cap(n, s) for s in loads)
        if loads == dict(cycle.load_rps) and fits:
            kept[n] = cycle
        else:
            kept[n] = packer.cycle(n, loads) or EMPTY
    lost = any(throughput_rps(kept, s) < throughput_rps(watch.plan, s) for s in packer.services)
    for s in packer.services:
        unused = [n for n in packer.numbers if not kept[n].batch and packer.cap(n, s) > 0]
        if unused and not any(s in cycle.batch for cycle in kept.values()):
            kept[unused[0]] = packer.round(unused[0], [s])
    watch.plan = house(packer, kept)
    if lost and watch.beacons >= BEACONS_BEFORE_PLANS:
        watch.plan, watch.renewed_ns = adapt(packer, watch.plan, watch.rates_rps * raised), now_ns


def _beacon(watch: Watch, packer: Packer, raised: float, now_ns: int) -> None:
    """Measure the rates, and renew the plan if it is time to."""
    per_s = watch.counts.astype(np.float64) * (1e9 / BEACON_NS)
    watch.rates_rps = per_s if watch.beacons == 0 else (1 - WEIGHT) * watch.rates_rps + WEIGHT * per_s
    watch.counts = np.zeros_like(watch.counts)
    watch.beacons += 1
    if watch.beacons < BEACONS_BEFORE_PLANS:
        return
    rates, first = watch.rates_rps * raised, watch.renewed_ns < 0
    age_ns = now_ns - watch.renewed_ns
    off = age_ns >= SHORTEST_EPOCH_NS and any(_off(watch.plan, s, rates[s]) for s in packer.services)
    if not first and age_ns < EPOCH_NS and not off:
        return
    crowded = first and any(len(cycle.batch) > 1 for cycle in watch.plan.values())
    watch.plan = pack(packer, rates) if crowded else adapt(packer, watch.plan, rates)
    watch.renewed_ns = now_ns


def _off(plan: Plan, s: int, rate: float) -> bool:
    """Say whether a rate is far from what is planned."""
    planned = throughput_rps(plan, s)
    return rate < TOO_SLOW * planned or rate > TOO_FAST * planned


def tables(pool: Pool, plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return a plan's batches and throughputs, ``(instances, services)``."""
    batch = np.zeros((len(pool.number), len(pool.slo_ns)), np.int64)
    throughput = np.zeros(batch.shape)
    for g, n in enumerate(pool.number):
        cycle = plan.get(int(n), EMPTY)
        for s, b in cycle.batch.items():
            batch[g, s], throughput[g, s] = b, cycle.throughput_rps(s)
    return batch, throughput


def _packer(pool: Pool) -> Packer:
    return Packer(pool, number(pool, "net_ms", NET_MS) / 1e3)


def headroom(pool: Pool) -> float:
    """Return by which share rates are raised before packing."""
    first = pool.parameters_of(int(pool.active[0]))
    value = first.get("headroom", 0.0)
    if isinstance(value, (str, bool)) or not 0 <= value <= 10:
        raise ConfigError(f"{value!r} is no share from 0 to 10", key="discipline.headroom", value=value)
    return float(value)


def number(pool: Pool, key: str, default: float, highest: float = 1e9) -> float:
    """Return the number `key` of the pool; ConfigError if it is none above 0 and up to `highest`."""
    return number_of(pool, int(pool.active[0]), key, default, highest) if len(pool.active) else default


def number_of(pool: Pool, s: int, key: str, default: float, highest: float) -> float:
    """Return the number `key` of a service; ConfigError if it is none above 0 and up to `highest`."""
    value = pool.parameters_of(s).get(key, default)
    if isinstance(value, (str, bool)) or not 0 < value <= highest:
        raise ConfigError(f"{value!r} is no number above 0 and up to {highest:g}", key=f"discipline.{key}", value=value)
    return float(value)


def planned_batches(pool: Pool) -> NDArray[np.int64]:
    """Return the batch planned, ``(instances, services)``, where every instance runs every service that it may."""
    kinds = pool.by_kind()
    table = largest_batches(pool, number(pool, "net_ms", NET_MS) / 1e3)
    for s in pool.active:
        given = pool.parameters_of(s).get("batch")
        if given is None:
            continue
        if isinstance(given, (str, bool)) or given < 1 or given != int(given):
            raise ConfigError(f"{given!r} is no whole number above 0", key="discipline.batch", value=given)
        table[:, s] = np.minimum(kinds.max_batch[:, s], int(given))
    inactive = np.setdiff1d(np.arange(len(pool.slo_ns)), pool.active)
    table[:, inactive] = 0
    return np.ascontiguousarray(table[kinds.of])


def round_throughput(pool: Pool, batch: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return throughputs, ``(instances, services)``, where full batches of all services follow one another."""
    kinds = pool.by_kind()
    services = np.arange(batch.shape[1])
    runs = np.where(batch > 0, kinds.planned_ns[kinds.of[:, None], services[None, :], batch], 0)
    return np.asarray(batch / np.maximum(1, runs.sum(axis=1, keepdims=True)))


def shares(throughput: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the quanta, ``(services, instances)``, for these throughputs, ``(instances, services)``.

    The instance with the largest throughput takes a request at each turn, the others in proportion.
    """
    largest = throughput.max(axis=0, initial=0.0)
    part = np.divide(throughput, largest, out=np.zeros_like(throughput), where=largest > 0)
    return np.where(part > 0, np.maximum(1, np.rint(part * UNIT)), 0).T.astype(np.int64)


def _first_rounds(pool: Pool) -> NDArray[np.int64]:
    """Return the state of instances that have not looked at a service yet: they do when they are free."""
    rounds = np.zeros((len(pool.number), kernel.COLUMNS), np.int64)
    rounds[:, kernel.LOOK] = rounds[:, kernel.BEGUN] = pool.free_at_ns
    return rounds
