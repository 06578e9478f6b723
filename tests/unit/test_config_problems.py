"""What is wrong with a scenario file is said in one sentence: file, key path, value, what would be right, line."""

from pathlib import Path

import pytest

from partita.controller.config import Scenario
from partita.controller.scenario_file import parse_scenario
from partita.errors import ConfigError

GOOD = """\
cluster:
  - {gpu: A100-80GB, count: 8}
services:
  - {name: resnet50, slo_ms: 25, memory_gib: 1.2, latency: {alpha_ms: 1.053, beta_ms: 5.072}}
load:
  arrivals: {process: gamma, shape: 1.0, rate_rps: 3000, warmup_s: 8, duration_s: 20}
  share: {resnet50: 1.0}
discipline: {name: deferred, drop: window}
policies: [static, {name: symphony, options: {level: 0.9}}]
control: {near_s: 10, epoch_s: 600}
"""
LATENCY = "{alpha_ms: 1.053, beta_ms: 5.072}"
ARRIVALS = (
    "arrivals: {process: gamma, shape: 1.0, rate_rps: 3000, warmup_s: 8, duration_s: 20}\n  share: {resnet50: 1.0}"
)

PROBLEMS = {
    "unknown key": ("slo_ms: 25", "slo: 25", "services[0].slo: unknown key 'slo': did you mean 'slo_ms'? (line 4)"),
    "unknown section": ("control:", "controll:", "controll: unknown key 'controll': did you mean 'control'? (line 10)"),
    "missing key": ("slo_ms: 25, ", "", "services[0]: slo_ms is missing: milliseconds within which a request must"),
    "wrong type": ("slo_ms: 25", "slo_ms: 25ms", "services[0].slo_ms: '25ms' should be a valid number (line 4)"),
    "flag for a number": ("count: 8", "count: true", "cluster[0].count: True should be a valid integer (line 2)"),
    "part of a GPU": ("count: 8", "count: 8.5", "cluster[0].count: 8.5 should be a valid integer (line 2)"),
    "list for a name": ("resnet50, slo", "[a], slo", "services[0].name: ['a'] should be a valid string (line 4)"),
    "name for a list": ("[static, ", "static #", "policies: 'static' should be a valid list (line 9)"),
    "not finite": ("near_s: 10", "near_s: .inf", "control.near_s: inf should be a finite number (line 10)"),
    "negative SLO": ("slo_ms: 25", "slo_ms: -25", "services[0].slo_ms: -25 should be greater than 0 (line 4)"),
    "two problems": ("slo_ms: 25", "slo_ms: 0, attainment: 7", "0 should be greater than 0 (line 4); and 1 more"),
    "SLO out of reach": (
        "slo_ms: 25",
        "slo_ms: 8",
        # 1.053 + 5.072 = 6.125 ms, and 0.1 + 0.05 + 2 ms around it.
        "slo_ms: 8 can never be met: one request alone takes 6.125 ms on the fastest instance, plus 2.15 ms of ov",
    ),
    "too large": (
        "memory_gib: 1.2",
        "memory_gib: 90",
        "services[0].memory_gib: 90 fits no instance, the largest has 80 ",
    ),
    "unknown GPU": ("A100-80GB", "A100-88GB", "cluster[0].gpu: unknown GPU 'A100-88GB'; did you mean A100-80GB"),
    "geometry": ("count: 8", "count: 8, geometry: 8x1g.10gb", "cluster[0].geometry: A100-80GB: geometry '8x1g.10gb': "),
    "latency of another profile": (
        LATENCY,
        "{3g.40gb: {alpha_ms: 1, beta_ms: 5}}",
        "services[0].latency: no latency for the cluster's instances (whole), only for 3g.40gb",
    ),
    "latency in a profile": (
        LATENCY,
        "{whole: {alpha_ms: 1, bet_ms: 5}}",
        "latency.whole.bet_ms: unknown key 'bet_ms'",
    ),
    "latency that falls": (LATENCY, "{points: {1: 5, 2: 4}}", "latency.points.2: a batch of 2 cannot be faster (4 ms)"),
    "latency of nothing": (LATENCY, "{points: {0: 5}}", "latency.points.0: 0 should be greater than or equal to 1"),
    "no latency": (LATENCY, "{}", "services[0].latency: alpha_ms is missing"),
    "no time": (LATENCY, "{alpha_ms: 0, beta_ms: 0}", "services[0].latency: alpha_ms and beta_ms cannot both be 0"),
    "unknown process": ("gamma", "gama", "load.arrivals.process: 'gama' should be 'constant', 'poisson' or 'gamma'"),
    "unknown share": (
        "share: {resnet50",
        "share: {resnet5",
        "load.share.resnet5: there is no service 'resnet5': did you",
    ),
    "shares": (
        "share: {resnet50: 1.0}",
        "share: {resnet50: 0.9}",
        "load.share: the shares must sum to 1, they sum to 0.9",
    ),
    "no load": (ARRIVALS, "share: {resnet50: 1.0}", "load: none of arrivals, trace and log is given: name exactly one"),
    "two loads": (
        "  share: {resnet50: 1.0}",
        "  trace: {file: x.csv}",
        "load: arrivals and trace are given: name",
    ),
    "missing trace": (ARRIVALS, "trace: {file: x.csv}", "load.trace.file: the trace file 'there/x.csv' does not exist"),
    "backwards": (
        ARRIVALS,
        "trace: {file: x, from: 10, to: 5}",
        "load.trace.to: 5 must be after the start, 10 (line 6)",
    ),
    "no instant": (
        ARRIVALS,
        "trace: {file: x, from: noon}",
        "load.trace.from: 'noon' should be a time after the start",
    ),
    "foreign key": (
        "drop: window",
        "timeout_ms: 5",
        "discipline.timeout_ms: the discipline deferred has no timeout_ms",
    ),
    "policy twice": ("[static,", "[static, static,", "policies[1]: the policy 'static' is listed twice (line 9)"),
    "short epoch": ("epoch_s: 600", "epoch_s: 5", "control.epoch_s: 5 must be at least near_s, 10 (line 10)"),
    "key twice": ("near_s: 10", "near_s: 10, near_s: 11", "near_s: the key is given twice (line 10)"),
    "template": ("resnet50, slo", "'m-*', slo", "services[0].name: 'm-*' is a pattern, which only a trace can fill"),
    "not YAML": ("near_s: 10", "near_s: [10", "is not YAML: expected ',' or ']', but got '}' (line 10)"),
    "no date": ("near_s: 10", "near_s: 2026-13-45", "holds a date that there is not: month must be in 1..12"),
}


def problem_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_scenario(text, name="s.yaml", folder=Path("there"))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("name", PROBLEMS)
def test_one_sentence(name: str) -> None:
    good, bad, expected = PROBLEMS[name]
    assert good in GOOD
    said = problem_of(GOOD.replace(good, bad))
    assert said.startswith("s.yaml: ")
    assert expected in said
    assert "\n" not in said


def test_the_good_one_is_good() -> None:
    assert parse_scenario(GOOD, name="s.yaml", folder=Path()).policy_options() == {
        "static": {},
        "symphony": {"level": 0.9},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty: it needs cluster, services, load"),
        ("# only a comment\n", "is empty"),
        ("5", "5 should be a mapping with the keys cluster, services, load"),
        ("a: &a [*a]", "unknown key 'a'"),
        ("\x00\x01", "is not text: character 0 is '\\x00'"),
        ("cluster: !!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
        ("[" * 5000, "is not YAML: nested too deeply"),
    ],
)
def test_what_is_no_scenario_at_all(text: str, expected: str) -> None:
    assert expected in problem_of(text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    random = tmp_path / "random.yaml"
    random.write_bytes(bytes(range(255, 127, -1)))
    for path, expected in (
        (tmp_path / "missing.yaml", "cannot be read: no such file or directory"),
        (tmp_path, "cannot be read: is a directory"),
        (random, "is not text: byte 0 is not UTF-8"),
    ):
        with pytest.raises(ConfigError) as caught:
            Scenario.load(path)
        assert str(caught.value) == f"{path}: {expected}"
