"""The sizing that every built-in policy shares, so that they differ only in the rates they size for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from partita.model.plan import Plan
from partita.model.service import WHOLE_GPU, Service
from partita.model.staggered import NO_OVERHEADS, Overheads, sets_needed

UTILISATION = 0.8
"""Share of a GPU's time that a plan may fill; the rest is for bursts shorter than the rates are averaged over."""


@dataclass(frozen=True, slots=True)
class Slicing:
    """What a GPU of the standing plan is cut into, on average: kinds as (profile, GPU%, instances a GPU)."""

    kinds: tuple[tuple[str, float, float], ...] = ((WHOLE_GPU, 100.0, 1.0),)

    @property
    def instances_per_gpu(self) -> float:
        """Return how many instances of all kinds a GPU has."""
        return sum(number for _, _, number in self.kinds)


def slicing(standing: Plan) -> Slicing:
    """Return the kinds of instances of a plan, and how many of each it has a GPU; without instances, whole GPUs.

    Which sub-cluster has which of them is not told apart, which is an approximation.
    """
    instances = [i for group in standing.sub_clusters for i in group.instances]
    if not instances:
        return Slicing()
    gpus = len({i.gpu for i in instances})
    counted = Counter((i.profile, i.gpu_percent) for i in instances)
    return Slicing(tuple((*kind, number / gpus) for kind, number in sorted(counted.items())))


def gpus_busy(
    services: Sequence[Service],
    rates_rps: Sequence[float],
    cut: Slicing = Slicing(),
    overheads: Overheads = NO_OVERHEADS,
) -> float:
    """Return how many GPUs these rates keep busy under the staggered rule, each service on the kinds that can serve it.

    Below one GPU a service is served in smaller batches, since they must fill within the SLO; the staggered need has
    this in it.
    """
    kinds = {(profile, percent): number for profile, percent, number in cut.kinds}
    return sets_needed(services, rates_rps, kinds, overheads)


def gpus_for(
    services: Sequence[Service],
    rates_rps: Sequence[float],
    cut: Slicing = Slicing(),
    overheads: Overheads = NO_OVERHEADS,
    *,
    utilisation: float = UTILISATION,
) -> int:
    """Return the number of GPUs, at least 1, of which these rates keep no more than `utilisation` busy."""
    return whole_gpus(gpus_busy(services, rates_rps, cut, overheads) / utilisation)


def whole_gpus(gpus: float) -> int:
    """Round up to at least 1, forgiving the last digits of floating point."""
    return max(1, ceil(gpus - 1e-9))
