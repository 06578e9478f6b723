"""The replay executor keeps the contract of executors, with requests in the world and without."""

from __future__ import annotations

import numpy as np
import pytest
from contracts.executor_contract import ExecutorContract, Subject
from miniature import cut, even, gpus, make_world, service

from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.world import ReplayExecutor


class TestReplayExecutor(ExecutorContract):
    @pytest.fixture(autouse=True, params=[0.0, 200.0], ids=["idle", "busy"])
    def _load(self, request: pytest.FixtureRequest) -> None:
        self._rate_rps: float = request.param

    def make(self) -> Subject:
        inventory, halves = gpus(2), cut("3g.40gb@0,3g.40gb@4")
        assert halves is not None
        services = tuple(service(name) for name in "abc")
        requests = [even(self._rate_rps, 20.0) if self._rate_rps else np.empty(0, np.int64)] * 3
        world = make_world(services, requests, SimulatedCluster(inventory, Delays(20.0, 4.0)), span_s=20.0)
        world.advance(1)

        async def settle() -> None:
            world.advance(world.now_ns + 500_000_000)
            world.advance(max(world.now_ns, world.cluster.settled_at_ns()))

        return Subject(ReplayExecutor(world), inventory, settle, halves)
