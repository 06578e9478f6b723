"""The load of a scenario: which requests, of which services, when."""

import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from partita.controller.ahead import Ahead
from partita.controller.demand import Demand, read_demand
from partita.controller.scenario_file import parse_scenario
from partita.errors import ConfigError, TraceError

SECOND_NS = 1_000_000_000
LATENCY = "latency: {alpha_ms: 1, beta_ms: 5}"
SERVICES = f"[{{name: one, slo_ms: 50, {LATENCY}}}, {{name: 'm/*', slo_ms: 60, {LATENCY}}}]"


def demand_of(folder: Path, load: str, services: str = SERVICES) -> Demand:
    text = f"cluster: [{{gpu: A100-80GB, count: 2}}]\nservices: {services}\nload: {load}\n"
    return read_demand(parse_scenario(text, name="s.yaml", folder=folder))


def arrivals_of(demand: Demand, *, seed: int = 1) -> dict[str, list[float]]:
    """Return the arrivals in seconds from the start, by service."""
    with demand.open(seed) as source:
        assert source.services == tuple(s.name for s in demand.services)
        found = source.until(source.span_ns)
    parts = np.split(found.ns, found.offsets[1:-1])
    return {name: (part / SECOND_NS).tolist() for name, part in zip(source.services, parts, strict=True)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trace with a request a second for each of three services, 10 s long, from 1970-01-02."""
    rows = [f"{86_400 + n},{name},1,1" for n in range(10) for name in ("x", "m/a", "m/b")]
    (tmp_path / "t.csv").write_text("\n".join(["ts,service,size,output_size", *rows, ""]))
    (tmp_path / "empty.csv").write_text("ts,service,size,output_size\n")
    return tmp_path


def trace(more: str = "", file: str = "t.csv") -> str:
    return f"{{trace: {{file: {file}, services: {{x: one, 'm/*': 'm/*'}}{more}}}}}"


def test_a_trace_by_the_names_of_the_run(folder: Path) -> None:
    demand = demand_of(folder, trace())
    expected = [float(n) for n in range(10)]
    assert arrivals_of(demand) == {"one": expected, "m/a": expected, "m/b": expected}
    assert [s.slo_s for s in demand.services] == [0.05, 0.06, 0.06]
    assert demand.peak_rps == {name: pytest.approx(10 / 60) for name in ("one", "m/a", "m/b")}
    assert demand.counted_from_s == 0.0


def test_a_part_of_a_trace_at_another_speed(folder: Path) -> None:
    demand = demand_of(folder, trace(", from: 2, to: 1970-01-02T00:00:06, speed: 4"))
    assert arrivals_of(demand)["one"] == [0.0, 0.25, 0.5, 0.75]
    assert demand.peak_rps["one"] == pytest.approx(4 * 4 / 60)


def test_services_that_are_left_out(folder: Path) -> None:
    demand = demand_of(folder, "{trace: {file: t.csv, services: {x: one, '*': null}}}")
    assert list(arrivals_of(demand)) == ["one"]


def test_a_trace_that_fits_badly(folder: Path) -> None:
    with pytest.raises(ConfigError, match="the trace's service 'm/a' matches none of x: add it"):
        demand_of(folder, "{trace: {file: t.csv, services: {x: one}}}")
    with pytest.raises(TraceError, match="holds no requests between 20 and its end for the scenario's services"):
        demand_of(folder, trace(", from: 20"))
    with pytest.raises(TraceError, match="no requests"):
        demand_of(folder, trace(file="empty.csv"))
    with pytest.raises(ConfigError, match="is in the database, and none is at hand"):
        demand_of(folder, "{log: {}}", SERVICES)


def test_a_law_shares_its_rate(folder: Path) -> None:
    two = SERVICES.replace("m/*", "two")
    law = "{arrivals: {process: poisson, rate_rps: 1000, warmup_s: 3, duration_s: 17}, share: {one: 0.25, two: 0.75}}"
    demand = demand_of(folder, law, two)
    assert demand.counted_from_s == 3.0
    assert demand.peak_rps == {"one": 250.0, "two": 750.0}
    counts = {name: len(at) for name, at in arrivals_of(demand).items()}
    # 20 s; within 5 standard deviations.
    assert abs(counts["one"] - 5000) < 5 * 5000**0.5
    assert abs(counts["two"] - 15_000) < 5 * 15_000**0.5
    assert arrivals_of(demand) == arrivals_of(demand)
    assert arrivals_of(demand) != arrivals_of(demand, seed=2)


def _items(made_by: list[str], *, fail: bool = False) -> Generator[int]:
    try:
        for n in range(3):
            made_by.append(threading.current_thread().name)
            yield n
        if fail:
            raise TraceError("broken", file="t.csv")
    finally:
        made_by.append("closed")


def test_pulling_ahead_is_pulling() -> None:
    made_by: list[str] = []
    with Ahead(_items(made_by)) as items:
        assert [*items] == [0, 1, 2]
        assert [*items] == []
    assert made_by[-1] == "closed"
    assert set(made_by[:-1]) == {"partita-ahead_0"}


def test_pulling_ahead_passes_errors_on_and_always_closes() -> None:
    made_by: list[str] = []
    with pytest.raises(TraceError, match="broken"), Ahead(_items(made_by, fail=True)) as items:
        assert [*items] == []
    made_by.clear()
    with Ahead(_items(made_by)) as items:
        assert next(items) == 0
    assert made_by[-1] == "closed"
