"""A discipline that fares better under more load somewhere: the search notices, scans, and says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = '''\
"""Eager batching that gives up on everything at 300 to 500 requests a second, as if it lacked a schedule for them."""

from dataclasses import replace

import numpy as np

from partita.hookspecs import hookimpl
from partita.ports import Served
from partita.replay.disciplines import DISCIPLINES

EAGER = next(discipline for discipline in DISCIPLINES if discipline.name == "eager")
NOTHING = np.empty(0, np.int64)


class Gap:
    name = "gap"

    def initial_state(self, services):
        return [EAGER.initial_state(services), 0]

    def advance(self, state, arrivals, pool, until_ns):
        seconds, state[1] = (until_ns - state[1]) / 1e9, until_ns
        if not 300 <= len(arrivals.ns) / seconds <= 500:
            state[0], served = EAGER.advance(state[0], arrivals, pool, until_ns)
            return state, served
        zero = np.zeros_like(arrivals.ns)
        return state, Served(arrivals, zero, zero - 1, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)


@hookimpl
def register_disciplines():
    return [Gap()]
'''
SCENARIO = """\
cluster: [{gpu: A100-80GB, count: 2}]
services: [{name: a, slo_ms: 50, latency: {alpha_ms: 2.0, beta_ms: 5.0}}]
load: {arrivals: {process: poisson, rate_rps: 200, duration_s: 20}}
control: {near_s: 20, epoch_s: 20}
discipline: {name: gap}
"""


@pytest.mark.slow
def test_what_is_not_monotone_is_scanned(tmp_path: Path) -> None:
    site = tmp_path / "site"
    about = site / "gap-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "gap.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gap\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[partita]\ngap = gap\n")
    (tmp_path / "s.yaml").write_text(SCENARIO)
    code = "from partita.controller.cli import main; main()"
    asked = ["capacity", "s.yaml", "--discipline", "gap", "--discipline", "eager", "--seeds", "2", "--json", "out.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    gap, eager = (found["answers"][name] for name in ("gap", "eager"))
    assert (gap["monotone"], gap["scanned"]) == (False, True)
    assert (eager["monotone"], eager["scanned"]) == (True, False)
    # Beyond the gap it is eager: a bisection could have stopped at 300, the scan finds what eager carries.
    assert gap["mean"] == pytest.approx(eager["mean"], rel=0.03)
    assert gap["mean"] > 500
    missed = [point["level"] for point in found["points"] if point["discipline"] == "gap" and not point["met"]]
    assert any(300 <= level <= 500 for level in missed)
    for seed in (1, 2):
        assert sum((p["discipline"], p["seed"]) == ("gap", seed) for p in found["points"]) >= 24
    assert "\n gap * " in done.stdout
    assert "* gap is not monotone: 100.00 % bad at " in done.stdout
    assert "It was scanned on a grid and refined at the best level." in done.stdout
