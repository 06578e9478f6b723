"""What a backtest found, as plain data and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from partita.controller.load_series import Source
from partita.controller.results import versions
from partita.controller.whatif.tables import Table
from partita.controller.wording import span
from partita.forecasting.backtest import Backtest, Scores, geometric_mean, overlapping, scores
from partita.forecasting.coverage import Bins, outside
from partita.model.plain import to_plain
from partita.traces.series import dispersion

P95, P99 = 0.95, 0.99


# Plain data ---------------------------------------------------------------------------------------------------------


def backtest_document(source: Source, found: Backtest, left_out: Mapping[str, str]) -> dict[str, Any]:
    """Write a backtest as plain data: a record for each series, horizon and model, and what they come to together."""
    horizons = range(len(found.settings.horizons_s))
    scored = {(m, h): scores(found, m, h) for m in found.errors for h in horizons}
    document = {
        "source": source.name,
        "start_s": found.start_s,
        "step_s": found.step_s,
        "origins_s": [found.start_s + o * found.step_s for o in found.origins],
        "levels": found.settings.levels,
        "seed": found.settings.seed,
        "versions": versions(),
        "services": _services(source, found, left_out),
        "left_out": dict(left_out),
        "models": {m: {"fit_s": found.fit_s[m], "predict_s": found.predict_s[m]} for m in found.errors},
        "failed": found.failed,
        "pooled": [_pooled(found, m, h, s) for (m, h), s in scored.items()],
        "scores": [record for (m, h), s in scored.items() for record in _records(found, m, h, s)],
    }
    plain: dict[str, Any] = to_plain(document)
    return plain


def _services(source: Source, found: Backtest, left_out: Mapping[str, str]) -> dict[str, Any]:
    load, series = source.series.load, source.series
    burst = dispersion(load)
    return {
        name: {
            "mean_rps": float(rate),
            "dispersion": float(burst[n]),
            "missing_steps": int(series.missing[n]),
            "late": int(series.late.get(name, 0)),
        }
        for n, (name, rate) in enumerate(zip(load.services, load.rate_rps(), strict=True))
        if name in found.services and name not in left_out
    }


def _records(found: Backtest, model: str, horizon: int, s: Scores) -> Iterator[dict[str, Any]]:
    levels = found.settings.levels
    p95 = _at(levels, P95)
    for n, service in enumerate(found.services):
        yield {
            "service": service,
            "horizon_s": found.settings.horizons_s[horizon],
            "model": model,
            "n": int(s.n[n]),
            "wape": float(s.wape[n]),
            "mase": float(s.mase[n]),
            "pinball": {f"{level:g}": float(s.pinball[n, k]) for k, level in enumerate(levels)},
            "coverage": {f"{level:g}": float(s.coverage[n, k]) for k, level in enumerate(levels)},
            "fit_s": found.fit_s[model],
            "predict_s": found.predict_s[model],
            "ratios": {
                "wape": float(s.wape_ratio[n]),
                "pinball": float(np.mean(s.pinball_ratio[n])),
                "p95": float(s.pinball_ratio[n, p95]),
            },
        }


def _pooled(found: Backtest, model: str, horizon: int, s: Scores) -> dict[str, Any]:
    levels = found.settings.levels
    counted = s.counted.sum(axis=0)
    covered = np.nansum(s.coverage * s.counted, axis=0)
    return {
        "model": model,
        "horizon_s": found.settings.horizons_s[horizon],
        "n": int(s.n.sum()),
        "wape": float(geometric_mean(s.wape_ratio)),
        "p95": float(geometric_mean(s.pinball_ratio)[_at(levels, P95)]),
        "coverage": {
            f"{level:g}": float(covered[k] / counted[k]) if counted[k] else float("nan")
            for k, level in enumerate(levels)
        },
        "outside": {f"{q:g}": _outside(found, model, horizon, k) for k, q in enumerate(levels) if q in (P95, P99)},
    }


def _outside(found: Backtest, model: str, horizon: int, place: int) -> int:
    """Count the series whose coverage is beyond chance."""
    own = found.errors[model]
    counted, covered = own.counted[horizon][:, :, place], own.covered[horizon][:, :, place]
    bins = Bins(counted, covered, overlapping(found, horizon))
    return int(outside([bins], found.settings.levels[place])[0].sum())


def _at(levels: Sequence[float], level: float) -> int:
    return int(np.argmin(np.abs(np.asarray(levels) - level)))


# For people ---------------------------------------------------------------------------------------------------------


def backtest_table(document: Mapping[str, Any]) -> Table:
    """Return the table: a row a model and horizon, best first, beside the daily seasonal-naive."""
    headings = (
        "horizon",
        "model",
        "WAPE\nvs naive",
        "P95 loss\nvs naive",
        "P50\ncovers",
        "P95\ncovers",
        "P99\ncovers",
        "forecasts\na series",
        "fit",
        "predict",
    )
    series = max(1, len(document["services"]))
    rows = tuple(
        (
            span(p["horizon_s"]),
            p["model"],
            number(p["wape"], 3),
            number(p["p95"], 3),
            *(share(p["coverage"].get(level)) for level in ("0.5", "0.95", "0.99")),
            f"{p['n'] / series:,.0f}",
            span(document["models"][p["model"]]["fit_s"]),
            span(document["models"][p["model"]]["predict_s"]),
        )
        for p in sorted(document["pooled"], key=lambda p: (p["horizon_s"], rank(p["p95"])))
    )
    return Table(headings, rows, names=2)


def rank(value: object) -> float:
    """Return what to sort a score by: what is no number comes last."""
    return value if isinstance(value, float | int) else float("inf")


def number(value: object, digits: int) -> str:
    """Write a number; what is none becomes a dash."""
    return f"{value:,.{digits}f}" if isinstance(value, float | int) else "–"


def share(value: object) -> str:
    """Write a share as a percentage; what is none becomes a dash."""
    return f"{value * 100:.1f} %" if isinstance(value, float | int) else "–"


def remarks(document: Mapping[str, Any]) -> Iterator[str]:
    """Say what the table does not: what it is from, what was left out, who gave up."""
    series, origins = len(document["services"]), len(document["origins_s"])
    yield (
        f"{series:,} series at {span(document['step_s'])} from {document['source']}, {origins} origins; ratios are "
        f"geometric means over series against the daily seasonal-naive."
    )
    if document["left_out"]:
        shown = [f"{name} ({why})" for name, why in list(document["left_out"].items())[:3]]
        more = len(document["left_out"]) - len(shown)
        yield f"Left out: {'; '.join(shown)}{f' and {more} more' if more > 0 else ''}."
    for model, why in document["failed"].items():
        yield f"{model} gave up: {why}."
