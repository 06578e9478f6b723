"""Which forecasting models can be named, those of plugins among them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from partita.controller.models import choose_models, known_models
from partita.errors import ConfigError
from partita.hookspecs import hookimpl
from partita.model.load import Forecast, Load
from partita.plugins.host import PluginHost
from partita.ports import Forecaster


class Guess:
    """Guesses.

    And no more is said of it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        raise AssertionError("who lists models asks none for a forecast")


class Brings:
    @hookimpl
    def register_forecasters(self) -> Sequence[Forecaster]:
        return [Guess("guess"), Guess("smoothing")]


def test_plugins_bring_models_under_names_of_their_own() -> None:
    known = known_models(PluginHost.of({"p": Brings()}))
    assert (known["guess"].origin, known["guess"].about) == ("plugin", "Guesses")
    assert known["smoothing"].origin == "built in"


def test_models_are_chosen_by_name() -> None:
    known = known_models(PluginHost.of({"p": Brings()}))
    assert [m.name for m in choose_models(["guess", "last-value", "guess"], known)] == ["guess", "last-value"]
    usual = [m.name for m in choose_models([], known)]
    assert "guess" in usual
    assert "last-value" in usual
    assert "daily-naive" not in usual  # every ratio is against it already
    assert [m.name for m in choose_models(["all"], known)] == list(known)
    with pytest.raises(ConfigError, match="no model is called 'x'"):
        choose_models(["x"], known)
