"""`partita demo-live`, shortened, on a real Triton: its table and report, and nothing left behind when stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from partita.errors import ConfigError
from partita.executors.triton.server import VENV_VARIABLE, installation

VENV = Path(os.environ.get(VENV_VARIABLE) or Path(__file__).parents[2] / ".venv-triton")
DEMO = [sys.executable, "-c", "from partita.controller.cli.main import main; main()", "demo-live"]
SHORT = ["--seconds", "8", "--statics", "1", "--report", "report.html"]
RUNS = ("Triton as it comes", "batches to", "Triton, set by partita run", "Partita's own runtime")

pytestmark = pytest.mark.slow


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Make a folder with a short name, since the names of PostgreSQL's sockets must be short."""
    with TemporaryDirectory(prefix="live-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def environment(scratch: Path) -> dict[str, str]:
    try:
        installation(VENV)
    except ConfigError as problem:
        pytest.skip(str(problem))
    return {**os.environ, VENV_VARIABLE: str(VENV), "TMPDIR": str(scratch), "COLUMNS": "160"}


def test_a_short_run_measures_everything_and_leaves_nothing(
    tmp_path: Path, scratch: Path, environment: dict[str, str]
) -> None:
    at = 1_700_000_000 + np.sort(np.random.default_rng(1).uniform(0, 600, 6000))
    lines = [f"{t:.6f},{'ab'[n % 2]},1,1" for n, t in enumerate(at)]
    (tmp_path / "own.csv").write_text("\n".join(["ts,service,size,output_size", *lines, ""]))

    command = [*DEMO, *SHORT, "--trace", "own.csv"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in RUNS:
        [line] = re.findall(rf"^ {re.escape(name)}[^%\n]*?((?: +[\d.,−+%]+)+) *$", done.stdout, re.MULTILINE)
        goodput, in_time, *_ = re.findall(r"[\d.]+", line)
        assert float(goodput) > 0
        assert 0 < float(in_time) <= 100
    assert len(re.findall(r"^(?:Holds|DOES NOT HOLD): ", done.stdout, re.MULTILINE)) == 3
    report = (tmp_path / "report.html").read_text("utf-8")
    assert all(name in report.replace("&#x27;", "'") for name in RUNS)
    assert list(scratch.iterdir()) == []
    assert _using(scratch) == []


def test_stopped_in_the_middle_it_leaves_nothing(tmp_path: Path, scratch: Path, environment: dict[str, str]) -> None:
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen([*DEMO, *SHORT], cwd=tmp_path, env=environment, stdout=said, stderr=said)
        try:
            until = time.monotonic() + 300
            while "partita run: begun" not in (tmp_path / "said").read_text():
                assert process.poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < until
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.wait()
    assert (tmp_path / "said").read_text().endswith("Stopped.\n")
    assert not (tmp_path / "report.html").exists()
    assert list(scratch.iterdir()) == []
    assert _using(scratch) == []


def test_without_a_server_it_says_how_to_get_one(tmp_path: Path) -> None:
    environment = {**os.environ, VENV_VARIABLE: str(tmp_path / "nowhere")}
    done = subprocess.run([*DEMO, *SHORT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"Error: .*there is no Triton server in .*nowhere.*\n", done.stderr)


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
