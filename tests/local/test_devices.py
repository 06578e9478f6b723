"""What workers compute on, and where finished requests go."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local.harness import brought_up, play, running, settings, whole

from partita.executors.local.devices import EmulatedDevice, latency_s
from partita.executors.local.measure import measure
from partita.executors.local.settings import Device
from partita.executors.local.sinks import Finished, JsonLines, Outbox
from partita.model.cluster import Batching
from partita.model.service import LatencyCurve, Service

TINY = Device(kind="torch", width=64, layers=2)
ROW = Finished("a", 1.5, 0.02, None, 0.01, 4, "good", "gpu0")


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.001, 1.0)), min_size=1, max_size=6),
    st.integers(1, 60),
)
def test_workers_read_curves_as_the_model_does(steps: list[tuple[int, float]], batch: int) -> None:
    points, b, s = [], 0, 0.0
    for more, longer in steps:
        b, s = b + more, s + longer
        points.append((b, s))
    curve = LatencyCurve("whole", tuple(points))
    if batch <= curve.max_batch:
        assert latency_s(points, batch) == pytest.approx(curve.latency_s(batch))


def test_an_emulated_batch_never_takes_less_than_its_time() -> None:
    device = EmulatedDevice(nullcontext)
    device.load("a", [(1, 0.004), (5, 0.008)])
    for size, least_s in ((1, 0.004), (3, 0.006), (5, 0.008)):
        began = time.monotonic()
        device.run("a", size)
        assert time.monotonic() - began >= least_s


@pytest.mark.slow
def test_torch_runs_a_network_and_its_curve_can_be_measured() -> None:
    pytest.importorskip("torch")
    curve = measure(TINY, (1, 8, 64), repeats=5)
    assert [b for b, _ in curve.points] == [1, 8, 64]
    assert curve.latency_s(1) <= curve.latency_s(64)
    assert measure(replace(TINY, width=1024, layers=8), (64,), repeats=5).latency_s(64) > curve.latency_s(64)


@pytest.mark.slow
def test_a_torch_worker_serves_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    device = Device(kind="torch", width=256, layers=4)
    curve = measure(device, (1, 4, 16), repeats=5)
    how = replace(settings([Service("a", 1.0, 0.99, 1.0, (curve,))], 1), device=device)

    async def story(url: str) -> None:
        await runtime.executor.apply(brought_up(whole(how.inventory), "a", Batching("deferred")))
        replies = await play(url, [(0.002 * n, "a") for n in range(40)])
        assert {r.status for r in replies} == {200}
        assert max(r.body["batch"] for r in replies) > 1
        await runtime.executor.observe()

    with running(tmp_path, how) as runtime:
        asyncio.run(story(runtime.url))


def test_a_sink_of_lines_keeps_every_column(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    async def story() -> None:
        outbox = Outbox(JsonLines(path))
        await outbox.open()
        outbox.put(ROW)
        outbox.put(ROW._replace(service="b", batch=None))
        await outbox.close()
        assert outbox.lost == 0

    asyncio.run(story())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [ROW._asdict(), {**ROW._asdict(), "service": "b", "batch": None}]


def test_a_sink_that_fails_loses_what_it_was_given_and_no_more() -> None:
    class Fickle:
        taken: list[str]

        async def __aenter__(self) -> object:
            self.taken, self.times = [], 0
            return self

        async def __aexit__(self, *exception: Any) -> object:
            return None

        def record_many(self, service: list[str], **columns: Any) -> None:
            self.times += 1
            if self.times == 1:
                raise OSError("disk full")
            self.taken += service

    async def story() -> None:
        sink = Fickle()
        outbox = Outbox(sink)
        await outbox.open()
        outbox.put(ROW)
        while not sink.times:
            await asyncio.sleep(0.01)
        outbox.put(ROW)
        await outbox.close()
        assert (outbox.lost, sink.taken) == (1, ["a"])

    asyncio.run(story())
