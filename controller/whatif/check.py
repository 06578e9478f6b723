"""What is looked at before many runs are started, so that a slip of the pen costs no time."""

from __future__ import annotations

from collections.abc import Iterable

from partita.controller.assembly import known_disciplines
from partita.controller.config import Scenario
from partita.errors import ConfigError
from partita.plugins.host import PluginHost


def check_runs(runs: Iterable[tuple[Scenario, str | None]]) -> None:
    """Raise ConfigError for a discipline or policy that nobody knows."""
    host = PluginHost.load()
    disciplines = known_disciplines(host)
    policies = set[str]()
    for scenario, policy in runs:
        if (name := scenario.discipline.name) not in disciplines:
            known = ", ".join(disciplines)
            raise ConfigError(f"no discipline is named {name!r}; there are: {known}", key="discipline.name", value=name)
        if policy is not None:
            policies.add(policy)
    host.require(sorted(policies))
