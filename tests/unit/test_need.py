"""What a service asks of a cluster, against a look at every batch there is."""

from __future__ import annotations

import numpy as np
import pytest

from partita.model.service import WHOLE_GPU, LatencyCurve, Service
from partita.model.staggered import Overheads, need


def curves(rng: np.random.Generator) -> LatencyCurve:
    """Draw a line, or points of which some cost no more than the ones before, from any batch on."""
    if rng.random() < 0.4:
        return LatencyCurve.linear(rng.uniform(0.1, 20), rng.uniform(1, 50))
    batches = np.sort(rng.choice(np.arange(1, 300), rng.integers(1, 7), replace=False))
    seconds = np.maximum.accumulate(rng.uniform(0.001, 1.0, batches.size))
    return LatencyCurve(WHOLE_GPU, tuple(zip(batches.tolist(), seconds.tolist(), strict=True)))


@pytest.mark.parametrize("seed", range(20))
def test_the_batch_is_the_largest_that_gathers_and_runs_within_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        curve, rate = curves(rng), 10 ** rng.uniform(-2, 4)
        service = Service("a", rng.uniform(0.01, 2), 0.99, 1.0, (curve,))
        o = Overheads(1e-4, float(rng.choice([0.0, 5e-5, 1e-3])), 2e-3, 1e-4)
        budget = service.slo_s - o.control_s - o.response_s
        fits = [b for b in range(1, curve.max_batch + 1) if curve.latency_s(b) + b / rate + o.data_s * b <= budget]
        found = need(service, rate, overheads=o)
        assert found.batch == max(fits, default=1)
        assert found.gpus == rate * curve.latency_s(found.batch) / found.batch
