"""`partita replay` and `partita explain`, from the command to the files they leave."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from partita.controller.cli.main import main

MEASUREMENT = """\
cluster:
  - {gpu: A100-80GB, count: 2}
services:
  - {name: resnet50, slo_ms: 25, memory_gib: 1.2, latency: {alpha_ms: 1.053, beta_ms: 5.072}}
load:
  arrivals: {process: poisson, rate_rps: 300, warmup_s: 1, duration_s: 4}
"""
CONTROLLED = """\
cluster:
  - {gpu: A100-80GB, count: 4}
services:
  - {name: chat, slo_ms: 400, memory_gib: 8, latency: {alpha_ms: 10, beta_ms: 60}}
  - {name: 'm/*', slo_ms: 300, memory_gib: 4, latency: {alpha_ms: 5, beta_ms: 40}}
load:
  trace: {file: counts.csv, services: {'c*': chat, 'm/*': 'm/*'}}
overheads: {model_load_s: 5}
policies: [static, {name: reactive, options: {target: 0.6}}]
control: {near_s: 10, epoch_s: 60, rehearse_s: 20}
seed: 3
"""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARTITA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("PARTITA_DSN", raising=False)
    monkeypatch.setenv("COLUMNS", "160")  # a terminal that is narrower cuts tables into several
    Path("measure.yaml").write_text(MEASUREMENT)
    Path("control.yaml").write_text(CONTROLLED)
    minutes = range(1_700_000_040, 1_700_000_040 + 600, 60)
    # Up from 20 to 60 requests a second and back, so that a scaler has something to do.
    rows = [f"{at},{60 * (20 + 10 * min(n, 9 - n))},{60 * 4},{60 * 3}" for n, at in enumerate(minutes)]
    Path("counts.csv").write_text("\n".join(["time,chat,m/a,m/b", *rows, ""]))


def run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    main(args)
    out, err = capsys.readouterr()
    assert re.fullmatch(r"((static|reactive|fixed): (begun|[\d.]+ \w+ played in [\d.]+ \w+)\n)*", err), err
    return out


def test_a_measurement_without_a_controller(capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(run(capsys, "replay", "measure.yaml", "--json", "-"))
    assert list(result["scores"]) == ["fixed"]
    score = result["scores"]["fixed"]
    # 300 a second for 4 s: 1200 ± 5 standard deviations.
    assert abs(score["offered"] - 1200) < 175
    assert score["offered"] == score["good"] + score["late"] + score["dropped"]
    assert score["duration_s"] == 4.0
    assert score["goodput_rps"] == pytest.approx(score["good"] / 4.0)
    assert score["gpus_held_mean"] == 2.0
    assert score["attainment"] > 0.99
    assert result["scenario"]["services"][0]["attainment"] == 0.99
    assert result["versions"]["partita"]


def test_same_seed_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    def text(seed: str) -> str:
        result = json.loads(run(capsys, "replay", "control.yaml", "--seed", seed, "--json", "-"))
        assert set(result.pop("timing")) == {"static", "reactive"}
        return json.dumps(result)

    assert text("3") == text("3")
    assert text("3") != text("4")


def test_the_whole_loop_over_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    table = run(capsys, "replay", "control.yaml", "--json", "out.json", "--report", "out.html")
    assert "goodput" in table
    assert re.findall(r"^ (\w+) .* %", table, re.MULTILINE) == ["static", "reactive"]
    result: dict[str, Any] = json.loads(Path("out.json").read_text())
    chat = 60 * sum(20 + 10 * min(n, 9 - n) for n in range(10))
    counted = {"chat": chat, "m/a": 10 * 60 * 4, "m/b": 10 * 60 * 3}
    for score in result["scores"].values():
        assert score["offered_by_service"] == counted
    assert result["scores"]["reactive"]["reconfigurations"] > 0
    assert result["scores"]["reactive"]["gpu_hours"] < 4 * 600 / 3600  # not all of them all the time
    report = Path("out.html").read_text("utf-8")
    assert "<h1>control</h1>" in report
    assert "counts.csv" in report

    acted = [d for d in result["decisions"]["reactive"] if d["action"] == "act"]
    assert acted
    assert all(d["reason"] and d["candidates"] and d["commands"] for d in acted)
    said = run(capsys, "explain", "--json-file", "out.json", "--run", "reactive")
    last = acted[-1]
    assert f"Decision {last['tick']} of reactive" in said
    assert f"acted, from {last['gpus_held']} to {last['gpus_wanted']} GPU" in said
    assert last["opinions"][0]["reason"] in said
    heading, *listed = run(capsys, "explain", "--json-file", "out.json", "--run", "reactive", "--list").splitlines()
    assert re.fullmatch(rf"{len(acted)} decisions? acted in the run of reactive. Other runs: static.", heading)
    assert [int(line.split()[0]) for line in listed] == [d["tick"] for d in acted]


def test_the_command_line_wins_over_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--policy", "reactive", "--discipline", "eager", "--seed", "9", "--json", "-")
    result = json.loads(run(capsys, "replay", "control.yaml", *args))
    assert list(result["scores"]) == ["reactive"]
    assert result["scenario"]["policies"] == [{"name": "reactive", "options": {"target": 0.6}}]
    assert result["scenario"]["discipline"]["name"] == "eager"
    assert result["seed"] == 9


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "replay", "measure.yaml", "--quiet", "--json", "out.json") == ""
    assert json.loads(Path("out.json").read_text())["scores"]


def test_the_schema_accepts_what_it_describes(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(run(capsys, "replay", "--schema"))
    assert set(schema["required"]) == {"cluster", "services", "load"}
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) >= {"overheads", "discipline", "policies", "control", "seed"}


def test_replay_from_the_database_is_replay_from_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "trace", "import", "counts.csv", "--quiet")
    trace = "trace: {file: counts.csv, services: {'c*': chat, 'm/*': 'm/*'}}"
    Path("log.yaml").write_text(CONTROLLED.replace(trace, "log: {services: {'c*': chat, 'm/*': 'm/*'}}"))
    from_log = json.loads(run(capsys, "replay", "log.yaml", "--journal", "--json", "-"))
    from_file = json.loads(run(capsys, "replay", "control.yaml", "--json", "-"))
    assert from_log["scores"] == from_file["scores"]
    assert from_log["decisions"] == from_file["decisions"]

    acted = [d for d in from_log["decisions"]["reactive"] if d["action"] == "act"]
    said = run(capsys, "explain", "--run", "reactive")
    assert said.startswith(f"Decision {acted[-1]['tick']} of reactive (run 2), at ")
    assert acted[-1]["commands"][0]["reason"] in said
    heading, *listed = run(capsys, "explain", "--run", "reactive", "--list").splitlines()
    assert [int(line.split()[0]) for line in listed] == [d["tick"] for d in acted]
    told = rf"{len(acted)} decisions? acted in run 2 \(reactive\); \d+ turns held: --all lists them."
    assert re.fullmatch(rf"{told} Other runs: 1 \(static\).", heading)
    _, *everything = run(capsys, "explain", "--run", "1", "--list", "--all").splitlines()
    assert len(everything) > len(acted)
    with pytest.raises(SystemExit) as stop:
        main(["explain", "--run", "symphony"])
    assert stop.value.code == 2
    assert "no run 'symphony'; the latest are 2 (reactive), 1 (static)" in capsys.readouterr().err


def test_a_run_in_which_nothing_acted_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in ([], ["--list"], ["--run", "1", "--list"]):
        with pytest.raises(SystemExit):
            main(["explain", *wanted])
        assert "Error: the journal holds no run yet: partita run, partita demo and " in capsys.readouterr().err
    Path("one.yaml").write_text(CONTROLLED.replace("count: 4", "count: 1"))
    run(capsys, "replay", "one.yaml", "--policy", "static", "--journal")
    said = run(capsys, "explain", "--list")
    assert said == "No decision acted in run 1 (static); 60 turns held: --all lists them.\n"


def test_a_journal_without_policies_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    main(["replay", "measure.yaml", "--journal", "--quiet"])
    said = capsys.readouterr().err
    assert said == "Warning: --journal writes nothing: without policies there are no decisions.\n"


def test_who_misses_a_target_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tight.yaml").write_text(MEASUREMENT.replace("rate_rps: 300", "rate_rps: 3000"))
    table = run(capsys, "replay", "tight.yaml")
    assert re.search(r"^ ?fixed \* ", table, re.MULTILINE)
    assert re.search(r"^\* fixed misses the target of resnet50 \([\d.]+ % of 99 %\)$", table, re.MULTILINE)


def test_what_was_done_to_measured_latencies_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text("batch,latency_ms\n1,9\n8,8\n")
    text = MEASUREMENT.replace("{alpha_ms: 1.053, beta_ms: 5.072}", "{table: t.csv}")
    Path("table.yaml").write_text(text + "policies: [static, reactive]\n")
    main(["replay", "table.yaml"])
    note = "Note: t on whole: batch 8 took 8 ms, less than batch 1: raised to its 9 ms.\n"
    assert capsys.readouterr().err.count(note) == 1
    run(capsys, "replay", "table.yaml", "--quiet")
