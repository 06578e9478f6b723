"""Load series in, quantile forecasts out: pure, and the same for the same history."""

from partita.forecasting.blend import LATE, SEASONAL, Blend
from partita.forecasting.global_model import GlobalModel
from partita.forecasting.paths import level_errors, past_errors, sample_paths
from partita.forecasting.per_service import PerService
from partita.forecasting.quantiles import LEVELS
from partita.forecasting.score import Score, score
from partita.forecasting.seasonal import SeasonalNaive
from partita.forecasting.smoothing import Smoothing
from partita.forecasting.statistical import Ets, Mstl, Sarimax
from partita.forecasting.statsforecast_models import ALL, installed
from partita.ports import Forecaster

BLEND_NEAR = Blend(
    "blend-near",
    members=LATE,
    horizons=4,
    origins=120,
    window=480,
    renewed=30,
    together=125,
    about="models that know no cycle, weighted and calibrated on their last 480 steps",
)
"""A blend of models that know no cycle, over the last 480 steps."""

BLEND = Blend(about="all models, weighted by service and horizon, and calibrated on their own past errors")
"""A blend of all models."""

NEAR: Forecaster = BLEND_NEAR
"""What forecasts the next seconds to minutes unless a setting names another."""

FAR: Forecaster = BLEND
"""What forecasts the next epochs unless a setting names another."""

GLOBAL = GlobalModel()
"""A model that must be trained first; training needs torch."""

FORECASTERS: tuple[Forecaster, ...] = (
    BLEND_NEAR,
    BLEND,
    Smoothing(),
    SeasonalNaive(),
    *(Blend(model.name, members=(model,)) for model in (*LATE, *SEASONAL)),
)
"""The built-in models: the blends, two plain ones, and each member of a blend by itself, calibrated like it."""

STATISTICAL: tuple[Forecaster, ...] = (Ets(), Sarimax(), Mstl(), *(ALL if installed() else ()))
"""Models that fit each service by itself, too slowly for many; those of the extra [statsforecast] where it is there."""

__all__ = [
    "BLEND",
    "BLEND_NEAR",
    "FAR",
    "FORECASTERS",
    "GLOBAL",
    "LEVELS",
    "NEAR",
    "STATISTICAL",
    "Blend",
    "GlobalModel",
    "PerService",
    "Score",
    "SeasonalNaive",
    "Smoothing",
    "level_errors",
    "past_errors",
    "sample_paths",
    "score",
]
