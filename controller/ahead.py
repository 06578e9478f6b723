"""Pulling from an iterator in another thread, one item ahead of what is asked for.

Rows come out of the database through an event loop; the replay that asks for them runs in one of its own, and a thread
can run only one at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Ahead(Iterator[Item], Generic[Item]):
    """The items of a generator, all made in one other thread; a context manager, which closes the generator."""

    def __init__(self, source: Generator[Item]) -> None:
        self._source = source
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="partita-ahead")
        self._next: Future[Item] | None = None

    def __enter__(self) -> Self:
        self._next = self._thread.submit(next, self._source)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._thread.submit(self._source.close).result()
        self._thread.shutdown()

    def __next__(self) -> Item:
        if self._next is None:
            raise StopIteration
        pending, self._next = self._next, None
        item = pending.result()
        self._next = self._thread.submit(next, self._source)
        return item
