"""A forecaster of its own for some services, one for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from partita.model.load import Forecast, Load
from partita.ports import Forecaster


@dataclass(frozen=True, slots=True)
class PerService:
    """Each service by the forecaster that is named for it, all others by the default one.

    Services of the same forecaster are forecast together, as one that learns over all of them needs it. A name in
    `by_service` that the history does not know is no mistake: services come and go.
    """

    default: Forecaster
    by_service: Mapping[str, Forecaster] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The default one's name, and those of the others."""
        others = sorted({one.name for one in self.by_service.values()} - {self.default.name})
        return " + ".join((self.default.name, *others))

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        """Forecast each group of services with its own forecaster; what one of them raises is raised."""
        groups = self._groups(history)
        if not history.services or groups == [(self.default, list(range(len(history.services))))]:
            return self.default.forecast(history, steps=steps, levels=levels)
        rps = np.empty((len(history.services), len(levels), steps))
        made = []
        for forecaster, rows in groups:
            part = Load(tuple(history.services[r] for r in rows), history.start_s, history.step_s, history.counts[rows])
            made.append(forecaster.forecast(part, steps=steps, levels=levels))
            rps[rows] = made[-1].rps
        said = [f"{', '.join(one.services)} by {one.model}" for one in made]
        if groups[0][0] == self.default:
            said[0] = f"{len(made[0].services)} by {made[0].model}"
        return Forecast(
            history.services,
            history.end_s,
            history.step_s,
            tuple(levels),
            rps,
            "; ".join(said),
            max(one.history_s for one in made),
            "; ".join(one.version for one in made if one.version),
        )

    def _groups(self, history: Load) -> list[tuple[Forecaster, list[int]]]:
        """Return forecasters with their rows, those without a setting of their own first."""
        groups: list[tuple[Forecaster, list[int]]] = [(self.default, [])]
        for row, service in enumerate(history.services):
            forecaster = self.by_service.get(service, self.default)
            for known, rows in groups:
                if known == forecaster:
                    rows.append(row)
                    break
            else:
                groups.append((forecaster, [row]))
        return [(forecaster, rows) for forecaster, rows in groups if rows]
