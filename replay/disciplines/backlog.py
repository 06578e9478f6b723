"""What the disciplines share: parameters, requests that wait for the next advance, and the account of each advance."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.kernels.batches import FINISH, START, Batches, empty_batches
from partita.kernels.splice import cut, splice
from partita.model.load import Arrivals
from partita.ports import Pool, Served


def choice(choices: Collection[str], pool: Pool, key: str, default: str) -> str:
    """Return the pool's parameter `key`; ConfigError if it is none of `choices`."""
    value = str(pool.parameters.get(key, default))
    if value not in choices:
        raise ConfigError(f"{value!r} is none of {', '.join(choices)}", key=f"discipline.{key}", value=value)
    return value


def join(waiting: Arrivals, arrivals: Arrivals) -> Arrivals:
    """Put new arrivals behind the waiting requests of each service."""
    if not len(waiting):
        return arrivals
    if not len(arrivals):
        return waiting
    return Arrivals(*splice(waiting.ns, waiting.offsets, waiting.size, arrivals.ns, arrivals.offsets, arrivals.size))


def blank_account(requests: Arrivals) -> tuple[NDArray[np.int64], Batches]:
    """Make room for the account (start and finish) and the batches of these requests."""
    return np.zeros((len(requests), 2), np.int64), empty_batches(len(requests))


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
    served = Served(
        requests,
        account[:, START],
        account[:, FINISH],
        pool.number[log.instance[:logged]],
        log.service[:logged].astype(np.int64),
        log.size[:logged].astype(np.int64),
        log.start[:logged].copy(),
        log.finish[:logged].copy(),
    )
    return waiting, served
