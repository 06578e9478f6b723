"""A result: one record a policy with the scenario, versions and seed, as JSON that two runs write alike.

Wall-clock figures stand apart, under ``timing``: the rest is the same bytes whenever scenario and seed are the same.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from partita import __version__
from partita.errors import ConfigError
from partita.model.plain import to_plain
from partita.model.plan import Appraisal, Command, Decision, target

if TYPE_CHECKING:
    from partita.controller.config import Scenario
    from partita.controller.run import Run

FIXED = "fixed"
"""Key of a run without a policy: the cluster as given."""

LIBRARIES = ("numba", "numpy", "polars", "scipy")
"""Libraries whose version may change a number."""


def result_document(scenario: Scenario, runs: Sequence[Run], *, seed: int) -> dict[str, Any]:
    """Put runs of one scenario together as plain data."""
    return {
        "scenario": scenario.document(),
        "seed": seed,
        "versions": versions(),
        "scores": {run.policy or FIXED: to_plain(run.score) for run in runs},
        "decisions": {run.policy or FIXED: [decision_document(d) for d in run.decisions] for run in runs},
        "timing": {run.policy or FIXED: to_plain(run.timing) for run in runs},
    }


def decision_document(decision: Decision) -> dict[str, Any]:
    """Write a decision as plain data: everything but the plans themselves."""
    shown = ("tick", "at_s", "chosen", "reason", "offered_rps", "forecast_rps", "gpus_held", "gpus_wanted")
    return {
        **{name: to_plain(getattr(decision, name)) for name in shown},
        "action": str(decision.action),
        "opinions": to_plain(decision.opinions),
        "candidates": [_appraisal(a) for a in decision.candidates],
        "commands": [_command(c) for c in decision.commands],
        "objective": to_plain(decision.objective),
    }


def _appraisal(appraisal: Appraisal) -> dict[str, Any]:
    names = [name for name in Appraisal.__dataclass_fields__ if name != "plan"]
    return {**{name: to_plain(getattr(appraisal, name)) for name in names}, "why": appraisal.plan.reason}


def _command(command: Command) -> dict[str, Any]:
    return {"verb": type(command).__name__, "target": target(command), "reason": command.reason}


def result_text(document: Mapping[str, Any]) -> str:
    """Write a result as JSON: sorted keys, floats with all their digits."""
    return json.dumps(document, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_result(path: Path) -> dict[str, Any]:
    """Read a result back; ConfigError if the file is not one."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise ConfigError(f"cannot be read: {(problem.strerror or '').lower()}", file=str(path)) from None
    except (ValueError, RecursionError):
        raise ConfigError("is not JSON", file=str(path)) from None
    if not isinstance(document, dict) or not isinstance(document.get("decisions"), dict):
        raise ConfigError("is not a result of `partita replay --json`", file=str(path))
    return document


def check_writable(path: Path, option: str) -> None:
    """Make sure, before a long run, that a file can be written where the user wants it."""
    target = path.resolve()
    folder = target.parent
    if target.is_dir() or not folder.is_dir():
        problem = "is a folder" if target.is_dir() else f"the folder {str(folder)!r} does not exist"
        raise ConfigError(problem, file=str(path), key=option, value=str(path))
    written = target if _is_stream(target) else folder
    if not os.access(written, os.W_OK):
        raise ConfigError(f"{str(written)!r} cannot be written to", file=str(path), key=option)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all; a pipe or device is written to as it is."""
    target, data = path.resolve(), content.encode() if isinstance(content, str) else content
    try:
        if _is_stream(target):
            with target.open("wb") as stream:
                stream.write(data)
        else:
            _replace(target, data)
    except OSError as problem:
        raise ConfigError(f"cannot be written: {(problem.strerror or '').lower()}", file=str(path)) from None


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _replace(path: Path, data: bytes) -> None:
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as part:
        try:
            part.write(data)
            part.flush()
            os.fsync(part.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(part.name, 0o666 & ~mask)
            os.replace(part.name, path)
        except BaseException:  # Ctrl-C too: no half-written file stays behind
            os.unlink(part.name)
            raise


def versions() -> dict[str, str]:
    """Return the versions of what may change a number."""
    found = {"partita": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
