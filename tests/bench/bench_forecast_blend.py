"""Speed and accuracy of the built-in forecasters: `python tests/bench/bench_forecast_blend.py [speed|accuracy]`.

Speed: a near update of 1,000 services (60 steps of 10 s, 18 ahead) and a far forecast of 1,000 series (two weeks of
10 min, a day ahead), in processor time. Accuracy (needs PARTITA_REFERENCE_DIR): rolling origins over the last days of
public traces. The error at a horizon is the mean over the last fifth of the steps up to it; ratios are geometric means
over series to the same time yesterday with quantiles of its own errors, 1 % of the mean load added to both sides.
Coverage counts bins where truth or quantile is above zero.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from time import process_time

import numpy as np
import polars as pl
from numpy.typing import NDArray

from partita.forecasting import BLEND, BLEND_NEAR, LEVELS, SeasonalNaive, Smoothing
from partita.forecasting.quantiles import error_quantiles
from partita.model.load import Forecast, Load
from partita.ports import Forecaster

Series = dict[str, NDArray[np.float64]]

MEDIAN, P95, P99 = (LEVELS.index(level) for level in (0.5, 0.95, 0.99))


def random_load(services: int, steps: int, step_s: float) -> Load:
    rng = np.random.default_rng(1)
    time = 2 * np.pi * np.arange(steps) * step_s / 86_400.0 + rng.uniform(0, 6, (services, 1))
    walk = np.exp(rng.normal(0, 0.006, (services, steps)).cumsum(axis=1))
    counts = rng.poisson(rng.uniform(5, 500, (services, 1)) * (1.2 + np.sin(time)) * walk).astype(np.float64)
    return Load(tuple(f"s{i}" for i in range(services)), 0.0, step_s, counts)


def speed() -> None:
    for name, forecaster, history, ahead in (
        ("near", BLEND_NEAR, random_load(1000, 60, 10.0), 18),
        ("near, window full", BLEND_NEAR, random_load(1000, 360, 10.0), 18),
        ("far", BLEND, random_load(1000, 2016, 600.0), 144),
    ):
        forecaster.forecast(history, steps=ahead, levels=LEVELS)  # compiles
        took = []
        for _ in range(5):
            began = process_time()
            forecaster.forecast(history, steps=ahead, levels=LEVELS)
            took.append(process_time() - began)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:18} {np.median(took):6.3f} s of processor time; most memory so far {memory:.2f} GiB", flush=True)


def ten_minutes(root: Path) -> Series:
    """The thirty largest clients of ServeGen that are active in more than half of the hours, and both sums."""
    table = pl.read_csv(root / "servegen/client_rates_600s.csv.gz", infer_schema_length=None)
    found: Series = {}
    for (model, client), rows in table.group_by(["model", "client"], maintain_order=True):
        counts = np.zeros(1440)
        counts[(rows["t"].to_numpy() // 600).astype(int)] = np.rint(rows["rate"].fill_null(0.0).to_numpy() * 600)
        found[f"{model}/{client}"] = counts
    sums = {m: np.sum([v for k, v in found.items() if k.startswith(m)], axis=0) for m in ("m-small", "m-mid")}
    active = {k: v for k, v in found.items() if (v.reshape(-1, 6).sum(axis=1) > 0).mean() > 0.5}
    return {k: active[k] for k in sorted(active, key=lambda k: -active[k].sum())[:30]} | sums


def one_minute(root: Path) -> Series:
    """The last eight days of worldcup98 and of the crane series; gauges are scaled to a mean of 1,000."""
    web = pl.read_csv(root / "worldcup98/per_minute.csv.gz")["requests"].cast(pl.Float64).to_numpy()
    found = {"worldcup98": np.asarray(web, dtype=np.float64)[-11_520:]}
    for (name,), rows in pl.read_csv(root / "crane_dsp/series.csv.gz").group_by(["series"], maintain_order=True):
        gauge = rows.sort("ts")["value"].to_numpy()[-11_520:]
        found[f"crane/{name}"] = gauge * (1000 / gauge.mean())
    return found


class Yesterday:
    """The same time of the last day, with the quantiles of its own errors over all of the history."""

    name = "yesterday"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        day = round(86_400 / history.step_s)
        counts = history.counts
        offsets = error_quantiles(counts[:, day:] - counts[:, :-day], levels)
        lines = counts[:, None, -day:][:, :, np.arange(steps) % day] + offsets[:, :, None]
        rps = np.maximum(lines, 0.0) / history.step_s
        return Forecast(history.services, history.end_s, history.step_s, tuple(levels), rps, self.name, history.end_s)


def scores(
    forecaster: Forecaster, series: Series, step_s: float, origins: Sequence[int], horizons: Sequence[int]
) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64], float, float]]:
    """Return by horizon WAPE and P95 loss by series, and the pooled coverage of 0.95 and 0.99."""
    counts = np.array(list(series.values()))
    made, came = [], []
    for origin in origins:
        history = Load(tuple(series), 0.0, step_s, counts[:, :origin])
        made.append(forecaster.forecast(history, steps=max(horizons), levels=LEVELS).rps * step_s)
        came.append(counts[:, origin : origin + max(horizons)])
    forecast, truth = np.array(made), np.array(came)
    found = {}
    for horizon in horizons:
        at = slice(max(horizon - max(horizon // 5, 1), 0), horizon)
        t, q = truth[:, :, at], forecast[:, :, :, at]
        mean = np.maximum(np.nanmean(t, axis=(0, 2)), 0.05 * np.nanmean(counts, axis=1))
        above = t - q[:, :, P95]
        loss = np.where(above >= 0, 0.95 * above, -0.05 * above)
        covered = []
        for line in (q[:, :, P95], q[:, :, P99]):
            counted = ((t > 0) | (line > 0)) & np.isfinite(t)
            covered.append(float((t <= line)[counted].mean()))
        wape = np.nanmean(np.abs(t - q[:, :, MEDIAN]), axis=(0, 2)) / mean
        found[horizon] = (wape, np.nanmean(loss, axis=(0, 2)) / mean, covered[0], covered[1])
    return found


def accuracy(root: Path) -> None:
    cases = (
        ("10 min", ten_minutes(root), 600.0, range(840, 1440 - 144, 35), (1, 6, 144)),
        ("1 min", one_minute(root), 60.0, range(8640, 11_520 - 60, 211), (1, 15, 60)),
    )
    base = Yesterday()
    for name, series, step_s, origins, horizons in cases:
        yesterday = scores(base, series, step_s, origins, horizons)
        for forecaster in (BLEND, SeasonalNaive(), Smoothing()):
            took = process_time()
            found = scores(forecaster, series, step_s, origins, horizons)
            took = (process_time() - took) / len(origins)
            for h in horizons:
                wape, loss = (np.exp(np.mean(np.log((found[h][i] + 0.01) / (yesterday[h][i] + 0.01)))) for i in (0, 1))
                print(
                    f"{name:7} {len(series):2} series {forecaster.name:14} {h:3} steps: "
                    f"WAPE {wape:5.2f}, P95 loss {loss:5.2f}, "
                    f"covered {found[h][2]:.3f} {found[h][3]:.3f}  ({took:.2f} s a forecast)",
                    flush=True,
                )


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}")
    what = sys.argv[1:] or ["speed", "accuracy"]
    if "speed" in what:
        speed()
    if "accuracy" in what:
        accuracy(Path(os.environ["PARTITA_REFERENCE_DIR"]) / "traces")


if __name__ == "__main__":
    main()
