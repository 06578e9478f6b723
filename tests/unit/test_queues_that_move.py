"""Queues of a replay when routes and groups change: they rise in time, and each group serves its own."""

from __future__ import annotations

import numpy as np
import pytest
from miniature import BUILT_IN, MS, SECOND, Recording, gpus, make_world, service

from partita.model.cluster import Batching, Instance, Route, SubCluster
from partita.model.plan import HeldGpu, Plan, SetRoutes
from partita.replay.cluster import Delays, SimulatedCluster

SERVICES = (service("a", slo_ms=5000.0), service("b", slo_ms=5000.0))


def group(name: str, gpu: str, services: tuple[str, ...], kind: str = "eager") -> SubCluster:
    return SubCluster(name, (Instance(gpu, gpu, 40.0),), services, (Batching(kind, max_batch=4),) * len(services))


BOTH, OTHER, ONE = group("g0", "gpu0", ("a", "b")), group("g1", "gpu1", ("a", "b")), group("g1", "gpu1", ("a",))


def begun(*groups: SubCluster, to: dict[str, str]) -> SimulatedCluster:
    cluster = SimulatedCluster(gpus(2), Delays())
    held = (HeldGpu("gpu0"), HeldGpu("gpu1"))
    cluster.begin_with(Plan(held, groups, tuple(Route(s, name) for s, name in to.items())))
    return cluster


@pytest.mark.parametrize(("first", "then"), [("g0", "g1"), ("g1", "g0")])
@pytest.mark.parametrize("left", [ONE, group("g1", "gpu1", ("a",), "deferred")], ids=["one stays", "both go"])
def test_a_queue_rises_when_older_requests_join_it(left: SubCluster, first: str, then: str) -> None:
    """Two hundred requests come in 40 ms; half-way they go elsewhere, and later one group serves all that wait."""
    recording = Recording(BUILT_IN["eager"])
    disciplines = {**BUILT_IN, "eager": recording, "deferred": (last := Recording(BUILT_IN["deferred"]))}
    cluster = begun(BOTH, ONE, to={"a": first, "b": "g0"})
    instants = [np.arange(200) * MS // 5, np.empty(0, np.int64)]
    world = make_world(SERVICES, instants, cluster, span_s=6.0, disciplines=disciplines)
    world.advance(20 * MS)
    cluster.apply([SetRoutes((BOTH, ONE), (Route("a", then), Route("b", "g0")), "why")], world.now_ns)
    world.advance(40 * MS)
    cluster.apply([SetRoutes((left,), (Route("a", "g1"),), "why")], world.now_ns)
    world.advance(6 * SECOND)
    score = world.finish()
    assert (score.good, score.dropped, score.unplaced) == (200, 0, 0)
    longest = 0
    for record in (*recording.records, *last.records):
        assert np.all(np.diff(record.served.arrivals.ns) >= 0)
        longest = max(longest, len(record.served.arrivals))
    assert longest > 100


def test_groups_of_the_same_services_have_queues_of_their_own() -> None:
    recording = Recording(BUILT_IN["eager"])
    cluster = begun(BOTH, OTHER, to={"a": "g0", "b": "g1"})
    instants = [np.arange(20) * MS, np.arange(20) * MS]
    world = make_world(SERVICES, instants, cluster, span_s=1.0, disciplines={**BUILT_IN, "eager": recording})
    for until_ns in (10 * MS, SECOND):
        world.advance(until_ns)
    assert world.finish().good == 40
    served_on = {
        (int(s), int(i) // 64)
        for record in recording.records
        for s, i in zip(record.served.batch_service, record.served.batch_instance, strict=True)
    }
    assert served_on == {(0, 0), (1, 1)}
