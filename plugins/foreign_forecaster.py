"""Forecasting models of plugins, asked where the plugin runs: so that one that fails or hangs costs only its own say.

What crosses over is plain data, since a model may live in another process: the history there, the forecast back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from partita.errors import ForecastError, PluginError
from partita.model.load import Forecast, Load
from partita.plugins.discovery import Plugin
from partita.ports import Forecaster

HOOK = "register_forecasters"
FORECAST = "forecast"
"""What callers take for the name of a hook: it asks one of the models that a plugin brings."""


class Ask(Protocol):
    """How a plugin is asked; see `host.Caller`."""

    def __call__(self, plugin: Plugin, hook: str, arguments: Mapping[str, object]) -> object:
        """Return its answer."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ForeignForecaster:
    """One model of a plugin, asked through the plugin's caller."""

    name: str
    plugin: Plugin
    ask: Ask
    fault: type[Exception]

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        """Ask the model; ForecastError if it has too little history, PluginError if it gave nothing usable."""
        arguments = {"name": self.name, "history": history, "steps": steps, "levels": tuple(levels)}
        try:
            answer: Any = self.ask(self.plugin, FORECAST, arguments)
        except self.fault as problem:
            raise PluginError(str(problem), plugin=self.plugin.name, hook=HOOK) from problem
        match answer:
            case {"short": str(text)}:
                raise ForecastError(text)
            case {"rps": rps, "model": str(model), "history_s": history_s, "version": str(version)}:
                values = np.array(rps, dtype=np.float64)
                made = (history.services, history.end_s, history.step_s, tuple(levels), values)
                return Forecast(*made, model, float(history_s), version)
        raise PluginError("gave a forecast that cannot be read", plugin=self.plugin.name, hook=HOOK)


def answering(plugin: Plugin) -> Callable[..., dict[str, Any]]:
    """Return the function that stands for `FORECAST` of a plugin; its models are made once."""
    models: dict[str, Forecaster] = {}

    def answer(name: str, history: Load, steps: int, levels: Sequence[float]) -> dict[str, Any]:
        if not models:
            brought: Any = plugin.hooks[HOOK].function()
            models.update({model.name: model for model in brought or ()})
        try:
            made = models[name].forecast(history, steps=steps, levels=levels)
        except ForecastError as problem:
            return {"short": str(problem)}
        asked = (history.services, history.end_s, history.step_s, tuple(levels))
        if (made.services, made.made_at_s, made.step_s, tuple(made.levels)) != asked:
            raise ValueError("it forecast something else than it was asked for")
        return {
            "rps": np.asarray(made.rps, np.float64).tolist(),
            "model": str(made.model),
            "history_s": float(made.history_s),
            "version": str(made.version),
        }

    return answer
