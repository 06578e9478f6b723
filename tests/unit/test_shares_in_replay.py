"""MPS shares of one GPU in a replay: each with its own latency, longer for those beside it where that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from miniature import BUILT_IN, MS, SECOND, Recording, gpus, make_world

from partita.model.cluster import Batching, Instance, Route, SubCluster
from partita.model.plan import HeldGpu, Plan
from partita.model.service import LatencyCurve, Service
from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.pools import AS_MEASURED, Variation

EAGER = (Batching("eager"),)
# One request takes 12 ms on the whole GPU, 20 ms on half of it, 30 ms on a quarter.
CURVES = [LatencyCurve("whole", ((1, ms / 1e3),), gpu_percent=p) for ms, p in ((12, 100.0), (20, 50.0), (30, 25.0))]
SERVICES = tuple(Service.measured(name, 0.2, 0.99, 2.0, CURVES) for name in "abc")


def share(name: str, percent: float) -> Instance:
    return Instance(f"gpu0/{name}", "gpu0", 20.0, gpu_percent=percent)


def took_ms(variation: Variation, *percents: float) -> list[float]:
    """Give each service a share of one GPU; return what one request of each takes, all at once."""
    names = "abc"[: len(percents)]
    groups = tuple(SubCluster(n, (share(n, p),), (n,), EAGER) for n, p in zip(names, percents, strict=True))
    cluster = SimulatedCluster(gpus(1), Delays())
    cluster.begin_with(Plan((HeldGpu("gpu0"),), groups, tuple(Route(n, n) for n in names)))
    recording = Recording(BUILT_IN["eager"])
    world = make_world(
        SERVICES[: len(names)],
        [np.array([n]) for n in range(len(names))],
        cluster,
        span_s=1.0,
        disciplines={**BUILT_IN, "eager": recording},
        variation=variation,
    )
    world.advance(SECOND)
    assert world.finish().good == len(names)
    batches = [r.served for r in recording.records if len(r.served.batch_size)]
    assert len({int(s.batch_instance[0]) for s in batches}) == len(names)
    return [float(s.batch_finish_ns[0] - s.batch_start_ns[0]) / MS for s in batches]


@pytest.mark.parametrize(
    ("percents", "colocation", "expected"),
    [
        ((50.0, 50.0), 0.0, [20, 20]),
        ((50.0, 25.0, 25.0), 0.0, [20, 30, 30]),
        ((50.0,), 0.4, [20]),
        ((50.0, 50.0), 0.4, [24, 24]),  # 1 + 0.4 · 0.5
        ((50.0, 25.0, 25.0), 0.4, [24, 39, 39]),  # 1 + 0.4 · 0.75 for the quarters
        ((100.0,), 0.4, [12]),
    ],
)
def test_a_share_takes_its_own_time_and_more_for_those_beside_it(
    percents: tuple[float, ...], colocation: float, expected: list[float]
) -> None:
    variation = Variation(colocation=colocation) if colocation else AS_MEASURED
    assert took_ms(variation, *percents) == pytest.approx(expected)
