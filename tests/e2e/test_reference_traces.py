"""The whole loop on a real trace, and the disciplines beside a published scheduler: what the benches show at length."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from partita.controller.config import Scenario
from partita.controller.demand import read_demand
from partita.controller.run import run_scenario
from partita.controller.scenario_file import parse_scenario

SCENARIOS = Path(__file__).parents[1] / "bench" / "scenarios"

pytestmark = pytest.mark.skipif("PARTITA_REFERENCE_DIR" not in os.environ, reason="PARTITA_REFERENCE_DIR is not set")


def test_symphony_holds_its_target_on_fewer_gpus_than_the_peak_needs() -> None:
    scenario = Scenario.load(SCENARIOS / "azure-conv.yaml")
    demand = read_demand(scenario)
    static, reactive, symphony = (
        run_scenario(scenario, policy=name, seed=1, demand=demand).score for name in ("static", "reactive", "symphony")
    )
    assert static.offered == reactive.offered == symphony.offered == 19_366
    assert symphony.attainment >= 0.99
    assert symphony.gpu_hours <= 0.8 * static.gpu_hours
    assert symphony.gpu_hours <= reactive.gpu_hours


@pytest.mark.parametrize(("system", "overheads"), [("sym", "{}"), ("sym0", "{control_us: 1, data_us_per_request: 0}")])
def test_deferred_batching_is_that_of_the_public_scheduler(system: str, overheads: str) -> None:
    """One workload at two rates, 5,000 and 6,000 requests/s on 8 GPUs, through the scenario's own path."""
    table = pl.read_csv(Path(os.environ["PARTITA_REFERENCE_DIR"]) / "reference" / "schedulers.csv")
    for rate, seconds in ((5000.0, 30), (6000.0, 30)):
        row = table.filter(
            (pl.col("workload") == "res1g8")
            & (pl.col("system") == system)
            & (pl.col("rate_rps") == rate)
            & (pl.col("n_gpus") == 8)
            & (pl.col("duration_s") == seconds)
        ).row(0, named=True)
        given = overheads if system == "sym" else overheads[:-1] + ", response_us: 0}"
        text = f"""
cluster: [{{gpu: A100-80GB, count: 8}}]
services: [{{name: res, slo_ms: 25, latency: {{alpha_ms: 1.053, beta_ms: 5.072}}}}]
load: {{arrivals: {{process: poisson, rate_rps: {rate}, warmup_s: {row["warmup_s"]}, duration_s: {seconds}}}}}
overheads: {given}
discipline: {{name: deferred, gpu_choice: earliest}}
"""
        scenario = parse_scenario(text, name="row.yaml", folder=Path())
        scores = [run_scenario(scenario, policy=None, seed=seed).score for seed in range(1, 6)]
        bad = float(np.mean([s.bad_rate for s in scores]))
        sigma = float(np.sqrt(bad * (1 - bad) / sum(s.offered for s in scores)))
        assert abs(bad - row["bad_rate"]) <= max(0.003, 3 * sigma)
        assert np.mean([s.mean_batch for s in scores]) == pytest.approx(row["mean_batch"], rel=0.03)
