"""The grid of a sweep: how keys and values are written, what they make of the scenario, and what is refused."""

from pathlib import Path

import pytest

from partita.controller.config import Scenario
from partita.controller.scenario_file import parse_scenario
from partita.controller.whatif.grid import Vary, cells_of, read_vary, vary_scenario
from partita.controller.whatif.tracemark import PIECE, mark_of
from partita.errors import ConfigError

TEXT = """\
cluster:
  - {gpu: A100-80GB, count: 2}
services:
  - {name: a, slo_ms: 25, latency: {alpha_ms: 1.0, beta_ms: 5.0}}
  - {name: b, slo_ms: 50, latency: {points: {1: 6.0, 8: 12.5}}}
load:
  arrivals: {process: poisson, rate_rps: 300, duration_s: 4}
  share: {a: 0.5, b: 0.5}
discipline: {name: timeout, timeout_ms: 3, max_batch: 8}
policies: [{name: reactive, options: {target: 0.6}}]
seed: 7
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return parse_scenario(TEXT, name="s.yaml", folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("load.arrivals.rate_rps=100,2e2,300.5", Vary("load.arrivals.rate_rps", (100, 200.0, 300.5))),
        ("discipline.name=deferred, eager", Vary("discipline.name", ("deferred", "eager"))),
        ("cluster.0.geometry=null,'3g.40gb@0,3g.40gb@4'", Vary("cluster.0.geometry", (None, "3g.40gb@0,3g.40gb@4"))),
        ("load.share={a: 1.0, b: 0.0}", Vary("load.share", ({"a": 1.0, "b": 0.0},))),
    ],
)
def test_a_key_and_its_values(text: str, expected: Vary) -> None:
    assert read_vary(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rate", "'rate' is not written as key=value,value"),
        ("=1,2", "not written as key=value,value"),
        ("seed=", "not written as key=value,value"),
        ("a=[1", "'[1' is not a list of values as in a scenario file"),
        ("a=1,2,1", "has a value twice"),
    ],
)
def test_what_cannot_be_read(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"^--vary: ") as caught:
        read_vary(text)
    assert told in str(caught.value)


def test_every_combination_is_a_cell(scenario: Scenario, tmp_path: Path) -> None:
    varied = [Vary("load.arrivals.rate_rps", (100, 200)), Vary("cluster.0.count", (1, 2, 4))]
    cells = cells_of(scenario, varied, folder=tmp_path, policies=(None, "reactive"), seeds=(7, 8))
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 3 * 2 * 2
    last = cells[-1]
    assert last.settings == (("load.arrivals.rate_rps", 200), ("cluster.0.count", 4))
    assert (last.policy, last.seed) == ("reactive", 8)
    assert last.scenario.demand.arrivals is not None
    assert (last.scenario.demand.arrivals.rate_rps, last.scenario.cluster[0].count) == (200, 4)
    assert last.scenario.services() == scenario.services()
    assert last.scenario.policy_options() == {"reactive": {"target": 0.6}}


def test_a_trace_that_is_varied_is_known_by_what_it_holds(tmp_path: Path) -> None:
    start = TEXT.index("load:")
    law = TEXT[start : TEXT.index("discipline:")]
    text = TEXT.replace(law, "load: {trace: {file: a.csv}}\n")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("time,a,b\n0,5,6\n")
    scenario = parse_scenario(text, name="s.yaml", folder=tmp_path)

    def names() -> list[str]:
        files = Vary("load.trace.file", ("a.csv", "b.csv"))
        return [c.name for c in cells_of(scenario, [files], folder=tmp_path, policies=(None,), seeds=(1,))]

    before = names()
    assert len(set(before)) == 2
    (tmp_path / "b.csv").write_text("time,a,b\n0,5,7\n")
    assert [old == new for old, new in zip(before, names(), strict=True)] == [True, False]


def test_a_large_trace_is_known_by_its_start_and_its_end(tmp_path: Path) -> None:
    trace, content = tmp_path / "t.csv", bytearray(3 * PIECE)
    marks = []
    for changed in (None, 0, len(content) - 1):
        if changed is not None:
            content[changed] = 1
        trace.write_bytes(content)
        marks.append(mark_of(trace)["digest"])
    assert len(set(marks)) == 3


def test_a_discipline_keeps_the_settings_it_has_too(scenario: Scenario, tmp_path: Path) -> None:
    found = vary_scenario(scenario, [("discipline.name", "eager")], tmp_path).discipline
    assert (found.name, found.timeout_ms, found.max_batch) == ("eager", None, 8)


def test_no_settings_are_the_scenario_itself(scenario: Scenario, tmp_path: Path) -> None:
    assert vary_scenario(scenario, [], tmp_path) == scenario


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("cluster.1.count", 4, "'cluster.1.count' leads nowhere: no '1', there are 0 to 0"),
        ("load.arrival.rate_rps", 4, "no 'arrival', there are arrivals, share, "),
        ("seed.x.y", 4, "'seed.x.y' is varied by"),
        ("load.arrivals.rate_rps.x.y", 4, "there is nothing below it"),
        ("load.arrivals.rate", 4, "load.arrivals.rate=4: unknown key 'rate': did you mean 'rate_rps'?"),
        ("load.arrivals.rate_rps", -4, "load.arrivals.rate_rps=-4: -4 should be greater than 0"),
        ("load.arrivals.rate_rps", "fast", "'fast' should be a valid number"),
        ("load.share.a", 0.9, "the shares must sum to 1"),
        ("services.0.slo_ms", 3, "can never be met"),
        ("discipline.name", "", "discipline.name=: '' "),
        ("discipline.name", None, "discipline.name=null: None should be a valid string"),
        ("seed", 3, "'seed' is varied by --seeds"),
        ("policies", ["static"], "'policies' is varied by --policy"),
    ],
)
def test_what_makes_no_scenario(scenario: Scenario, tmp_path: Path, key: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=r"^--vary: ") as caught:
        cells_of(scenario, [Vary(key, (value,))], folder=tmp_path, policies=(None,), seeds=(1,))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_varied_twice(scenario: Scenario, tmp_path: Path) -> None:
    twice = [Vary("cluster.0.count", (1, 2)), Vary("cluster.0.count", (3,))]
    with pytest.raises(ConfigError, match=r"the key 'cluster\.0\.count' is varied twice"):
        cells_of(scenario, twice, folder=tmp_path, policies=(None,), seeds=(1,))
