"""Backtests of others kept on disk: they do not change when ours do, and take an hour or two.

A file holds the errors of one model on one group. Its name holds a hash of the series, the settings and the peers'
code, so that none is taken for what it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from hashlib import blake2b
from pathlib import Path

import numpy as np

from partita.errors import ForecastError
from partita.forecasting.backtest import Backtest, Errors, Settings, backtest
from partita.model.load import Load
from partita.ports import Forecaster

SOURCES = ("forecast_peers.py",)


def kept_backtest(
    folder: Path | None, load: Load, model: Forecaster, settings: Settings, clock: Callable[[], float]
) -> tuple[Errors, float, float]:
    """Return a model's errors and what a fit and a forecast took; ForecastError if it gave up."""
    if folder is None:
        return _run(load, model, settings, clock)
    path = folder / f"{model.name}-{_digest(load, model, settings)}.npz"
    if not path.exists():
        try:
            errors, fit_s, predict_s = _run(load, model, settings, clock)
            found = {**asdict(errors), "took_s": np.array([fit_s, predict_s])}
        except ForecastError as problem:
            found = {"gave_up": np.array(str(problem))}
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npz")
        np.savez_compressed(unfinished, **found)
        unfinished.replace(path)
    with np.load(path) as kept:
        if "gave_up" in kept:
            raise ForecastError(str(kept["gave_up"]))
        fit_s, predict_s = kept["took_s"].tolist()
        return Errors(**{f.name: kept[f.name] for f in fields(Errors)}), fit_s, predict_s


def with_others(found: Backtest, name: str, kept: tuple[Errors, float, float]) -> None:
    """Put a model's errors beside those of the others."""
    found.errors[name], found.fit_s[name], found.predict_s[name] = kept


def _run(load: Load, model: Forecaster, settings: Settings, clock: Callable[[], float]) -> tuple[Errors, float, float]:
    found = backtest(load, [model], settings, clock=clock)
    if model.name in found.failed:
        raise ForecastError(found.failed[model.name])
    return found.errors[model.name], found.fit_s[model.name], found.predict_s[model.name]


def _digest(load: Load, model: Forecaster, settings: Settings) -> str:
    told = blake2b(digest_size=10)
    for seen in (load, *getattr(model, "beside", ())):
        told.update(np.ascontiguousarray(seen.counts).tobytes())
        told.update(repr((seen.services, seen.start_s, seen.step_s, settings)).encode())
    for name in SOURCES:
        told.update((Path(__file__).parent / name).read_bytes())
    return told.hexdigest()
