"""What the commands print on stdout: the score table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from partita.controller.scoretable import COLUMNS, cells, misses, targets_of

PIPED_WIDTH = 150
"""Width where there is no terminal to ask."""

NARROW = 132
"""Below this the table is split in two, since a row of it would be broken."""


def print_scores(result: Mapping[str, Any]) -> None:
    """Print a result's score table, as one or, on a narrow terminal, as two, and which targets were missed."""
    scores = result["scores"]
    failed = misses(scores, targets_of(scores, result["scenario"]))
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=PIPED_WIDTH)
    middle = 7
    parts = ((0, len(COLUMNS)),) if console.width >= NARROW else ((0, middle), (middle, len(COLUMNS)))
    for first, end in parts:
        table = Table("policy", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for column in COLUMNS[first:end]:
            table.add_column(Text(f"{column.heading}\n{column.unit}"), justify="right", no_wrap=True)
        for name, texts in cells(scores):
            marked = Text(f"{name} *", style="red") if name in failed else Text(name)
            table.add_row(marked, *map(Text, texts[first:end]))
        console.print(table)
    for sentence in failed.values():
        console.print(Text(f"* {sentence}"), soft_wrap=True)
