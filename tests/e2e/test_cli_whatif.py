"""`partita capacity`, `sweep` and `compare`, from the command to the files they leave."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from partita.controller.cli.main import main

SCENARIO = """\
cluster:
  - {gpu: A100-80GB, count: 2}
services:
  - {name: resnet50, slo_ms: 25, memory_gib: 1.2, latency: {alpha_ms: 1.053, beta_ms: 5.072}}
load:
  arrivals: {process: poisson, rate_rps: 300, warmup_s: 1, duration_s: 4}
"""
TRACE = """\
cluster:
  - {gpu: A100-80GB, count: 2}
services:
  - {name: chat, slo_ms: 100, memory_gib: 8, latency: {alpha_ms: 4, beta_ms: 16}}
load:
  trace: {file: counts.csv}
"""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARTITA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("PARTITA_DSN", raising=False)
    monkeypatch.setenv("COLUMNS", "160")  # a terminal that is narrower cuts tables into several
    Path("s.yaml").write_text(SCENARIO)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must work, with one worker unless it says otherwise; return what it prints."""
    alone = ("--workers", "1") if args[0] in ("capacity", "sweep") and "--workers" not in args else ()
    main((*args, *alone))
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must fail with exit code 2 and one sentence; return the sentence."""
    with pytest.raises(SystemExit) as caught:
        main(args)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    return err.removeprefix("Error: ").rstrip()


def points_by(document: Mapping[str, Any], discipline: str, seed: int) -> dict[float, Mapping[str, Any]]:
    return {p["level"]: p for p in document["points"] if (p["discipline"], p["seed"]) == (discipline, seed)}


def test_the_highest_rate(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--seeds", "2", "--discipline", "deferred", "--discipline", "eager", "--resolution", "0.02")
    table = run(capsys, "capacity", "s.yaml", *options, "--workers", "2", "--json", "out.json")
    found = json.loads(Path("out.json").read_text())
    assert found["finished"] is True
    assert list(found["answers"]) == ["deferred", "eager"]
    for name, answer in found["answers"].items():
        levels = [each["level"] for each in answer["by_seed"].values()]
        assert answer["mean"] == pytest.approx(sum(levels) / 2)
        assert answer["low"] < answer["mean"] < answer["high"]
        assert answer["of_fluid"] == pytest.approx(answer["mean"] / found["bounds"]["fluid_rps"])
        assert answer["of_staggered"] == pytest.approx(answer["mean"] / found["bounds"]["staggered_rps"])
        assert re.search(rf"^ {name} .* {answer['of_staggered'] * 100:.1f} ", table, re.MULTILINE)
        assert answer["monotone"] is True
        for seed, each in answer["by_seed"].items():
            measured = points_by(found, name, int(seed))
            assert measured[each["level"]]["worst_bad_rate"] <= 0.01 < measured[each["missed"]]["worst_bad_rate"]
            assert each["missed"] - each["level"] <= 0.02 * each["missed"]
            assert measured[each["level"]]["offered_rps"] == pytest.approx(each["level"], rel=0.1)
    # One service on two GPUs of 1.053·b + 5.072 ms: batches of 16 in 25 ms carry 2 · 16 / 21.9 ms = 1460 a second, and
    # with the deadline less 0 ms, batches of 18 carry 1498: the fluid bound.
    assert found["bounds"]["fluid_rps"] == pytest.approx(2 * 18 / (1.053 * 18 + 5.072) * 1e3)
    assert found["answers"]["deferred"]["mean"] > found["answers"]["eager"]["mean"]
    assert "Bounds of all 2 GPUs: staggered" in table
    assert "Mean over 2 seeds" in table


@pytest.mark.slow
def test_the_same_points_whatever_the_workers(capsys: pytest.CaptureFixture[str]) -> None:
    for workers in ("1", "3"):
        options = ("--seeds", "2", "--resolution", "0.05", "--curve", "5", "--scan", "--workers", workers)
        run(capsys, "capacity", "s.yaml", *options, "--json", f"{workers}.json", "--quiet")
    assert Path("1.json").read_bytes() == Path("3.json").read_bytes()
    levels = points_by(json.loads(Path("1.json").read_text()), "deferred", 1)
    bound = json.loads(Path("1.json").read_text())["bounds"]["fluid_rps"]
    assert {round(bound * k / 5, 6) for k in range(1, 6)} <= {round(level, 6) for level in levels}


def test_the_fewest_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(SCENARIO.replace("rate_rps: 300", "rate_rps: 1800"))
    said = run(capsys, "capacity", "s.yaml", "--find", "gpus", "--seeds", "2", "--json", "out.json", "--by", "average")
    found = json.loads(Path("out.json").read_text())
    [answer] = found["answers"].values()
    for seed, each in answer["by_seed"].items():
        measured = points_by(found, "deferred", int(seed))
        assert measured[each["level"]]["bad_rate"] <= 0.01 < measured[each["level"] - 1]["bad_rate"]
        assert measured[each["level"]]["gpus_held_mean"] == each["level"]
    # 749 a GPU at the very best: two cannot carry 1800, and twice as many as that are enough for certain.
    assert 3 <= answer["mean"] <= 5
    assert "Fewest GPUs for 1," in said


def test_a_trace_is_played_faster(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.yaml").write_text(TRACE)
    Path("counts.csv").write_text("time,chat\n1700000040,600\n1700000100,900\n")
    run(capsys, "capacity", "t.yaml", "--seeds", "2", "--resolution", "0.05", "--json", "out.json", "--quiet")
    found = json.loads(Path("out.json").read_text())
    assert found["bounds"]["offered_rps"] == pytest.approx(1500 / 120)
    for point in found["points"]:
        assert point["offered_rps"] == pytest.approx(point["level"], rel=1e-3)
    [answer] = found["answers"].values()
    # A request alone takes 20 ms, batches of 16 take 80: between 100 and 400 a second on two GPUs, whatever the bursts.
    assert 60 < answer["mean"] < 400


@pytest.mark.slow
def test_a_trace_of_instants_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.yaml").write_text(TRACE.replace("counts.csv", "rows.csv"))
    rows = [f"2023-11-16 18:{at // 60:02}:{at % 60:02}.0000000,{100 + at},10" for at in range(0, 240, 2)]
    Path("rows.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""]))
    said = run(capsys, "capacity", "t.yaml", "--seeds", "2", "--resolution", "0.1")
    assert "Every seed gave the same runs under deferred: nothing in this load is drawn" in said
    assert " ± 0 " in said


@pytest.mark.slow
def test_a_policy_in_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    control = "control: {near_s: 2, epoch_s: 10, rehearse_s: 5}\n"
    Path("s.yaml").write_text(
        SCENARIO.replace("duration_s: 4", "duration_s: 40").replace("count: 2", "count: 4") + control
    )
    options = ("--policy", "symphony", "--seeds", "1", "--resolution", "0.1", "--bad-rate", "0.05")
    said = run(capsys, "capacity", "s.yaml", *options, "--json", "out.json")
    found = json.loads(Path("out.json").read_text())
    assert found["policy"] == "symphony"
    held = {point["level"]: point["gpus_held_mean"] for point in found["points"]}
    assert held[min(held)] < held[max(held)] <= 4.0  # little load lets it hold less
    assert "One seed: there is no confidence interval." in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--discipline", "fifo"), "discipline.name: no discipline is named 'fifo'; there are: "),
        (("--policy", "oracle"), "oracle"),
        (("--json", "nowhere/out.json"), "the folder"),
        (("--find", "gpus", "--entry", "3"), "--entry: there is no entry 3 in the cluster, the last is 0"),
    ],
)
def test_a_capacity_that_cannot_be_searched(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], told: str
) -> None:
    assert told in refused(capsys, "capacity", "s.yaml", *options)


def test_which_gpus_are_counted_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    two = SCENARIO.replace("services:", "  - {gpu: A100-80GB, count: 1, price_per_hour: 2.0}\nservices:")
    Path("s.yaml").write_text(two)
    told = refused(capsys, "capacity", "s.yaml", "--find", "gpus")
    assert told == "--entry: the cluster has 2 entries: say which is counted, 0 to 1"


def test_a_sweep_is_the_replays_it_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    varied = ("--vary", "load.arrivals.rate_rps=300,1200", "--vary", "discipline.name=deferred,eager")
    table = run(capsys, "sweep", "s.yaml", *varied, "--seeds", "2", "--out", "out.parquet")
    rows = pl.read_parquet("out.parquet").to_dicts()
    keys = [(r["load.arrivals.rate_rps"], r["discipline.name"], r["policy"], r["seed"]) for r in rows]
    expected = [(rate, d, "fixed", seed) for rate in (300, 1200) for d in ("deferred", "eager") for seed in (1, 2)]
    assert keys == expected
    Path("fast.yaml").write_text(SCENARIO.replace("300", "1200"))
    alone = json.loads(run(capsys, "replay", "fast.yaml", "--discipline", "eager", "--seed", "2", "--json", "-"))
    score, row = alone["scores"]["fixed"], rows[7]
    for key, value in score.items():
        if isinstance(value, dict) and key.endswith("_ms"):
            assert {part: row[f"{key}.{part}"] for part in value} == value
        elif not key.endswith("_by_service"):
            assert row[key] == value, key
    assert row["services"] == [
        {
            "service": "resnet50",
            "offered": score["offered_by_service"]["resnet50"],
            "good": score["good_by_service"]["resnet50"],
            "attainment": score["attainment_by_service"]["resnet50"],
        }
    ]
    good = [r["goodput_rps"] for r in rows[:2]]
    assert re.search(rf"^ 300 +deferred +{sum(good) / 2:,.1f} ± ", table, re.MULTILINE)


@pytest.mark.slow
def test_a_sweep_may_vary_seeds_and_policies_only(capsys: pytest.CaptureFixture[str]) -> None:
    table = run(
        capsys, "sweep", "s.yaml", "--policy", "static", "--policy", "reactive", "--seeds", "2", "--out", "out.parquet"
    )
    assert re.findall(r"^ (static|reactive) ", table, re.MULTILINE) == ["static", "reactive"]
    assert pl.read_parquet("out.parquet")["seed"].to_list() == [1, 2, 1, 2]


def test_a_larger_grid_runs_only_what_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "sweep", "s.yaml", "--vary", "cluster.0.count=1,2", "--out", "out.parquet", "--quiet")
    run(capsys, "sweep", "s.yaml", "--vary", "cluster.0.count=1,2,3", "--out", "out.parquet", "--quiet")
    began = [line for line in Path("out.parquet.journal").read_text().splitlines() if line.startswith('{"began"')]
    assert len(began) == 3
    assert pl.read_parquet("out.parquet")["cluster.0.count"].to_list() == [1, 2, 3]


def test_a_cell_that_cannot_run_is_reported_and_the_others_finish(capsys: pytest.CaptureFixture[str]) -> None:
    other = "  - {name: large, slo_ms: 90, memory_gib: 60, latency: {alpha_ms: 1, beta_ms: 5}}\nload:\n"
    load = "share: {resnet50: 0.5, large: 0.5}\n"
    Path("s.yaml").write_text(
        SCENARIO.replace("memory_gib: 1.2", "memory_gib: 60").replace("load:\n", other) + "  " + load
    )
    with pytest.raises(SystemExit) as stop:
        main(
            ["sweep", "s.yaml", "--vary", "cluster.0.count=1,2", "--policy", "static", "--out", "o.parquet", "--quiet"]
        )
    assert stop.value.code == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("Failed: cluster.0.count=1, static, seed 1: no instance is left for ")
    assert last == "Error: 1 of 2 cells failed; the others are in the file."
    assert [problem is None for problem in pl.read_parquet("o.parquet")["problem"]] == [False, True]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--vary", "rate"), "--vary: 'rate' is not written as key=value,value"),
        (("--vary", "cluster.0.counts=1"), "--vary: cluster.0.counts=1: unknown key 'counts': did you mean 'count'?"),
        (("--vary", "discipline.name=deferred,fifo"), "no discipline is named 'fifo'"),
        (("--policy", "oracle"), "oracle"),
    ],
)
def test_a_sweep_that_cannot_be(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], told: str) -> None:
    assert told in refused(capsys, "sweep", "s.yaml", *options, "--out", "out.parquet")
    assert not list(Path().glob("out.parquet*"))


def replayed(capsys: pytest.CaptureFixture[str], discipline: str, *seeds: int) -> list[str]:
    """Replay at a rate that strains both disciplines; return the files."""
    Path("fast.yaml").write_text(SCENARIO.replace("300", "1100"))
    files = [f"{discipline}-{seed}.json" for seed in seeds]
    for file, seed in zip(files, seeds, strict=True):
        run(capsys, "replay", "fast.yaml", "--discipline", discipline, "--seed", str(seed), "--quiet", "--json", file)
    return files


def test_files_that_differ_in_the_seed_are_one_side(capsys: pytest.CaptureFixture[str]) -> None:
    files = [*replayed(capsys, "deferred", 1, 2, 3), *replayed(capsys, "eager", 1, 2, 3)]
    said = run(capsys, "compare", *files, "--json", "out.json")
    one, two = json.loads(Path("out.json").read_text())["sides"]
    assert (one["label"], one["seeds"], len(two["files"])) == ("deferred-1.json", [1, 2, 3], 3)
    scores = [json.loads(Path(f).read_text())["scores"]["fixed"]["goodput_rps"] for f in files]
    gap = two["differences"]["goodput_rps"]
    assert gap["mean"] == pytest.approx((sum(scores[3:]) - sum(scores[:3])) / 3)
    assert gap["test"] == "paired t-test over seeds"
    assert two["differences"]["mean_batch"]["p_value"] < 0.05
    assert "eager-1.json: discipline.name: deferred → eager." in said
    assert "Test: paired t-test over seeds (3 seeds), two-sided" in said
    assert re.search(r"^ eager-1.json +batch mean .* yes $", said, re.MULTILINE)


def test_one_seed_proves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "compare", *replayed(capsys, "deferred", 1), *replayed(capsys, "eager", 1))
    assert "With one seed a side no significance can be given: run several seeds." in said
    assert "yes" not in said


def test_sweeps_and_searches_are_compared_too(capsys: pytest.CaptureFixture[str]) -> None:
    varied = ("--vary", "discipline.name=deferred,eager", "--seeds", "3")
    Path("fast.yaml").write_text(SCENARIO.replace("300", "1100"))
    run(capsys, "sweep", "fast.yaml", *varied, "--out", "out.parquet", "--quiet")
    run(capsys, "compare", "out.parquet", "--json", "sweep.json")
    files = [*replayed(capsys, "deferred", 1, 2, 3), *replayed(capsys, "eager", 1, 2, 3)]
    run(capsys, "compare", *files, "--json", "replays.json")
    by_sweep, by_replay = (json.loads(Path(f).read_text())["sides"] for f in ("sweep.json", "replays.json"))
    assert [side["label"] for side in by_sweep] == ["discipline.name=deferred", "discipline.name=eager"]
    assert [side["means"] for side in by_sweep] == [side["means"] for side in by_replay]
    assert by_sweep[1]["differences"] == by_replay[1]["differences"]

    options = ("--discipline", "deferred", "--discipline", "eager", "--seeds", "2", "--resolution", "0.05", "--quiet")
    run(capsys, "capacity", "s.yaml", *options, "--json", "capacity.json")
    said = run(capsys, "compare", "capacity.json")
    assert re.search(r"^ eager +highest rate req/s +−", said, re.MULTILINE)
    told = refused(capsys, "compare", "capacity.json", "out.parquet")
    assert told == "capacity.json and out.parquet are results of different kinds: compare like with like"


def test_what_cannot_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    [one] = replayed(capsys, "deferred", 1)
    assert refused(capsys, "compare", one).startswith(f"two sides or more are needed ({one})")
    assert refused(capsys, "compare", one, "gone.json") == "gone.json: cannot be read: no such file or directory"
    assert refused(capsys, "compare", one, "fast.yaml").startswith("fast.yaml: is not a result of `partita replay")
    Path("torn.parquet").write_bytes(b"PAR1 torn")
    assert refused(capsys, "compare", "torn.parquet", one) == "torn.parquet: is damaged, or a result of another version"
    Path("half.json").write_text('{"scores": {"fixed": {}}, "scenario": {"policies": []}, "seed": 1, "versions": {}}')
    assert refused(capsys, "compare", "half.json", one) == "half.json: is damaged, or a result of another version"
