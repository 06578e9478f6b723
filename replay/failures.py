"""Failures of GPUs and instances: given as instants, or drawn from a law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partita.model.cluster import Gpu, Instance


@dataclass(frozen=True, slots=True, order=True)
class Failure:
    """Something is gone from `at_ns` until `back_ns`: one `instance` (its id), or, where that is empty, a whole GPU."""

    at_ns: int
    back_ns: int
    gpu: str
    instance: str = ""

    def strikes(self, instance: Instance) -> bool:
        """Say whether an instance is gone with it."""
        return self.instance == instance.id if self.instance else self.gpu == instance.gpu


def draw_failures(
    inventory: Sequence[Gpu], mtbf_s: float, mttr_s: float, span_s: float, rng: np.random.Generator
) -> tuple[Failure, ...]:
    """Draw when each GPU fails within a span: it works, and is then away, for exponential times with these means."""
    drawn = []
    for gpu in inventory:
        at_s = rng.exponential(mtbf_s)
        while at_s < span_s:
            back_s = at_s + rng.exponential(mttr_s)
            drawn.append(Failure(round(at_s * 1e9), max(round(back_s * 1e9), round(at_s * 1e9) + 1), gpu.id))
            at_s = back_s + rng.exponential(mtbf_s)
    return tuple(sorted(drawn))
