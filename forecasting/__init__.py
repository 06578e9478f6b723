"""Load series in, quantile forecasts out: pure, and the same for the same history."""

from partita.forecasting.blend import LATE, SEASONAL, Blend
from partita.forecasting.paths import level_errors, past_errors, sample_paths
from partita.forecasting.quantiles import LEVELS
from partita.forecasting.score import Score, score
from partita.forecasting.seasonal import SeasonalNaive
from partita.forecasting.smoothing import Smoothing
from partita.ports import Forecaster

NEAR: Forecaster = Smoothing()
"""What forecasts the next seconds to minutes unless a setting names another."""

FAR: Forecaster = SeasonalNaive()
"""What forecasts the next epochs unless a setting names another."""

BLEND_NEAR = Blend("blend-near", members=LATE, horizons=4, origins=120, window=360)
"""A blend for the near forecast: nothing in it looks back a day."""

BLEND = Blend()
"""A blend for the far forecast."""

FORECASTERS: tuple[Forecaster, ...] = (
    NEAR,
    FAR,
    BLEND_NEAR,
    BLEND,
    *(Blend(model.name, members=(model,)) for model in (*LATE, *SEASONAL)),
)
"""The built-in models: the two plain ones, the blends, and each member of a blend by itself, calibrated like it."""

__all__ = [
    "BLEND",
    "BLEND_NEAR",
    "FAR",
    "FORECASTERS",
    "LEVELS",
    "NEAR",
    "Blend",
    "Score",
    "SeasonalNaive",
    "Smoothing",
    "level_errors",
    "past_errors",
    "sample_paths",
    "score",
]
