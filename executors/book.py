"""The book in a file: what an executor must remember where there is no database."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partita.errors import Failed
from partita.model.plain import to_json
from partita.model.revive import from_plain
from partita.ports import Page


class FileBook:
    """A page in a JSON file, beside a lock file; for executors and gateways on one machine.

    A write replaces the file as a whole: a reader, or a crash at any instant, finds the old page or the new one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = path.with_name(f"{path.name}.lock")

    async def read(self) -> Page:
        """Return the page as it was last written, or an empty one; Failed if the file holds something else."""
        return await asyncio.to_thread(self._read)

    async def write(self, page: Page) -> None:
        """Replace the page; Failed if a later term has written it."""
        await asyncio.to_thread(self._write, page)

    def _read(self) -> Page:
        try:
            return from_plain(Page, json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Page()
        except (OSError, TypeError, ValueError) as problem:
            raise Failed(f"{self._path} cannot be read as an executor's book: {problem}", command=None) from problem

    def _write(self, page: Page) -> None:
        try:
            with self._alone():
                written = self._read()
                if written.term > page.term:
                    text = f"term {written.term} has written {self._path} already, so term {page.term} may not"
                    raise Failed(text, command=None)
                self._replace(to_json(page))
        except OSError as problem:
            raise Failed(f"{self._path} cannot be written: {problem}", command=None) from problem

    def _replace(self, text: str) -> None:
        fresh = self._path.with_name(f"{self._path.name}.new")
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._lock, "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
