"""docs/scenario.md lists every key of a scenario with the default it really has, and nothing else."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from partita.controller import entries, entry, forecast_entries, load_entries, service_entries
from partita.controller.config import Scenario
from partita.controller.scenario_file import parse_scenario

PAGE = (Path(__file__).parents[2] / "docs/scenario.md").read_text("utf-8")
SECTIONS: dict[str, list[type[BaseModel]]] = {
    "Scenario": [Scenario],
    "cluster": [entries.ClusterEntry],
    "services": [service_entries.ServiceEntry],
    "latency": [service_entries.Line, service_entries.Points, service_entries.Table],
    "load": [load_entries.LoadEntry],
    "load.arrivals": [load_entries.ArrivalsEntry],
    "load.trace": [load_entries.TraceEntry],
    "load.trace.with": [load_entries.MemberEntry],
    "load.log": [load_entries.LogEntry],
    "overheads": [entries.OverheadsEntry],
    "variation": [entries.VariationEntry],
    "failures": [entries.FailureEntry, entries.FailureLawEntry],
    "discipline": [entries.DisciplineEntry],
    "policies": [entries.PolicyEntry],
    "control": [entries.ControlEntry],
    "forecast": [forecast_entries.ForecastEntry],
    "forecast.services": [forecast_entries.ModelsEntry],
    "forecast.calendar": [forecast_entries.CalendarEntry],
}
BASES = (entry.Entry, load_entries.Window, load_entries.FileEntry)
"""What entries are made from, and no entry itself."""


def _written(section: str) -> dict[str, str]:
    body = re.split(r"^#{2,3} ", PAGE, flags=re.MULTILINE)
    part = next(p for p in body if p.split("\n", 1)[0] == section)
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, flags=re.MULTILINE))


def _real(models: list[type[BaseModel]]) -> dict[str, str]:
    shown = {}
    for model in models:
        for name, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            text = "none" if default is None else "see below" if isinstance(default, BaseModel) else str(default)
            shown[field.alias or name] = "required" if field.is_required() else text
    return shown


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_explained_with_its_default(section: str) -> None:
    assert _written(section) == _real(SECTIONS[section])


def test_every_entry_has_a_section() -> None:
    defined = {
        value
        for module in (entries, service_entries, load_entries, forecast_entries)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, entry.Entry) and value not in BASES
    }
    assert defined == {model for models in SECTIONS.values() for model in models} - {Scenario}


def test_the_example_is_a_scenario() -> None:
    example = re.search(r"```yaml\n(cluster:.*?)```", PAGE, flags=re.DOTALL)
    assert example
    scenario = parse_scenario(example[1], name="docs/scenario.md", folder=Path())
    assert list(scenario.policy_options()) == ["static", "reactive", "symphony"]
