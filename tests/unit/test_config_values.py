"""A scenario turns into the values the loop works with."""

from pathlib import Path

import numpy as np
import pytest

from partita.controller.config import Scenario
from partita.controller.scenario_file import parse_scenario
from partita.errors import ConfigError
from partita.model.plan import Batching, Budgets
from partita.model.staggered import Overheads
from partita.traces.services import ServiceMap

LINE = "{alpha_ms: 1, beta_ms: 5}"


def scenario(*, cluster: str = "[{gpu: A100-80GB, count: 2}]", services: str, load: str, more: str = "") -> Scenario:
    text = f"cluster: {cluster}\nservices: {services}\nload: {load}\n{more}"
    return parse_scenario(text, name="s.yaml", folder=Path(__file__).parent)


def measured(services: str, **more: str) -> Scenario:
    return scenario(services=services, load="{arrivals: {process: poisson, rate_rps: 1e3, duration_s: 5}}", **more)


def traced(services: str, trace: str = "") -> Scenario:
    return scenario(services=services, load=f"{{trace: {{file: {Path(__file__).name}{trace}}}}}")


def test_a_trace_may_stand_at_the_top_of_the_file() -> None:
    services = f"[{{name: a, slo_ms: 50, latency: {LINE}}}]"
    text = f"cluster: [{{gpu: A100-80GB, count: 2}}]\nservices: {services}\ntrace: {{file: {Path(__file__).name}}}\n"
    found = parse_scenario(text, name="s.yaml", folder=Path(__file__).parent)
    assert found.document() == traced(services).document()
    with pytest.raises(ConfigError, match="arrivals and trace are given"):
        parse_scenario(
            f"{text}load: {{arrivals: {{process: poisson, rate_rps: 1, duration_s: 5}}}}\n", name="s", folder=Path()
        )


def test_gpus_are_numbered_in_the_order_of_the_file() -> None:
    cluster = "[{gpu: A100-80GB, count: 10, price_per_hour: 2.5}, {gpu: a100, count: 1, geometry: 7x1g.5gb}]"
    by_profile = f"{{whole: {LINE}, 1g.5gb: {LINE}}}"
    gpus = measured(
        f"[{{name: a, slo_ms: 50, latency: {by_profile}}}]", cluster=cluster.replace("a100", "A100-40GB")
    ).inventory()
    assert [g.id for g in gpus] == [f"gpu{n:02}" for n in range(11)]
    assert (gpus[9].model, gpus[9].geometry, gpus[9].price_per_hour) == ("A100-80GB", None, 2.5)
    assert len(gpus[10].geometry.placements if gpus[10].geometry else ()) == 7


@pytest.mark.parametrize(
    ("latency", "seconds", "largest"),
    [
        (LINE, {1: 0.006, 8: 0.013}, 499),
        (f"{LINE}, max_batch: 4", {1: 0.006, 4: 0.009}, 4),
        ("{points: {1: 6, 4: 9, 8: 15}}", {1: 0.006, 2: 0.007, 8: 0.015}, 8),
        ("{points: {1: 6, 4: 9, 8: 15}}, max_batch: 6", {4: 0.009, 6: 0.012}, 6),
        ("{points: {1: 6, 4: 9}}, max_batch: 6", {4: 0.009}, 4),
        (f"{{whole: {LINE}, 1g.10gb: {{points: {{1: 20}}}}}}", {8: 0.013}, 499),
    ],
)
def test_latency_curves(latency: str, seconds: dict[int, float], largest: int) -> None:
    (service,) = measured(f"[{{name: a, slo_ms: 50, latency: {latency}}}]").services()
    curve = service.curve("whole")
    assert curve is not None
    assert {b: pytest.approx(s) for b, s in seconds.items()} == {b: curve.latency_s(b) for b in seconds}
    assert curve.max_batch == largest


def test_services_keep_their_profiles_apart() -> None:
    (service,) = measured(
        f"[{{name: a, slo_ms: 50, latency: {{whole: {LINE}, 1g.10gb: {{points: {{1: 20}}}}}}}}]"
    ).services()
    small = service.curve("1g.10gb")
    assert small is not None
    assert small.points == ((1, 0.02),)
    assert service.curve("2g.20gb") is None


def test_settings_become_values() -> None:
    more = (
        "overheads: {control_us: 1, data_us_per_request: 2, response_us: 3, jitter_us: 4}\n"
        "discipline: {name: timeout, timeout_ms: 5, max_batch: 9, queue_policy: reject, options: {preferred: 4}}\n"
        "control: {near_s: 5, epoch_s: 60, margin: 0.1, tolerance: 0.01, max_gpus: 3}\nseed: 7\n"
    )
    made = measured(f"[{{name: a, slo_ms: 50, latency: {LINE}}}]", more=more)
    assert made.overheads() == Overheads(1e-6, 2e-6, 3e-6, 4e-6)
    assert made.discipline.batching() == Batching("timeout", 0.005, 9, (("preferred", 4), ("queue_policy", "reject")))
    objective = made.control.objective()
    assert (objective.period_s, objective.margin, objective.tolerance) == (60.0, 0.1, 0.01)
    assert made.control.budgets() == Budgets(3)
    assert made.seed == 7


def test_another_discipline_keeps_the_keys_it_has() -> None:
    entry = measured(
        f"[{{name: a, slo_ms: 50, latency: {LINE}}}]", more="discipline: {name: clipper, timeout_ms: 5, drop: timeout}"
    )
    assert entry.discipline.renamed("eager").batching() == Batching("eager", 0.0, None, (("drop", "timeout"),))
    assert entry.discipline.renamed("timeout").batching() == Batching("timeout", 0.005)


@pytest.mark.parametrize("number", ["1e3", "1E3", "1.0e+3", "1000", "+1e3"])
def test_numbers_as_yaml_1_2_writes_them(number: str) -> None:
    load = f"{{arrivals: {{process: poisson, rate_rps: {number}, duration_s: 5}}}}"
    made = scenario(services=f"[{{name: a, slo_ms: 50, latency: {LINE}}}]", load=load)
    assert made.demand.arrivals is not None
    assert made.demand.arrivals.rate_rps == 1000.0


ONE = f"{{name: one, slo_ms: 50, latency: {LINE}}}"
TWO = f"{{name: two, slo_ms: 60, latency: {LINE}}}"
TEMPLATE = f"{{name: 'm/*', slo_ms: 70, latency: {LINE}}}"
EXACT = ONE.replace("one", "m/a")


@pytest.mark.parametrize(
    ("services", "trace", "found", "run"),
    [
        ([ONE], "", ["x", "y"], {"one": 0.05}),
        ([ONE, TWO], "", ["two", "one"], {"two": 0.06, "one": 0.05}),
        ([ONE, TWO], ", services: {'x*': two}", ["x1", "x2"], {"two": 0.06}),
        ([ONE], ", services: {x: one, '*': null}", ["x", "y"], {"one": 0.05}),
        ([TEMPLATE], "", ["m/b", "m/a"], {"m/b": 0.07, "m/a": 0.07}),
        ([ONE, TEMPLATE], ", services: {'x*': 'm/*', '*': one}", ["x1", "y"], {"x1": 0.07, "one": 0.05}),
        # The exact name wins over the template, wherever they stand.
        ([TEMPLATE, EXACT], "", ["m/a", "m/b"], {"m/a": 0.05, "m/b": 0.07}),
    ],
)
def test_services_of_a_trace(services: list[str], trace: str, found: list[str], run: dict[str, float]) -> None:
    made = traced(f"[{', '.join(services)}]", trace)
    mapping = ServiceMap(made.trace_rules())
    mapping.indices(np.array(found, object))
    assert {s.name: s.slo_s for s in made.services(mapping.services)} == run


@pytest.mark.parametrize("services", [f"[{ONE}, {TWO}]", f"[{TEMPLATE}]"])
def test_a_service_of_the_trace_that_nothing_matches(services: str) -> None:
    made = traced(services)
    mapping = ServiceMap(made.trace_rules())
    mapping.index("x")
    with pytest.raises(ConfigError, match="the trace's service 'x' matches none of"):
        made.services(mapping.services)


DAY_NS = 86_400_000_000_000


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("", (None, None)),
        (", from: 90, to: 1.5h", (10 * DAY_NS + 90_000_000_000, 10 * DAY_NS + 5_400_000_000_000)),
        (", from: 1970-01-11T12:00", (10 * DAY_NS + DAY_NS // 2, None)),
        (", from: 1970-01-01, to: 1970-01-11 06:00:00", (0, 10 * DAY_NS + DAY_NS // 4)),
        (", to: 2d", (None, 12 * DAY_NS)),
    ],
)
def test_part_of_a_trace(window: str, expected: tuple[int | None, int | None]) -> None:
    entry = traced(f"[{ONE}]", window).demand.trace
    assert entry is not None
    assert entry.span_ns(10 * DAY_NS) == expected


def test_a_scenario_written_out_reads_back_as_itself() -> None:
    import yaml

    made = measured(
        f"[{{name: a, slo_ms: 50, latency: {{whole: {LINE}}}}}]", more="policies: [x, {name: y, options: {k: 1}}]"
    )
    text = yaml.safe_dump(made.document())
    assert parse_scenario(text, name="s.yaml", folder=Path()).document() == made.document()
