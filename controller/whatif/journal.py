"""The journal of a sweep: a line of JSON for each result, appended as it arrives and on disk before the next one.

The first line says what the results belong to. A sweep that is started again reads what is there and runs the rest. A
kill can tear the last line only: it is cut off, and its task runs again. Lines that begin with a task's start show
what ran when; nothing depends on them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from partita.controller.config import Scenario
from partita.controller.results import versions
from partita.controller.whatif.changes import changes
from partita.controller.whatif.tracemark import marks_of
from partita.errors import ConfigError
from partita.model.plain import to_json
from partita.plugins.discovery import discover

FORMAT = 1


def header_of(scenario: Scenario) -> dict[str, Any]:
    """Return what results depend on besides their own settings: the scenario, its trace file and the versions.

    Which seeds and policies are run is a cell's own; what is set for a policy is not.
    """
    document = {key: value for key, value in scenario.document().items() if key != "seed"}
    foreign = {p.name: f"{p.distribution} {p.version}" for p in discover().plugins if not p.builtin}
    document["policies"] = [policy for policy in document["policies"] if isinstance(policy, dict) and policy["options"]]
    return {
        "partita_sweep": FORMAT,
        "scenario": document,
        "trace": marks_of(scenario.trace_paths()),
        "versions": {**versions(), **foreign},
    }


class SweepJournal:
    """The open journal file of one sweep; `done` holds the finished tasks' records by name.

    ConfigError if the file belongs to another scenario or version, is no journal, or another sweep has it open.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self._path = path
        self.done: dict[str, dict[str, Any]] = {}
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as problem:
            raise ConfigError(f"cannot be written: {(problem.strerror or '').lower()}", file=str(path)) from None
        try:
            self._take_alone()
            self._read(json.loads(to_json(header)))
        except BaseException:  # Ctrl-C too: nobody else would close the file, and its lock with it
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def begin(self, name: str) -> None:
        """Note that a task is handed to a worker."""
        self._append({"began": name})

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep what a task gave; it is on disk when this returns."""
        self.done[name] = dict(record)
        self._append({"done": name, "record": record})

    def _take_alone(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("another sweep is writing it", file=str(self._path)) from None

    def _read(self, header: dict[str, Any]) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.ftruncate(self._file, len(whole))
        lines = whole.splitlines()
        if not lines:
            self._append(header)
            self._settle_folder()
            return
        entries = [self._parse(line, number) for number, line in enumerate(lines, 1)]
        self._compare(entries[0], header)
        self.done = {entry["done"]: entry["record"] for entry in entries[1:] if "done" in entry}

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or (number == 1 and "partita_sweep" not in entry):
            raise ConfigError(f"is not a journal of `partita sweep` (line {number})", file=str(self._path))
        return entry

    def _compare(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        changed = [f"{path.removeprefix('scenario.')} was {old}, is {new}" for path, old, new in changes(found, wanted)]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ConfigError(
                f"holds results of another scenario or version ({changed[0]}{more}): "
                "name another --out, or remove it to start anew",
                file=str(self._path),
            )

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = to_json(entry).encode() + b"\n"
        while line:
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)

    def _settle_folder(self) -> None:
        """Put the file's name on disk too."""
        folder = os.open(self._path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
