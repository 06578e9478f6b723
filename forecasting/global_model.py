"""The global model: one small network, trained over all series of a history, that foretells quantiles at any horizon.

What it learned is a state of its own: with the same state the same history gives the same forecast. Training needs
torch, forecasting does not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from io import BytesIO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.forecasting.global_calibration import (
    at_levels,
    between,
    judged_errors,
    own_factors,
    pooled_factors,
)
from partita.forecasting.global_inputs import View, day_steps, parts
from partita.forecasting.global_network import MEDIAN, Network
from partita.forecasting.global_training import Rows, Told, Training, drawn_rows, shorter, trained
from partita.forecasting.history import LEAST_MEASURED
from partita.forecasting.origins import judged_horizons
from partita.forecasting.past import DAY_S, Steps
from partita.forecasting.quantiles import LEVELS, sound_forecast
from partita.model.load import Forecast, Load

NAME = "global"

FORMAT = 1
"""Of a trained state: it changes with what the network is given or how its outputs are read."""

HELD_PART = 0.2
"""Of the history, the newest part that is not trained on: it says when to stop, and how far off quantiles are."""

MOST_HELD_DAYS = 14.0
"""Two weeks hold every weekday twice; more would only make what was learned older."""

HORIZONS = 6
"""Horizons at which quantiles are calibrated."""

MOST_JUDGED = 48
"""Steps of a service on which its quantiles are judged at each horizon."""

POOLED_ERRORS = 200_000
"""Errors at a horizon that are pooled over services, at most about."""

LEAST_DAYS = 1.0
"""Shortest history to train on: below it nothing is known of the time of day."""


def _untold(_done: int, _total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class GlobalModel:
    """One network over all series, trained before it forecasts (needs torch)."""

    name: str = NAME
    training: Training = field(default_factory=Training)

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Refuse: it is `fitted` that gives what can forecast."""
        raise ForecastError(f"{self.name} must be trained first: partita forecast train")

    def fitted(self, history: Load, told: Told = _untold) -> TrainedModel:
        """Train on a history; ForecastError if it is too short, or torch is not installed."""
        return _trained(self.name, self.training, history, told)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A trained global model.

    It was trained on steps from `from_s` to `held_s`, and stopped and calibrated on those up to `until_s`; `loss` is
    the mean loss there, in units of the change from day to day. `factors`, ``(horizons, levels)``, are what distances
    from the median are multiplied by at the horizons `ahead` (steps), over all services. `reach` is the farthest step
    learned. `version` tells states apart.
    """

    name: str
    training: Training
    network: Network
    step_s: float
    from_s: float
    held_s: float
    until_s: float
    reach: int
    services: tuple[str, ...]
    loss: float
    ahead: Steps
    factors: NDArray[np.float64]
    version: str = ""

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if its steps are not those that were learned."""
        if abs(history.step_s - self.step_s) > 1e-6 * self.step_s:
            raise ForecastError(
                f"{self.name} was trained on steps of {self.step_s:g} s and cannot forecast steps of "
                f"{history.step_s:g} s"
            )
        found = [self._part(part, steps, levels) for _, part in parts(history)]
        days = (self.until_s - self.from_s) / DAY_S
        return Forecast(
            history.services,
            history.end_s,
            history.step_s,
            tuple(levels),
            np.concatenate([np.empty((0, len(levels), steps)), *(each.rps for each in found)]),
            f"{self.name}, trained on {len(self.services)} series of {days:.1f} days",
            history.counts.shape[1] * history.step_s,
            self.version,
        )

    def refitted(self, history: Load, told: Told = _untold) -> TrainedModel:
        """Go on training on what has come since; ForecastError if nothing has."""
        if history.end_s < self.until_s + self.step_s:
            raise ForecastError(f"nothing has come since {self.name} was trained: there is nothing to learn")
        if abs(history.step_s - self.step_s) > 1e-6 * self.step_s:
            raise ForecastError(
                f"{self.name} was trained on steps of {self.step_s:g} s; train it anew for steps of "
                f"{history.step_s:g} s"
            )
        return _trained(self.name, self.training, history, told, self)

    def to_bytes(self) -> bytes:
        """Write the state as an npz archive: arrays, and the rest as JSON."""
        about = {
            "format": FORMAT,
            "name": self.name,
            "levels": LEVELS,
            "training": {key: getattr(self.training, key) for key in Training.__slots__},
            "step_s": self.step_s,
            "from_s": self.from_s,
            "held_s": self.held_s,
            "until_s": self.until_s,
            "reach": self.reach,
            "services": self.services,
            "loss": self.loss,
        }
        written = BytesIO()
        arrays = dict(self.network.weights) | {"ahead": self.ahead, "factors": self.factors}
        np.savez(written, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
        return written.getvalue()

    @classmethod
    def from_bytes(cls, state: bytes) -> TrainedModel:
        """Read a state; ForecastError if it is none, or of another format."""
        try:
            with np.load(BytesIO(state), allow_pickle=False) as read:
                about = json.loads(str(read["about"]))
                arrays = {name: read[name] for name in read.files if name != "about"}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            raise ForecastError("this is no trained model, or it is damaged") from None
        if about.get("format") != FORMAT or about.get("levels") != list(LEVELS):
            raise ForecastError(
                f"the trained model has format {about.get('format')}, this release reads {FORMAT}: train it anew"
            )
        ahead, factors = arrays.pop("ahead"), arrays.pop("factors")
        return cls(
            str(about["name"]),
            Training(**about["training"]),
            Network(arrays),
            float(about["step_s"]),
            float(about["from_s"]),
            float(about["held_s"]),
            float(about["until_s"]),
            int(about["reach"]),
            tuple(about["services"]),
            float(about["loss"]),
            ahead,
            factors,
            digest(state),
        )

    def _part(self, history: Load, steps: int, levels: Sequence[float]) -> Forecast:
        view = View.of(history)
        ahead = np.arange(1, steps + 1)
        seen = view.inputs(np.full_like(ahead, view.past.length - 1), ahead, self.reach)
        z = self.network.quantiles(seen)
        factors = between(self.ahead, self._factors(view, steps), ahead)
        factors *= np.sqrt(np.maximum(ahead / self.reach, 1.0))[:, None]
        middle = z[..., MEDIAN, None]
        lines = at_levels(seen.counts(middle + (z - middle) * factors), levels)
        point = seen.counts(middle)[..., 0]
        return sound_forecast(history, point, lines, levels=levels, model=self.name, used_steps=view.past.length)

    def _factors(self, view: View, steps: int) -> list[NDArray[np.float64]]:
        """Return the factors of each service at each horizon, from steps of this history that were not trained on."""
        first = max(round((self.held_s - view.start_s) / self.step_s), 0)
        wanted = np.searchsorted(self.ahead, min(steps, self.ahead[-1]))
        found = []
        for i, ahead in enumerate(self.ahead.tolist()):
            # horizons beyond the first that is far enough are not asked for
            after = first if i <= wanted else view.past.length
            errors, independent = judged_errors(view, self.network, after, ahead, MOST_JUDGED, self.reach)
            found.append(own_factors(errors, independent, self.factors[i]))
        return found


def digest(state: bytes) -> str:
    """Return what tells one trained state from another."""
    return sha256(state).hexdigest()[:12]


def _trained(
    name: str, training: Training, history: Load, told: Told, before: TrainedModel | None = None
) -> TrainedModel:
    history = _measured(history)
    length, day = history.counts.shape[1], day_steps(history.step_s)
    if not history.services or length * history.step_s < LEAST_DAYS * DAY_S:
        raise ForecastError(
            f"{name} needs {LEAST_DAYS:g} day of history to be trained on, there are "
            f"{length * history.step_s / DAY_S:.2f} days of {len(history.services)} series"
        )
    held = min(length * HELD_PART, MOST_HELD_DAYS * day)
    since = 0
    if before is not None:
        since = min(max(round((before.held_s - history.start_s) / history.step_s), 0), length - 2)
        held = min(held, (length - since) / 2)
    held = length - max(1, round(held))
    first = min(day // 2, held // 3)
    reach = max(1, min(day, held // 2)) if before is None else before.reach
    how = training if before is None else shorter(training)
    how = replace(how, rows=min(how.rows, how.targets * len(history.services) * length))
    rng = np.random.Generator(np.random.PCG64(training.seed))
    rows = drawn_rows(history, range(first + 1, held), first, reach, how.rows if before is None else how.rows // 2, rng)
    if before is not None:
        new = drawn_rows(history, range(max(since, first + 1), held), first, reach, how.rows // 2, rng)
        rows = Rows.of([rows, new])
    kept = drawn_rows(history, range(held, length), first, reach, how.rows // 5, rng)
    if not len(rows.came) or not len(kept.came):
        raise ForecastError(f"{name} found no measured step to be trained on")
    network, loss = trained(rows, kept, how, told, None if before is None else before.network.weights)
    view = View.of(Load(history.services[:1], history.start_s, history.step_s, history.counts[:1]))
    ahead = judged_horizons(reach, view.past, HORIZONS) if before is None else before.ahead
    made = TrainedModel(
        name,
        training,
        network,
        history.step_s,
        history.start_s if before is None else min(before.from_s, history.start_s),
        history.start_s + held * history.step_s,
        history.end_s,
        reach,
        history.services,
        loss,
        ahead,
        _pooled(history, network, ahead, held, reach),
    )
    return replace(made, version=digest(made.to_bytes()))


def _measured(history: Load) -> Load:
    """Leave out the series of which too little was measured to be looked at."""
    kept = np.flatnonzero(np.isfinite(history.counts).sum(axis=1) >= LEAST_MEASURED)
    return Load(tuple(history.services[n] for n in kept), history.start_s, history.step_s, history.counts[kept])


def _pooled(history: Load, network: Network, ahead: Steps, first: int, reach: int) -> NDArray[np.float64]:
    """Return the factors over all services at each horizon, ``(horizons, levels)``."""
    most = max(4, min(MOST_JUDGED, POOLED_ERRORS // len(history.services)))
    errors: list[list[NDArray[np.float64]]] = [[] for _ in ahead]
    for _, part in parts(history):
        view = View.of(part)
        for place, h in enumerate(ahead.tolist()):
            errors[place].append(judged_errors(view, network, first, h, most, reach)[0])
    return np.stack([pooled_factors(each) for each in errors])
