"""Each package is in the map that ships it, on disk, and linked into src/partita where it lives outside."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {p.parent.name: p.parent for p in sorted(ROOT.glob("*/__init__.py"))}
"""The top-level folders that are packages, by name."""


def _packages(name: str, folder: Path) -> dict[str, str]:
    """Map dotted names to folders for `folder` and every package below it, links not followed."""
    inner = [p for p in sorted(folder.iterdir()) if (p / "__init__.py").is_file() and not p.is_symlink()]
    below = {k: v for p in inner for k, v in _packages(f"{name}.{p.name}", p).items()}
    return {name: str(folder.relative_to(ROOT)), **below}


def test_map_equals_disk() -> None:
    disk = _packages("partita", ROOT / "src/partita")
    for name, folder in FOLDERS.items():
        disk |= _packages(f"partita.{name}", folder)
    assert SETTINGS["package-dir"] == disk
    assert sorted(SETTINGS["packages"]) == sorted(disk)


def test_links_equal_folders() -> None:
    links = {p.name: str(p.readlink()) for p in (ROOT / "src/partita").iterdir() if p.is_symlink()}
    assert links == {name: f"../../{name}" for name in FOLDERS}


@pytest.mark.parametrize(("package", "folder"), sorted(SETTINGS["package-dir"].items()))
def test_every_file_ships(package: str, folder: str) -> None:
    """A file that is neither Python nor named in package-data would be missing from the wheel."""
    patterns = SETTINGS["package-data"].get(package, [])
    files = [p for p in (ROOT / folder).iterdir() if p.is_file() and p.suffix not in {".py", ".pyc", ".nbi", ".nbc"}]
    assert [p.name for p in files if not any(p.match(pattern) for pattern in patterns)] == []
    stray = [p for p in (ROOT / folder).iterdir() if p.is_dir() and not p.is_symlink() and p.name != "__pycache__"]
    assert [p.name for p in stray if not (p / "__init__.py").is_file()] == []
