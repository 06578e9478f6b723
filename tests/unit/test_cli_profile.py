"""`partita profile`: what a table of latencies holds, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partita.controller.cli.main import main

TABLE = """\
model,profile,gpu_percent,bucket,batch,latency_ms
a,whole,,128,1,10
a,whole,,128,4,9
a,whole,,512,1,20
a,3g.40gb,50,512,1,31.25
b,whole,,,1,5
b,whole,,,2,oom
"""


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["profile", "show", *args])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "t.csv"
    path.write_text(TABLE, "utf-8")
    return str(path)


def test_several_models_are_listed(capsys: pytest.CaptureFixture[str], table: str) -> None:
    code, out, _ = run(capsys, table)
    assert code == 0
    assert "partita table with 2 models (--model NAME shows one)" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip().startswith(("a ", "b "))}
    assert rows["a"][-2:] == ["4", "0"]
    assert rows["b"][-2:] == ["2", "1"]


def test_curves_of_one_model_with_what_was_done_to_them(capsys: pytest.CaptureFixture[str], table: str) -> None:
    code, out, _ = run(capsys, table, "--model", "a")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["instance", "size", "up", "to", "1", "4"] in lines
    assert ["whole", "128", "10", "10"] in lines
    assert ["3g.40gb@50%", "512", "31.25", "-"] in lines
    assert "a on whole up to size 128: batch 4 took 9 ms, less than batch 1: raised to its 10 ms" in out


def test_json_says_the_same(capsys: pytest.CaptureFixture[str], table: str) -> None:
    found = json.loads(run(capsys, table, "--model", "b", "--json")[1])
    assert found["curves"] == [{"profile": "whole", "gpu_percent": 100.0, "size_up_to": None, "latency_ms": {"1": 5.0}}]
    listed = json.loads(run(capsys, table, "--json")[1])
    assert [m["model"] for m in listed["models"]] == ["a", "b"]
    assert listed["models"][0]["buckets"] == [128.0, 512.0]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("nowhere.csv",), "Error: nowhere.csv: no such file"),
        (("TABLE", "--model", "c"), "holds no model 'c': choose one of a, b"),
        (("TABLE", "--format", "xml"), "there is no format 'xml'; known are parvagpu, hasgpu, partita"),
        (("TABLE", "--model", "a", "--processes", "2"), "a was not measured with processes 2"),
    ],
)
def test_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str], table: str, args: tuple[str, ...], sentence: str
) -> None:
    code, out, err = run(capsys, *(table if a == "TABLE" else a for a in args))
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
