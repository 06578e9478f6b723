"""Forecasting models by name: which there are, who brings them, and what each is in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from partita.controller.wording import span
from partita.errors import ConfigError
from partita.forecasting import FAR, FORECASTERS, GLOBAL, NEAR, STATISTICAL
from partita.forecasting.statsforecast_models import must_be_installed
from partita.forecasting.yardstick import YARDSTICKS
from partita.plugins.host import PluginHost
from partita.ports import Forecaster


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A forecasting model that can be named, who brings it, and what it does in a line."""

    model: Forecaster
    origin: str
    about: str


def known_models(host: PluginHost | None = None) -> dict[str, KnownModel]:
    """Return the models by name: the built-in ones, the naive ones, then those of plugins with names of their own."""
    found = {m.name: KnownModel(m, "built in", about(m)) for m in (*FORECASTERS, GLOBAL, *STATISTICAL)}
    for naive in YARDSTICKS:
        lag = f"the value of {span(naive.lag_s)} before" if naive.lag_s else "the last value"
        found.setdefault(naive.name, KnownModel(naive, "naive", f"{lag}, with the quantiles of its own errors"))
    brought, _ = (host or PluginHost.load()).brought("register_forecasters")
    for name, thing in brought.items():
        model = cast(Forecaster, thing)
        found.setdefault(name, KnownModel(model, "plugin", about(model)))
    return found


def about(model: Forecaster) -> str:
    """Return what a model says it is, or the first line of its docstring; of a blend of one, that one's."""
    members: Sequence[Forecaster] = getattr(model, "members", ())
    if len(members) == 1:
        return f"{about(members[0])}; calibrated on its own past errors"
    if own := getattr(model, "about", ""):
        return str(own)
    text = (type(model).__doc__ or "").strip()
    return text.partition("\n")[0].rstrip(".") if not text.startswith(f"{type(model).__name__}(") else ""


def choose_models(names: Sequence[str], known: Mapping[str, KnownModel]) -> list[Forecaster]:
    """Return the models with these names; ConfigError for others.

    Without any, those that the loop forecasts with, those of plugins, and the last value; ``all`` stands for all.
    """
    if not names:
        usual = (NEAR.name, FAR.name, "last-value")
        return [k.model for name, k in known.items() if name in usual or k.origin == "plugin"]
    if list(names) == ["all"]:
        return [k.model for k in known.values()]
    return [named(name, known, key="--models").model for name in dict.fromkeys(names)]


def named(name: str, known: Mapping[str, KnownModel], *, key: str, file: str | None = None) -> KnownModel:
    """Return the model of a name; ConfigError, with file and key, if there is none, or only in an extra."""
    if name not in known:
        must_be_installed(name, key=key, file=file)
        text = f"no model is called {name!r}; there are: {', '.join(known)}"
        raise ConfigError(text, file=file, key=key, value=name)
    return known[name]
