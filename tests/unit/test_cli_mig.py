"""`partita mig`: tables for people, JSON for programs, one sentence for mistakes."""

from __future__ import annotations

import json

import pytest

from partita.controller.cli.main import main
from partita.controller.cli.mig import draw
from partita.mig import gpu_model, maximal, parse


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["mig", *args])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_geometries_as_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    code, out, _ = run(capsys, "geometries", "A100-80GB")
    assert code == 0
    assert "A100-80GB: 19 maximal geometries" in out
    assert "|3g-------------|2g-----|1g-....|" in out
    assert "3g.40gb@0,2g.20gb@4,1g.10gb@6" in out


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_terminal_is_too_narrow_to_copy_a_geometry(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = run(capsys, "geometries", "A100-80GB")
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    rows = [line.split() for line in out.splitlines() if "@" in line]
    if width >= 80:
        assert [row[-1] for row in rows] == [str(geometry) for geometry in maximal("A100-80GB")]
    assert ("|3g-------------|2g-----|1g-....|" in out) == (width == 140)


@pytest.mark.parametrize(
    ("flags", "kind", "count"),
    [
        ([], "maximal", 19),
        (["--all-states"], "allowed", 298),
        (["--double-memory"], "maximal", 78),
        (["--all-states", "--double-memory"], "allowed", 723),
    ],
)
def test_geometries_as_json(capsys: pytest.CaptureFixture[str], flags: list[str], kind: str, count: int) -> None:
    code, out, _ = run(capsys, "geometries", "nvidia a100-sxm4-80gb", "--json", *flags)
    answer = json.loads(out)
    assert (code, answer["gpu"], answer["kind"], answer["count"]) == (0, "A100-80GB", kind, count)
    assert all(parse("A100-80GB", row["geometry"]) is not None for row in answer["geometries"])


def test_json_adds_up_what_a_geometry_uses(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "geometries", "H100-80GB", "--json")
    rows = {row["geometry"]: row for row in json.loads(out)["geometries"]}
    # two 3g instances: 2 x 60 SMs, 2 x 39.5 GiB, 6 of 7 compute slices
    assert rows["3g.40gb@0,3g.40gb@4"] == {
        "geometry": "3g.40gb@0,3g.40gb@4",
        "profiles": {"3g.40gb": 2},
        "compute_slices": 6,
        "sms": 120,
        "memory_gib": 79.0,
    }


def test_gpus_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    _, out, _ = run(capsys, "gpus")
    assert "H200-141GB" in out
    assert "whole only, until read from the device" in out
    [row] = [line.split() for line in out.splitlines() if "A100-80GB" in line]
    assert row[-2:] == ["298", "19"]  # as many as `geometries` lists, below
    _, out, _ = run(capsys, "gpus", "--json")
    listed = {gpu["name"]: gpu for gpu in json.loads(out)}
    assert listed["A30-24GB"]["memory_gib"] == 24
    assert listed["B200-180GB"]["profiles"] == []


@pytest.mark.parametrize(
    ("gpu", "sentence"),
    [
        ("A100", "unknown GPU 'A100'; did you mean A100-40GB or A100-80GB"),
        ("H200", "H200-141GB: NVIDIA publishes no complete list of its MIG placements"),
    ],
)
def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str], gpu: str, sentence: str) -> None:
    code, out, err = run(capsys, "geometries", gpu)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("gpu", ["A100-80GB", "A30-24GB", "RTX-PRO-6000"])
def test_every_drawing_is_as_wide_as_its_gpu(gpu: str) -> None:
    model = gpu_model(gpu)
    drawings = [draw(model, geometry) for geometry in maximal(gpu, double_memory=True, variants=True)]
    assert len({len(drawing) for drawing in drawings}) == 1
