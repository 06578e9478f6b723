"""Record a live hour, sped up, and make every one of its decisions again from what was recorded.

A database, a runtime with emulated devices and a controller are started; a load generator plays an hour of a made-up
trace through the runtime's front door, so many times as fast. Then `partita replay --recorded` compares the decisions
byte for byte.

    python tests/bench/live_hour.py [--speed 6] [--rate 12]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import numpy as np

HOUR_S = 3600.0
SERVICES = ("detect", "embed")
FILE = """
name: hour
cluster: [{{gpu: A100-80GB, count: 4}}]
services:
  - {{name: detect, slo_ms: 250, memory_gib: 2, latency: {{alpha_ms: 2, beta_ms: 20}}}}
  - {{name: embed, slo_ms: 150, memory_gib: 2, latency: {{alpha_ms: 1, beta_ms: 10}}}}
overheads: {{model_load_s: 1, repartition_s: 1}}
executor: {{local: {{url: "http://127.0.0.1:{port}"}}}}
policy: {{name: symphony, options: {{stabilisation_s: 20}}}}
control: {{near_s: {near_s:g}, epoch_s: {epoch_s:g}, rehearse_s: 20}}
watch: {{listen: null}}
"""


def instants(rate_rps: float, speed: float) -> tuple[np.ndarray, np.ndarray]:
    """Return when to send what: a wave with a burst in it, played `speed` times as fast."""
    rng = np.random.default_rng(7)
    seconds = np.arange(HOUR_S)
    rates = rate_rps * (1.0 - 0.7 * np.cos(2 * np.pi * seconds / 1800)) + 1.5 * rate_rps * (
        (seconds > 2400) & (seconds < 2700)
    )
    counts = rng.poisson(rates)
    at = np.repeat(seconds, counts) + rng.random(int(counts.sum()))
    return np.sort(at) / speed, rng.integers(0, len(SERVICES), len(at))


async def play(url: str, at: np.ndarray, which: np.ndarray) -> Counter[str]:
    """Send requests when they are due; count the answers."""
    answers: Counter[str] = Counter()

    async def send(session: aiohttp.ClientSession, service: str) -> None:
        try:
            async with session.post(f"{url}/v1/services/{service}", json={"size": 1}) as answer:
                await answer.read()
                answers[str(answer.status)] += 1
        except aiohttp.ClientError as problem:
            answers[type(problem).__name__] += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
        began, under_way = time.monotonic(), set[asyncio.Task[None]]()
        for due, service in zip(at.tolist(), which.tolist(), strict=True):
            if (wait := began + due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(send(session, SERVICES[service]))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    return answers


def partita(*arguments: str, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command of Partita in the background."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-c", "from partita.controller.cli.main import main; main()", *arguments],
            env=env,
            stdout=out,
            stderr=out,
        )


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a process and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait(60)


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has said something."""
    for _ in range(600):
        if text in log.read_text("utf-8"):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"{log.name} did not say {text!r}:\n{log.read_text('utf-8')[-2000:]}")


def main() -> int:
    """Record, replay, compare."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--speed", type=float, default=6.0, help="how many times as fast the hour is played")
    options.add_argument("--rate", type=float, default=12.0, help="requests a second of the hour's mean, before that")
    wanted = options.parse_args()
    at, which = instants(wanted.rate, wanted.speed)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="partita-hour-") as name, ExitStack() as stack:
        folder = Path(name)
        file = folder / "cluster.yaml"
        near_s = 10.0 / wanted.speed
        file.write_text(FILE.format(port=port, near_s=near_s, epoch_s=600 / wanted.speed), encoding="utf-8")
        env = {k: v for k, v in os.environ.items() if k != "PARTITA_DSN"} | {"PARTITA_DATA_DIR": str(folder / "data")}
        runtime = partita("runtime", str(file), env=env, log=folder / "runtime.log")
        stack.callback(ended, runtime)
        wait_for(folder / "runtime.log", "Serving", runtime)
        controller = partita("run", str(file), env=env, log=folder / "run.log")
        stack.callback(ended, controller)
        wait_for(folder / "run.log", '"did":"done","event":"command"', controller)
        print(f"{len(at):,} requests of an hour, played in {HOUR_S / wanted.speed / 60:.1f} minutes.", flush=True)
        answers = asyncio.run(play(f"http://127.0.0.1:{port}", at, which))
        ended(controller)
        told = (folder / "run.log").read_text("utf-8")
        decisions = [json.loads(line[6:]) for line in told.splitlines() if '"event":"decision"' in line]
        acts = Counter(d["action"] for d in decisions)
        print(f"Answers: {dict(answers)}. {len(decisions)} decisions, {acts['act']} of them acted.")
        run = re.search(r'"run":(\d+)', told)
        assert run is not None
        replayed = partita("replay", "--recorded", run[1], env=env, log=folder / "replay.log")
        code = replayed.wait(600)
        print((folder / "replay.log").read_text("utf-8").strip())
        return code


if __name__ == "__main__":
    sys.exit(main())
