"""What the disciplines share: parameters, requests that wait for the next advance, and the account of each advance."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.kernels import INFEASIBLE_NS, NEVER
from partita.kernels.batches import FINISH, START, Batches, empty_batches
from partita.kernels.sizes import NO_PLACES
from partita.kernels.splice import cut
from partita.model.cluster import OptionValue
from partita.model.load import Arrivals
from partita.ports import Pool, Served

QUEUE_POLICIES = ("none", "reject")
GPU_CHOICES = ("min-id", "earliest")
LONGEST_MS = 86_400_000.0
"""Longest time that a parameter may give: a day."""


def choice(choices: Collection[str], pool: Pool, key: str, default: str) -> str:
    """Return the pool's parameter `key`; ConfigError if it is none of `choices`."""
    return _one_of(choices, pool.parameters, key, default)


def common_choice(choices: Collection[str], pool: Pool, key: str, default: str) -> str:
    """Return the parameter `key` of all the pool's services; ConfigError if they differ or it is none of `choices`."""
    found = {_one_of(choices, pool.parameters_of(s), key, default) for s in pool.active} or {default}
    if len(found) > 1:
        text = f"the services that share instances have different ones ({', '.join(sorted(found))})"
        raise ConfigError(text, key=f"discipline.{key}")
    return found.pop()


def common_time_ns(pool: Pool, key: str) -> int:
    """Return the time `key` (0 unless given) of all the pool's services; ConfigError if they differ."""
    found = {_time_ns(pool.parameters_of(s), key, 0) for s in pool.active} or {0}
    if len(found) > 1:
        raise ConfigError("the services that share instances have different ones", key=f"discipline.{key}")
    return found.pop()


def delays_ns(pool: Pool) -> NDArray[np.int64]:
    """Return how long each service waits for a batch to fill."""
    delays = np.zeros(len(pool.slo_ns), np.int64)
    for s in pool.active:
        delays[s] = _time_ns(pool.parameters_of(s), "timeout_ms", 0)
    return delays


def queue_limits_ns(pool: Pool) -> NDArray[np.int64]:
    """Return after how long in the queue each service's requests are rejected; NEVER where they are not."""
    limits = np.full(len(pool.slo_ns), NEVER, np.int64)
    for s in pool.active:
        own = pool.parameters_of(s)
        limit = _time_ns(own, "queue_timeout_ms", int(pool.slo_ns[s]))
        if _one_of(QUEUE_POLICIES, own, "queue_policy", "none") == "reject":
            limits[s] = limit
    return limits


def whole_numbers(pool: Pool, key: str, default: int, highest: int) -> NDArray[np.int64]:
    """Return the parameter `key` of each service served here, 0 for others; ConfigError if not in 1 … `highest`."""
    numbers = np.zeros(len(pool.slo_ns), np.int64)
    for s in pool.active:
        value = pool.parameters_of(s).get(key, default)
        if isinstance(value, (str, bool)) or not 1 <= value <= highest or value != int(value):
            text = f"{value!r} is no whole number from 1 to {highest}"
            raise ConfigError(text, key=f"discipline.{key}", value=value)
        numbers[s] = int(value)
    return numbers


def _one_of(choices: Collection[str], parameters: Mapping[str, OptionValue], key: str, default: str) -> str:
    value = str(parameters.get(key, default))
    if value not in choices:
        raise ConfigError(f"{value!r} is none of {', '.join(choices)}", key=f"discipline.{key}", value=value)
    return value


def _time_ns(parameters: Mapping[str, OptionValue], key: str, default_ns: int) -> int:
    value = parameters.get(key)
    if value is None:
        return default_ns
    if isinstance(value, (str, bool)) or not 0 <= value <= LONGEST_MS:
        raise ConfigError(f"{value!r} is no time from 0 ms to a day", key=f"discipline.{key}", value=value)
    return round(value * 1e6)


def blank_account(requests: Arrivals) -> tuple[NDArray[np.int64], Batches]:
    """Make room for the account (start and finish) and the batches of these requests."""
    return np.zeros((len(requests), 2), np.int64), empty_batches(len(requests))


def places_of(pool: Pool, requests: Arrivals) -> NDArray[np.float64]:
    """Return where the sizes of these requests lie among the edges, as kernels see them."""
    return NO_PLACES if pool.sizes is None else pool.sizes.places(requests)


def by_edge(table: NDArray[np.int64], sized: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put latencies, ``(…, services, batches)``, and those by edge into one table, as kernels see them."""
    *kinds, services, edges, batches = sized.shape
    rows = np.full((*kinds, services * (1 + edges), max(batches, table.shape[-1])), INFEASIBLE_NS, np.int64)
    rows[..., :services, : table.shape[-1]] = table
    rows[..., services:, :batches] = np.moveaxis(sized, -2, -3).reshape(*kinds, services * edges, batches)
    return rows


def settle_account(
    requests: Arrivals,
    head: NDArray[np.int64],
    account: NDArray[np.int64],
    log: Batches,
    logged: int,
    pool: Pool,
) -> tuple[Arrivals, Served]:
    """Return the requests that still wait (row `head` of each service on), and the account of what was served."""
    waiting = Arrivals(*cut(requests.ns, requests.offsets, requests.size, np.ascontiguousarray(head)))
    return waiting, served(requests, account, log, logged, pool)


def served(requests: Arrivals, account: NDArray[np.int64], log: Batches, logged: int, pool: Pool) -> Served:
    """Return the account of these requests and of the batches logged."""
    return Served(
        requests,
        account[:, START],
        account[:, FINISH],
        pool.number[log.instance[:logged]],
        log.service[:logged].astype(np.int64),
        log.size[:logged].astype(np.int64),
        log.start[:logged].copy(),
        log.finish[:logged].copy(),
    )
