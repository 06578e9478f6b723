"""The staggered and the fluid bound, against the closed form for a line of latency.

For L(b) = alpha b + beta on n GPUs that take turns, a request waits at most one turn, L(b)/n, and runs L(b). So the
batch is b* = floor((SLO n/(n + 1) - beta) / alpha) and the rate is T = n b* / L(b*). The first row by hand: n = 1,
SLO 100: b* = floor((50 - 5.204)/1.082) = 41, L = 1.082 x 41 + 5.204 = 49.566 ms, T = 41/49.566 ms = 827.2 a second.
M equal models on N GPUs: n = N/M, times M.
"""

from __future__ import annotations

from dataclasses import replace
from math import floor, inf

import pytest

from partita.model.service import LatencyCurve, Service
from partita.model.staggered import Need, Overheads, fluid_rps, gpus_needed, need, staggered_rps

TABLE = [
    # alpha, beta, SLO (ms), models, GPUs, T_stag (requests a second)
    (1.082, 5.204, 100, 1, 1, 827),
    (1.082, 5.204, 100, 1, 2, 1702),
    (1.082, 5.204, 100, 1, 8, 6959),
    (1.082, 5.204, 100, 1, 32, 27973),
    (1.082, 5.204, 25, 1, 8, 5599),
    (0.3, 5.0, 15, 1, 8, 16489),
    (0.3, 5.0, 15, 1, 32, 69371),
    (1.082, 5.204, 100, 10, 64, 55585),
    (1.082, 5.204, 25, 10, 64, 44789),
    (1.082, 5.204, 25, 10, 32, 21113),
    # fewer GPUs than models: n = 0.8
    (1.082, 5.204, 100, 10, 8, 6522),
    (1.082, 5.204, 50, 10, 8, 5599),
    (1.082, 5.204, 25, 10, 8, 3769),
]


def services(alpha: float, beta: float, slo_ms: float, models: int) -> list[Service]:
    curve = LatencyCurve.linear(alpha, beta)
    return [Service(f"m{i}", slo_ms / 1e3, 0.99, 1.0, (curve,)) for i in range(models)]


@pytest.mark.parametrize(("alpha", "beta", "slo", "models", "gpus", "rps"), TABLE)
def test_staggered_bound(alpha: float, beta: float, slo: float, models: int, gpus: int, rps: int) -> None:
    n = gpus / models
    batch = floor((slo * n / (n + 1) - beta) / alpha)
    closed = models * n * batch / (alpha * batch + beta) * 1e3
    assert round(closed) == rps
    found = staggered_rps(services(alpha, beta, slo, models), [1 / models] * models, gpus)
    assert found == pytest.approx(closed, rel=1e-6)


@pytest.mark.parametrize(
    ("alpha", "beta", "slo", "gpus", "rps"),
    [
        (1.082, 5.204, 100, 8, 6617),
        (1.082, 5.204, 25, 8, 4104),
        (0.3, 5.0, 15, 8, 8649),
        (0.3, 5.0, 15, 32, 34595),
    ],
)
def test_half_the_slo_is_one_gpu_staggered_with_itself(
    alpha: float, beta: float, slo: float, gpus: int, rps: int
) -> None:
    # uncoordinated GPUs: b' = floor((SLO/2 - beta)/alpha), each GPU b'/L(b'): the bound of n = 1, n times
    assert round(gpus * staggered_rps(services(alpha, beta, slo, 1), [1.0], 1)) == rps


def test_need_at_a_rate_by_hand() -> None:
    [resnet] = services(1.082, 5.204, 100, 1)
    # 1000/s: 46/1000 + L(46) = 46 + 54.976 > 100; 45 + 53.894 = 98.894 fits, and keeps 53.894 x 1000/45 ms busy
    assert need(resnet, 1000.0) == Need(45, pytest.approx(1.197644, rel=1e-6))
    # 1 ms for each request, 5 ms for the batch and the answer: 43 x 3.082 + 5.204 = 137.7 > 95; 29 x 3.082 + 5.204
    # = 94.582 <= 95 < 30 x 3.082 + 5.204 = 97.664
    overheads = Overheads(control_s=0.002, data_s=0.001, response_s=0.003)
    assert need(resnet, 1000.0, overheads=overheads).batch == 29
    assert need(resnet, 0.0) == Need(1, 0.0)
    assert need(resnet, 1000.0, profile="1g.10gb") == Need(1, inf)


def test_an_slo_below_a_single_request_still_runs_them_one_by_one() -> None:
    [tight] = services(1.082, 5.204, 5, 1)
    assert need(tight, 100.0) == Need(1, pytest.approx(0.6286))  # 100 x 6.286 ms
    assert fluid_rps([tight], [1.0], 8) == 0.0
    assert staggered_rps([tight], [1.0], 8) == 0.0


def test_needs_of_services_add_up() -> None:
    pair = services(1.082, 5.204, 100, 2)
    apart = [need(s, rate).gpus for s, rate in zip(pair, (300.0, 900.0), strict=True)]
    assert gpus_needed(pair, [300.0, 900.0]) == pytest.approx(sum(apart))


def test_fluid_bound_by_hand() -> None:
    # SLO 25: b = floor((25 - 5.204)/1.082) = 18, L = 24.68 ms; 8 GPUs x 18/24.68 ms
    [resnet] = services(1.082, 5.204, 25, 1)
    assert fluid_rps([resnet], [1.0], 8) == pytest.approx(8 * 18 / 24.68e-3)
    slow = replace(resnet, curves=(LatencyCurve.linear(2.164, 10.408),), slo_s=0.05)
    # half the load takes 24.68/18 ms a request, the other half twice that
    assert fluid_rps([resnet, slow], [1.0, 1.0], 8) == pytest.approx(8 / (1.5 * 24.68e-3 / 18))


def test_shares_need_not_sum_to_one() -> None:
    pair = services(1.082, 5.204, 25, 2)
    assert staggered_rps(pair, [2.0, 2.0], 8) == pytest.approx(staggered_rps(pair, [0.5, 0.5], 8))


def test_staggered_never_exceeds_fluid() -> None:
    for slo in (12, 25, 100):
        for gpus in (1, 3, 8, 64):
            group = services(1.082, 5.204, slo, 3)
            assert 0 <= staggered_rps(group, [0.6, 0.3, 0.1], gpus) <= fluid_rps(group, [0.6, 0.3, 0.1], gpus)
