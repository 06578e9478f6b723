"""What the commands print on stdout: score tables and those of the what-if tools."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from partita.controller.scoretable import COLUMNS, cells, columns, misses, targets_of

if TYPE_CHECKING:
    from partita.controller.whatif.tables import Table

PIPED_WIDTH = 150
"""Width where there is no terminal to ask."""

NARROW = {False: 132, True: 144}
"""Below this the table is split in two, since a row of it would be broken; by whether it has what failures took."""


def print_scores(result: Mapping[str, Any]) -> None:
    """Print a result's score table, as one or, on a narrow terminal, as two, and which targets were missed."""
    scores = result["scores"]
    failed = misses(scores, targets_of(scores, result["scenario"]))
    console = wide_console()
    shown, middle = columns(scores), 7
    fits = console.width >= NARROW[len(shown) > len(COLUMNS)]
    parts = ((0, len(shown)),) if fits else ((0, middle), (middle, len(shown)))
    for first, end in parts:
        table = Grid("policy", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for column in shown[first:end]:
            table.add_column(Text(f"{column.heading}\n{column.unit}"), justify="right", no_wrap=True)
        for name, texts in cells(scores):
            marked = Text(f"{name} *", style="red") if name in failed else Text(name)
            table.add_row(marked, *map(Text, texts[first:end]))
        console.print(table)
    for sentence in failed.values():
        console.print(Text(f"* {sentence}"), soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table of the what-if tools; one that is too wide is cut into several, each with the names at its left."""
    console = wide_console()
    widths = [
        max(map(len, [*h.split("\n"), *(row[n] for row in table.rows)])) + 3 for n, h in enumerate(table.headings)
    ]
    for first, end in _parts(widths, table.names, console.width):
        shown = [*range(table.names), *range(first, end)]
        drawn = Grid(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for n in shown:
            drawn.add_column(Text(table.headings[n]), justify="left" if n < table.names else "right", no_wrap=True)
        for row in table.rows:
            drawn.add_row(*(Text(row[n]) for n in shown))
        console.print(drawn)


def _parts(widths: Sequence[int], names: int, room: int) -> Iterator[tuple[int, int]]:
    """Cut columns into runs that fit beside the names; a run has one column at least."""
    left = sum(widths[:names])
    first, used = names, left
    for n in range(names, len(widths)):
        if used + widths[n] > room and n > first:
            yield first, n
            first, used = n, left
        used += widths[n]
    yield first, len(widths)


def wide_console() -> Console:
    """Return what tables are printed on: as wide as the terminal, or PIPED_WIDTH where there is none to ask."""
    console = Console()
    wide = console.is_terminal or "COLUMNS" in os.environ
    return console if wide else Console(width=PIPED_WIDTH)
