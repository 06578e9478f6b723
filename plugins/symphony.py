"""Deferred batching on as few GPUs as carry the load, after the abstracts and the public scheduler of Symphony.

Source: arXiv 2308.07470 and github.com/abcdabcd987/nexuslb. The published autoscaling rule is not public; this one is
ours. It sizes the cluster by the staggered rule for an upper quantile of the near forecast, or for what is surely there
already if that is more, keeps a headroom that it learns from what is missed, and lets rehearsal say whether fewer GPUs
would do. Deferred batching with the lowest-numbered free GPU first fills GPUs from number 0 up, so the last ones are
idle when they are not needed.

Options: ``quantile`` (0.8) of the near forecast; ``utilisation`` (1.0) that the staggered need may fill; ``reserve``
(0), GPUs on top; ``stabilisation_s`` (60) for which fewer GPUs must have been enough before any is given back;
``tolerance`` (0.1), the share of the GPUs held by which the need may differ without a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf
from typing import Any

import numpy as np

from partita.hookspecs import hookimpl
from partita.model.cluster import Gpu
from partita.model.load import Forecast, Observation
from partita.model.plan import Batching, Batchings, Capacity, OptionValue, Plan, Proposal
from partita.model.service import Service
from partita.model.staggered import Overheads
from partita.plugins.options import ABOVE_ZERO, BELOW_ONE, complaint, read_numbers
from partita.plugins.sizing import gpus_busy, slicing, whole_gpus

LEAST_SAMPLE = 600
"""Answered requests below which a measured attainment says nothing yet."""
LEAST_HEADROOM, MOST_HEADROOM = 0.75, 3.0
RISE, FALL, LARGEST_MISS = 2.0, 0.5, 0.1
"""How fast the headroom follows a share missed too much, or too little; a larger miss counts as the largest."""
CAUTION_S = 20.0
"""After this much history nearly twice the need is held, after ten times as much just the need."""
REFUSED = 1.01
"""Factor on the headroom for a turn in which rehearsal refused the number asked for."""


@dataclass(frozen=True, slots=True)
class Past:
    """The headroom learned so far, and what was answered since it last moved."""

    headroom: float = 1.0
    offered: int = 0
    missed: int = 0
    allowed: float = 0.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator may set."""

    quantile: float = 0.8
    utilisation: float = 1.0
    reserve: float = 0.0
    stabilisation_s: float = 60.0
    tolerance: float = 0.1

    @classmethod
    def read(cls, options: Mapping[str, OptionValue]) -> Settings:
        """Read the options; ConfigError for one that is unknown or out of range."""
        return read_numbers(cls, options, {"quantile": (ABOVE_ZERO, BELOW_ONE), "utilisation": (ABOVE_ZERO, inf)})


@hookimpl
def check_options(options: Mapping[str, OptionValue]) -> str | None:
    """Say what is wrong with the options."""
    return complaint(lambda: Settings.read(options))


@hookimpl
def propose_capacity(
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    observation: Observation,
    near: Forecast,
    standing: Plan,
    overheads: Overheads,
    options: Mapping[str, OptionValue],
    memory: Any,
) -> Proposal:
    """Hold what an upper quantile of the near forecast needs; give back only what was not needed for a while."""
    settings = Settings.read(options)
    remembered = memory or {"wanted": [], "asked": 0, "past": asdict(Past())}
    held = max(1, len(standing.gpus))
    past = _learned(Past(**remembered["past"]), 0 < remembered["asked"] < held, services, observation)
    headroom = past.headroom
    rates = np.maximum(near.lasting(settings.quantile), observation.load.surely_rps())
    cut = slicing(standing)
    busy = gpus_busy(services, rates.tolist(), cut, overheads)
    least = whole_gpus(len(standing.sub_clusters) / cut.instances_per_gpu)
    caution = max(1.0, 0.9 + CAUTION_S / max(near.history_s, CAUTION_S))
    exact = busy / settings.utilisation * headroom * caution + settings.reserve
    near_enough = abs(exact - held) <= settings.tolerance * held
    needed = max(least, held if near_enough else whole_gpus(exact))
    since = observation.now_s - settings.stabilisation_s
    wanted = [[at, gpus] for at, gpus in remembered["wanted"] if at > since] + [[observation.now_s, needed]]
    floor = max(int(gpus) for _, gpus in wanted)
    gpus = needed if needed >= held else min(held, floor)
    level = f"the {settings.quantile * 100:.0f} % quantile"
    seen = f"{float(rates.sum()):,.1f} requests/s at {level} keep {busy:.2f} GPUs busy"
    why = f"{seen}; with headroom {headroom:.2f} that is {needed}"
    if needed == least > 1:
        why += ", the fewest that hold every group of services"
    if gpus > needed:
        why += f", and {gpus} were needed in the last {settings.stabilisation_s:.0f} s"
    gpus = min(gpus, len(inventory))
    steps = (n for n in _ladder(gpus) if (n < held if gpus < held else gpus > held) and n <= len(inventory))
    kept = {"wanted": wanted, "asked": gpus, "past": asdict(past)}
    return Proposal(Capacity(gpus, tuple(steps)), why, kept)


@hookimpl
def propose_batching(services: Sequence[Service], standing: Plan) -> Proposal | None:
    """Batch by deferral on the lowest-numbered free GPU, whatever the scenario begins with."""
    in_force = {name: b for g in standing.sub_clusters for name, b in zip(g.services, g.batching, strict=True)}
    if all(b.discipline == "deferred" for b in in_force.values()):
        return None
    wanted = tuple(
        (s.name, Batching("deferred", max_batch=in_force[s.name].max_batch, options=(("gpu_choice", "min-id"),)))
        for s in services
        if s.name in in_force
    )
    return Proposal(
        Batchings(wanted), "deferred batches are larger, and leave the last GPUs idle when they can be spared"
    )


def _ladder(gpus: int) -> tuple[int, ...]:
    """Return larger numbers for rehearsal to try, should this one not do."""
    return tuple(sorted({gpus + 1, gpus + 2, ceil(gpus * 1.4), ceil(gpus * 2)}))


def _learned(past: Past, refused: bool, services: Sequence[Service], observation: Observation) -> Past:
    """Return what is remembered after the last turn: the headroom aims at missing half of what may be missed.

    It moves once enough requests have been answered: up fast on misses, slowly down without. What rehearsal refuses
    need not be asked for again at every turn: a refusal raises it a little, and as it falls it is tried again.
    """
    headroom = past.headroom * REFUSED if refused else past.headroom
    seen = [(s.attainment, observation.outcomes[s.name]) for s in services if s.name in observation.outcomes]
    offered = past.offered + sum(o.offered for _, o in seen)
    missed = past.missed + sum(o.offered - o.good for _, o in seen)
    allowed = past.allowed + sum((1.0 - attainment) * o.offered for attainment, o in seen)
    if offered < LEAST_SAMPLE:
        return Past(min(headroom, MOST_HEADROOM), offered, missed, allowed)
    surplus = (missed - allowed / 2) / offered
    headroom *= 1.0 + (RISE * min(surplus, LARGEST_MISS) if surplus > 0 else FALL * surplus)
    return Past(min(max(headroom, LEAST_HEADROOM), MOST_HEADROOM))
