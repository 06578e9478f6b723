"""The borders of the loop, as protocols: what it asks of the outside, and what plugins may bring.

`RequestLog`, `Executor` and `Clock` each have a live and a replay adapter; `Journal` has one on PostgreSQL and one in
memory. `Forecaster`, `Discipline` and `TraceReader` are what the register hooks return.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from partita.model.cluster import ClusterState, Instance, Route, SubCluster
from partita.model.load import Arrivals, Forecast, Load, Outcome, Scored
from partita.model.plan import Command, Decision, OptionValue, Plan

# The loop's own borders ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LogView:
    """What the log holds since the last read: complete up to `watermark_s`, never beyond."""

    watermark_s: float
    load: Load
    outcomes: Mapping[str, Outcome]
    recent: Arrivals | None
    recent_span_s: tuple[float, float]
    missing: str = ""
    """Why the log could not be read; what stands beside it is then the last that was known."""


class RequestLog(Protocol):
    """Where load is read from."""

    async def read(self, since_s: float, window_s: float) -> LogView:
        """Return the load from `since_s` (a former watermark) on, and the requests of the last `window_s` seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an executor can do, so that nothing else is planned for it.

    `disciplines` None means any; `partition`: instances can be created and destroyed inside a GPU; `shares`: GPU% can
    be set; `kinds`: of the instances of a sub-cluster, those that cannot serve a service are sent none of its requests.
    """

    disciplines: tuple[str, ...] | None = None
    partition: bool = True
    shares: bool = True
    kinds: bool = True


ANYTHING = Capabilities()


class Executor(Protocol):
    """What turns commands into instances; `apply` may only start work, progress shows in the next `observe`."""

    @property
    def capabilities(self) -> Capabilities:
        """Say what this executor can do."""
        ...

    async def apply(self, commands: Sequence[Command], *, term: int = 0) -> None:
        """Start carrying out these commands, in order, acting only where the world differs from what they want.

        `term` is the leadership under which they were written; an executor that has seen a later one refuses with
        Failed. Busy means that nothing was done and that trying later may help; Unsupported that it never will; Failed
        that the world must be looked at again.
        """
        ...

    async def observe(self) -> ClusterState:
        """Look at the cluster as it is now."""
        ...


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """A load sent to a server whose end nobody has seen: of which model, over which configuration (a digest of it).

    From `until_s` (unix time) on it counts as ended, whatever became of it.
    """

    gpu: str
    model: str
    over: str
    until_s: float


@dataclass(frozen=True, slots=True)
class Page:
    """What a cluster has no place of its own for: GPUs held, instances, sub-clusters and routes in force.

    `draining` lists the replicas, as (instance, service), that routes must leave out; `term` is the leadership that
    wrote the page; `loads` are those that must not be followed by another one yet.
    """

    held: tuple[str, ...] = ()
    instances: tuple[Instance, ...] = ()
    sub_clusters: tuple[SubCluster, ...] = ()
    routes: tuple[Route, ...] = ()
    draining: tuple[tuple[str, str], ...] = ()
    term: int = 0
    loads: tuple[OpenLoad, ...] = ()


class Book(Protocol):
    """Where an executor keeps its page, so that it outlives the controller; gateways read their routes there too."""

    async def read(self) -> Page:
        """Return the page as it was last written, or an empty one."""
        ...

    async def write(self, page: Page) -> None:
        """Replace the page; Failed if a later term has written it."""
        ...


class Clock(Protocol):
    """Time; in replay, sleeping is what lets the simulated world go on."""

    def now_s(self) -> float:
        """Return the present, in seconds."""
        ...

    async def sleep_until(self, at_s: float) -> None:
        """Return at `at_s`, or at once if that has passed."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """One turn of the loop, as journaled."""

    decision: Decision
    near: Forecast | None
    far: Forecast | None
    plan: Plan | None
    """The plan chosen, where the decision acts."""
    standing: Plan | None = None
    """The plan that stands from now on, where another one stood before."""
    need: Mapping[str, int] = field(default_factory=dict)
    """Replicas that the near forecast needs of each service."""
    scored: tuple[Scored, ...] = ()
    """Forecasts of earlier turns of which the truth has come."""


class Journal(Protocol):
    """Where each turn of the loop is written down before anything is applied."""

    async def record(self, tick: Tick) -> None:
        """Write one turn."""
        ...

    async def close(self) -> None:
        """Make sure that everything recorded is kept."""
        ...


# What plugins may bring ---------------------------------------------------------------------------------------------


@runtime_checkable
class Forecaster(Protocol):
    """A model of load: history in, quantiles out. It must be pure: the same history gives the same forecast."""

    @property
    def name(self) -> str:
        """What settings and the journal call it."""
        ...

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        """Forecast `steps` steps of ``history.step_s`` after its end; ForecastError if there is too little."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Kinds:
    """The kinds of instances in a pool: what each of them runs, and how long that takes.

    `of` (one entry an instance) is the instance's kind. `max_batch`, ``(kinds, services)``, is 0 where no instance of
    the kind may serve the service. `planned_ns` and `run_ns`, ``(kinds, services, batches)``, are what a discipline
    counts on and the mean of what a batch takes; `spread` is the standard deviation of the logarithm of what it takes
    over that mean, drawn from `seed`.
    """

    of: NDArray[np.int64]
    max_batch: NDArray[np.int64]
    planned_ns: NDArray[np.int64]
    run_ns: NDArray[np.int64]
    spread: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ExactSizes:
    """What batches take by the size of their largest input, in a pool where that counts for some service.

    `edges`, ``(services, edges)``, are the rising sizes for which latencies are known, filled up with infinities, which
    alone stand at services whose sizes do not count. `planned_ns`, ``(1 + kinds, services, edges, batches)``, is what a
    discipline that knows the sizes counts on: on the slowest kind first, then on each kind; `run_ns`, ``(kinds,
    services, edges, batches)``, is the mean of what a batch takes. `max_batch` (by service) and `max_batch_of`,
    ``(kinds, services)``, are the largest batches of the smallest inputs. Between two edges latency is linear (and
    infeasible where it is at the upper one), below the first it is the first one's.
    """

    edges: NDArray[np.float64]
    max_batch: NDArray[np.int64]
    max_batch_of: NDArray[np.int64]
    planned_ns: NDArray[np.int64]
    run_ns: NDArray[np.int64]

    def places(self, arrivals: Arrivals) -> NDArray[np.float64]:
        """Return where each request's size lies: 0 up to the first edge, 1.5 half-way from the second to the third.

        It is -1 where sizes do not count. A size that nobody logged (NaN) is one of the largest.
        """
        places = np.full(len(arrivals), -1.0)
        for s, edges in enumerate(self.edges):
            known = edges[np.isfinite(edges)]
            if len(known):
                rows = slice(arrivals.offsets[s], arrivals.offsets[s + 1])
                sizes = np.nan_to_num(arrivals.size[rows], nan=known[-1])
                places[rows] = np.interp(sizes, known, np.arange(len(known)))
        return places


@dataclass(slots=True, eq=False)
class Pool:
    """Instances that share one set of services, as a discipline sees them.

    All service arrays cover every service of the run; `active` lists the rows that this pool serves. `latency_ns` has
    shape ``(services, batches)``: entry [s, b] is how long a batch of b takes, with at least one unmeasured batch after
    the last feasible one. Where instances differ it is what the slowest takes that may serve the service, and `kinds`
    tells them apart; a discipline that does not look at `kinds` treats all as the slowest. Likewise these are the
    latencies of the largest inputs where `sizes` tells them apart. `free_at_ns` (one entry an
    instance) says when each can start its next batch; a discipline moves it forward. `number` is the instance's place
    in the inventory, which is rising. `parameters` are those of all its services, or of the first one where
    `by_service` gives each its own.
    """

    active: NDArray[np.int64]
    slo_ns: NDArray[np.int64]
    max_batch: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    number: NDArray[np.int64]
    free_at_ns: NDArray[np.int64]
    control_ns: int = 0
    data_ns: int = 0
    response_ns: int = 0
    jitter_ns: int = 0
    parameters: Mapping[str, OptionValue] = field(default_factory=dict)
    by_service: Sequence[Mapping[str, OptionValue]] = ()
    kinds: Kinds | None = None
    sizes: ExactSizes | None = None

    def by_kind(self) -> Kinds:
        """Return the kinds of its instances; one kind, which runs as planned, where none are given."""
        if self.kinds is not None:
            return self.kinds
        of, table = np.zeros(len(self.free_at_ns), np.int64), self.latency_ns[None, :, :]
        return Kinds(of, self.max_batch[None, :], table, table)

    def parameters_of(self, service: int) -> Mapping[str, OptionValue]:
        """Return the parameters of one service."""
        return self.by_service[service] if self.by_service else self.parameters


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What happened to requests between two advances, grouped by service like `Arrivals`.

    `finish_ns` is when the answer was ready, -1 for a dropped request, 0 for one that still waits (it comes again in
    the next advance); `start_ns` is when its batch started, 0 unless it ran. Batches are parallel arrays in the order
    they were granted: instance number, service, size, start, finish.
    """

    arrivals: Arrivals
    start_ns: NDArray[np.int64]
    finish_ns: NDArray[np.int64]
    batch_instance: NDArray[np.int64]
    batch_service: NDArray[np.int64]
    batch_size: NDArray[np.int64]
    batch_start_ns: NDArray[np.int64]
    batch_finish_ns: NDArray[np.int64]


@runtime_checkable
class Discipline(Protocol):
    """How queued requests become batches on instances.

    `advance` must be resumable: cutting the time into other intervals gives the same batches. It may use only arrivals
    that have happened, and may change `pool.free_at_ns` and the state it is given, nothing else.

    The services of a pool batch alike but for their largest batch, unless the discipline has a true attribute
    `by_service`: then it takes each service's parameters from `pool.parameters_of`. Likewise `blind` says that it does
    not look at deadlines (half an SLO bounds its largest batch then), `max_batch_as_set` that it runs the largest batch
    it is given, whatever the SLO, and `preempts` that it may cut a running batch short, so that a batch is in the
    account only when it is done: no instance can be told of it when it begins, and the discipline is for replay only.
    """

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        ...

    def initial_state(self, services: int) -> Any:
        """Return the state of this many services with empty queues."""
        ...

    def advance(self, state: Any, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[Any, Served]:
        """Serve until `until_ns`; every arrival is before it and after those of the advances before."""
        ...


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What a trace file holds: `kind` is "requests" or "counts", `bin_s` the width of a count's bin.

    `grid_s` is the step on which a request trace has its instants, where the reader spreads them inside it.
    """

    format: str
    kind: str
    bin_s: float | None = None
    grid_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A block of a request trace, as parallel arrays; `at_ns` is unix time in nanoseconds, never falling."""

    at_ns: NDArray[np.int64]
    service: NDArray[np.object_]
    size: NDArray[np.float32]
    output_size: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """A block of a count trace, as parallel arrays; in the bin that starts at `at_ns`, `count` requests of `service`.

    `law` names how gaps inside the bin are spread ("even", "poisson", "gamma", "weibull"), `shape` is the law's shape.
    """

    at_ns: NDArray[np.int64]
    service: NDArray[np.object_]
    count: NDArray[np.int64]
    law: NDArray[np.object_]
    shape: NDArray[np.float64]


class TraceReader(Protocol):
    """Reads one file format, as a stream of blocks."""

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        ...

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether a file with this name and these first lines is of this format."""
        ...

    def info(self, path: Path) -> TraceInfo:
        """Describe the file without reading all of it."""
        ...

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the file's content in time order; TraceError names file, row and column of what is wrong."""
        ...
