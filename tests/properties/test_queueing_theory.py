"""Queues whose waiting times are known: replay must give them, within the confidence of its own sample.

`timeout` with a largest batch of one and no delay is a first-in first-out queue of several servers. Sources: the
formula of Pollaczek and Khinchine (M/D/1, M/G/1), C. D. Crommelin's series of 1932 (M/D/c), A. K. Erlang's second
formula (M/M/c); for even arrivals, the staggered rule of the public Symphony scheduler.
"""

from __future__ import annotations

from math import exp, fsum, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import poisson, t

from partita.model.load import Arrivals
from partita.model.service import BATCH_CAP, LatencyCurve, Service
from partita.model.staggered import staggered_rps
from partita.ports import Kinds, Pool
from partita.replay.disciplines import Deferred, Timeout

SERVICE_NS = 5_000_000
RUNS, REQUESTS, SETTLING = 60, 30_000, 5_000
"""Independent runs, requests in each, and those at its begin that are left out, since it begins empty."""
SURE = 0.9999
"""Confidence of the interval that the true mean must lie in."""


def queue(servers: int, latency_ns: NDArray[np.int64], *, spread: float = 0.0, seed: int = 0) -> Pool:
    """Make a pool that serves one request at a time; `latency_ns` has one entry a service."""
    services = len(latency_ns)
    table = np.stack([np.zeros(services, np.int64), latency_ns, np.full(services, 3_600_000_000_000)], axis=1)
    ones, of = np.ones(services, np.int64), np.zeros(servers, np.int64)
    return Pool(
        active=np.arange(services),
        slo_ns=np.full(services, 10**18),
        max_batch=ones,
        latency_ns=table,
        number=np.arange(servers),
        free_at_ns=np.zeros(servers, np.int64),
        kinds=Kinds(of, ones[None, :], table[None], table[None], spread, seed),
    )


def waits_s(pool: Pool, load: float, servers: int, rng: np.random.Generator) -> float:
    """Serve Poisson arrivals that are shared out evenly among the services; return the mean wait in seconds."""
    services = len(pool.active)
    gap_ns = float(pool.latency_ns[:, 1].mean()) / (load * servers)
    ns = np.cumsum(rng.exponential(gap_ns, REQUESTS)).astype(np.int64)
    whose = rng.integers(0, services, REQUESTS)
    order = np.argsort(whose, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(whose, minlength=services))))
    arrivals = Arrivals(ns[order], offsets, np.zeros(REQUESTS, np.float32))
    _, served = Timeout().advance(Timeout().initial_state(services), arrivals, pool, int(ns[-1]) + 10**13)
    counted = order >= SETTLING
    return float((served.start_ns - served.arrivals.ns)[counted].mean()) / 1e9


def assert_mean(samples: list[float], expected: float) -> None:
    """Hold the true mean against the samples' confidence interval, which must be narrow enough to mean something."""
    half = float(t.ppf((1 + SURE) / 2, len(samples) - 1)) * float(np.std(samples, ddof=1)) / sqrt(len(samples))
    assert half < 0.1 * expected
    assert abs(float(np.mean(samples)) - expected) < half


def erlang_c(servers: int, load: float) -> float:
    """Return the share of requests that wait in M/M/c."""
    offered = servers * load
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    return blocked / (1 - load * (1 - blocked))


def crommelin_s(servers: int, load: float) -> float:
    """Return the mean wait in M/D/c, in service times."""
    terms = ((i * servers, i * servers * load) for i in range(1, 2000))
    return fsum(poisson.sf(n - 1, a) - poisson.sf(n, a) / load for n, a in terms)


def test_crommelins_series_is_right_for_one_server() -> None:
    assert crommelin_s(1, 0.8) == pytest.approx(0.8 / (2 * 0.2))


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.8), (4, 0.8), (16, 0.85)])
def test_even_service_times(servers: int, load: float) -> None:
    rng = np.random.default_rng([1, servers])
    samples = [waits_s(queue(servers, np.array([SERVICE_NS])), load, servers, rng) for _ in range(RUNS)]
    assert_mean(samples, crommelin_s(servers, load) * SERVICE_NS / 1e9)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (4, 0.8), (16, 0.85)])
def test_exponential_service_times(servers: int, load: float) -> None:
    """The law is cut into 400 slices of one probability, each a service that takes its slice's mean."""
    edges = -np.log1p(-np.arange(400) / 400)
    partial = np.append((edges + 1) * np.exp(-edges), 0.0)
    latency = np.rint(400 * -np.diff(partial) * SERVICE_NS).astype(np.int64)
    assert latency.mean() == pytest.approx(SERVICE_NS, rel=1e-6)
    assert (latency.astype(float) ** 2).mean() == pytest.approx(2 * SERVICE_NS**2, rel=0.005)
    rng = np.random.default_rng([2, servers])
    samples = [waits_s(queue(servers, latency), load, servers, rng) for _ in range(RUNS)]
    assert_mean(samples, erlang_c(servers, load) / (servers * (1 - load)) * SERVICE_NS / 1e9)


def test_lognormal_service_times() -> None:
    """One server, M/G/1: what jitter draws has the mean and the variance that it should."""
    load, spread = 0.7, 0.8
    rng = np.random.default_rng(3)
    pools = (queue(1, np.array([SERVICE_NS]), spread=spread, seed=seed) for seed in range(RUNS))
    samples = [waits_s(pool, load, 1, rng) for pool in pools]
    assert_mean(samples, load / (2 * (1 - load)) * exp(spread**2) * SERVICE_NS / 1e9)


@pytest.mark.parametrize(("gpus", "slo_ms"), [(1, 100), (2, 100), (8, 100), (8, 25), (32, 25)])
def test_even_arrivals_reach_the_staggered_rate(gpus: int, slo_ms: float) -> None:
    """Just below the staggered rate nothing is bad; a little above it, something is."""
    curve = LatencyCurve.linear(1.082, 5.204)
    service = Service("a", slo_ms / 1e3, 0.99, 1.0, (curve,))
    bound = staggered_rps([service], [1.0], gpus)

    def bad(rate_rps: float) -> float:
        ns = (np.arange(int(30 * rate_rps)) * 1e9 / rate_rps).astype(np.int64)
        pool = Pool(
            active=np.zeros(1, np.int64),
            slo_ns=np.array([round(slo_ms * 1e6)]),
            max_batch=np.array([BATCH_CAP]),
            latency_ns=curve.table_ns(BATCH_CAP)[None, :],
            number=np.arange(gpus),
            free_at_ns=np.zeros(gpus, np.int64),
        )
        arrivals = Arrivals(ns, np.array([0, len(ns)]), np.zeros(len(ns), np.float32))
        _, served = Deferred().advance(Deferred().initial_state(1), arrivals, pool, int(ns[-1]) + 10**9)
        late = (served.finish_ns <= 0) | (served.finish_ns >= ns + pool.slo_ns[0])
        return float(late[len(ns) // 3 :].mean())

    assert bad(0.99 * bound) <= 0.01
    assert bad(1.03 * bound) > 0.01
