"""Training forecasting models from outside: from a series to a state that is kept, and how good it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partita.controller.load_series import rows
from partita.controller.results import write_whole
from partita.controller.wording import span
from partita.errors import ConfigError, ForecastError
from partita.forecasting.backtest import Backtest, Settings, backtest, geometric_mean, scores
from partita.forecasting.global_model import GlobalModel, TrainedModel
from partita.forecasting.yardstick import LAST_VALUE
from partita.model.load import Load
from partita.store.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from partita.store.connection import connect

TRIED_SERIES, TRIED_ORIGINS = 200, 6
"""Series and origins on which a trained model is tried: enough to see whether it is worth anything, in seconds."""

HORIZONS_S = (600.0, 3600.0, 86_400.0)
P95 = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained model, how long it took, and how it did on what was kept aside."""

    model: TrainedModel
    took_s: float
    tried: Backtest | None


def train(
    load: Load,
    before: TrainedModel | None,
    *,
    clock: Callable[[], float],
    told: Callable[[int, int], None],
) -> Trained:
    """Train the global model, from the state `before` on where one is given; ConfigError says what is in the way."""
    begun = clock()
    try:
        model = GlobalModel().fitted(load, told) if before is None else before.refitted(load, told)
    except ForecastError as problem:
        raise ConfigError(str(problem)) from None
    return Trained(model, clock() - begun, _tried(load, model))


def _tried(load: Load, model: TrainedModel) -> Backtest | None:
    """Let it forecast in the part kept aside; None where that is too short for any horizon."""
    held_s = load.end_s - model.held_s
    fitting = tuple(h for h in HORIZONS_S if h % load.step_s == 0 and h <= held_s)
    places = np.unique(np.linspace(0, len(load.services) - 1, min(TRIED_SERIES, len(load.services))).astype(int))
    settings = Settings(fitting, origins=TRIED_ORIGINS, step_back_s=held_s)
    if not fitting:
        return None
    try:
        return backtest(rows(load, places.tolist()), [model, LAST_VALUE], settings)
    except ForecastError:
        return None


def training_lines(trained: Trained) -> Iterator[str]:
    """Say what was learned, how long it took, and how it did."""
    model = trained.model
    yield (
        f"{model.name} {model.version}: {len(model.services):,} series at {span(model.step_s)}, trained on "
        f"{span(model.held_s - model.from_s)}, stopped and calibrated on the last "
        f"{span(model.until_s - model.held_s)}; {span(trained.took_s)}."
    )
    found = trained.tried
    if found is None or model.name not in found.errors:
        yield "What was kept aside is too short to say how good it is."
        return
    yield "P95 loss there, as a share of the daily seasonal-naive's (the last value's in brackets):"
    at = found.settings.levels.index(P95)
    for place, horizon_s in enumerate(found.settings.horizons_s):
        own, last = (
            float(geometric_mean(scores(found, name, place).pinball_ratio)[at])
            for name in (model.name, LAST_VALUE.name)
        )
        yield f"  {span(horizon_s):>7} ahead: {own:.3f} ({last:.3f})"


def checkpoint_of(model: TrainedModel) -> Checkpoint:
    """Return what is kept of a trained model."""
    return Checkpoint(
        model.name, model.version, model.from_s, model.until_s, model.step_s, model.services, model.to_bytes()
    )


async def keep(dsn: str, model: TrainedModel) -> None:
    """Keep a trained model in the database."""
    async with connect(dsn) as connection:
        await save_checkpoint(connection, checkpoint_of(model))


async def kept(dsn: str, name: str) -> TrainedModel | None:
    """Return the newest trained model of a name in the database, or None; ConfigError if it is unusable."""
    async with connect(dsn) as connection:
        found = await newest_checkpoint(connection, name)
    return None if found is None else _read(found.state, f"the newest {name} in the database")


def write_model(path: Path, model: TrainedModel) -> None:
    """Write a trained model to a file."""
    write_whole(path, model.to_bytes())


def read_model(path: Path) -> TrainedModel:
    """Read a trained model from a file; ConfigError if there is none."""
    try:
        state = path.read_bytes()
    except OSError as problem:
        raise ConfigError(f"cannot be read: {(problem.strerror or '').lower()}", file=str(path)) from None
    return _read(state, str(path))


def _read(state: bytes, name: str) -> TrainedModel:
    try:
        return TrainedModel.from_bytes(state)
    except ForecastError as problem:
        raise ConfigError(str(problem), file=name) from None
