"""Progress of long runs, on stderr, so that stdout holds results only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from partita.controller.wording import span

Report = Callable[[float, float], None]
"""Told how much is done and how much there is."""


class _Speed(ProgressColumn):
    """How fast it goes, in a unit."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self._unit}" if task.speed else "", style="dim")


@contextmanager
def watching(*, quiet: bool, unit: str = "× real time", in_lines: bool = False) -> Iterator[Callable[[str], Report]]:
    """Yield a function that starts a bar with a name and returns what to tell its progress to.

    Its speed is shown in `unit`; a total of 0 means that nobody knows. Where stderr is no terminal there is no bar;
    `in_lines` then says in a line each what begins and what is done, totals being simulated seconds.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        _Speed(unit),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bars:

        def start(name: str) -> Report:
            if in_lines and not quiet and not console.is_terminal:
                return _say_ends(name)
            task = bars.add_task(name, total=None)
            drawn = monotonic() - 1.0

            def report(done: float, total: float) -> None:
                nonlocal drawn
                if done >= total > 0 or monotonic() - drawn > 0.1:
                    drawn = monotonic()
                    bars.update(task, completed=done, total=total or None)

            return report

        yield start


@contextmanager
def counting(noun: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to tell how many things are done and how many there are; it shows the time that is left.

    Where stderr is no terminal, a line says so every EVERY_S seconds, and when all are done.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    if quiet or not console.is_terminal:
        yield (lambda _done, _total: None) if quiet else _say_counts(noun)
        return
    # Results come in bursts, one a worker: the estimate looks back over all of them.
    with Progress(*columns, console=console, speed_estimate_period=3600.0) as bars:
        task = bars.add_task(noun, total=0)
        yield lambda done, total: bars.update(task, completed=done, total=total)


EVERY_S = 10.0


def _say_counts(noun: str) -> Callable[[int, int], None]:
    """Say in lines how far it is and how long the rest may take, judged from the first result on."""
    begun = said = monotonic()
    first: tuple[int, float] | None = None
    at_start: int | None = None

    def report(done: int, total: int) -> None:
        nonlocal said, first, at_start
        now = monotonic()
        at_start = done if at_start is None else at_start
        if done > at_start and first is None:
            first = done, now
        if done >= total > at_start:
            click.echo(f"{done:,} of {total:,} {noun}: {span(now - begun)}", err=True)
        elif first is not None and done > first[0] and now - said >= EVERY_S:
            said = now
            left = (now - first[1]) / (done - first[0]) * (total - done)
            click.echo(f"{done:,} of {total:,} {noun}, about {span(left)} left", err=True)

    return report


def _say_ends(name: str) -> Report:
    """Say in a line that something has begun, once it has come anywhere, and in another that it is done."""
    begun, lines = monotonic(), 0

    def report(done: float, total: float) -> None:
        nonlocal lines
        if lines == 0:
            lines = 1
            click.echo(f"{name}: begun", err=True)
        if done >= total > 0 and lines == 1:
            lines = 2
            click.echo(f"{name}: {span(total)} played in {span(monotonic() - begun)}", err=True)

    return report
