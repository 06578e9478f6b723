"""Load series in, quantile forecasts out: pure, and the same for the same history."""

from partita.forecasting.quantiles import LEVELS
from partita.forecasting.score import Score, score
from partita.forecasting.seasonal import SeasonalNaive
from partita.forecasting.smoothing import Smoothing
from partita.ports import Forecaster

NEAR: Forecaster = Smoothing()
"""What forecasts the next seconds to a minute unless a setting names another."""

FAR: Forecaster = SeasonalNaive()
"""What forecasts the next epochs unless a setting names another."""

FORECASTERS: tuple[Forecaster, ...] = (NEAR, FAR)
"""The built-in models."""

__all__ = ["FAR", "FORECASTERS", "LEVELS", "NEAR", "Score", "SeasonalNaive", "Smoothing", "score"]
