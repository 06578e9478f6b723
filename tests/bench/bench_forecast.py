"""Compare forecasters on reference series: `python tests/bench/bench_forecast.py` (needs PARTITA_REFERENCE_DIR).

Ours and those of others that are installed forecast from the same origins in the last week or fifth of each series.
For each horizon a table gives WAPE and P95 loss against the daily seasonal-naive (geometric means over series), and
what the quantiles cover; then ours is set against each other model by a paired block bootstrap. It passes if ours is at
no horizon significantly worse than the best, in WAPE and in P95 loss, and significantly better than every single peer
in P95 loss over all horizons.

    --ours NAME         the model that must be ahead (default: what the loop forecasts epochs with)
    --models A,B        these of ours, or all (default: those that the loop forecasts with)
    --peers A,B         only these of others; "none" for none
    --series N          series a group at most (12)
    --origins N         origins a series (8)
    --groups TEXT       only groups whose name holds this
    --keep FOLDER       keep there what others forecast, and take it from there the next time
    --json FILE         write every score there
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from time import monotonic, perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from forecast_peers import LightGbmPeer, peers
from forecast_series import Group, groups
from kept_backtests import kept_backtest, with_others

from partita.controller.models import choose_models, known_models
from partita.errors import ForecastError
from partita.forecasting import FAR
from partita.forecasting.backtest import (
    ADDED_SHARE,
    Backtest,
    Errors,
    Settings,
    backtest,
    choose_origins,
    geometric_mean,
    overlapping,
    scores,
)
from partita.forecasting.comparison import Pair, Ratio, compare
from partita.forecasting.coverage import Bins, outside
from partita.model.load import Load
from partita.ports import Forecaster

HORIZONS = {
    60.0: "1 min",
    600.0: "10-15 min",
    900.0: "10-15 min",
    1800.0: "30 min-1 h",
    3600.0: "30 min-1 h",
    86_400.0: "24 h",
}
P95, P99 = 0.95, 0.99
DRAWN_FROM = 5


@dataclass(frozen=True)
class Run:
    """What came of one group."""

    group: Group
    found: Backtest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything, print the tables, return 1 if ours is not ahead."""
    asked = _parser().parse_args(arguments)
    if "PARTITA_REFERENCE_DIR" not in os.environ:
        print("PARTITA_REFERENCE_DIR is not set: there are no series to forecast.", file=sys.stderr)
        return 2
    ours, others = _models(asked)
    print(f"{_cpu()}, {os.cpu_count()} cores, {date.today()}, {Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}")
    runs = list(_played(ours, others, asked))
    if not runs:
        print("No group could be forecast.", file=sys.stderr)
        return 2
    for peer in others:
        fits = getattr(peer, "fits", None)
        if fits is not None and fits.failed:
            print(f"{peer.name}: {fits.failed} of {fits.tried} fits failed and took the last value ({fits.why})")
    name = asked.ours or FAR.name
    ahead = True
    for horizon in dict.fromkeys(HORIZONS.values()):
        ahead &= _told_horizon(runs, horizon, name)
    ahead &= _told_pooled(runs, name, [peer.name for peer in others])
    if asked.json:
        Path(asked.json).write_text(json.dumps(_document(runs), indent=1))
    print(f"\n{name} is {'ahead' if ahead else 'not ahead everywhere'}{'' if others else ', of our own models'}.")
    return 0 if ahead else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("--ours", "--models", "--peers", "--groups", "--keep", "--json"):
        parser.add_argument(name, default="")
    parser.add_argument("--series", type=int, default=12)
    parser.add_argument("--origins", type=int, default=8)
    return parser


def _models(asked: argparse.Namespace) -> tuple[list[Forecaster], list[Forecaster]]:
    ours = choose_models([name for name in asked.models.split(",") if name], known_models())
    if asked.peers == "none":
        return ours, []
    others, missing = peers([name for name in asked.peers.split(",") if name])
    if missing:
        print(f"Left out, since not installed: {', '.join(missing)} (make bench-forecast installs what it can).")
    return ours, others


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _played(ours: Sequence[Forecaster], others: Sequence[Forecaster], asked: argparse.Namespace) -> list[Run]:
    runs = []
    folder = Path(asked.keep) if asked.keep else None
    planned = list(_planned(asked))
    for group, settings, _ in planned:
        begun = monotonic()
        found = backtest(group.load, ours, settings, clock=perf_counter)
        beside = tuple(h for g, _, h in planned if g is not group and g.load.step_s == group.load.step_s)
        for peer in (replace(o, beside=beside) if isinstance(o, LightGbmPeer) else o for o in others):
            try:
                with_others(found, peer.name, kept_backtest(folder, group.load, peer, settings, perf_counter))
            except ForecastError as problem:
                found.failed[peer.name] = str(problem)
        runs.append(Run(group, found))
        gave_up = "".join(f"; {name} gave up: {why}" for name, why in found.failed.items())
        print(f"{group.name}: {len(group.load.services)} series, {monotonic() - begun:.0f} s{gave_up}", flush=True)
    return runs


def _planned(asked: argparse.Namespace) -> Iterator[tuple[Group, Settings, Load]]:
    """Yield the groups that can be forecast, how, and what lies before their first origin."""
    for group in groups(asked.series):
        if asked.groups not in group.name:
            continue
        settings = Settings(group.horizons_s, origins=asked.origins)
        try:
            # Origins must leave room for the longest horizon, or it would be judged by few of them.
            room = round(max(group.horizons_s) / group.load.step_s)
            choose_origins(group.load, settings)
            settings = replace(settings, least_after=room)
            first = choose_origins(group.load, settings)[0]
        except ForecastError as problem:
            print(f"{group.name}: {problem}")
            continue
        yield group, settings, replace(group.load, counts=group.load.counts[:, :first])


# Tables -------------------------------------------------------------------------------------------------------------


def _told_horizon(runs: Sequence[Run], horizon: str, ours: str) -> bool:
    """Print the table of one horizon; return whether ours is not significantly worse than the best."""
    names = dict.fromkeys(name for run in runs for name in run.found.errors)
    rows = [(name, *_summary(runs, name, horizon)) for name in names]
    rows = [row for row in rows if row[1]]
    if not rows:
        return True
    heads = f"{'WAPE':>7} {'P95':>7} {'P50 covers':>11} {'P95':>7} {'P99':>7} {'outside P95':>12} {'predict':>10}"
    print(f"\n{horizon}: {rows[0][1]} series\n{'model':24} {heads}")
    for name, series, wape, p95, covered, beyond, predict_s in sorted(rows, key=lambda row: row[3]):
        shares = " ".join(f"{share * 100:>{width}.1f}" for share, width in zip(covered, (11, 7, 7), strict=True))
        print(f"{name:24} {wape:7.3f} {p95:7.3f} {shares} {beyond:>6}/{series:<5} {predict_s * 1e3:>7.1f} ms")
    kept = True
    for metric in ("wape", "p95"):
        best = min((row for row in rows if row[0] != ours), key=lambda row: row[2 if metric == "wape" else 3])[0]
        ratio = _compared(runs, ours, best, metric, horizon)
        print(f"  {metric}: {ours} / {best} = {_written(ratio)}")
        kept &= not ratio.is_worse
    return kept


def _told_pooled(runs: Sequence[Run], ours: str, others: Sequence[str]) -> bool:
    """Set ours against every other model over all horizons; return whether it is better than every peer in P95 loss."""
    print(f"\nP95 loss over all horizons: {ours} against")
    ahead = True
    names = [n for n in dict.fromkeys(name for run in runs for name in run.found.errors) if n != ours]
    for name in names:
        ratio = _compared(runs, ours, name, "p95", None)
        print(f"  {name:24} {_written(ratio)}")
        ahead &= name not in others or ratio.is_better
    return ahead


def _written(ratio: Ratio) -> str:
    verdict = "better" if ratio.is_better else "worse" if ratio.is_worse else "no difference"
    return f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {verdict}"


def _places(run: Run, horizon: str | None) -> list[int]:
    return [n for n, h in enumerate(run.found.settings.horizons_s) if horizon in (None, HORIZONS.get(h))]


def _summary(runs: Sequence[Run], name: str, horizon: str) -> tuple[int, float, float, tuple[float, ...], int, float]:
    """Return how many series, both ratios, what quantiles cover, series out of their band, and a forecast's time."""
    wape, p95, predicted = [], [], []
    covered, counted = np.zeros(3), np.zeros(3)
    bins = []
    for run in runs:
        levels = list(run.found.settings.levels)
        for place in _places(run, horizon) if name in run.found.errors else []:
            s = scores(run.found, name, place)
            wape.append(s.wape_ratio)
            p95.append(s.pinball_ratio[:, levels.index(P95)])
            predicted.append(run.found.predict_s[name])
            for k, level in enumerate((0.5, P95, P99)):
                at = levels.index(level)
                counted[k] += s.counted[:, at].sum()
                covered[k] += np.nansum(s.coverage[:, at] * s.counted[:, at])
            own, at = run.found.errors[name], levels.index(P95)
            block = overlapping(run.found, place)
            bins.append(Bins(own.counted[place][:, :, at], own.covered[place][:, :, at], block))
    if not wape:
        return 0, np.nan, np.nan, (np.nan,) * 3, 0, np.nan
    beyond = sum(int(found.sum()) for found in outside(bins, P95))
    shares = tuple((covered / np.maximum(counted, 1)).tolist())
    series = int(np.isfinite(np.concatenate(wape)).sum())
    means = (float(geometric_mean(np.concatenate(values))) for values in (wape, p95))
    return series, *means, shares, beyond, float(np.mean(predicted))


def _compared(runs: Sequence[Run], ours: str, other: str, metric: str, horizon: str | None) -> Ratio:
    pairs = []
    for run in runs:
        if ours in run.found.errors and other in run.found.errors:
            at = run.found.settings.levels.index(P95)
            added = ADDED_SHARE * run.found.mean_rps
            for place in _places(run, horizon):
                first, second = (_losses(run.found.errors[name], metric, place, at) for name in (ours, other))
                pairs.append(Pair(first, second, run.found.errors[ours].steps[place], added))
    return compare(pairs, np.random.default_rng(DRAWN_FROM))


def _losses(errors: Errors, metric: str, place: int, level: int) -> np.ndarray:
    return errors.wrong[place] if metric == "wape" else errors.loss[place][:, :, level]


def _document(runs: Sequence[Run]) -> list[dict[str, object]]:
    found = []
    for run in runs:
        at = run.found.settings.levels.index(P95)
        for name in run.found.errors:
            for place, horizon_s in enumerate(run.found.settings.horizons_s):
                s = scores(run.found, name, place)
                for n, service in enumerate(run.found.services):
                    found.append({
                        "group": run.group.name, "series": service, "model": name, "horizon_s": horizon_s,
                        "n": int(s.n[n]), "wape": float(s.wape[n]), "mase": float(s.mase[n]),
                        "wape_ratio": float(s.wape_ratio[n]), "p95_ratio": float(s.pinball_ratio[n, at]),
                    })  # fmt: skip
    return found


if __name__ == "__main__":
    sys.exit(main())
