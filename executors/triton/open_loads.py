"""The loads of one server whose end nobody has seen, in the book: a controller that takes over heeds them too."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from partita.ports import Book, OpenLoad, Page


class OpenLoads:
    """What is noted of one GPU's server; `editing` is held by whoever changes the book."""

    def __init__(self, book: Book, editing: asyncio.Lock, gpu: str) -> None:
        self._book, self._editing, self._gpu = book, editing, gpu

    async def find(self, model: str) -> OpenLoad | None:
        """Return a model's load, None if there is none."""
        page = await self._book.read()
        return next((load for load in page.loads if (load.gpu, load.model) == (self._gpu, model)), None)

    async def note(self, model: str, over: str, until_s: float, *, term: int) -> None:
        """Note a load in the place of the model's last one; Failed if a later term has written the book."""
        async with self._editing:
            page = await self._book.read()
            loads = (*self._others(page, model), OpenLoad(self._gpu, model, over, until_s))
            await self._book.write(replace(page, loads=loads, term=term))

    async def forget(self, model: str, *, term: int) -> None:
        """Take a model's load out; Failed if a later term has written the book."""
        async with self._editing:
            page = await self._book.read()
            await self._book.write(replace(page, loads=self._others(page, model), term=term))

    def _others(self, page: Page, model: str) -> tuple[OpenLoad, ...]:
        return tuple(load for load in page.loads if (load.gpu, load.model) != (self._gpu, model))
