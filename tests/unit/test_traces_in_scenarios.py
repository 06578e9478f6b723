"""What a scenario says about its traces: how to read them, what share to keep, and which to play at the same time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from partita.controller.config import Scenario
from partita.controller.demand import Demand, read_demand
from partita.controller.run import run_scenario
from partita.controller.scenario_file import parse_scenario
from partita.controller.whatif.tracemark import mark_of, marks_of
from partita.errors import ConfigError
from partita.model.load import Arrivals

SECOND = 1_000_000_000
TEXT = """\
cluster: [{gpu: A100-80GB, count: 2}]
services:
  - {name: chat, slo_ms: 200, latency: {alpha_ms: 1, beta_ms: 5}}
  - {name: code, slo_ms: 200, latency: {alpha_ms: 1, beta_ms: 5}}
trace:
"""


def scenario(folder: Path, trace: str) -> Scenario:
    return parse_scenario(TEXT + trace, name="s.yaml", folder=folder)


def all_of(demand: Demand, seed: int = 1) -> Arrivals:
    with demand.open(seed) as source:
        return source.until(source.span_ns)


def of(arrivals: Arrivals, service: int) -> np.ndarray:  # type: ignore[type-arg]
    return arrivals.ns[arrivals.offsets[service] : arrivals.offsets[service + 1]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of 300 requests with names of its own, one a second from 2024 on, and minutes of counts from 1970 on."""
    rows = (f"{1_704_067_200_000 + 1000 * n},m{n % 3},{n}\n" for n in range(300))
    (tmp_path / "requests.csv").write_text("t,model,tokens\n" + "".join(rows))
    (tmp_path / "counts.csv").write_text("minute,requests\n0,60\n60,120\n120,600\n180,60\n")
    lines = (json.dumps({"timestamp": 3000 * (n // 40), "input_length": n, "output_length": 1}) for n in range(400))
    (tmp_path / "mooncake.jsonl").write_text("\n".join(lines))
    return tmp_path


REQUESTS = "file: requests.csv, columns: {ts: 't:ms', service: model, size: tokens}"


def test_a_table_with_other_names(folder: Path) -> None:
    demand = read_demand(scenario(folder, f"  {{{REQUESTS}, services: {{m0: chat, 'm*': code}}}}"))
    found = all_of(demand)
    assert [service.name for service in demand.services] == ["chat", "code"]
    assert (of(found, 0) // SECOND).tolist() == list(range(0, 300, 3))
    assert found.size[: found.offsets[1]].tolist() == list(range(0, 300, 3))


def test_the_steps_of_a_mooncake_trace_are_drawn_from_the_seed_of_the_run(folder: Path) -> None:
    demand = read_demand(scenario(folder, "  {file: mooncake.jsonl, services: {'*': chat}}"))
    one, two = all_of(demand, 1), all_of(demand, 2)
    assert len(one) == len(two) == 400
    assert (one.ns != two.ns).any()
    assert (one.ns // (3 * SECOND)).tolist() == (two.ns // (3 * SECOND)).tolist() == [n // 40 for n in range(400)]
    plain = read_demand(scenario(folder, "  {file: mooncake.jsonl, services: {'*': chat}, spread: none}"))
    assert np.unique(all_of(plain).ns).size == 10


def test_a_share_is_kept_and_the_peak_is_that_of_the_share(folder: Path) -> None:
    trace = "  {file: counts.csv, services: {'*': chat}, thin: {chat: SHARE}}"
    half, whole = (read_demand(scenario(folder, trace.replace("SHARE", share))) for share in ("0.5", "1"))
    kept, every = all_of(half), all_of(whole)
    assert len(every) == 840
    # 840 chances of a half: standard deviation 14.5; five of them.
    assert abs(len(kept) - 420) < 73
    assert set(kept.ns.tolist()) < set(every.ns.tolist())
    assert (half.peak_rps["chat"], whole.peak_rps["chat"]) == (5.0, 10.0)


TOGETHER = f"""\
  file: counts.csv
  services: {{'*': chat}}
  with:
    - {{{REQUESTS}, services: {{m0: chat, 'm*': code}}, after_s: 30, speed: 2}}
"""


def test_traces_at_the_same_time_begin_together_whatever_their_dates(folder: Path) -> None:
    demand = read_demand(scenario(folder, TOGETHER))
    found = all_of(demand)
    # 840 requests of the counts and 100 of m0; 200 of m1 and m2, one after the other in 1.5 s, at twice the speed.
    assert np.diff(found.offsets).tolist() == [940, 200]
    assert of(found, 1)[:4].tolist() == [30_500_000_000, 31_000_000_000, 32_000_000_000, 32_500_000_000]
    alone = all_of(read_demand(scenario(folder, "  {file: counts.csv, services: {'*': chat}}")))
    assert set(of(alone, 0).tolist()) < set(of(found, 0).tolist())
    # In the third minute: 600 of the counts; two requests a second of the table from 30 to 180 s, a third of them m0.
    assert demand.peak_rps == {"chat": pytest.approx(10 + 40 / 60), "code": pytest.approx(80 / 60)}


def test_the_speed_of_the_first_is_that_of_all(folder: Path) -> None:
    whole, fast = (all_of(read_demand(scenario(folder, TOGETHER + more))) for more in ("", "  speed: 4\n"))
    assert of(fast, 1).tolist() == (of(whole, 1) // 4).tolist()
    assert np.diff(fast.offsets).tolist() == np.diff(whole.offsets).tolist()


def test_several_traces_are_drawn_apart_alike_and_replayed(folder: Path) -> None:
    asked = scenario(folder, TOGETHER)
    here, there = (all_of(read_demand(asked, apart=apart), 3) for apart in (False, True))
    assert all(np.array_equal(getattr(here, name), getattr(there, name)) for name in ("ns", "offsets", "size"))
    score = run_scenario(asked, policy=None, seed=3).score
    assert (score.offered, score.good + score.late + score.dropped) == (1140, 1140)


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ("  {file: counts.csv, with: [{file: absent.csv}]}", "trace.with[0].file: the trace file"),
        ("  {file: counts.csv, with: [{file: counts.csv, services: {a: caht}}]}", "did you mean 'chat'?"),
        ("  {file: counts.csv, thin: {caht: 0.5}}", "trace.thin.caht: there is no service 'caht'"),
        ("  {file: counts.csv, thin: {chat: 1.5}}", "trace.thin.chat"),
        ("  {file: counts.csv, with: [{file: counts.csv, after_s: -1}]}", "trace.with[0].after_s"),
        ("  {file: counts.csv, spread: odd}", "trace.spread"),
    ],
)
def test_what_is_wrong_with_it(folder: Path, trace: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario(folder, trace)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ("  {file: requests.csv, columns: {t: x}}", "load.trace.columns: 't' is none of our columns: ts"),
        ("  {file: counts.csv, grid_s: 3}", "the format counts of .*counts.csv does not take this option"),
    ],
)
def test_what_only_the_file_shows(folder: Path, trace: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_demand(scenario(folder, trace))


def test_a_sweep_knows_each_of_the_files(folder: Path) -> None:
    paths = scenario(folder, TOGETHER).trace_paths()
    assert [path.name for path in paths] == ["counts.csv", "requests.csv"]
    assert marks_of(paths) == [mark_of(path) for path in paths]
    assert (marks_of(paths[:1]), marks_of(())) == (mark_of(paths[0]), None)
