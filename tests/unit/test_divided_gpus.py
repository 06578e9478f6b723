"""GPUs and MIG instances divided into MPS shares: the instances they give, and what is planned and run on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from miniature import cut, gpus

from partita.controller.run import run_scenario
from partita.controller.scenario_file import parse_scenario
from partita.errors import ConfigError
from partita.model.cluster import instances_of
from partita.model.plan import HeldGpu, Plan, feasible
from partita.replay.score import Score

TEXT = """\
cluster: [{gpu: A100-80GB, count: 2, shares: [50, 25, 25]}]
services:
  - name: a
    slo_ms: 100
    latency: {whole: {points: {1: 12}}, "whole@50%": {points: {1: 20}}, "whole@25%": {points: {1: 30}}}
load: {arrivals: {process: constant, rate_rps: 50, duration_s: 20}}
control: {near_s: 2, epoch_s: 10, rehearse_s: 5}
discipline: {name: timeout}
"""


def test_each_share_is_an_instance_with_its_part_of_the_memory() -> None:
    [gpu] = (replace(g, shares=(50.0, 25.0)) for g in gpus(1))
    assert [(i.id, i.gpu_percent, i.memory_gib) for i in instances_of(gpu, None)] == [
        ("gpu0/50%.0", 50.0, 40.0),
        ("gpu0/25%.1", 25.0, 20.0),
    ]
    halves = instances_of(gpu, cut("3g.40gb@0,3g.40gb@4"))
    assert [i.id for i in halves] == [f"gpu0/3g.40gb@{s}/{p}" for s in (0, 4) for p in ("50%.0", "25%.1")]
    # Shares may add up to more than the whole; the memory does not.
    crowded = instances_of(replace(gpu, shares=(80.0, 80.0)), None)
    assert sum(i.memory_gib for i in crowded) == gpu.memory_gib
    assert instances_of(gpus(1)[0], None)[0].gpu_percent == 100.0


@pytest.mark.parametrize("policy", [None, "static", "symphony"])
def test_shares_serve_with_and_without_a_controller(policy: str | None) -> None:
    """One request every 20 ms takes 20 ms on a share of 50 %, of which there are two: none ever goes to a quarter."""
    score = run_scenario(parse_scenario(TEXT, name="s", folder=Path()), policy=policy, seed=1).score
    assert (score.offered, score.good) == (1000, 1000)
    assert score.latency_ms.p50 == pytest.approx(20.15, rel=0.022)  # 20 ms, and 0.15 ms before it starts


def test_a_share_that_was_not_measured_stays_idle_and_is_told_of() -> None:
    scenario = parse_scenario(TEXT.replace("[50, 25, 25]", "[50, 40]"), name="s", folder=Path())
    assert scenario.remarks() == ("no service can be answered in time on whole@40%: such instances stay idle",)
    run = run_scenario(scenario, policy=None, seed=1, record_gpus=True)
    assert run.score.good == 1000
    assert run.occupancy is not None
    used = {row: float(np.nansum(busy)) > 0 for row, busy in zip(run.occupancy.rows, run.occupancy.busy, strict=True)}
    assert list(used.values()) == [True, False] * 2


def test_shares_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cluster\[0\].shares\[0\]: 100 should be less than 100"):
        parse_scenario(TEXT.replace("[50, 25, 25]", "[100]"), name="s", folder=Path())
    with pytest.raises(
        ConfigError, match=r"no latency for the cluster's instances \(whole@10%\), only for whole, whole@"
    ):
        parse_scenario(TEXT.replace("[50, 25, 25]", "[10]"), name="s", folder=Path())


def test_more_shares_than_a_gpu_can_run_are_refused() -> None:
    text = TEXT.replace("[50, 25, 25]", "[10, 10, 10, 10, 10, 10, 10]").replace("whole@25%", "1g.10gb@10%")
    text = text.replace("count: 2", "count: 2, geometry: 7x1g.10gb")
    with pytest.raises(ConfigError, match=r"cluster\[0\].shares: a GPU runs 48 MPS shares at most, these make 49"):
        parse_scenario(text, name="s", folder=Path())


def test_a_plan_that_cuts_a_gpu_into_too_many_shares_is_not_feasible() -> None:
    [gpu] = (replace(g, shares=(12.5,) * 8) for g in gpus(1))
    held = HeldGpu(gpu.id, cut("1g.10gb@0,1g.10gb@1,1g.10gb@2,1g.10gb@3,1g.10gb@4,1g.10gb@5,1g.10gb@6"))
    [found] = feasible(Plan((held,), (), ()), (), (gpu,))
    assert (found.rule, found.message) == (
        "geometry",
        "GPU gpu0 would have 56 instances, it runs 48 MPS shares at most",
    )


def scored(text: str, policy: str | None = None) -> Score:
    return run_scenario(parse_scenario(text, name="s", folder=Path()), policy=policy, seed=1).score


@pytest.mark.parametrize("policy", [None, "static", "reactive", "symphony", "tuner"])
def test_shares_may_be_all_that_was_measured(policy: str | None) -> None:
    """Policies size by what a half takes, not by a whole GPU that nobody has measured."""
    only = TEXT.replace("whole: {points: {1: 12}}, ", "").replace(', "whole@25%": {points: {1: 30}}', "")
    score = scored(only.replace("[50, 25, 25]", "[50, 50]"), policy)
    assert (score.offered, score.good) == (1000, 1000)
    # Each half carries 50 requests a second.
    assert score.bound_fluid_rps == pytest.approx(100.0 * score.gpus_held_mean)


def test_colocation_lengthens_batches_beside_other_shares() -> None:
    """Two halves of one GPU: with colocation 0.4 a request takes 20 · (1 + 0.4 · 0.5) = 24 ms; on a whole one, 12."""
    pair = TEXT.replace("[50, 25, 25]", "[50, 50]").replace("count: 2", "count: 1")
    beside = pair + "variation: {colocation: 0.4}\n"
    for text, took_ms in ((pair, 20.0), (beside, 24.0), (beside.replace(", shares: [50, 50]", ""), 12.0)):
        score = scored(text)
        assert score.good == 1000
        assert score.latency_ms.p50 == pytest.approx(took_ms + 0.15, rel=0.022)
        # 50 requests a second for so long, on all instances of the GPU.
        instances = 2 if "shares" in text else 1
        assert score.utilisation == pytest.approx(50 * took_ms / 1000 / instances, rel=0.01)


def test_a_share_that_fails_comes_back_and_the_others_go_on() -> None:
    """Shares of one GPU stand in nobody's way when one of them is put back."""
    failing = TEXT.replace("count: 2", "count: 1") + 'failures: [{instance: "gpu0/50%.0", at_s: 5, for_s: 1}]\n'
    score = scored(failing + "overheads: {model_load_s: 2.0}\n")
    assert score.offered == 1000
    assert score.dropped <= 1
    assert score.good >= 999
