"""Burstiness and sizes as forecast, for people and programs: how good the forecasts have been, and the present ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.controller.backtesting import number, share
from partita.controller.load_detail import FINE_S, Detail
from partita.controller.whatif.tables import Table
from partita.controller.wording import span
from partita.forecasting.backtest import geometric_mean
from partita.forecasting.burstiness import (
    LEAST_STEPS,
    Dispersion,
    dispersion_by_window,
    dispersion_loss,
    forecast_dispersion,
    naive_dispersion,
)
from partita.forecasting.quantiles import LEVELS
from partita.forecasting.size_mix import SizeMix, forecast_mix, log_loss, naive_mix, ranked_probability
from partita.model.load import Load
from partita.model.size_counts import SizeCounts, gathered, size_quantile
from partita.traces.buckets import Buckets

WINDOWS_S = (60.0, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0)
"""Lengths of time that burstiness and sizes are told of."""

USUAL_S = 3600.0
"""The longest of them unless steps are too wide: the next hour is what is planned for."""

LEAST_WINDOWS = 24
"""Windows that a source should hold: else a shorter length is taken, where there is one."""

ORIGINS = 24
JUDGED_PART = 0.2
"""Of the windows, the last part that is judged, as for rates."""

SHOWN_LEVELS = (0.5, 0.95, 0.99)
BAND = (0.025, 0.975)

Array = NDArray[np.float64]


def window_s(step_s: float, length_s: float) -> float | None:
    """Choose the length of time to tell of; None where a source is too short for any."""
    fits = [w for w in WINDOWS_S if round(w / step_s) >= LEAST_STEPS and abs(w / step_s - round(w / step_s)) < 1e-6]
    held = [w for w in fits if w <= max(USUAL_S, fits[0]) and length_s / w >= LEAST_WINDOWS]
    if held:
        return held[-1]
    return fits[0] if fits and length_s >= 2 * fits[0] else None


def in_windows(sizes: SizeCounts, width_s: float) -> SizeCounts:
    """Add up whole windows, from the first multiple of their width on; one unmeasured step makes it NaN."""
    width = round(width_s / sizes.step_s)
    skip = round(-sizes.start_s / sizes.step_s) % width
    whole = max(0, sizes.counts.shape[1] - skip) // width
    services, _, buckets = sizes.counts.shape
    inside = slice(skip, skip + whole * width)
    counts = sizes.counts[:, inside].reshape(services, whole, width, buckets).sum(axis=2)
    unknown = sizes.unknown[:, inside].reshape(services, whole, width).sum(axis=2)
    start_s = sizes.start_s + skip * sizes.step_s
    return SizeCounts(sizes.services, start_s, width_s, sizes.edges, counts, unknown)


def trimmed(sizes: SizeCounts) -> SizeCounts:
    """Leave out edges below and above all sizes that came, where nothing ever is to be told apart."""
    came = np.nansum(sizes.counts, axis=(0, 1)) > 0
    if not came.any():
        return sizes
    first, last = int(np.argmax(came)), len(came) - 1 - int(np.argmax(came[::-1]))
    edges = sizes.edges[first : last + 1]
    return SizeCounts(
        sizes.services, sizes.start_s, sizes.step_s, edges, gathered(sizes.counts, sizes.edges, edges), sizes.unknown
    )


# How good they have been ----------------------------------------------------------------------------------------------


def character_scores(detail: Detail, names: Sequence[str], services: Sequence[str]) -> dict[str, Any]:
    """Judge forecasts of burstiness, of the series with these names, and of sizes, of these services.

    From up to ORIGINS instants in the last fifth of the windows the next window is forecast, and so does the last one.
    A part that the source tells nothing of is left out.
    """
    found: dict[str, Any] = {}
    if detail.fine is not None and (width_s := _window_of(detail.fine)) is not None:
        load = _rows(detail.fine, [n for n, name in enumerate(detail.fine.services) if name in names])
        measured = dispersion_by_window(load, width_s)
        found["burstiness"] = {
            "loss": "mean quantile loss of the logarithm of the index of dispersion",
            "step_s": load.step_s,
            "window_s": width_s,
            "services": burstiness_scores(measured),
        }
    if detail.sizes is not None and (width_s := _window_of_sizes(detail.sizes)) is not None:
        sizes = detail.sizes.of([n for n, name in enumerate(detail.sizes.services) if name in services])
        counted = trimmed(in_windows(sizes, width_s))
        found["sizes"] = {
            "loss": "ranked probability score of the shares by bucket",
            "window_s": width_s,
            "edges": list(counted.edges),
            "services": size_scores(counted),
        }
    return found


def burstiness_scores(measured: Dispersion) -> dict[str, dict[str, Any]]:
    """Return by service the scores of forecasts of the index, beside those of its last value."""
    losses = [np.full((0, len(measured.services)), np.nan)] * 2
    for origin in _origins(measured.index.shape[1]):
        past, came = measured.until(origin), measured.index[:, origin]
        made = [dispersion_loss(f(past, levels=LEVELS), came) for f in (forecast_dispersion, naive_dispersion)]
        losses = [np.vstack([kept, one]) for kept, one in zip(losses, made, strict=True)]
    middle = [_median(row) for row in measured.index]
    records = _records(measured.services, *losses)
    return {name: {**record, "index": middle[n]} for n, (name, record) in enumerate(records.items())}


def size_scores(counted: SizeCounts) -> dict[str, dict[str, Any]]:
    """Return by service the scores of forecasts of the shares, beside those of the last window."""
    ways = (
        (forecast_mix, ranked_probability),
        (naive_mix, ranked_probability),
        (forecast_mix, log_loss),
        (naive_mix, log_loss),
    )
    losses = [np.full((0, len(counted.services)), np.nan)] * len(ways)
    for origin in _origins(counted.counts.shape[1]):
        past, came = counted.until(origin), np.nan_to_num(counted.counts[:, origin])
        mixes = {forecast_mix: forecast_mix(past), naive_mix: naive_mix(past)}
        losses = [np.vstack([kept, score(mixes[how], came)]) for kept, (how, score) in zip(losses, ways, strict=True)]
    records, logs = _records(counted.services, *losses[:2]), _records(counted.services, *losses[2:])
    known, unknown = np.nansum(counted.counts, axis=(1, 2)), np.nansum(counted.unknown, axis=1)
    return {
        name: {
            **record,
            "log_loss": logs[name]["loss"],
            "naive_log_loss": logs[name]["naive_loss"],
            "unknown_share": float(unknown[n] / max(known[n] + unknown[n], 1.0)),
        }
        for n, (name, record) in enumerate(records.items())
        if known[n]
    }


def _records(services: Sequence[str], losses: Array, naive: Array) -> dict[str, dict[str, Any]]:
    both = np.isfinite(losses) & np.isfinite(naive)
    number = both.sum(axis=0)
    own, other = (np.where(both, x, 0.0).sum(axis=0) / np.maximum(number, 1) for x in (losses, naive))
    return {
        name: {
            "n": int(number[n]),
            "loss": float(own[n]) if number[n] else None,
            "naive_loss": float(other[n]) if number[n] else None,
            "ratio": float(own[n] / other[n]) if number[n] and other[n] > 0 else None,
        }
        for n, name in enumerate(services)
    }


def _origins(windows: int) -> list[int]:
    """Return the windows that are forecast: in the last fifth, or as many as there are origins in a short source."""
    first = max(2, windows - max(round(JUDGED_PART * windows), min(ORIGINS, windows // 2)))
    if first >= windows:
        return []
    return [int(o) for o in np.unique(np.rint(np.linspace(first, windows - 1, min(ORIGINS, windows - first))))]


def character_remarks(document: Mapping[str, Any]) -> Iterator[str]:
    """Say in a line each how good forecasts of burstiness and of sizes were."""
    for key, what, beside in (
        ("burstiness", "Burstiness", "index of dispersion"),
        ("sizes", "Input sizes", "shares by bucket"),
    ):
        told = document.get(key)
        ratios = [r["ratio"] for r in told["services"].values() if r["ratio"] is not None] if told else []
        if told and ratios:
            mean = float(geometric_mean(np.array(ratios)))
            yield (
                f"{what} of the next {span(told['window_s'])} ({beside}): loss {number(mean, 3)} of that of the last "
                f"{span(told['window_s'])}, {len(ratios)} series."
            )


def character_table(document: Mapping[str, Any]) -> Table:
    """Return the table of a report: what forecasts of burstiness and of sizes lost, a row a series."""
    headings = ("series", "kind", "scored\nwindows", "loss", "last window's\nloss", "ratio")
    rows = tuple(
        (name, what, f"{r['n']:,}", number(r["loss"], 5), number(r["naive_loss"], 5), number(r["ratio"], 3))
        for key, what in (("burstiness", "burstiness"), ("sizes", "sizes"))
        for name, r in document.get(key, {}).get("services", {}).items()
    )
    return Table(headings, rows)


# The present ones -----------------------------------------------------------------------------------------------------


def character_now(detail: Detail, service: str, buckets: Buckets) -> dict[str, Any]:
    """Return the index of dispersion and the sizes of one service, now and as expected in the next window."""
    found: dict[str, Any] = {}
    fine = detail.fine
    if fine is not None and service in fine.services and (width_s := _window_of(fine)) is not None:
        load = _rows(fine, [fine.services.index(service)])
        found["burstiness"] = _burstiness_now(dispersion_by_window(load, width_s))
    sizes = detail.sizes
    if sizes is not None and service in sizes.services and (width_s := _window_of_sizes(sizes)) is not None:
        counted = in_windows(sizes.of([sizes.services.index(service)]), width_s)
        if np.nansum(counted.counts):
            found["size_mix"] = _sizes_now(counted, buckets.of(service))
    return found


def _burstiness_now(measured: Dispersion) -> dict[str, Any]:
    made = forecast_dispersion(measured, levels=(0.5, 0.95))
    known = measured.index[0][np.isfinite(measured.index[0])]
    return {
        "step_s": measured.step_s,
        "window_s": measured.window_s,
        "now": float(known[-1]) if known.size else None,
        "expected": _plain(made.index[0, 0]),
        "p95": _plain(made.index[0, 1]),
        "basis": made.basis[0],
    }


def _sizes_now(counted: SizeCounts, edges: tuple[float, ...]) -> dict[str, Any]:
    made, last = forecast_mix(counted), naive_mix(counted)
    totals = counted.counts[0].sum(axis=1)
    window = int(np.flatnonzero(np.nan_to_num(totals) > 0)[-1])
    now = counted.counts[0, window]
    unknown = float(np.nansum(counted.unknown))
    return {
        "window_s": counted.step_s,
        "basis": made.basis[0],
        "requests_now": int(now.sum()),
        "unknown_share": unknown / max(unknown + float(np.nansum(counted.counts)), 1.0),
        "effective_requests": float(made.sure[0]),
        "quantiles": {
            f"{level:g}": {
                "now": _plain(size_quantile(now[None], counted.edges, level)[0]),
                "expected": _plain(size_quantile(made.shares, counted.edges, level)[0]),
            }
            for level in SHOWN_LEVELS
        },
        "shares": _shares_now(made, last, edges) if edges else [],
    }


def _shares_now(made: SizeMix, last: SizeMix, edges: tuple[float, ...]) -> list[dict[str, Any]]:
    now, expected = last.of_buckets(edges)[0], made.of_buckets(edges)
    low, high = (made.band(expected, level)[0] for level in BAND)
    return [
        {
            "over": 0.0 if n == 0 else edges[n - 1],
            "up_to": edges[n] if n < len(edges) else None,
            "now": float(now[n]),
            "expected": float(expected[0, n]),
            "low": float(low[n]),
            "high": float(high[n]),
        }
        for n in range(len(edges) + 1)
    ]


def character_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Say what is expected of burstiness, and what of sizes."""
    if (burst := found.get("burstiness")) and burst["expected"] is not None:
        yield (
            f"Index of dispersion in the next {span(burst['window_s'])}: {burst['expected']:.2f} expected, "
            f"P95 {burst['p95']:.2f}; last {burst['now']:.2f}, around its trend (from {burst['basis']})"
        )
    if mix := found.get("size_mix"):
        listed = ", ".join(
            f"P{float(level) * 100:g} {_size(q['now'])} now, {_size(q['expected'])} expected"
            for level, q in mix["quantiles"].items()
        )
        yield f"Input sizes in the next {span(mix['window_s'])}: {listed} (from {mix['basis']})"
        if mix["unknown_share"] > 0:
            yield f"{share(mix['unknown_share'])} of the requests told no size; they are in no share."


def shares_table(found: Mapping[str, Any]) -> Table | None:
    """Return the shares by bucket, now and as expected; None where no buckets are known."""
    shares = found.get("size_mix", {}).get("shares", ())
    if not shares:
        return None
    rows = tuple(
        (
            f"over {s['over']:g}" if s["up_to"] is None else f"up to {s['up_to']:g}",
            share(s["now"]),
            share(s["expected"]),
            f"{share(s['low'])} to {share(s['high'])}",
        )
        for s in shares
    )
    return Table(("sizes", "now", "expected", "95 % sure"), rows)


def _window_of(load: Load) -> float | None:
    return window_s(load.step_s, load.counts.shape[1] * load.step_s)


def _window_of_sizes(sizes: SizeCounts) -> float | None:
    length_s = sizes.counts.shape[1] * sizes.step_s
    # sizes need no steps inside a window: they follow the burstiness of a request log
    width_s = window_s(FINE_S, length_s)
    return None if width_s is None else max(width_s, sizes.step_s)


def _rows(load: Load, kept: Sequence[int]) -> Load:
    return Load(tuple(load.services[n] for n in kept), load.start_s, load.step_s, load.counts[list(kept)])


def _median(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _size(value: float | None) -> str:
    return "–" if value is None else f"{float(f'{value:.3g}'):,g}"
