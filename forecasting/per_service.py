"""Several models beside each other: services that ask for their own get it, the others share the default one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from partita.forecasting.quantiles import LEVELS
from partita.model.load import Forecast, Load
from partita.ports import Forecaster


@dataclass(frozen=True, slots=True)
class PerService:
    """Forecast each service by its own model in `by_service`, else by the default; a model is asked once."""

    default: Forecaster
    by_service: Mapping[str, Forecaster]

    @property
    def name(self) -> str:
        """The models' names, the default one first."""
        return ", ".join(
            dict.fromkeys((self.default.name, *(self.by_service[s].name for s in sorted(self.by_service))))
        )

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if any of the models cannot."""
        chosen = [self.by_service.get(name, self.default) for name in history.services]
        models = list({id(model): model for model in chosen}.values())
        rps = np.empty((len(chosen), len(levels), steps))
        made = []
        for model in models:
            rows = np.flatnonzero([own is model for own in chosen])
            part = Load(tuple(history.services[n] for n in rows), history.start_s, history.step_s, history.counts[rows])
            made.append(model.forecast(part, steps=steps, levels=levels))
            rps[rows] = made[-1].rps
        text = "; ".join(dict.fromkeys(one.model for one in made))
        used_s = min((one.history_s for one in made), default=0.0)
        return Forecast(history.services, history.end_s, history.step_s, tuple(levels), rps, text, used_s)
