"""Small parts that tests build worlds and loops from: real ones, with little in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.controller.appraise import Prices
from partita.controller.loop import Loop
from partita.controller.state import Settings, State, Turn
from partita.forecasting import FAR, NEAR
from partita.mig import Geometry, gpu_model, parse
from partita.model.cluster import Batching, Gpu
from partita.model.load import Arrivals, Observation
from partita.model.plan import Command, OptionValue
from partita.model.service import WHOLE_GPU, LatencyCurve, Service
from partita.model.staggered import NO_OVERHEADS, Overheads
from partita.plugins.host import PluginHost
from partita.ports import Discipline, Forecaster, Pool, Served
from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.failures import Failure
from partita.replay.pools import AS_MEASURED, BUILT_IN, Variation
from partita.replay.rehearsal import Rehearser
from partita.replay.world import World
from partita.traces.arrivals import ArrivalSource

MS = 1_000_000
SECOND = 1_000_000_000
MODEL = "A100-80GB"
DEFERRED = Batching("deferred")
QUICK = Delays(model_load_s=2.0, repartition_s=1.0)
DEFAULTS = Settings()
SLOWER = {
    WHOLE_GPU: 1.0,
    "7g.80gb": 1.0,
    "4g.40gb": 1.5,
    "3g.40gb": 2.0,
    "2g.20gb": 3.0,
    "1g.20gb": 5.0,
    "1g.10gb": 5.0,
}
"""How much longer a batch takes on each profile than on the whole GPU; made up."""


def gpus(number: int, *, geometry: str | None = None, price: float = 1.0) -> tuple[Gpu, ...]:
    """Return this many A100-80GB, all cut alike."""
    model = gpu_model(MODEL)
    cut = parse(MODEL, geometry)
    return tuple(Gpu(f"gpu{n}", MODEL, model.memory_gib, cut, price_per_hour=price) for n in range(number))


def cut(text: str | None) -> Geometry | None:
    """Read a geometry of an A100-80GB."""
    return parse(MODEL, text)


def service(
    name: str,
    *,
    slo_ms: float = 100.0,
    alpha_ms: float = 1.0,
    beta_ms: float = 9.0,
    memory_gib: float = 2.0,
    attainment: float = 0.99,
) -> Service:
    """Return a service that takes alpha·b + beta on the whole GPU, and longer on each MIG profile."""
    curves = tuple(LatencyCurve.linear(alpha_ms * k, beta_ms * k, profile=p, up_to=64) for p, k in SLOWER.items())
    return Service(name, slo_ms / 1e3, attainment, memory_gib, curves)


class Listed:
    """Arrivals from lists of instants in ns, one a service; each request's size is its number among all."""

    origin_ns = 0

    def __init__(self, names: Sequence[str], instants: Sequence[NDArray[np.int64]], span_ns: int) -> None:
        self.services, self.span_ns = tuple(names), span_ns
        self._instants = [np.sort(np.asarray(ns, np.int64)) for ns in instants]
        self._next = [0] * len(names)
        first = np.cumsum([0, *(len(ns) for ns in self._instants)])
        self._sizes = [
            np.arange(a, a + len(ns), dtype=np.float32) for a, ns in zip(first, self._instants, strict=False)
        ]

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        stops = [int(np.searchsorted(at, min(ns, self.span_ns))) for at in self._instants]
        rows = [slice(a, max(a, b)) for a, b in zip(self._next, stops, strict=True)]
        self._next = [r.stop for r in rows]
        times = [at[r] for at, r in zip(self._instants, rows, strict=True)]
        sizes = [size[r] for size, r in zip(self._sizes, rows, strict=True)]
        offsets = np.cumsum([0, *(len(t) for t in times)]).astype(np.int64)
        return Arrivals(np.concatenate(times), offsets, np.concatenate(sizes))


def even(rate_rps: float, span_s: float) -> NDArray[np.int64]:
    """Return evenly spaced instants in ns, the first half a gap after 0."""
    instants: NDArray[np.int64] = np.rint((np.arange(round(rate_rps * span_s)) + 0.5) / rate_rps * 1e9).astype(np.int64)
    return instants


def random_instants(rate_rps: float, span_s: float, seed: int) -> NDArray[np.int64]:
    """Return Poisson instants in ns, their number fixed at its mean."""
    rng = np.random.default_rng(seed)
    drawn: NDArray[np.int64] = np.sort(rng.integers(0, round(span_s * 1e9), round(rate_rps * span_s)))
    return drawn


@dataclass(slots=True)
class Recorded:
    """One advance of one pool: when it began and ended, the numbers and free instants it was given, what it did."""

    since_ns: int
    until_ns: int
    number: NDArray[np.int64]
    free_ns: NDArray[np.int64]
    active: NDArray[np.int64]
    served: Served


@dataclass(slots=True)
class Recording:
    """A discipline that does what another does and keeps every account of it."""

    inner: Discipline
    clock: Any = None
    records: list[Recorded] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the discipline it stands for."""
        return self.inner.name

    def initial_state(self, services: int) -> Any:
        """Return the inner discipline's first state."""
        return self.inner.initial_state(services)

    def advance(self, state: Any, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[Any, Served]:
        """Advance the inner discipline and keep its account."""
        free = pool.free_at_ns.copy()
        state, served = self.inner.advance(state, arrivals, pool, until_ns)
        since = self.clock.now_ns if self.clock is not None else 0
        self.records.append(Recorded(since, until_ns, pool.number.copy(), free, pool.active.copy(), served))
        return state, served


def make_world(
    services: Sequence[Service],
    instants: Sequence[NDArray[np.int64]],
    cluster: SimulatedCluster,
    *,
    span_s: float,
    counted_from_s: float = 0.0,
    log_delay_s: float = 1.0,
    remember_s: float = 100.0,
    disciplines: Mapping[str, Discipline] = BUILT_IN,
    overheads: Overheads = NO_OVERHEADS,
    variation: Variation = AS_MEASURED,
    failures: Sequence[Failure] = (),
    source: ArrivalSource | None = None,
) -> World:
    """Put a world together from instants, or from another source of requests."""
    return World(
        services,
        source or Listed([s.name for s in services], instants, round(span_s * 1e9)),
        cluster,
        disciplines,
        overheads,
        counted_s=(counted_from_s, span_s),
        log_delay_s=log_delay_s,
        remember_s=remember_s,
        variation=variation,
        failures=failures,
    )


def make_loop(
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    plugins: Mapping[str, object],
    *,
    policies: tuple[str, ...] | None = None,
    options: Mapping[str, Mapping[str, OptionValue]] | None = None,
    batching: Batching = DEFERRED,
    delays: Delays = QUICK,
    settings: Settings = DEFAULTS,
    near: Forecaster = NEAR,
    disciplines: Mapping[str, Discipline] = BUILT_IN,
) -> Loop:
    """Put a loop together around plugins at hand."""
    return Loop(
        services=tuple(services),
        inventory=tuple(inventory),
        batching=batching,
        host=PluginHost.of(plugins),
        policies=policies,
        options=options or {},
        near=near,
        far=FAR,
        rehearser=Rehearser(services, NO_OVERHEADS, disciplines),
        prices=Prices(delays, tuple(inventory)),
        settings=settings,
    )


class Stage:
    """A loop over a simulated world, turned by hand: what `turn.run` does, one turn at a time."""

    def __init__(self, loop: Loop, instants: Sequence[NDArray[np.int64]], *, span_s: float, **how: Any) -> None:
        self.loop = loop
        self.cluster = SimulatedCluster(loop.inventory, loop.prices.delays)
        self.state: State = loop.begin()
        self.cluster.begin_with(self.state.standing)
        self.world = make_world(loop.services, instants, self.cluster, span_s=span_s, **how)
        self._watermark_s = 0.0

    def observe(self) -> Observation:
        """Let an interval pass and look."""
        self.world.advance(self.world.now_ns + round(self.loop.settings.near_s * 1e9))
        view = self.world.read_log(self._watermark_s, self.loop.settings.rehearse_s)
        self._watermark_s = view.load.end_s
        now_ns = self.world.now_ns
        return Observation(
            now_s=now_ns / 1e9,
            watermark_s=view.watermark_s,
            load=view.load,
            cluster=self.cluster.observe(now_ns),
            outcomes=view.outcomes,
            recent=view.recent,
            recent_span_s=view.recent_span_s,
        )

    def turn(self) -> tuple[Turn, tuple[Command, ...]]:
        """Let an interval pass, decide and apply."""
        self.state, turn, commands = self.loop.step(self.state, self.observe())
        self.cluster.apply(commands, self.world.now_ns)
        return turn, commands

    def turns(self, number: int) -> list[Turn]:
        """Take several turns."""
        return [self.turn()[0] for _ in range(number)]
