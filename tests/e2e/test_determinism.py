"""Same seed, same bytes: in processes of their own, whatever the hash seed; and the whole loop is sane."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partita.controller.config import Scenario
from partita.controller.run import Run, run_scenario
from partita.model.plain import to_plain

SCENARIO = """\
cluster:
  - {gpu: A100-80GB, count: 5}
services:
  - {name: chat, slo_ms: 300, attainment: 0.99, memory_gib: 8, latency: {alpha_ms: 10, beta_ms: 60}}
  - {name: vision, slo_ms: 60, attainment: 0.95, memory_gib: 4, latency: {alpha_ms: 2, beta_ms: 6}}
  - {name: huge, slo_ms: 500, attainment: 0.9, memory_gib: 75, latency: {alpha_ms: 8, beta_ms: 40}}
load:
  trace: {file: counts.csv}
overheads: {model_load_s: 6, control_us: 100}
policies: [static, reactive, symphony]
control: {near_s: 5, epoch_s: 60, rehearse_s: 20}
seed: 11
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("determinism")
    (made / "scenario.yaml").write_text(SCENARIO)
    rows = [f"{1_700_000_040 + 60 * m},{60 * (20 + 15 * (m % 3))},{60 * 30},{60 * 4}" for m in range(5)]
    (made / "counts.csv").write_text("\n".join(["time,chat,vision,huge", *rows, ""]))
    return made


def replay(folder: Path, *args: str, hash_seed: str) -> tuple[bytes, dict[str, Any]]:
    """Run the command in a process of its own; return its bytes without `timing`, and `timing`."""
    main = "from partita.controller.cli import main; main()"
    command = [sys.executable, "-c", main, "replay", "scenario.yaml", *args, "--quiet", "--json", "-"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    assert done.stderr == b""
    timing = json.loads(done.stdout)["timing"]
    written = json.dumps(timing, sort_keys=True, indent=1).replace("\n", "\n ").encode()
    assert done.stdout.count(written) == 1
    return done.stdout.replace(written, b"timing"), timing


def scores(text: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.replace(b'"timing": timing', b'"timing": 0'))["scores"]
    return found


def test_same_seed_same_bytes_in_other_processes(folder: Path) -> None:
    one, timing = replay(folder, hash_seed="1")
    again, _ = replay(folder, hash_seed="2")
    assert set(timing) == {"static", "reactive", "symphony"}
    assert one == again
    other, _ = replay(folder, "--seed", "12", hash_seed="1")
    assert scores(other) != scores(one)


def test_the_policies_asked_for_do_not_change_one_another(folder: Path) -> None:
    alone = run_scenario(Scenario.load(folder / "scenario.yaml"), policy="symphony", seed=11)
    everything, _ = replay(folder, hash_seed="3")
    assert scores(everything)["symphony"] == to_plain(alone.score)


# The whole loop is sane ----------------------------------------------------------------------------------------------

FALLING = """\
cluster:
  - {gpu: A100-80GB, count: 6}
services:
  - {name: resnet50, slo_ms: 25, attainment: 0.99, memory_gib: 1.2, latency: {alpha_ms: 1.053, beta_ms: 5.072}}
  - {name: bert, slo_ms: 120, attainment: 0.95, memory_gib: 2.5, latency: {alpha_ms: 4.0, beta_ms: 9.0}}
load:
  trace: {file: falling.csv}
overheads: {model_load_s: 10}
policies: [static, reactive, symphony]
control: {near_s: 10, epoch_s: 300, rehearse_s: 30}
seed: 5
"""
MINUTES = 20


@pytest.fixture(scope="module")
def falling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A load that falls from 1200 requests a second to a tenth of that, and stays there."""
    made = tmp_path_factory.mktemp("falling")
    rates = [1200 * max(0.1, 1 - m / 8) for m in range(MINUTES)]
    rows = [f"{1_700_000_040 + 60 * m},{round(50 * r)},{round(10 * r)}" for m, r in enumerate(rates)]
    (made / "falling.csv").write_text("\n".join(["time,resnet50,bert", *rows, ""]))
    (made / "scenario.yaml").write_text(FALLING)
    return made


@cache
def played(folder: Path, policy: str | None) -> Run:
    return run_scenario(Scenario.load(folder / "scenario.yaml"), policy=policy, seed=5)


@pytest.mark.parametrize("policy", [None, "static", "reactive", "symphony"])
def test_every_run_is_whole(falling: Path, policy: str | None) -> None:
    run, score = played(falling, policy), played(falling, policy).score
    offered = sum(round(50 * 1200 * max(0.1, 1 - m / 8)) for m in range(MINUTES))
    assert score.offered_by_service["resnet50"] == offered
    assert score.offered == score.good + score.late + score.dropped
    assert score.unplaced == 0
    assert score.attainment > 0.99
    assert score.worst_attainment > 0.95
    assert score.goodput_rps <= score.bound_fluid_rps
    assert 0 < score.utilisation < 1
    assert run.timeline["t_s"][-1] == 60 * MINUTES
    assert np.all(np.diff(run.timeline["t_s"]) > 0)
    held_s = (np.diff(run.timeline["t_s"], prepend=0.0) * run.timeline["gpus_held"]).sum()
    # The timeline leaves out what drains, which is a fraction of a second each.
    assert score.gpu_hours * 3600 == pytest.approx(held_s, abs=10.0)
    assert not [o for d in run.decisions for o in d.opinions if o.fault]


def test_without_a_policy_the_cluster_stays_as_it_is(falling: Path) -> None:
    run = played(falling, None)
    assert run.decisions == ()
    assert (run.score.gpus_held_mean, run.score.reconfigurations) == (6.0, 0)
    assert run.score.gpu_hours == pytest.approx(6 * MINUTES / 60)


def test_static_moves_once(falling: Path) -> None:
    run = played(falling, "static")
    assert len(run.decisions) == 1
    assert run.score.gpus_held_peak == 6
    assert set(run.timeline["gpus_held"][5:].tolist()) == {float(run.decisions[0].gpus_wanted)}


def test_who_follows_the_load_holds_less_than_who_does_not(falling: Path) -> None:
    hours = {policy: played(falling, policy).score.gpu_hours for policy in ("static", "reactive", "symphony")}
    assert hours["symphony"] <= hours["reactive"] < hours["static"]
    assert hours["symphony"] < 0.8 * hours["static"]
    assert played(falling, "symphony").timeline["gpus_held"][-1] <= 2


def test_every_act_has_its_reason_and_its_commands(falling: Path) -> None:
    for policy in ("static", "reactive", "symphony"):
        for decision in played(falling, policy).decisions:
            assert decision.reason
            assert decision.commands
            assert all(c.reason for c in decision.commands)
            assert decision.candidates[0].label == "standing"
