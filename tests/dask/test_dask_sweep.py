"""A sweep on a real Dask cluster on loopback: a scheduler and two workers, each a process, some of them killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from logged_runs import CELLS, PATIENCE_S, House, build

pytestmark = [pytest.mark.dask, pytest.mark.slow]
pytest.importorskip("distributed", reason="the extra [dask] is not installed")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A scheduler at an address, and its workers."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: tuple[subprocess.Popen[bytes], ...]


def start(house: House, name: str, module: str, *options: str) -> subprocess.Popen[bytes]:
    """Start one process of the cluster on a free port of loopback; what it says goes to a file."""
    with (house.folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", *options],
            cwd=house.folder,
            env=house.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def address_of(scheduler: subprocess.Popen[bytes], file: Path) -> str:
    """Wait until a scheduler has written down where it listens."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert scheduler.poll() is None
        with suppress(OSError, ValueError):  # not there yet, or not whole
            return str(json.loads(file.read_text())["address"])
        time.sleep(0.05)
    pytest.fail("the scheduler does not listen")


def listening(process: subprocess.Popen[bytes]) -> set[str]:
    """Return the addresses that a process listens on."""
    connections = psutil.Process(process.pid).net_connections("tcp")
    return {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}


@contextmanager
def cluster(house: House) -> Iterator[Cluster]:
    """Run a scheduler and two workers of one thread each, and end them all."""
    processes = []
    try:
        file = house.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        options = ("--port", "0", "--scheduler-file", str(file))
        scheduler = start(house, "scheduler", "distributed.cli.dask_scheduler", *options)
        processes.append(scheduler)
        address = address_of(scheduler, file)
        for name in ("worker-a", "worker-b"):
            options = ("--nthreads", "1", "--no-nanny", "--name", name, address)
            processes.append(start(house, name, "distributed.cli.dask_worker", *options))
        yield Cluster(address, scheduler, tuple(processes[1:]))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    house = build(tmp_path, pause_s=0.1)
    with cluster(house) as dask, house.started("--engine", "dask", "--scheduler", dask.address) as sweep:
        house.wait_for(CELLS // 2, sweep)
        assert {ip for process in (dask.scheduler, *dask.workers) for ip in listening(process)} == {"127.0.0.1"}
        dask.workers[0].kill()
        _, problems = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 0, problems
    assert "Traceback" not in problems
    table = house.table()
    assert table["discipline.options.mark"].to_list() == list(range(CELLS))
    assert table["problem"].null_count() == CELLS
    assert table["goodput_rps"].n_unique() == 1
    assert set(house.runs()) == set(range(CELLS))
    workers = {line.split()[2] for line in (tmp_path / "runs.log").read_text().splitlines()}
    assert workers == {str(worker.pid) for worker in dask.workers}  # both took part


def test_a_killed_scheduler_ends_the_sweep_and_another_goes_on(tmp_path: Path) -> None:
    house = build(tmp_path, pause_s=0.1)
    with cluster(house) as dask, house.started("--engine", "dask", "--scheduler", dask.address) as sweep:
        house.wait_for(CELLS // 2, sweep)
        dask.scheduler.kill()
        _, problems = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 1
    assert f"Error: the Dask scheduler at {dask.address} went away" in problems
    assert "Traceback" not in problems
    finished = house.done()
    with cluster(house) as dask, house.started("--engine", "dask", "--scheduler", dask.address) as sweep:
        _, problems = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 0, problems
    assert finished >= CELLS // 2
    assert house.done() == CELLS  # one entry a cell: none was done twice
    assert house.table()["problem"].null_count() == CELLS


def test_a_worker_of_another_version_gives_nothing(tmp_path: Path) -> None:
    house = build(tmp_path)
    other = tmp_path / "other" / "scipy-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: scipy\nVersion: 0.0.1\n")
    before = house.environment.get("PYTHONPATH")
    paths = os.pathsep.join([str(other.parent), *([before] if before else [])])
    strange = replace(house, environment={**house.environment, "PYTHONPATH": paths})
    with cluster(strange) as dask, house.started("--engine", "dask", "--scheduler", dask.address) as sweep:
        _, problems = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 1
    assert problems.count("its worker has scipy 0.0.1, and here is ") == CELLS
    assert house.table()["problem"].null_count() == 0
    with cluster(house) as dask, house.started("--engine", "dask", "--scheduler", dask.address) as sweep:
        _, problems = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 0, problems
    assert house.table()["problem"].null_count() == CELLS  # all were tried anew


def test_no_scheduler_is_one_sentence(tmp_path: Path) -> None:
    house = build(tmp_path)
    with house.started("--engine", "dask", "--scheduler", "tcp://127.0.0.1:1") as sweep:
        _, problems = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 2
    assert problems.startswith("Error: --scheduler: no Dask scheduler answers at 'tcp://127.0.0.1:1'")
    assert problems.count("\n") == 1
