"""The sizing that every built-in policy shares, so that they differ only in the rates they size for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from partita.model.plan import Plan
from partita.model.service import WHOLE_GPU, Service
from partita.model.staggered import NO_OVERHEADS, Overheads, gpus_needed

UTILISATION = 0.8
"""Share of a GPU's time that a plan may fill; the rest is for bursts shorter than the rates are averaged over."""


@dataclass(frozen=True, slots=True)
class Slicing:
    """What a GPU of the standing plan is cut into: profile and GPU% of its instances, and how many one GPU gives."""

    profile: str = WHOLE_GPU
    instances_per_gpu: float = 1.0
    gpu_percent: float = 100.0


def slicing(standing: Plan) -> Slicing:
    """Return the most frequent kind of instance of a plan and how many instances of all kinds it has a GPU.

    A plan without instances counts as whole GPUs. Where profiles or MPS shares are mixed, all instances count as the
    most frequent kind, which is an approximation.
    """
    instances = [i for group in standing.sub_clusters for i in group.instances]
    if not instances:
        return Slicing()
    counted = Counter((i.profile, i.gpu_percent) for i in instances)
    profile, percent = min(counted, key=lambda kind: (-counted[kind], kind))
    return Slicing(profile, len(instances) / len({i.gpu for i in instances}), percent)


def gpus_busy(
    services: Sequence[Service],
    rates_rps: Sequence[float],
    cut: Slicing = Slicing(),
    overheads: Overheads = NO_OVERHEADS,
) -> float:
    """Return how many GPUs these rates keep busy under the staggered rule.

    Below one GPU a service is served in smaller batches, since they must fill within the SLO; the staggered need has
    this in it.
    """
    needed = gpus_needed(services, rates_rps, profile=cut.profile, gpu_percent=cut.gpu_percent, overheads=overheads)
    return needed / cut.instances_per_gpu


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
