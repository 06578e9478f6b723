"""Sweeps to be killed: a plugin whose discipline notes each run in a file, takes its time, and can kill its worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import psutil

CELLS = 60
PATIENCE_S = 120.0

PLUGIN = '''\
"""Eager batching that notes when the run of a `mark` begins and ends."""

import os
import signal
import time

from partita.hookspecs import hookimpl
from partita.replay.disciplines import DISCIPLINES

EAGER = next(discipline for discipline in DISCIPLINES if discipline.name == "eager")


def note(word, mark):
    with open(os.environ["RUN_LOG"], "a") as log:
        log.write(f"{word} {mark} {os.getpid()}\\n")


class Logged:
    name = "logged"

    def initial_state(self, services):
        return [EAGER.initial_state(services), False]

    def advance(self, state, arrivals, pool, until_ns):
        if not state[1]:
            mark = int(pool.parameters["mark"])
            note("began", mark)
            time.sleep(float(pool.parameters["pause_s"]))
            if mark == pool.parameters["killer"]:
                os.kill(os.getpid(), signal.SIGKILL)
            state[1] = True
        state[0], served = EAGER.advance(state[0], arrivals, pool, until_ns)
        return state, served


@hookimpl
def register_disciplines():
    return [Logged()]
'''

SCENARIO = """\
cluster: [{{gpu: A100-80GB, count: 1}}]
services: [{{name: a, slo_ms: 50, latency: {{alpha_ms: 1.0, beta_ms: 5.0}}}}]
load: {{arrivals: {{process: poisson, rate_rps: 200, duration_s: 2}}}}
discipline: {{name: logged, options: {{mark: 0, pause_s: {pause_s}, killer: {killer}}}}}
"""


@dataclass(frozen=True, slots=True)
class House:
    """A folder with the scenario, and an environment in which its plugin is installed."""

    folder: Path
    environment: dict[str, str]

    @property
    def journal(self) -> Path:
        """Where the sweep's results arrive."""
        return self.folder / "out.parquet.journal"

    @property
    def command(self) -> list[str]:
        """The sweep over all marks, to which an engine can be added."""
        marks = ",".join(map(str, range(CELLS)))
        code = "from partita.controller.cli import main; main()"
        vary = f"discipline.options.mark={marks}"
        return [sys.executable, "-c", code, "sweep", "s.yaml", "--vary", vary, "--out", "out.parquet"]

    @contextmanager
    def started(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Start the sweep; whatever happens, neither it nor its workers outlive the block."""
        process = subprocess.Popen(
            [*self.command, *options],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                everyone = [*psutil.Process(process.pid).children(recursive=True), process]
                for one in everyone:
                    one.kill()
            process.communicate()

    def done(self) -> int:
        """Count the results that have arrived."""
        return self.journal.read_bytes().count(b'{"done":') if self.journal.exists() else 0

    def wait_for(self, results: int, process: subprocess.Popen[str]) -> None:
        """Wait until this many results have arrived."""
        until = time.monotonic() + PATIENCE_S
        while self.done() < results:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.01)

    def runs(self) -> Counter[int]:
        """Count how often the run of each mark has begun, by the workers' own log."""
        lines = (self.folder / "runs.log").read_text().split("\n")
        return Counter(int(line.split()[1]) for line in lines if line.startswith("began"))

    def table(self) -> pl.DataFrame:
        """Read the results."""
        return pl.read_parquet(self.folder / "out.parquet")


def build(folder: Path, *, pause_s: float = 0.05, killer: int = -1) -> House:
    """Lay out the folder; the plugin's metadata beside its module is all that an installation is."""
    site = folder / "site"
    about = site / "runlog-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "runlog.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: runlog\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[partita]\nrunlog = runlog\n")
    (folder / "s.yaml").write_text(SCENARIO.format(pause_s=pause_s, killer=killer))
    (folder / "runs.log").touch()
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PARTITA_PLUGINS")}
    return House(folder, {**kept, "PYTHONPATH": str(site), "RUN_LOG": str(folder / "runs.log")})


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the worker processes of a sweep on this machine."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def wait_until_gone(processes: Sequence[psutil.Process]) -> None:
    """Wait until processes have ended."""
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert alive == []
