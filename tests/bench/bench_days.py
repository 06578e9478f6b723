"""Replay ten real days of two services: `python tests/bench/bench_days.py [DAYS]` (needs PARTITA_REFERENCE_DIR).

Each scenario is one command, `partita replay`, once on a fixed cluster and once with the planner in the loop. Ten days
pass if each takes less than twelve minutes and all its processes together less than 2 GiB. Processor time is given too,
since it says more than the clock on a machine that others use.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import psutil

SCENARIOS = Path(__file__).parent / "scenarios"
FILES = ("servegen-days-fixed.yaml", "servegen-days.yaml")
ALL_DAYS = 10.0
LONGEST_S = 720.0
MOST_MEMORY_GIB = 2.0
LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took: by the clock, of the processors, and the most memory of all its processes at a time."""

    wall_s: float
    cpu_s: float
    memory_gib: float


def main() -> int:
    """Run both scenarios, print a line each, return 1 if one does not pass."""
    if "PARTITA_REFERENCE_DIR" not in os.environ:
        print("PARTITA_REFERENCE_DIR is not set: there are no traces to replay.", file=sys.stderr)
        return 2
    days = float(sys.argv[1]) if len(sys.argv) > 1 else ALL_DAYS
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}, {days:g} days")
    print(
        f"{'scenario':25} {'requests':>13} {'good':>8} {'GPUs':>6} {'wall':>7} {'CPU':>7} {'req/s':>10} {'memory':>8}"
    )
    passed = [compare(SCENARIOS / name, days) for name in FILES]
    return 0 if all(passed) else 1


def compare(path: Path, days: float) -> bool:
    """Run one scenario; print what it took, and say whether that is little enough."""
    with TemporaryDirectory() as folder:
        scenario, result = Path(folder) / path.name, Path(folder) / "result.json"
        end = f"    to: {24 * days:g}h\npolicies:"
        scenario.write_text(path.read_text().replace("policies:", end, 1))
        partita = Path(sys.executable).with_name("partita")
        cost = run([str(partita), "replay", str(scenario), "--json", str(result), "--quiet"])
        [score] = json.loads(result.read_text())["scores"].values()
    speed = score["offered"] / cost.wall_s
    print(
        f"{path.stem:25} {score['offered']:13,} {score['attainment']:8.3%} {score['gpus_held_mean']:6.1f} "
        f"{cost.wall_s:6.0f}s {cost.cpu_s:6.0f}s {speed:10,.0f} {cost.memory_gib:5.2f}GiB",
        flush=True,
    )
    return cost.wall_s * ALL_DAYS / days < LONGEST_S and cost.memory_gib < MOST_MEMORY_GIB


def run(command: list[str]) -> Cost:
    """Run a command to its end; raise CalledProcessError if it fails."""
    begun, before = monotonic(), os.times()
    process = subprocess.Popen(command)
    most = 0
    try:
        while process.poll() is None:
            most = max(most, resident(process.pid))
            sleep(LOOK_EVERY_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after = os.times()
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return Cost(monotonic() - begun, cpu_s, most / 2**30)


def resident(pid: int) -> int:
    """Return the memory in use by a process and all that it has started, in bytes."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


if __name__ == "__main__":
    sys.exit(main())
