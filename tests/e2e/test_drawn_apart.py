"""Replay with a process that draws ahead: the same bytes, and Ctrl-C or a kill leave one clear end and no process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from partita.controller import demand
from partita.controller.config import Scenario
from partita.controller.demand import read_demand
from partita.controller.results import result_document, result_text
from partita.controller.run import run_scenario
from partita.traces.apart import DrawnApart
from partita.traces.counts import CountsReader

SCENARIO = """\
cluster:
  - {gpu: A100-80GB, count: 6}
services:
  - {name: chat, slo_ms: 300, attainment: 0.99, memory_gib: 8, latency: {alpha_ms: 1, beta_ms: 60}}
  - {name: vision, slo_ms: 60, attainment: 0.95, memory_gib: 4, latency: {alpha_ms: 2, beta_ms: 6}}
load:
  trace: {file: counts.csv}
overheads: {model_load_s: 6}
policies: [symphony]
control: {near_s: 5, epoch_s: 60, rehearse_s: 20}
seed: 11
"""
PATIENCE_S = 120.0

ALWAYS_APART = """\
from partita.controller import demand
demand.ENOUGH, demand._has_core_to_spare = 1, lambda: True
from partita.controller.cli import main
main()
"""


def write(folder: Path, *, minutes: int, a_minute: int) -> Path:
    (folder / "scenario.yaml").write_text(SCENARIO)
    rows = [f"{1_700_000_040 + 60 * m},{a_minute * (1 + m % 3)},{a_minute // 9}" for m in range(minutes)]
    (folder / "counts.csv").write_text("\n".join(["time,chat,vision", *rows, ""]))
    return folder / "scenario.yaml"


@pytest.mark.parametrize("policy", [None, "symphony"])
def test_the_same_bytes_with_and_without(tmp_path: Path, policy: str | None) -> None:
    scenario = Scenario.load(write(tmp_path, minutes=8, a_minute=6000))
    texts = []
    for elsewhere in (False, True):
        read = read_demand(scenario, apart=elsewhere)
        run = run_scenario(scenario, policy=policy, seed=3, demand=read)
        assert run.score.offered == sum(6000 * (1 + m % 3) + 6000 // 9 for m in range(8))
        document = result_document(scenario, [run], seed=3)
        del document["timing"]
        texts.append(result_text(document) + json.dumps({k: v.tolist() for k, v in run.timeline.items()}))
    assert texts[0] == texts[1]


def apart(scenario: Scenario) -> bool:
    """Say whether the requests come from a process of their own."""
    with read_demand(scenario).open(1) as source:
        return isinstance(source, DrawnApart)


def test_a_process_is_started_where_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario.load(write(tmp_path, minutes=3, a_minute=600))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert not apart(scenario)
    monkeypatch.setattr(demand, "ENOUGH", 1000)
    assert apart(scenario)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert not apart(scenario)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(demand, "parent_process", lambda: "a sweep")
    assert not apart(scenario)


def test_a_reader_that_a_plugin_brings_is_left_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign(CountsReader):
        """The same reader, from elsewhere."""

    scenario = Scenario.load(write(tmp_path, minutes=3, a_minute=600))
    monkeypatch.setattr(demand, "ENOUGH", 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(demand, "choose_reader", lambda *_, **__: Foreign())
    assert not apart(scenario)


@contextmanager
def replaying(folder: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Replay a long trace in a process of its own; yield it and the one that draws for it, and end both."""
    write(folder, minutes=600, a_minute=400_000)
    command = [sys.executable, "-c", ALWAYS_APART, "replay", "scenario.yaml", "--quiet"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as replay:
        try:
            yield replay, _drawer(replay.pid)
        finally:
            replay.kill()


def _drawer(pid: int) -> psutil.Process:
    """Wait for the process that draws to begin its work."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        for child in psutil.Process(pid).children():
            if "partita.traces.apart" in " ".join(child.cmdline()) and child.cpu_times().user > 1.0:
                return child
        time.sleep(0.05)
    raise AssertionError("no process that draws was started")


def ended(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=PATIENCE_S)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    with replaying(tmp_path) as (replay, drawer):
        replay.send_signal(signal.SIGINT)
        _, said = replay.communicate(timeout=PATIENCE_S)
        assert replay.returncode == 130
        assert "Traceback" not in said
        assert ended(drawer)


def test_a_killed_replay_leaves_no_process(tmp_path: Path) -> None:
    with replaying(tmp_path) as (replay, drawer):
        replay.kill()
        replay.wait()
        assert ended(drawer)


def test_a_killed_drawing_process_is_one_sentence(tmp_path: Path) -> None:
    with replaying(tmp_path) as (replay, drawer):
        os.kill(drawer.pid, signal.SIGKILL)
        _, said = replay.communicate(timeout=PATIENCE_S)
    assert replay.returncode == 1
    assert said == "Error: counts.csv: the process that draws its requests was killed by SIGKILL\n"
