"""Load as the loop remembers it: per-second counts, gathered into steps of a forecast's width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from partita.model.load import Load


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """The last `keep` whole steps of `step_s` seconds, and the seconds of the step that is not whole yet.

    The log counts by the second, so a step is a whole number of them.
    """

    steps: Load
    rest: Load
    step_s: float
    keep: int

    @classmethod
    def empty(cls, services: tuple[str, ...], *, start_s: float, step_s: float, keep: int) -> History:
        """Begin with nothing measured; a step is `step_s` to the nearest second, at least one."""
        nothing = np.empty((len(services), 0))
        step_s = float(max(1, round(step_s)))
        return cls(Load(services, start_s, step_s, nothing), Load(services, start_s, 1.0, nothing), step_s, keep)

    @classmethod
    def begun_with(cls, measured: Load, *, keep: int) -> History:
        """Begin with what was measured before, in steps of its own width."""
        counts = measured.counts[:, -keep:]
        start_s = measured.end_s - counts.shape[1] * measured.step_s
        rest = Load(measured.services, measured.end_s, 1.0, np.empty((len(measured.services), 0)))
        return cls(Load(measured.services, start_s, measured.step_s, counts), rest, measured.step_s, keep)

    def extended(self, load: Load) -> History:
        """Return the history with more seconds of load behind it; they begin where the last ended."""
        seconds = np.concatenate((self.rest.counts, load.counts), axis=1)
        width = int(self.step_s)
        whole = seconds.shape[1] // width
        if whole == 0:
            rest = Load(self.rest.services, self.rest.start_s, 1.0, seconds)
            return History(self.steps, rest, self.step_s, self.keep)
        summed = seconds[:, : whole * width].reshape(len(self.rest.services), whole, width).sum(axis=2)
        counts = np.concatenate((self.steps.counts, summed), axis=1)[:, -self.keep :]
        rest_start_s = self.rest.start_s + whole * width
        steps = Load(self.rest.services, rest_start_s - counts.shape[1] * self.step_s, self.step_s, counts)
        rest = Load(self.rest.services, rest_start_s, 1.0, seconds[:, whole * width :])
        return History(steps, rest, self.step_s, self.keep)
