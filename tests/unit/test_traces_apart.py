"""A trace drawn in a process of its own: the same requests, the same errors, and nothing left of the process."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from partita.errors import DrawingEnded, TraceError
from partita.model.load import Arrivals
from partita.ports import Rows
from partita.traces import apart, detect
from partita.traces.apart import DrawnApart, TracePart
from partita.traces.services import ServiceMap
from partita.traces.writers import write_trace

SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND
PATIENCE_S = 60.0


def part_of(path: Path, *services: str, span_s: int) -> TracePart:
    reader = detect(path)
    bin_s = reader.info(path).bin_s
    mapping = ServiceMap(services=services)
    return TracePart(reader, path, mapping, BEGIN, BEGIN + span_s * SECOND, bin_s=bin_s, seed=4)


def counts(path: Path, *, minutes: int = 20, a_minute: int = 30_000) -> TracePart:
    """Write a trace of counts with a quiet service and one that is away at times."""
    rows = [f"{1_700_000_040 + 60 * m},{a_minute},{m % 3},{5 * (m % 2) * a_minute // 7}" for m in range(minutes)]
    path.write_text("\n".join(["time,busy,quiet,away", *rows, ""]))
    return part_of(path, "busy", "quiet", "away", span_s=60 * (minutes + 1))


def requests(path: Path) -> TracePart:
    """Write a trace of single requests with sizes, some of which are missing."""
    rng = np.random.default_rng(8)
    at = BEGIN + np.sort(rng.integers(0, 300 * SECOND, 4000))
    size = np.where(rng.random(at.size) < 0.1, np.nan, rng.uniform(1, 400, at.size)).astype(np.float32)
    names = np.array(["a", "b"], object)[np.arange(at.size) % 2]
    write_trace(path, [Rows(at, names, size, size)], bin_s=None)
    return part_of(path, "b", "a", "c", span_s=300)


def same(one: Arrivals, other: Arrivals) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("ns", "offsets", "size"))


@pytest.mark.parametrize("write", [counts, requests])
@pytest.mark.parametrize("speed", [1.0, 3.0])
def test_the_same_requests_however_time_is_cut(
    tmp_path: Path, write: Callable[[Path], TracePart], speed: float
) -> None:
    part = replace(write(tmp_path / "trace.csv"), speed=speed)
    here, rng, at = part.open(), np.random.default_rng(2), 0
    with DrawnApart(part) as there:
        assert (there.services, there.origin_ns, there.span_ns) == (here.services, here.origin_ns, here.span_ns)
        total = 0
        while at < here.span_ns:
            at += int(rng.choice([1, 17_000_000, SECOND, 41 * SECOND]))
            wanted = here.until(at)
            assert same(there.until(at), wanted)
            total += len(wanted)
        assert len(there.until(at + SECOND)) == 0
    assert total > 3000
    assert not psutil.pid_exists(there.pid)


def test_what_a_reader_finds_wrong_is_told_as_if_it_were_read_here(tmp_path: Path) -> None:
    part = counts(tmp_path / "trace.csv")
    lines = part.path.read_text().splitlines()
    part.path.write_text("\n".join([*lines[:10], lines[10].replace(",30000,", ",many,"), *lines[11:], ""]))
    with pytest.raises(TraceError) as here:
        part.open().until(part.end_ns)
    with DrawnApart(part) as drawn, pytest.raises(TraceError) as there:
        drawn.until(drawn.span_ns)
    assert str(there.value) == str(here.value)
    assert vars(there.value) == vars(here.value)
    assert there.value.column == "busy"


def test_a_fault_of_ours_is_told_with_where_it_was(tmp_path: Path) -> None:
    part = counts(tmp_path / "trace.csv")
    drawn = DrawnApart(part)
    drawn._part = replace(part, mapping=None)  # type: ignore[arg-type]
    with drawn, pytest.raises(RuntimeError, match=r"Traceback(.|\n)*AttributeError"):
        drawn.until(SECOND)


def test_a_process_that_is_killed_is_one_clear_error(tmp_path: Path) -> None:
    """So many requests that it still waits to be read when it is killed."""
    part = counts(tmp_path / "trace.csv", a_minute=4 * apart.AT_ONCE * apart.AHEAD)
    with DrawnApart(part) as drawn:
        assert len(drawn.until(60 * SECOND)) > 0
        os.kill(drawn.pid, signal.SIGKILL)
        with pytest.raises(DrawingEnded, match=r"^\S+trace.csv: the process .* was killed by SIGKILL$") as caught:
            drawn.until(drawn.span_ns)
    assert caught.value.exit_code == 1
    assert not psutil.pid_exists(drawn.pid)


def test_a_process_that_is_not_read_from_ends_at_once(tmp_path: Path) -> None:
    with DrawnApart(counts(tmp_path / "trace.csv", a_minute=4 * apart.AT_ONCE * apart.AHEAD)) as drawn:
        assert psutil.pid_exists(drawn.pid)
    assert not psutil.pid_exists(drawn.pid)
    drawn.close()


def test_a_process_ends_with_the_one_that_reads_it(tmp_path: Path) -> None:
    part = counts(tmp_path / "trace.csv", a_minute=4 * apart.AT_ONCE * apart.AHEAD)
    program = f"""
import pickle, sys, time
from partita.traces.apart import DrawnApart
with DrawnApart(pickle.loads({pickle.dumps(part)!r})) as drawn:
    drawn.until({30 * SECOND})
    print(drawn.pid, flush=True)
    time.sleep({PATIENCE_S})
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=PATIENCE_S)
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in alive)  # nobody may collect it here
