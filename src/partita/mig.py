"""MIG: GPU models, their profiles and allowed placements; geometries and their rules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Placed:
    """A profile at a start position of the GPU's memory-slice grid."""

    start: int
    profile: str


@dataclass(frozen=True, slots=True)
class Geometry:
    """The placed profiles of one GPU, in order of their start."""

    gpu: str
    placements: tuple[Placed, ...]

    def memory_gib(self, profile: str) -> float:
        """Return the memory of an instance of this profile on this GPU model."""
        raise KeyError(profile)


def validate(gpu: str, geometry: Geometry) -> str | None:
    """Say what is wrong with a geometry on a GPU model, or None."""
    return None
