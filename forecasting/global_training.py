"""Training the global model's network, with torch: pinball loss on random origins over all series."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.forecasting.global_inputs import CANDIDATES, View, day_steps, parts
from partita.forecasting.global_network import (
    LAST,
    LAYERS,
    MEDIAN,
    NARROWEST,
    Network,
    Weights,
    outputs_of,
)
from partita.forecasting.past import Steps
from partita.forecasting.quantiles import LEVELS
from partita.model.load import Load

if TYPE_CHECKING:
    import torch

LARGEST = 3.0
"""Largest z whose loss counts in full: twenty times the level. Beyond it one burst would outweigh a week."""

LITTLE = 0.05
"""Of a series' mean load, what is added to its changes: a constant one must not weigh without bounds."""

MOST_WEIGHT = 10.0
"""Most that a row may weigh."""

ROWS_TOGETHER = 2_000
"""Rows that are drawn at the same origins, over neighbouring services: looking at many at once is quicker."""

Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Training:
    """How the network is trained.

    `targets` bounds the rows by how often each step may be drawn: else a few series would be learned by heart within an
    epoch. `threads` is how many torch may use; with one, the same history gives the same bits.
    """

    hidden: int = 32
    members: int = 6
    rows: int = 240_000
    targets: int = 4
    epochs: int = 20
    patience: int = 5
    batch: int = 1024
    rate: float = 3e-3
    decay: float = 0.1
    seed: int = 1
    threads: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What is learned from, a row an origin, series and step ahead: `came` is z, `weight` what a loss counts."""

    rows: NDArray[np.float32]
    candidates: NDArray[np.float32]
    unit: NDArray[np.float32]
    skip: NDArray[np.float32]
    came: NDArray[np.float32]
    weight: NDArray[np.float32]

    @classmethod
    def of(cls, several: Sequence[Rows]) -> Rows:
        """Put rows together."""
        return cls(*(np.concatenate([getattr(rows, name) for rows in several]) for name in cls.__slots__))


def drawn_rows(history: Load, targets: range, first: int, reach: int, number: int, rng: np.random.Generator) -> Rows:
    """Draw about `number` rows of steps among `targets`, from origins at most `reach` before, none before `first`.

    Half of the steps ahead are drawn evenly, half by even ratios: near ones are asked for more often, far ones are
    more.
    """
    found = []
    services = len(history.services)
    together = -(-services // max(1, min(services, number // ROWS_TOGETHER)))
    for _, part in parts(history, together * history.counts.shape[1]):
        view = View.of(part)
        origins, ahead = _drawn(targets, first, reach, max(1, round(number / services)), rng)
        found.append(_rows(view, origins, ahead, reach))
    return Rows.of(found)


def _drawn(targets: range, first: int, reach: int, number: int, rng: np.random.Generator) -> tuple[Steps, Steps]:
    target = rng.integers(max(targets.start, first + 1), targets.stop, number)
    most = np.minimum(reach, target - first)
    even, ratios = rng.integers(1, most + 1), np.exp(rng.uniform(0.0, np.log(most + 0.5))).astype(np.int64)
    ahead = np.clip(np.where(rng.random(number) < 0.5, even, ratios), 1, most)
    return target - ahead, ahead


def _rows(view: View, origins: Steps, ahead: Steps, reach: int) -> Rows:
    seen = view.inputs(origins, ahead, reach)
    came = view.past.counts[:, origins + ahead]
    known = np.isfinite(came)
    weight = np.minimum(seen.level * _worth(view)[:, None], MOST_WEIGHT)
    z = seen.scaled(np.where(known, came, 0.0))
    return Rows(
        seen.rows[known],
        seen.candidates[known],
        seen.unit[known],
        seen.skip[known],
        z[known].astype(np.float32),
        weight[known].astype(np.float32),
    )


def _worth(view: View) -> NDArray[np.float64]:
    """Return by series what a count of loss weighs: one over the mean change from day to day and a little of the mean.

    That is how forecasts are scored, against the value of a day before: steady and bursty series say equally much, and
    a silent hour of a busy series says little. Where there are no two days, it is the change from step to step.
    """
    filled, day = view.past.filled, day_steps(view.past.step_s)
    lag = day if 2 * day <= filled.shape[1] else 1
    change = np.abs(filled[:, lag:] - filled[:, :-lag]).mean(axis=1)
    worth: NDArray[np.float64] = 1.0 / (change + LITTLE * filled.mean(axis=1) + LITTLE)
    return worth


def trained(
    rows: Rows, held: Rows, training: Training, told: Told, begun: Weights | None = None
) -> tuple[Network, float]:
    """Train a network, from `begun` on where given; return the one that was best on the rows kept aside, and its loss.

    ForecastError says what to install where torch is not.
    """
    torch = _torch()
    with _threads(torch, training.threads):
        return _descend(torch, rows, held, training, told, begun)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ForecastError(
            "training the global model needs torch, which is not installed: pip install 'partita[torch]'"
        ) from None
    return torch


@contextmanager
def _threads(torch: Any, number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _descend(
    torch: Any, rows: Rows, held: Rows, training: Training, told: Told, begun: Weights | None
) -> tuple[Network, float]:
    generator = torch.Generator().manual_seed(training.seed)
    weights = _begun(torch, rows.rows.shape[1], training, generator, begun)
    learned, kept = _tensors(torch, rows), _tensors(torch, held)
    optimiser = torch.optim.AdamW(list(weights.values()), lr=training.rate, weight_decay=training.decay)
    batches = -(-len(rows.came) // training.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.epochs * batches)
    best, since = _copied(weights), 0
    least = _held_loss(torch, weights, kept) if begun is not None else np.inf
    for epoch in range(training.epochs):
        order = torch.randperm(len(rows.came), generator=generator)
        for some in order.split(training.batch):
            optimiser.zero_grad()
            loss = _loss(torch, weights, *(each[some] for each in learned))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
            optimiser.step()
            schedule.step()
        loss, since = _held_loss(torch, weights, kept), since + 1
        if loss < least:
            best, least, since = _copied(weights), loss, 0
        told(epoch + 1, training.epochs)
        if since >= training.patience:
            break
    return Network(best), float(least)


def _begun(
    torch: Any, inputs: int, training: Training, generator: Any, begun: Weights | None
) -> dict[str, torch.Tensor]:
    """Return the first weights: those given, or drawn (He et al. 2015) so that it begins at its skips."""
    sizes = [inputs, *[training.hidden] * (LAYERS - 1), outputs_of(len(CANDIDATES))]
    weights = {}
    for layer, (into, out) in enumerate(pairwise(sizes)):
        scale = (2.0 / into) ** 0.5 if layer < LAYERS - 1 else 0.01
        weights[f"weight{layer}"] = scale * torch.randn(training.members, into, out, generator=generator)
        weights[f"bias{layer}"] = torch.zeros(training.members, 1, out)
    if begun is not None:
        weights = {name: torch.from_numpy(np.array(begun[name])) for name in weights}
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def _tensors(torch: Any, rows: Rows) -> list[torch.Tensor]:
    return [torch.from_numpy(getattr(rows, name)) for name in Rows.__slots__]


def _copied(weights: dict[str, torch.Tensor]) -> Weights:
    return {name: weight.detach().numpy().copy() for name, weight in weights.items()}


def _held_loss(torch: Any, weights: dict[str, torch.Tensor], held: list[torch.Tensor]) -> float:
    """Return the mean loss of the members' mean, which is what will be used."""
    with torch.no_grad():
        return float(_loss(torch, weights, *held, pooled=True))


def _loss(
    torch: Any, weights: dict[str, torch.Tensor], rows: Any, candidates: Any, unit: Any, skip: Any,
    came: Any, weight: Any, *, pooled: bool = False,
) -> Any:  # fmt: skip
    """Return the mean pinball loss over LEVELS, in units of the level."""
    made = _quantiles(torch, weights, rows, candidates, unit, skip)
    made = made.mean(dim=0, keepdim=True) if pooled else made
    level = torch.tensor(LEVELS)
    above = _size(torch, came[None, :, None]) - _size(torch, made)
    return (torch.maximum(level * above, (level - 1) * above).mean(dim=2) * weight).mean()


def _size(torch: Any, z: Any) -> Any:
    """Return the count that z stands for, in units of the level; beyond LARGEST it grows no faster than z."""
    return torch.where(z < LARGEST, torch.exp(z.clamp(max=LARGEST)), np.exp(LARGEST) * (1 + z - LARGEST))


def _quantiles(torch: Any, weights: dict[str, torch.Tensor], rows: Any, candidates: Any, unit: Any, skip: Any) -> Any:
    """Return z at each of LEVELS, ``(members, rows, levels)``; `global_network` has the same in numpy."""
    members, number = len(weights["bias0"]), candidates.shape[1]
    passed = rows.expand(members, *rows.shape)
    for layer in range(LAYERS):
        passed = torch.baddbmm(weights[f"bias{layer}"], passed, weights[f"weight{layer}"])
        passed = passed.relu() if layer < LAYERS - 1 else passed
    sooner = torch.zeros_like(candidates)
    sooner[:, LAST] = skip
    mixed = ((passed[..., :number] + sooner).softmax(dim=2) * candidates).sum(dim=2, keepdim=True)
    middle = mixed + unit[:, :1] * passed[..., number : number + 1]
    steps = unit[:, 1:] * torch.nn.functional.softplus(passed[..., number + 1 :]) + NARROWEST
    below = steps[..., :MEDIAN].cumsum(dim=2).flip(2)
    return torch.cat([middle - below, middle, middle + steps[..., MEDIAN:].cumsum(dim=2)], dim=2)


def shorter(training: Training) -> Training:
    """Return the training of a network that goes on learning: few epochs, at a third of the rate."""
    return replace(training, rows=training.rows // 4, epochs=3, rate=training.rate / 3)
