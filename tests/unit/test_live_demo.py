"""The parts of the live demonstration that need no server: its load, its generator, its figures and its scan."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from partita.client import AsyncRequestLog
from partita.controller.live_demo.calibration import calibrate
from partita.controller.live_demo.case import DEFAULT, MODELS, NAMES, SPAN_S, STEPS, Overhead, plan_of, services
from partita.controller.live_demo.doors import triton_door
from partita.controller.live_demo.gateway import Gateway, Played
from partita.controller.live_demo.load import Load, Step, load_of_trace, make_load
from partita.controller.live_demo.predict import Change, replay
from partita.controller.live_demo.scan import foremost, scan
from partita.controller.live_demo.show import Prediction, measure
from partita.errors import TraceError
from partita.executors.triton.emulated_model import BATCH, FINISHED, STARTED
from partita.model.cluster import Batching
from partita.model.staggered import Overheads

NOTHING = Overhead(0.0, 0.0, 0.0, 0.0)


def test_a_load_follows_its_rates_and_is_the_same_for_the_same_seed() -> None:
    steps = (Step(0.0, (10.0, 0.0)), Step(0.5, (30.0, 200.0)), Step(1.0, (10.0, 0.0)))
    load = make_load(NAMES, steps, span_s=100.0, seed=5)
    counts = np.bincount(load.service)
    assert counts[0] == pytest.approx(20 * 100, rel=0.1)  # (10 + 30) / 2 over both halves
    assert counts[1] == pytest.approx(100 * 100, rel=0.05)
    middle = load.at_s[(load.service == 1) & (load.at_s > 45) & (load.at_s < 55)]
    assert len(middle) == pytest.approx(190 * 10, rel=0.1)  # 180 to 200 and back
    assert (np.diff(load.at_s) >= 0).all()
    assert load.at_s[-1] < 100.0
    again = make_load(NAMES, steps, span_s=100.0, seed=5)
    assert again.at_s.tobytes() == load.at_s.tobytes()


def test_the_busiest_part_of_a_trace_is_brought_to_the_peak(tmp_path: Path) -> None:
    quiet, busy = np.arange(0, 600, 1.0), np.arange(600, 1200, 0.1)
    at_s = np.concatenate([quiet, busy])
    Load(("only",), at_s, np.zeros(len(at_s), np.int64), 1200.0).write(tmp_path / "trace.parquet")
    load, speed = load_of_trace(tmp_path / "trace.parquet", NAMES, span_s=10.0, seed=1)
    assert speed == pytest.approx(19.0)  # 10 requests a second become 190
    assert len(load.at_s) == pytest.approx(1900, rel=0.02)
    assert np.bincount(load.service).tolist() == pytest.approx([950, 950], rel=0.02)
    assert 0 <= load.at_s.min() <= load.at_s.max() < 10.0


def test_a_trace_of_too_little_is_refused(tmp_path: Path) -> None:
    Load(("only",), np.arange(50.0), np.zeros(50, np.int64), 50.0).write(tmp_path / "trace.parquet")
    with pytest.raises(TraceError, match="holds only 50 requests"):
        load_of_trace(tmp_path / "trace.parquet", NAMES, span_s=10.0, seed=1)


def test_the_gateway_sends_on_time_and_logs_everything() -> None:
    def answer(batch: int) -> bytes:
        values = ((BATCH, batch), (STARTED, 10**18), (FINISHED, 10**18 + 1))
        return json.dumps({"outputs": [{"name": name, "data": [value]} for name, value in values]}).encode()

    serving: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            if b"/embed/" in head:
                await asyncio.sleep(3600)  # never answered
            body = answer(3)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def play() -> tuple[Played, AsyncRequestLog]:
        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.append((asyncio.ensure_future(serve(reader, writer)), writer))

        server = await asyncio.start_server(begin, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        load = Load(NAMES, np.arange(40) / 100, (np.arange(40) % 4 == 3).astype(np.int64), 0.4)
        log = AsyncRequestLog("postgresql://nobody@127.0.0.1:1/none")  # not opened: it keeps what is recorded
        try:
            async with Gateway(triton_door(f"http://127.0.0.1:{port}", NAMES), (1e9, 1e9), log) as gateway:
                return await gateway.play(load, drain_s=0.3), log
        finally:
            server.close()
            for task, writer in serving:
                task.cancel()
                writer.close()
            await asyncio.gather(*(task for task, _ in serving), return_exceptions=True)

    played, log = asyncio.run(play())
    answered = played.status == 200
    assert (played.load.service[answered] == 0).all()
    assert answered.sum() == 30
    assert (played.batch[answered] == 3).all()
    assert (played.sent_s >= played.load.at_s - 1e-3).all()
    assert log.report().waiting == 40
    assert measure(played).attainment == 30 / 40


def test_figures_and_predictions_agree_on_a_perfect_server() -> None:
    """A server without overheads, played by replay itself, is predicted without any error."""
    load = make_load(NAMES, STEPS, span_s=SPAN_S, seed=1)
    score, course = replay(load, [Change(0.0, DEFAULT.plan())], services(NOTHING), Overheads())
    assert score.offered == len(load.at_s)
    assert course["offered_rps"].sum() == pytest.approx(len(load.at_s), rel=1e-9)
    assert score.attainment < 0.9  # the default cannot carry the peak
    good = np.arange(len(load.at_s)) < score.good
    latency_s = np.where(good, 0.01, 10.0)
    played = _played(load, load.at_s + latency_s, np.full(len(load.at_s), 4))
    figures = measure(played)
    assert figures.attainment == pytest.approx(score.attainment)
    assert figures.mean_batch == pytest.approx(4.0)
    prediction = Prediction.of(score, figures)
    assert prediction.off_points == pytest.approx(0.0, abs=1e-9)
    assert prediction.off_batch == pytest.approx(score.mean_batch / 4 - 1)


def test_a_change_is_in_force_from_its_instant() -> None:
    load = make_load(NAMES, (Step(0.0, (0.0, 200.0)), Step(1.0, (0.0, 200.0))), span_s=10.0, seed=1)
    larger = Batching("triton", 0.0, 32)
    small, _ = replay(load, [Change(0.0, DEFAULT.plan())], services(NOTHING), Overheads())
    halfway, _ = replay(
        load, [Change(0.0, DEFAULT.plan()), Change(5.0, plan_of((larger, larger)))], services(NOTHING), Overheads()
    )
    large, _ = replay(load, [Change(0.0, plan_of((larger, larger)))], services(NOTHING), Overheads())
    assert small.good <= halfway.good <= large.good
    assert small.mean_batch < halfway.mean_batch < large.mean_batch


def test_calibration_reads_the_overheads_off_what_was_played() -> None:
    """Batches of one, a request every 100 ms, sent 2 ms before they begin, held 1 ms too long, 3 ms back."""
    count = 40
    load = Load(NAMES, np.arange(count) / 10, np.arange(count) % 2, count / 10)
    took_s = np.array([m.alpha_ms + m.beta_ms for m in MODELS])[load.service] / 1e3 + 0.001
    began_s = load.at_s + 0.002
    played = _played(load, began_s + took_s + 0.003, np.ones(count, np.int64), began_s, began_s + took_s)
    found = calibrate(played)
    assert found.lead_ms == pytest.approx(2.0, abs=0.01)
    assert found.held_ms == pytest.approx(1.0 + 0.5, abs=0.01)  # nothing waited: half a millisecond is assumed
    assert found.back_ms == pytest.approx(3.0, abs=0.1)


def test_the_foremost_settings_differ() -> None:
    load = make_load(NAMES, STEPS, span_s=5.0, seed=1)
    found = scan(load, NOTHING)
    best = foremost(found, 3)
    assert len(best) == 3
    assert best[0] is found[0]
    sizes = [tuple(b.max_batch for b in c.setting.batching) for c in best]
    waits = [c.setting.batching[0].timeout_s for c in best]
    assert len(set(sizes)) == len(set(waits)) == 3


def _played(
    load: Load,
    answered_s: np.ndarray[tuple[int], np.dtype[np.float64]],
    batch: np.ndarray[tuple[int], np.dtype[np.int64]],
    began_s: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None,
    ended_s: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None,
) -> Played:
    count = len(load.at_s)
    began = np.full(count, np.nan) if began_s is None else began_s
    ended = np.full(count, np.nan) if ended_s is None else ended_s
    return Played(load, 0.0, load.at_s.copy(), answered_s, np.full(count, 200), batch, began, ended)
