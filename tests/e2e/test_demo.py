"""`partita demo` from start to end, and stopped in the middle: no process may stay behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

PARTITA = [sys.executable, "-c", "from partita.controller.cli.main import main; main()"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if k != "PARTITA_DSN"}, "PARTITA_DATA_DIR": str(tmp_path / "data")}


def _using(folder: Path) -> list[str]:
    """List the processes that have a folder in their command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if bytes(folder) in text and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.slow
def test_a_trace_of_ones_own(tmp_path: Path, environment: dict[str, str]) -> None:
    at = 1_700_000_000 + np.sort(np.random.default_rng(1).uniform(0, 180, 3000))
    lines = [f"{t:.6f},{'ab'[n % 2]},{n % 7 + 1},1" for n, t in enumerate(at)]
    (tmp_path / "own.csv").write_text("\n".join(["ts,service,size,output_size", *lines, ""]))

    command = [*PARTITA, "demo", "--trace", "own.csv", "--policy", "static", "--policy", "reactive"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert [line.split()[:2] for line in done.stderr.splitlines()] == [
        ["static:", "begun"], ["static:", "3"], ["reactive:", "begun"], ["reactive:", "3"]
    ]  # fmt: skip
    assert re.search(r"within its SLO: detect [\d.]+ m?s, classify [\d.]+ m?s", done.stdout.replace("\n", " "))
    assert "\n3 minutes, played as fast as they were: about 16.7 requests a second.\n" in done.stdout
    assert "3,000 requests, imported (import 1)." in done.stdout
    assert re.search(r"^ static +[\d.]+ ", done.stdout, re.MULTILINE)
    assert "The report is in demo-report.html" in done.stdout
    assert "<h1>own.csv</h1>" in (tmp_path / "demo-report.html").read_text("utf-8")
    assert _using(tmp_path) == []

    again = subprocess.run(
        [*command, "--quiet"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    explained = subprocess.run(
        [*PARTITA, "explain", "--run", "4"], env=environment, capture_output=True, text=True, check=False
    )
    assert "of reactive (run 4)" in explained.stdout
    status = subprocess.run(
        [*PARTITA, "db", "status", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(status.stdout)["running"] is False


def _server_is_being_made(folder: Path, _: str) -> bool:
    return (folder / "data" / "postgres").exists()


def _has_said(words: str) -> Callable[[Path, str], bool]:
    return lambda _, said: words in said


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        pytest.param(_server_is_being_made, signal.SIGINT, id="while the server is made", marks=pytest.mark.slow),
        pytest.param(_has_said("Made up"), signal.SIGINT, id="while importing", marks=pytest.mark.slow),
        pytest.param(_has_said("Played on"), signal.SIGINT, id="while playing"),
        pytest.param(_has_said("Played on"), signal.SIGTERM, id="told to end while playing", marks=pytest.mark.slow),
    ],
)
def test_stopped_in_the_middle(
    tmp_path: Path, environment: dict[str, str], moment: Callable[[Path, str], bool], sent: signal.Signals
) -> None:
    said = tmp_path / "said.txt"
    with said.open("w") as out:
        # A session of its own, as at a terminal: the signal goes to the whole group.
        demo = subprocess.Popen(
            [*PARTITA, "demo"],
            cwd=tmp_path,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while not moment(tmp_path, said.read_text()):
            assert demo.poll() is None, said.read_text()
            time.sleep(0.01)
        os.killpg(demo.pid, sent)
        code = demo.wait()
    assert code == (130 if sent is signal.SIGINT else 143), said.read_text()
    assert "Traceback" not in said.read_text()
    assert _using(tmp_path) == []
    assert not (tmp_path / "demo-report.html").exists()
