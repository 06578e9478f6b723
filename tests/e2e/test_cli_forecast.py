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
from partita.forecasting import FAR, NEAR
from partita.forecasting.backtest import LEVELS

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
