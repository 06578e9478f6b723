"""Arrivals are logged by the clock of the day as it stands when a request is finished."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from local.harness import settings
from miniature import BUILT_IN

from partita.executors.local.runtime import Runtime
from partita.executors.local.sinks import JsonLines
from partita.model.staggered import NO_OVERHEADS
from partita.replay.pools import PoolMaker


def test_a_clock_that_is_set_moves_later_arrivals_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, log = settings(), tmp_path / "log.jsonl"

    async def story() -> None:
        sink = JsonLines(log)
        runtime = Runtime(how, BUILT_IN, PoolMaker(how.services, NO_OVERHEADS).pool, sink)
        await runtime.start()
        await runtime.serve("a")  # nobody serves it: finished at once
        true = time.time_ns
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: true() + 3_600_000_000_000)
            await runtime.serve("a")
        await runtime.stop()

    asyncio.run(story())
    first, second = (json.loads(line)["arrived_s"] for line in log.read_text().splitlines())
    assert 3600.0 <= second - first < 7200.0
