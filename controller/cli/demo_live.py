"""`partita demo-live`: a real Triton server under the loop, on one machine, and what replay said of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import click

from partita.errors import ConfigError

if TYPE_CHECKING:
    from partita.controller.live_demo.demonstration import Result
    from partita.controller.live_demo.load import Load

WIDTH = 100


@click.command("demo-live")
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Trace to play, sped up, instead of a made-up one.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    default=Path("demo-live-report.html"),
    show_default=True,
    metavar="FILE.html",
    help="Where the report is written.",
)
@click.option("--seconds", type=click.FloatRange(8.0, 600.0), default=45.0, show_default=True, help="Length of a run.")
@click.option("--statics", type=click.IntRange(1, 10), default=3, show_default=True, help="Static settings to measure.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors; the report is still written.")
def demo_live(trace_file: Path | None, report: Path, seconds: float, statics: int, quiet: bool) -> None:
    """Control a real Triton server under a changing load, and compare everything with replay.

    One emulated device (a lock, held for as long as a batch takes) is shared by two models. The same requests, at the
    same instants, are played at Triton as it comes, at the best static settings, at Triton under partita run, and at
    Partita's own runtime with deferred batching; then replay is given what was sent. It takes about six minutes, needs
    Linux on x86-64 and .venv-triton (make demo-live installs it), and leaves nothing behind but the report.
    """
    from partita.controller.live_demo.case import NAMES, SEED, STEPS
    from partita.controller.live_demo.load import load_of_trace, make_load
    from partita.controller.results import check_writable
    from partita.executors.triton.server import installation

    if not sys.platform.startswith("linux"):
        raise ConfigError("the live demonstration needs Linux, since Triton does")
    installation()
    check_writable(report, "--report")
    say: Callable[[str], None] = (lambda _: None) if quiet else _say
    if trace_file is None:
        load, title = make_load(NAMES, STEPS, span_s=seconds, seed=SEED), "A made-up load"
    else:
        load, speed = load_of_trace(trace_file, NAMES, span_s=seconds, seed=SEED)
        title = f"{trace_file.name}, played {speed:g} × as fast"
    say(_describe(load, title))
    result = _run(load, statics, quiet, say)
    _finish(result, report, title, quiet, say)


def _run(load: Load, statics: int, quiet: bool, say: Callable[[str], None]) -> Result:
    from partita.controller.cli.progress import watching
    from partita.controller.live_demo.demonstration import demonstrate

    with watching(quiet=quiet, in_lines=True) as watch:
        return demonstrate(load, statics=statics, say=say, watch=watch)


def _finish(result: Result, report: Path, title: str, quiet: bool, say: Callable[[str], None]) -> None:
    from partita.controller.live_demo.demonstration import claims
    from partita.controller.live_demo.page import write_page

    write_page(report, result, title=title)
    if not quiet:
        _print_table(result)
    latest = max(row.figures.lateness_ms for row in result.rows)
    say(f"99 % of the requests were sent no more than {latest:.0f} ms late, in the worst run.")
    for holds, text in claims(result):
        say(f"{'Holds' if holds else 'DOES NOT HOLD'}: {text}.")
    say(f"The report is in {report}. docs/demo-live.md says what is measured, and how.")


def _describe(load: Load, title: str) -> str:
    from partita.controller.live_demo.case import MODELS

    models = "; ".join(
        f"{m.name} {m.alpha_ms:g} ms a request and {m.beta_ms:g} ms a batch, SLO {m.slo_ms:g} ms" for m in MODELS
    )
    return f"{title}: {len(load.at_s):,} requests in {load.span_s:g} s. Two models on one emulated device: {models}."


def _print_table(result: Result) -> None:
    import os

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from partita.controller.cli.printing import PIPED_WIDTH
    from partita.controller.live_demo.table import HEADINGS, lines

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=PIPED_WIDTH)
    table = Table("measured", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for one, two in HEADINGS:
        table.add_column(Text(f"{one}\n{two}"), justify="right", no_wrap=True)
    for name, texts in lines(result):
        table.add_row(Text(name), *map(Text, texts))
    console.print(table)


def _say(text: str) -> None:
    click.echo(fill(text, WIDTH, break_long_words=False, break_on_hyphens=False))
