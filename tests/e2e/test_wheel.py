"""What is shipped works away from the checkout: build sdist and wheel, install the wheel, run the command."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("pyproject.toml", "README.md", "LICENSE", "src")
MAP: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PARTITA_"))}
    text = [str(c) for c in command]
    done = subprocess.run(text, check=False, cwd=cwd, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def _files() -> dict[str, str]:
    """Map each file's place in the wheel to its place in the checkout."""
    return {
        f"{package.replace('.', '/')}/{path.name}": f"{folder}/{path.name}"
        for package, folder in MAP.items()
        for path in sorted((ROOT / folder).iterdir())
        if path.is_file() and path.suffix in {".py", ".sql", ".typed"}
    }


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that neither the checkout's leftovers nor its links can help; the wheel from the sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tops = {folder.split("/")[0] for folder in MAP.values()} - {"src"}
    for name in sorted({*SHIPPED, *tops}):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=source)
    return out


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment that sees the libraries, but not the editable install, of this one.

    Files named ``*.pth`` count only in an environment's own site-packages, so the one that makes the checkout
    importable is not read; the wheel stands first on the path in any case.
    """
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, symlinks=True)
    wheel = next(dist.glob("*.whl"))
    _run(sys.executable, "-m", "pip", "--python", home, "install", "-q", "--no-deps", "--no-index", wheel, cwd=home)
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (inside / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def test_wheel_holds_every_file_once(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = Counter(n for n in wheel.namelist() if ".dist-info/" not in n)
    assert names == Counter(list(_files()))
    assert "partita/py.typed" in names


def test_sdist_holds_every_file_once_and_no_link(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        members = sdist.getmembers()
    assert [m.name for m in members if m.issym() or m.islnk()] == []
    names = Counter(m.name.partition("/")[2] for m in members if m.isfile())
    assert {n: c for n, c in names.items() if c > 1} == {}
    code = {n for n in names if n.endswith((".py", ".sql", ".typed")) and not n.startswith(("tests/", "setup.py"))}
    assert code == set(_files().values())


def test_installed_command_runs_elsewhere(installed: Path, tmp_path: Path) -> None:
    where = _run(installed / "bin/python", "-c", "import partita; print(partita.__file__)", cwd=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(installed)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert _run(installed / "bin/partita", "--version", cwd=tmp_path).stdout.split()[-1] == version
    assert "replay" in _run(installed / "bin/partita", "--help", cwd=tmp_path).stdout


SCENARIO = """
cluster: [{gpu: A100-80GB, count: 2}]
services:
  - {name: resnet50, slo_ms: 25, attainment: 0.99, memory_gib: 1.2, latency: {alpha_ms: 1.053, beta_ms: 5.072}}
load:
  arrivals: {process: poisson, rate_rps: 300, warmup_s: 1, duration_s: 2}
  share: {resnet50: 1.0}
discipline: {name: eager}
policies: []
"""


def test_installed_command_replays_elsewhere(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SCENARIO)
    result = json.loads(_run(installed / "bin/partita", "replay", "tiny.yaml", "--json", "-", cwd=tmp_path).stdout)
    (score,) = result["scores"].values()
    # 300 requests/s for the 2 s counted: 600 on average, and within six deviations of a Poisson count, 6·√600 ≈ 147.
    assert 453 < score["offered"] < 747
    assert score["good"] + score["late"] + score["dropped"] == score["offered"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.yaml"]
