"""What the local runtime is told when it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from partita.model.cluster import Gpu, SubCluster
from partita.model.service import Service
from partita.ports import Pool

MakePool = Callable[[SubCluster, NDArray[np.int64], NDArray[np.int64]], Pool]
"""Makes what a discipline sees of a sub-cluster, from the numbers and free instants (ns) of its instances."""


@dataclass(frozen=True, slots=True)
class Device:
    """What an instance's worker process computes on.

    `emulated` only takes the time that the service's latency curve says; `torch` runs a real network of `layers` square
    layers of `width` on `where` ("cpu", "cuda", "cuda:1"), with `threads` of the CPU, and takes as long as that takes.
    `locks` names a lock file for a GPU: all instances on it then take turns, also with other runtimes that name the
    same file; GPUs without one are devices of their own, and so is each instance on them.
    """

    kind: Literal["emulated", "torch"] = "emulated"
    locks: Mapping[str, str] = field(default_factory=dict)
    where: str = "cpu"
    width: int = 512
    layers: int = 4
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """Services and GPUs of a runtime, and how it goes about serving.

    The order of `services` must be the one that the pools are made with. `port` 0 takes a free one. Loading a replica
    takes `model_load_s` more than its worker needs, an instance on a GPU that is partitioned, or was, `repartition_s`
    more. `drain_s` is the longest that a drain waits for running batches, `turn_s` how often queues are looked at. A
    request that no instance serves is given up once it has waited for `stranded_s` and its SLO is over.
    """

    services: tuple[Service, ...]
    inventory: tuple[Gpu, ...]
    host: str = "127.0.0.1"
    port: int = 0
    device: Device = Device()
    model_load_s: float = 2.0
    repartition_s: float = 1.0
    drain_s: float = 30.0
    turn_s: float = 0.001
    stranded_s: float = 2.0
