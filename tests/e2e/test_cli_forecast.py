"""`partita forecast backtest` and `models` from the outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partita.controller.cli.main import main
from partita.controller.load_series import parse_span
from partita.errors import ConfigError
from partita.forecasting import FAR, LEVELS, NEAR

MINUTES = 3 * 1440


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Three days by the minute of a service with a cycle, one without, one that is idle, and one that begins late."""
    rng = np.random.default_rng(11)
    t = np.arange(MINUTES)
    wave = rng.poisson(600 + 500 * np.sin(t / 1440 * 2 * np.pi))
    flat = rng.poisson(60, MINUTES)
    lines = ["time,wave,flat,idle,late"]
    lines += [
        f"{60 * n},{wave[n]},{'' if 4200 <= n < 4210 else flat[n]},0,{5 if n >= MINUTES - 5 else ''}"
        for n in range(MINUTES)
    ]
    path = tmp_path / "counts.csv"
    path.write_text("\n".join(lines))
    return path


def partita(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        main(["forecast", *map(str, arguments)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_backtest_from_trace_to_page(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores, page = tmp_path / "s.json", tmp_path / "p.html"
    code, out, err = partita(
        capsys, "backtest", "--trace", trace, "--horizons", "1m,1h", "--origins", 6, "--json", scores, "--report", page
    )
    assert code == 0, err
    assert FAR.name in out
    assert "last-value" in out
    assert "Left out: idle (no request ever came); late (too little was measured before the first origin)." in out
    assert "forecasts" in err
    found = json.loads(scores.read_text())
    assert found["left_out"].keys() == {"idle", "late"}
    assert found["services"].keys() == {"wave", "flat"}
    assert found["services"]["flat"]["missing_steps"] == 10
    assert found["services"]["flat"]["dispersion"] == pytest.approx(1.0, abs=0.1)
    records = found["scores"]
    assert {(r["service"], r["horizon_s"]) for r in records} == {
        (s, h) for s in ("wave", "flat") for h in (60.0, 3600.0)
    }
    for record in records:
        assert record.keys() == {
            "service", "horizon_s", "model", "n", "wape", "mase", "pinball", "coverage", "fit_s", "predict_s", "ratios",
        }  # fmt: skip
        assert record["pinball"].keys() == record["coverage"].keys() == {f"{level:g}" for level in LEVELS}
    text = page.read_text()
    assert "http-equiv" in text
    assert "Plotly" in text
    assert "<h3>wave</h3>" in text
    assert "partita forecast backtest --trace" in text
    assert "src=" not in text.split("<body>")[1]


@pytest.fixture
def sized(tmp_path: Path) -> Path:
    """Two hours of requests with sizes, one in fifty without, and of another service without any."""
    rng = np.random.default_rng(12)
    at, size = np.sort(rng.uniform(0, 7200, 8000)), rng.lognormal(5, 1, 8000)
    lines = ["ts,service,size"]
    lines += [
        f"{seconds:.6f},{'bare' if n % 5 == 0 else 'chat'},{'' if n % 50 == 1 or n % 5 == 0 else f'{size[n]:.1f}'}"
        for n, seconds in enumerate(at)
    ]
    path = tmp_path / "requests.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_backtest_by_size_bucket(sized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--trace", sized, "--horizons", "5m", "--origins", 4, "--models", "last-value")
    out, page = tmp_path / "s.json", tmp_path / "p.html"
    code, told, err = partita(capsys, "backtest", *common, "--buckets", "128,512", "--json", out, "--report", page)
    assert code == 0, err
    found = json.loads(out.read_text())
    names = {"chat:up-to-128", "chat:up-to-512", "chat:over-512", "chat:unknown-size", "bare:unknown-size"}
    assert found["services"].keys() == names
    assert {r["service"] for r in found["scores"]} == names
    assert found["burstiness"]["services"].keys() == names
    burst = found["burstiness"]["services"]["chat:up-to-128"]
    assert burst["n"] > 5
    assert burst["ratio"] == pytest.approx(burst["loss"] / burst["naive_loss"])
    assert burst["index"] == pytest.approx(1.0, abs=0.2)  # the instants are drawn evenly
    assert found["sizes"]["services"].keys() == {"chat"}  # the other one told no size
    sizes = found["sizes"]["services"]["chat"]
    assert sizes["unknown_share"] == pytest.approx(1 / 40, abs=0.01)
    assert sizes["ratio"] < 1.0  # sizes are drawn from one law: more of the past knows it better
    assert {"Burstiness", "Input"} <= {line.split()[0] for line in told.splitlines() if line.strip()}
    assert "<h2>Burstiness and input sizes</h2>" in page.read_text()
    assert partita(capsys, "backtest", *common, "--json", out, "--quiet") == (0, "", "")
    whole = json.loads(out.read_text())
    assert whole["services"].keys() == {"chat", "bare"}
    parts = sum(one["mean_rps"] for name, one in found["services"].items() if name.startswith("chat:"))
    assert parts == pytest.approx(whole["services"]["chat"]["mean_rps"])
    assert (
        partita(capsys, "backtest", *common, "--buckets", "128", "--service", "bare", "--json", out, "--quiet")[0] == 0
    )
    assert json.loads(out.read_text())["services"].keys() == {"bare:unknown-size"}


@pytest.mark.parametrize(
    ("buckets", "sentence"),
    [
        ("512,128", "--buckets: edges of sizes must be above 0 and rise, like 128,512,2048"),
        ("many", "--buckets: 'many' is neither edges of input sizes like 128,512,2048 nor a file"),
        ("128", "--buckets: counts tell no input sizes: buckets need a source of single requests"),
    ],
)
def test_buckets_that_cannot_be(trace: Path, capsys: pytest.CaptureFixture[str], buckets: str, sentence: str) -> None:
    assert partita(capsys, "backtest", "--trace", trace, "--buckets", buckets) == (2, "", f"Error: {sentence}\n")


def test_the_same_backtest_gives_the_same_scores(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *more: str) -> list[dict[str, Any]]:
        out = tmp_path / name
        common = ("--trace", trace, "--horizons", "15m", "--origins", 4, "--service", "wave", "--quiet", "--json", out)
        assert partita(capsys, "backtest", *common, *more) == (0, "", "")
        found: list[dict[str, Any]] = json.loads(out.read_text())["scores"]
        return [{k: v for k, v in record.items() if k not in ("fit_s", "predict_s")} for record in found]

    assert run("one.json") == run("two.json")
    assert [r["model"] for r in run("three.json", "--models", "last-value,daily-naive")] == [
        "last-value",
        "daily-naive",
    ]


def test_a_cycle_is_worth_knowing_a_day_ahead(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.json"
    arguments = ("--horizons", "12h", "--models", "last-value,daily-naive", "--quiet", "--json", out)
    assert partita(capsys, "backtest", "--trace", trace, *arguments)[0] == 0
    ratio = {(r["service"], r["model"]): r["ratios"]["wape"] for r in json.loads(out.read_text())["scores"]}
    assert ratio["wave", "last-value"] > 3
    assert ratio["wave", "daily-naive"] == pytest.approx(1.0)
    assert ratio["flat", "last-value"] < 1.3


def test_wider_steps_can_be_asked_for(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.json"
    arguments = ("--step", "10m", "--horizons", "10m", "--models", "last-value", "--quiet", "--json", out)
    assert partita(capsys, "backtest", "--trace", trace, *arguments)[0] == 0
    assert json.loads(out.read_text())["step_s"] == 600.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--models", "oracle"),
            "--models: no model is called 'oracle'; there are: ",
        ),
        (
            ("--horizons", "soon"),
            "--horizons: 'soon' is no length of time: give a length of time like 10s, 1m, 24h or 7d",
        ),
        (("--horizons", "0"), "--horizons: '0' is no length of time"),
        (("--horizons", ","), "--horizons: it names nothing"),
        (("--models", " , "), "--models: it names nothing"),
        (("--horizons", "90s"), "--horizons: a horizon of 90 s is not a whole number of steps of 60 s"),
        (("--horizons", "9d"), "--horizons: the series holds 4320 steps of 60 s, too few for a horizon of 777600 s"),
        (("--step", "90s"), "step: steps of 90 s cannot be made of bins of 60 s"),
        (("--service", "x*"), "--service: no service matches x*; there are: wave, flat, idle, late"),
        (("--service", "idle"), "holds no series that can be forecast: no request ever came"),
        (("--import", "1"), "--import: --trace and --import name two sources; give one"),
        (("--json", "/nowhere/x.json"), "--json: the folder '/nowhere' does not exist"),
        (("--bin", "0"), "Invalid value for '--bin'"),
    ],
)
def test_mistakes_are_one_sentence(
    trace: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    code, out, err = partita(capsys, "backtest", "--trace", trace, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == (1 if "Invalid value" not in sentence else 4)


def test_a_trace_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = partita(capsys, "backtest", "--trace", "absent.csv")
    assert (code, err) == (2, "Error: absent.csv: no such file\n")


def test_a_trace_that_is_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "short.csv"
    path.write_text("t,requests\n0,1\n60,2\n120,3\n")
    code, _, err = partita(capsys, "backtest", "--trace", path)
    assert code == 2
    assert "is 3 steps of 60 s, too short for 1m,15m,1h,24h; give shorter ones" in err


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = partita(capsys, "models")
    names = [line.split()[0] for line in out.splitlines()]
    assert {NEAR.name, FAR.name, "last-value", "daily-naive"} <= set(names)
    told = json.loads(partita(capsys, "models", "--json")[1])
    assert [m["name"] for m in told] == names
    assert all(m["about"] for m in told)


@pytest.mark.parametrize("command", ["backtest", "status", "show", "models"])
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = partita(capsys, command, "--help")
    assert code == 0
    assert "Example" in out


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("10s", 10.0), ("1m", 60.0), ("1.5h", 5400.0), ("7d", 604_800.0)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_span(text, "--step") == seconds
    with pytest.raises(ConfigError):
        parse_span(f"{text}x", "--step")
