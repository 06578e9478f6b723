"""The global model: what it learns, what it keeps, and what it makes of odd series."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.forecasting.backtest import check
from partita.forecasting.global_inputs import View, parts
from partita.forecasting.global_model import GlobalModel, TrainedModel
from partita.forecasting.global_training import Training
from partita.forecasting.quantiles import LEVELS
from partita.model.load import Load

pytest.importorskip("torch")

STEP_S, DAY = 1800.0, 48
QUICK = Training(hidden=16, members=2, rows=10_000, epochs=6, batch=128)
Array = NDArray[np.float64]


def load(counts: Array, start_s: float = 0.0) -> Load:
    return Load(tuple(f"s{n}" for n in range(len(counts))), start_s, STEP_S, counts)


def cycles(series: int, days: int, seed: int = 3) -> Array:
    """Poisson counts about a daily wave, each series with a level and a phase of its own."""
    rng = np.random.default_rng(seed)
    turn = 2 * np.pi * np.arange(days * DAY) / DAY + rng.uniform(0, 6, (series, 1))
    return rng.poisson(rng.uniform(50, 2_000, (series, 1)) * (1.3 + np.sin(turn))).astype(np.float64)


@pytest.fixture(scope="module")
def counts() -> Array:
    return cycles(12, 12)


@pytest.fixture(scope="module")
def trained(counts: Array) -> TrainedModel:
    return GlobalModel(training=QUICK).fitted(load(counts[:, : 10 * DAY]))


def pinball(made: Array, came: Array, level: float) -> float:
    above = came - made
    return float(np.maximum(level * above, (level - 1) * above).mean())


def test_it_learns_a_cycle_that_the_last_value_does_not_know(trained: TrainedModel, counts: Array) -> None:
    history, came = load(counts[:, : 10 * DAY]), counts[:, 10 * DAY : 11 * DAY]
    made = trained.forecast(history, steps=DAY, levels=LEVELS)
    check(made, history.services, LEVELS, DAY)
    wrong = np.abs(made.quantile(0.5) * STEP_S - came).mean()
    assert wrong < 0.25 * np.abs(history.counts[:, -1:] - came).mean()
    # 48 steps of 12 series: the share below the 0.95 quantile scatters by about 0.01, more where errors go together
    assert 0.88 < (came <= made.quantile(0.95) * STEP_S).mean() <= 1.0


def test_of_a_random_walk_it_foretells_the_last_value() -> None:
    rng = np.random.default_rng(5)
    walk = 1_000 * np.exp(rng.normal(0, 0.05, (12, 10 * DAY)).cumsum(axis=1))
    model = GlobalModel(training=QUICK).fitted(load(walk[:, : 9 * DAY]))
    wrong, naive = [], []
    for origin in range(9 * DAY, 10 * DAY - 1, 4):
        made = model.forecast(load(walk[:, :origin]), steps=1, levels=(0.5,)).rps[:, 0, 0] * STEP_S
        wrong.append(np.abs(made / walk[:, origin] - 1).mean())
        naive.append(np.abs(walk[:, origin - 1] / walk[:, origin] - 1).mean())
    assert np.mean(wrong) < 1.15 * np.mean(naive)


def test_the_same_history_gives_the_same_state_and_no_other_chance_is_touched(
    trained: TrainedModel, counts: Array
) -> None:
    import torch

    before, threads = torch.get_rng_state(), torch.get_num_threads()
    again = GlobalModel(training=QUICK).fitted(load(counts[:, : 10 * DAY]))
    assert again.to_bytes() == trained.to_bytes()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_a_state_read_back_forecasts_the_same(trained: TrainedModel, counts: Array) -> None:
    history = load(counts[:, : 11 * DAY])
    again = TrainedModel.from_bytes(trained.to_bytes())
    first, second = (m.forecast(history, steps=30, levels=LEVELS) for m in (trained, again))
    np.testing.assert_array_equal(first.rps, second.rps)
    assert (first.version, first.model) == (second.version, second.model)
    assert first.version == trained.version != ""
    assert (again.services, again.held_s, again.until_s) == (trained.services, trained.held_s, 10 * DAY * STEP_S)


@pytest.mark.parametrize("state", [b"", b"PK", b"no archive at all"])
def test_what_is_no_state_is_refused(state: bytes) -> None:
    with pytest.raises(ForecastError, match="this is no trained model"):
        TrainedModel.from_bytes(state)


def test_a_damaged_state_is_refused(trained: TrainedModel) -> None:
    state = trained.to_bytes()
    with pytest.raises(ForecastError, match="this is no trained model"):
        TrainedModel.from_bytes(state[: len(state) // 2])


def test_further_training_learns_a_shift(trained: TrainedModel, counts: Array) -> None:
    """From day 10 on load alternates from step to step between a half and one and a half times of what it was."""
    rng = np.random.default_rng(7)
    shaken = cycles(12, 16)
    shaken[:, 10 * DAY :] *= np.where(np.arange(6 * DAY) % 2, 0.5, 1.5) * rng.uniform(0.9, 1.1, (12, 6 * DAY))
    history, came = load(shaken[:, : 15 * DAY]), shaken[:, 15 * DAY :]
    further = trained.refitted(history)
    assert further.until_s == history.end_s
    assert further.held_s > trained.held_s
    old, new = (
        np.mean(
            [pinball(m.forecast(history, steps=DAY, levels=(q,)).rps[:, 0] * STEP_S, came, q) for q in (0.25, 0.75)]
        )
        for m in (replace(trained, held_s=history.end_s), further)
    )
    assert new < 0.95 * old
    with pytest.raises(ForecastError, match="nothing has come since"):
        further.refitted(history)


def bursts(length: int) -> Array:
    row = np.zeros(length)
    row[::97] = 1e6
    return row


ODD: dict[str, Callable[[int], Array]] = {
    "constant": lambda n: np.full(n, 100.0),
    "silent": np.zeros,
    "exploding": lambda n: np.exp(np.linspace(0, 60, n)),
    "bursts": bursts,
    "shift": lambda n: np.where(np.arange(n) < n - 5, 10.0, 1e5),
    "gaps": lambda n: np.where(np.arange(n) % 7 < 5, np.nan, 20.0),
    "mostly missing": lambda n: np.where(np.arange(n) > n - 3, 5.0, np.nan),
    "infinite": lambda n: np.where(np.arange(n) == n // 2, np.inf, 30.0),
}


@pytest.mark.parametrize("days", [0.25, 1, 3, 11])
def test_odd_series_give_sound_forecasts(trained: TrainedModel, days: float) -> None:
    length = round(days * DAY)
    history = load(np.stack([row(length) for row in ODD.values()]))
    levels = (0.001, *LEVELS, 0.9999)
    check(trained.forecast(history, steps=3 * DAY, levels=levels), history.services, levels, 3 * DAY)
    silent = trained.forecast(load(np.zeros((1, length))), steps=1, levels=(0.5,))
    assert silent.rps[0, 0, 0] * STEP_S < 0.5


def test_it_is_trained_on_odd_series_too() -> None:
    history = load(np.stack([row(4 * DAY) for row in ODD.values()] + [np.full(4 * DAY, np.nan)]))
    model = GlobalModel(training=replace(QUICK, epochs=2)).fitted(history)
    assert len(model.services) == len(ODD)  # one was never measured
    kept = load(history.counts[: len(ODD)])
    check(model.forecast(kept, steps=DAY, levels=LEVELS), kept.services, LEVELS, DAY)


def test_what_it_cannot_do_it_says(trained: TrainedModel) -> None:
    with pytest.raises(
        ForecastError, match=r"needs 1 day of history to be trained on, there are 0\.50 days of 2 series"
    ):
        GlobalModel().fitted(load(np.ones((2, DAY // 2))))
    with pytest.raises(ForecastError, match="must be trained first"):
        GlobalModel().forecast(load(np.ones((1, DAY))), steps=1)
    with pytest.raises(ForecastError, match="trained on steps of 1800 s and cannot forecast steps of 600 s"):
        trained.forecast(Load(("a",), 0.0, 600.0, np.ones((1, 300))), steps=1)
    with pytest.raises(ForecastError, match="service s0 has 1 measured steps"):
        trained.forecast(load(np.ones((1, 1))), steps=1)


def test_nothing_that_comes_later_is_seen(counts: Array) -> None:
    """Whatever comes after an origin, what is seen from it is the same."""
    origins, ahead = np.array([5, 60, 300]), np.array([1, 30, 48])
    changed = counts.copy()
    changed[:, 301:] = 1e6
    first, second = (View.of(load(each)).inputs(origins, ahead, DAY) for each in (counts, changed))
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.candidates, second.candidates)
    alone = View.of(load(counts[:, :301])).inputs(origins, ahead, DAY)
    np.testing.assert_allclose(first.rows, alone.rows, rtol=1e-6)


def test_services_go_in_parts_and_give_the_same(
    trained: TrainedModel, counts: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = load(counts)
    whole = trained.forecast(history, steps=10, levels=LEVELS)
    assert next(p.services for _, p in parts(history, 5 * counts.shape[1])) == history.services[:5]
    monkeypatch.setattr("partita.forecasting.global_model.parts", lambda h: parts(h, 5 * counts.shape[1]))
    np.testing.assert_allclose(trained.forecast(history, steps=10, levels=LEVELS).rps, whole.rps, rtol=1e-5)


def test_without_torch_it_is_listed_forecasts_and_says_what_to_install(trained: TrainedModel, tmp_path: object) -> None:
    program = """
import sys
import partita.controller.backtesting
assert "torch" not in sys.modules

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("no torch here")

sys.meta_path.insert(0, NoTorch())
import numpy as np
from partita.controller.cli.main import main
from partita.forecasting import GLOBAL
from partita.forecasting.global_model import TrainedModel
from partita.errors import ForecastError
from partita.model.load import Load
history = Load(("a",), 0.0, 1800.0, np.full((1, 300), 50.0))
model = TrainedModel.from_bytes(sys.stdin.buffer.read())
print(model.forecast(history, steps=2, levels=(0.5,)).rps.shape)
try:
    GLOBAL.fitted(history)
except ForecastError as problem:
    print(problem)
main(["forecast", "models", "--data-dir", sys.argv[1]])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], input=trained.to_bytes(), capture_output=True, check=False
    )
    said = ran.stdout.decode()
    assert ran.returncode == 0, ran.stderr.decode()
    assert "(1, 1, 2)" in said
    assert "needs torch, which is not installed: pip install 'partita[torch]'" in said
    assert "\nglobal " in said
