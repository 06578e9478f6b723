"""The book in a file: what is written is read back, whole, and never over a later term."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from partita.errors import Failed
from partita.executors.book import FileBook
from partita.model.cluster import Batching, Instance, Route, SubCluster
from partita.ports import OpenLoad, Page

HALF = Instance("gpu-0/3g.40gb@4", "gpu-0", 40.0, "3g.40gb", 4, 50.0)
BATCHING = Batching("triton", 0.0012345678, None, (("instances", 2), ("queue_policy", "reject"), ("share", 0.5)))
PAGE = Page(
    ("gpu-0", "gpu-1"),
    (HALF,),
    (SubCluster("group", (HALF,), ("a",), (BATCHING,)),),
    (Route("a", "group", inf, 0.25), Route("a", "group", 512.0, 0.75)),
    ((HALF.id, "a"),),
    7,
    (OpenLoad("gpu-0", "model-a", "0123456789abcdef", 1_795_635_293.5),),
)


def test_a_page_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    async def story() -> None:
        book = FileBook(tmp_path / "deep" / "book.json")
        assert await book.read() == Page()
        await book.write(PAGE)
        assert await FileBook(tmp_path / "deep" / "book.json").read() == PAGE

    asyncio.run(story())


def test_an_older_term_may_not_write(tmp_path: Path) -> None:
    async def story() -> None:
        book = FileBook(tmp_path / "book.json")
        await book.write(PAGE)
        with pytest.raises(Failed, match="term 7 has written"):
            await book.write(replace(PAGE, held=(), term=6))
        assert await book.read() == PAGE
        await book.write(replace(PAGE, held=(), term=7))
        assert (await book.read()).held == ()

    asyncio.run(story())


@pytest.mark.parametrize("text", ["", "[]", '{"held": 5}', '{"unknown": 1}'])
def test_a_file_that_is_no_book_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "book.json"
    path.write_text(text)
    with pytest.raises(Failed, match=str(path)):
        asyncio.run(FileBook(path).read())


def test_writers_at_one_time_leave_a_whole_page_of_the_latest_term(tmp_path: Path) -> None:
    path = tmp_path / "book.json"

    async def write(term: int) -> None:
        try:
            await FileBook(path).write(replace(PAGE, term=term))
        except Failed:
            assert (await FileBook(path).read()).term > term

    async def story() -> None:
        await asyncio.gather(*(write(term) for term in range(1, 41)))
        assert await FileBook(path).read() == replace(PAGE, term=40)

    asyncio.run(story())
