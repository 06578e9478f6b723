"""The plugin of docs/plugins.md, as a stranger would make it: written to an empty folder, built, installed, used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"


def block(language: str) -> str:
    """Return the first code block of the guide in this language."""
    found = re.search(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def run(*command: str, cwd: Path, path: Path | None = None) -> str:
    """Run a command away from the checkout, with `path` in front of this environment's libraries."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PARTITA_PLUGINS"))}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def partita(*arguments: str, cwd: Path, path: Path) -> str:
    """Run the command line of this environment."""
    main = "from partita.controller.cli import main; main()"
    return run(sys.executable, "-c", main, *arguments, cwd=cwd, path=path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the guide's package as a wheel and install it into a folder of its own."""
    source, wheels, site = (tmp_path_factory.mktemp(name) for name in ("headroom", "wheels", "site"))
    (source / "headroom.py").write_text(block("python"))
    (source / "pyproject.toml").write_text(block("toml"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels), ".", cwd=source)
    [wheel] = wheels.glob("*.whl")
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel), cwd=wheels)
    return site


def test_the_guides_plugin_has_fifteen_lines_at_most() -> None:
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 15


def test_it_is_listed_beside_the_built_in_ones(installed: Path, tmp_path: Path) -> None:
    rows = {row["name"]: row for row in json.loads(partita("plugins", "list", "--json", cwd=tmp_path, path=installed))}
    assert rows["headroom"] == {
        "name": "headroom",
        "version": "0.1.0",
        "distribution": "partita-headroom",
        "hooks": ["propose_capacity"],
        "status": "ok",
        "problem": "",
    }
    assert {"reactive", "static"} <= set(rows)
    assert "headroom" in partita("plugins", "list", cwd=tmp_path, path=installed)


def test_it_keeps_the_rules(installed: Path, tmp_path: Path) -> None:
    said = partita("plugins", "check", "headroom", cwd=tmp_path, path=installed)
    assert said == "headroom: no problems found.\n"


SCENARIO = """
cluster: [{gpu: A100-80GB, count: 4}]
services:
  - {name: vision, slo_ms: 50, memory_gib: 1, latency: {alpha_ms: 1.0, beta_ms: 5.0}}
load:
  arrivals: {process: poisson, rate_rps: 200, duration_s: 90}
policies: [headroom]
"""


def test_it_stands_in_a_decision(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    result = json.loads(partita("replay", "scenario.yaml", "--json", "-", cwd=tmp_path, path=installed))
    opinions = [o for decision in result["decisions"]["headroom"] for o in decision["opinions"]]
    assert opinions
    assert {(o["plugin"], o["hook"], o["fault"]) for o in opinions} == {("headroom", "propose_capacity", "")}
