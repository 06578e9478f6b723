"""A forecasting model from a package of its own in `partita replay`: one that works, and every way to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENARIO = """
cluster: [{gpu: A100-80GB, count: 4}]
services:
  - {name: vision, slo_ms: 50, memory_gib: 1, latency: {alpha_ms: 1.0, beta_ms: 5.0}}
load:
  arrivals: {process: poisson, rate_rps: 200, duration_s: 160}
policies: [stranger]
forecast: {near: %s}
"""

PLUGIN = """
import time
import numpy as np
from dataclasses import dataclass, replace
from partita.errors import ForecastError
from partita.hookspecs import hookimpl
from partita.model.load import Forecast
from partita.model.plan import Capacity, Proposal

def says(history, steps, levels, rps):
    shape = (len(history.services), len(levels), steps)
    rps = np.broadcast_to(np.asarray(rps, float), shape).copy()
    return Forecast(history.services, history.end_s, history.step_s, tuple(levels), rps, "twohundred", 60.0)

class TwoHundred:
    "Two hundred requests a second."

    name = "twohundred"

    def forecast(self, history, *, steps, levels):
        %s

@hookimpl
def register_forecasters():
    return [TwoHundred()]

@hookimpl
def propose_capacity(near, standing):
    wanted = 2 if near.model == "twohundred" else 3
    return Proposal(Capacity(wanted, firm=True), f"{near.model}: {near.quantile(0.5).mean():.0f} requests/s")
"""


def partita(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PARTITA_PLUGINS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = (sys.executable, "-c", "from partita.controller.cli import main; main()", *arguments)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def replay(folder: Path, body: str, model: str = "twohundred") -> list[dict[str, Any]]:
    """Install a plugin whose model has this body, replay with it, and return the decisions."""
    (folder / "stranger.py").write_text(PLUGIN % body)
    info = folder / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[partita]\nstranger = stranger\n")
    (folder / "scenario.yaml").write_text(SCENARIO % model)
    limit_s = "0.5" if "sleep" in body else "60"
    done = partita(folder, "replay", "scenario.yaml", "--json", "result.json", "--quiet", "--plugin-timeout", limit_s)
    assert done.returncode == 0, done.stderr
    decisions: list[dict[str, Any]] = json.loads((folder / "result.json").read_text())["decisions"]["stranger"]
    return decisions


def test_a_plugins_model_makes_the_forecast(tmp_path: Path) -> None:
    [decision] = replay(tmp_path, "return says(history, steps, levels, 200.0)")
    assert [o["reason"] for o in decision["opinions"]] == ["twohundred: 200 requests/s"]
    assert decision["gpus_wanted"] == 2
    assert "twohundred" in partita(tmp_path, "forecast", "models").stdout


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise RuntimeError('boom')", "plugin stranger, hook register_forecasters: raised RuntimeError: boom"),
        ("time.sleep(60)", "plugin stranger, hook register_forecasters: took longer than 0.5 s and was stopped"),
        ("return says(history, steps, levels, 200_000.0)", "is more than 10 times beyond all that was measured"),
    ],
    ids=["raises", "hangs", "high"],
)
def test_a_model_that_never_works_leaves_the_naive_forecast(tmp_path: Path, body: str, problem: str) -> None:
    [decision] = replay(tmp_path, body)
    assert decision["gpus_wanted"] == 3
    assert "the near forecast" in decision["reason"]
    assert "is the naive one (last-value)" in decision["reason"]
    assert problem in decision["reason"]
    [opinion] = decision["opinions"]
    assert "last-value" in opinion["reason"]
    assert 150 < float(opinion["reason"].split(": ")[-1].split()[0]) < 250


def test_a_model_that_nobody_knows_ends_the_replay_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text((SCENARIO % "twohundert").replace("stranger", "symphony"))
    done = partita(tmp_path, "replay", "scenario.yaml", "--quiet")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: scenario.yaml: forecast.near: no model is called 'twohundert'; there are: ")
    assert done.stderr.count("\n") == 1


def test_a_calendar_stands_in_the_forecast(tmp_path: Path) -> None:
    model = "twohundred, calendar: [{name: rush, from: 60, to: 2m, factor: 3}]"
    decisions = replay(tmp_path, "return says(history, steps, levels, 200.0)", model)
    reasons = [o["reason"] for decision in decisions for o in decision["opinions"]]
    assert "twohundred: 200 requests/s" in reasons
    assert any(reason.startswith("twohundred; calendar: rush ×3: ") for reason in reasons)
