"""Policies from a package of their own in `partita replay`: one that works, and every way to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = """
cluster: [{gpu: A100-80GB, count: 4}]
services:
  - {name: vision, slo_ms: 50, memory_gib: 1, latency: {alpha_ms: 1.0, beta_ms: 5.0}}
load:
  arrivals: {process: poisson, rate_rps: 200, duration_s: 120}
policies: [stranger]
"""

PLUGIN = """
import time
from partita.hookspecs import hookimpl
from partita.model.plan import Capacity, Proposal

@hookimpl
def propose_capacity(near):
    %s
"""


def replay(folder: Path, body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Install a plugin with this body, as metadata and a module on the path, and replay with it."""
    (folder / "stranger.py").write_text(PLUGIN % body)
    info = folder / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[partita]\nstranger = stranger\n")
    (folder / "scenario.yaml").write_text(SCENARIO)
    environment = {k: v for k, v in os.environ.items() if k != "PARTITA_PLUGINS"} | {"PYTHONPATH": str(folder)}
    main = "from partita.controller.cli import main; main()"
    command = (sys.executable, "-c", main, "replay", "scenario.yaml", "--json", "result.json", "--quiet", *arguments)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_foreign_policy_stands_in_the_decisions(tmp_path: Path) -> None:
    done = replay(tmp_path, "return Proposal(Capacity(2), 'two will do')")
    assert done.returncode == 0, done.stderr
    [decision] = json.loads((tmp_path / "result.json").read_text())["decisions"]["stranger"]
    [opinion] = decision["opinions"]
    assert (opinion["plugin"], opinion["reason"], opinion["fault"]) == ("stranger", "two will do", "")
    assert decision["gpus_wanted"] == 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise RuntimeError('boom')", "raised RuntimeError: boom"),
        ("return 'two'", "answered 'two' instead of a Proposal or None"),
        ("time.sleep(60)", "took longer than 0.2 s and was stopped"),
        ("return Proposal(Capacity(-1), 'less than nothing')", "-1 is no number of GPUs"),
    ],
    ids=["raises", "nonsense", "hangs", "negative"],
)
def test_a_policy_that_never_works_ends_the_replay_in_one_sentence(tmp_path: Path, body: str, problem: str) -> None:
    done = replay(tmp_path, body, "--plugin-timeout", "0.2")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: plugin stranger, hook propose_capacity: ")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "result.json").exists()


def test_a_policy_that_fails_now_and_then_keeps_its_other_turns(tmp_path: Path) -> None:
    body = "return 1 / 0 if near.made_at_s % 40 < 10 else Proposal(Capacity(2), 'two will do')"
    done = replay(tmp_path, body)
    assert done.returncode == 0, done.stderr
    decisions = json.loads((tmp_path / "result.json").read_text())["decisions"]["stranger"]
    faults = [o["fault"] for d in decisions for o in d["opinions"] if o["fault"]]
    assert faults
    assert set(faults) == {"raised ZeroDivisionError: division by zero"}
    assert any(d["gpus_wanted"] == 2 for d in decisions)
