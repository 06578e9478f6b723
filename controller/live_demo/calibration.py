"""What this machine adds to the models' times, from a short load at a server as it comes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.controller.live_demo.case import MODELS, Overhead
from partita.controller.live_demo.gateway import Played
from partita.controller.live_demo.load import Step

CALIBRATION_S = 9.0
CALIBRATION = (
    Step(0.0, (4.0, 4.0)),
    Step(0.45, (4.0, 4.0)),
    Step(0.451, (60.0, 110.0)),
    Step(0.70, (60.0, 110.0)),
    Step(0.701, (0.0, 0.0)),
    Step(0.85, (0.0, 0.0)),
    Step(0.851, (0.0, 230.0)),
    Step(1.0, (0.0, 230.0)),
)
"""Single requests; more of both than the device can take; after a pause, more of one alone."""
CLOSE_S = 0.005
"""A batch that begins so soon after another has waited for it."""


def calibrate(played: Played) -> Overhead:
    """Read the overheads off a load whose rates were those of CALIBRATION."""
    service = played.load.service
    served = np.flatnonzero(played.status == 200)
    order = served[np.argsort(played.began_s[served], kind="stable")]
    first = order[np.append(True, np.diff(played.began_s[order]) > 1e-6)]
    began, ended, kind, size = played.began_s[first], played.ended_s[first], service[first], played.batch[first]
    alpha, beta = (np.array([getattr(m, name) for m in MODELS]) / 1e3 for name in ("alpha_ms", "beta_ms"))
    beyond = np.maximum(ended - began - alpha[kind] * size - beta[kind], 0.0)
    gaps, same = began[1:] - ended[:-1], kind[1:] == kind[:-1]
    waited = (gaps > 0) & (gaps < CLOSE_S)
    lead_s = _middle(_leads(played, began, ended), 0.001)
    handover_s = float(np.mean(gaps[waited & ~same])) if (waited & ~same).any() else 0.0005
    again_s = _middle(gaps[waited & same], lead_s)
    back_s = float(np.quantile(played.answered_s[served] - played.ended_s[served], 0.9))
    return Overhead(
        lead_ms=round(lead_s * 1e3, 3),
        held_ms=round((float(np.mean(np.clip(beyond, 0.0, CLOSE_S))) + handover_s) * 1e3, 3),
        turnaround_ms=round(max(0.0, again_s - lead_s) * 1e3, 3),
        back_ms=round(back_s * 1e3, 1),
    )


def _leads(played: Played, began: NDArray[np.float64], ended: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how long single requests took to a device that was free when they were sent."""
    alone = np.flatnonzero((played.status == 200) & (played.batch == 1))
    sent = played.sent_s[alone]
    before = np.searchsorted(began, sent) - 1
    free = (before < 0) | (ended[np.maximum(before, 0)] < sent)
    leads: NDArray[np.float64] = (played.began_s[alone] - sent)[free]
    return leads[leads < CLOSE_S]


def _middle(values: NDArray[np.float64], otherwise: float) -> float:
    return float(np.median(values)) if len(values) else otherwise
