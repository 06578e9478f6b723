"""The sweep's journal: what is in it is never lost nor run again, and what does not belong in it is refused."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from partita.controller.scenario_file import parse_scenario
from partita.controller.whatif.journal import SweepJournal, header_of
from partita.errors import ConfigError

HEADER: dict[str, Any] = {"partita_sweep": 1, "scenario": {"seed": 1, "load": {"rate": 5}}, "versions": {"x": "1"}}


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_are_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with SweepJournal(path, HEADER) as journal:
        journal.begin("one")
        journal.finish("one", {"score": {"good": 3}})
        journal.begin("two")
    with SweepJournal(path, HEADER) as journal:
        assert journal.done == {"one": {"score": {"good": 3}}}
        journal.finish("two", {"score": None})
    assert [*written(path)[0]] == sorted(HEADER)
    assert [next(iter(sorted(entry.items()))) for entry in written(path)[1:]] == [
        ("began", "one"),
        ("done", "one"),
        ("began", "two"),
        ("done", "two"),
    ]


def test_a_line_is_on_disk_before_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a call returns, the whole file has been handed to the disk since its last byte was written."""
    path = tmp_path / "a.journal"
    settled: dict[int, int] = {}
    fsync = os.fsync

    def watched(file: int) -> None:
        fsync(file)
        settled[os.fstat(file).st_ino] = os.fstat(file).st_size

    monkeypatch.setattr(os, "fsync", watched)
    with SweepJournal(path, HEADER) as journal:
        inode = path.stat().st_ino
        assert settled == {inode: path.stat().st_size, tmp_path.stat().st_ino: tmp_path.stat().st_size}
        for step in (lambda: journal.begin("one"), lambda: journal.finish("one", {"score": {"good": 3}})):
            before = path.stat().st_size
            step()
            assert settled[inode] == path.stat().st_size > before


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with SweepJournal(path, HEADER) as journal:
        for name in "abc":
            journal.finish(name, {"score": {"good": 1}})
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        with SweepJournal(path, HEADER) as journal:
            assert list(journal.done) == ["a", "b"]
            journal.finish("c", {"score": {"good": 1}})
        assert path.read_bytes() == whole


def test_a_torn_first_line_is_a_new_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(b'{"partita_sw')
    with SweepJournal(path, HEADER) as journal:
        assert journal.done == {}
    assert written(path) == [HEADER]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"versions": {"x": "2"}}, "versions.x was 1, is 2"),
        ({"scenario": {"seed": 1, "load": {"rate": 6}}}, "load.rate was 5, is 6"),
        ({"scenario": {"seed": 2, "load": {"rate": 5, "new": None}}}, "load.new was not there, is null and 1 more"),
    ],
)
def test_another_scenario_or_version_is_refused(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    path = tmp_path / "a.journal"
    SweepJournal(path, HEADER).__exit__(None, None, None)
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        SweepJournal(path, {**HEADER, **changed})
    assert str(caught.value) == (
        f"{path}: holds results of another scenario or version ({told}): name another --out, or remove it to start anew"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "line"), [(b"hello\n", 1), (b'{"a": 1}\n', 1), (json.dumps(HEADER).encode() + b"\nhello\n", 2)]
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"is not a journal of `partita sweep` \(line {line}\)"):
        SweepJournal(path, HEADER)
    assert path.read_bytes() == content


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with SweepJournal(path, HEADER), pytest.raises(ConfigError, match="another sweep is writing it"):
        SweepJournal(path, HEADER)
    with SweepJournal(path, HEADER):
        pass


def test_what_the_header_depends_on(tmp_path: Path) -> None:
    text = """\
cluster: [{{gpu: A100-80GB, count: 2}}]
services: [{{name: a, slo_ms: 250, latency: {{alpha_ms: 1.0, beta_ms: 5.0}}}}]
load: {{trace: {{file: t.csv}}}}
policies: {policies}
seed: {seed}
"""
    (tmp_path / "t.csv").write_text("time,a\n0,5\n60,7\n")

    def header(seed: int = 1, policies: str = "[]") -> dict[str, Any]:
        said = text.format(seed=seed, policies=policies)
        return header_of(parse_scenario(said, name="s.yaml", folder=tmp_path))

    first = header()
    assert header(seed=2) == header(policies="[static]") == first  # a cell's own
    assert header(policies="[{name: reactive, options: {target: 0.5}}]") != first
    (tmp_path / "t.csv").write_text("time,a\n0,5\n60,8\n")
    assert header() != first


def test_a_plugin_of_others_is_part_of_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of it, or none, may give other results; what is built in goes by Partita's version."""
    scenario = parse_scenario(
        "cluster: [{gpu: A100-80GB, count: 1}]\n"
        "services: [{name: a, slo_ms: 250, latency: {alpha_ms: 1, beta_ms: 5}}]\n"
        "load: {arrivals: {process: poisson, rate_rps: 10, duration_s: 2}}\n",
        name="s.yaml",
        folder=tmp_path,
    )
    without = header_of(scenario)["versions"]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PARTITA_PLUGINS", raising=False)
    (tmp_path / "guests.py").write_text(
        "from partita.hookspecs import hookimpl\n\n@hookimpl\ndef veto():\n    return None\n"
    )
    for version in ("1.2", "1.3"):
        info = tmp_path / "house_guests.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: house-guests\nVersion: {version}\n")
        (info / "entry_points.txt").write_text("[partita]\nguest = guests\n")
        importlib.invalidate_caches()
        assert header_of(scenario)["versions"] == {**without, "guest": f"house-guests {version}"}
