"""What is looked at before many runs are started, so that a slip of the pen costs no time."""

from __future__ import annotations

from collections.abc import Iterable

from partita.controller.assembly import forecasters, known_disciplines
from partita.controller.config import Setup
from partita.errors import ConfigError
from partita.plugins.host import PluginHost


def check_runs(disciplines: Iterable[str], policies: Iterable[str | None], scenarios: Iterable[Setup] = ()) -> None:
    """Raise ConfigError for a discipline, policy or forecasting model that nobody knows."""
    host = PluginHost.load()
    there = known_disciplines(host)
    for name in disciplines:
        if name not in there:
            known = ", ".join(there)
            raise ConfigError(f"no discipline is named {name!r}; there are: {known}", key="discipline.name", value=name)
    host.require(sorted({policy for policy in policies if policy is not None}))
    for scenario in scenarios:
        forecasters(scenario, (), host)
