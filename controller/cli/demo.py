"""`partita demo`: the whole loop, once, on a trace of the user's or a made-up one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import click

from partita.controller.cli.options import Database, command_line, database_options

if TYPE_CHECKING:
    from partita.controller.config import Scenario
    from partita.controller.run import Run
    from partita.store.imports import ImportRecord

    Result = tuple[Scenario, list[Run]]

WIDTH = 100
POLICIES = ("static", "reactive", "symphony")


@click.command()
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Trace to play instead of a made-up one.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    default=Path("demo-report.html"),
    show_default=True,
    metavar="FILE.html",
    help="Where the report is written.",
)
@click.option(
    "--policy", "policies", multiple=True, default=POLICIES, show_default=True, metavar="NAME", help="Policy to play."
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors; the report is still written.")
@database_options
def demo(trace_file: Path | None, report: Path, policies: tuple[str, ...], quiet: bool, database: Database) -> None:
    """Play a trace through the whole loop under each policy, print the scores and write a report.

    The trace is brought into the database first (an embedded PostgreSQL is started and stopped unless --dsn names one)
    and replayed from there; every decision is journaled. Without --trace, a day of six services is made up. A trace of
    more than two hours is played faster, so that it takes two: a day 12 times as fast, at 12 times its rate.

    What serves the requests is made up in any case: models whose times, SLOs included, are stretched until about ten
    GPUs are busy at the peak, but no more than 150 times: a trace of few requests keeps fewer busy.

    \b
    Examples:
      partita demo
      partita demo --trace azure_conv.csv.gz --report azure.html
      partita demo --policy static --policy symphony
    """
    from partita.controller.results import check_writable
    from partita.plugins.host import PluginHost

    PluginHost.load().require(policies)
    check_writable(report, "--report")
    say: Callable[[str], None] = (lambda _: None) if quiet else _say
    with database.serve() as dsn:
        record = _import(dsn, trace_file, quiet, say)
        scenario, runs = _play(dsn, record, policies, quiet, say)
    title, speed = trace_file.name if trace_file else "A made-up day", _speed(scenario)
    title = title if speed == 1.0 else f"{title}, played {speed:g} × as fast"
    _show(scenario, runs, report, title=title, command=command_line(), quiet=quiet)
    say(f"The report is in {report}; a browser shows it, and it needs no network.")
    say(
        "Next: `partita explain` says why the last decision acted, `partita explain --list` lists all that did, "
        "and `partita replay --help` plays scenarios of your own (docs/scenario.md)."
    )


def _say(text: str) -> None:
    click.echo(fill(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def _import(dsn: str, trace_file: Path | None, quiet: bool, say: Callable[[str], None]) -> ImportRecord:
    from partita.controller.cli.progress import watching

    with watching(quiet=quiet, unit="rows/s") as watch:
        if trace_file is None:
            from partita.controller.demonstration import describe_law, import_made_up

            say(f"Made up: {describe_law()}.")
            record, added = asyncio.run(import_made_up(dsn, watch("import")))
        else:
            from partita.controller.tracefiles import choose_reader, import_trace

            report = watch("import")
            found = asyncio.run(
                import_trace(dsn, trace_file, choose_reader(trace_file), watch=lambda rows: report(rows, 0))
            )
            record, added = found.record, found.added
    state = "imported" if added else "already in the database"
    say(f"{record.requests:,} requests, {state} (import {record.id}).")
    return record


def _play(dsn: str, record: ImportRecord, policies: tuple[str, ...], quiet: bool, say: Callable[[str], None]) -> Result:
    from partita.controller.cli.progress import watching
    from partita.controller.comparison import compare
    from partita.controller.demand import read_demand, summarise_import
    from partita.controller.demonstration import describe_models, describe_pace, make_scenario, playable_part
    from partita.controller.journaling import ReplayJournal

    summary = summarise_import(dsn, record)
    if (to_s := playable_part(summary)) is not None:
        summary = summarise_import(dsn, record, end_ns=summary.begin_ns + round(to_s * 1e9))
        say(f"Of these, the first {summary.requests.sum():,} are played.")
    scenario = make_scenario(record.id, summary, to_s=to_s, policies=policies)
    demand = read_demand(scenario, dsn=dsn)
    say(f"{describe_pace(summary, _speed(scenario))}.")
    say(f"Played on up to {scenario.cluster[0].count} × {scenario.cluster[0].gpu}.")
    say(f"{describe_models(demand.services)}.")
    say("")
    with watching(quiet=quiet, in_lines=True) as watch:
        runs = compare(
            scenario,
            policies,
            seed=scenario.seed,
            watch=watch,
            demand=demand,
            journal=lambda policy: ReplayJournal(dsn, policy=policy, scenario=scenario),
            record_gpus=True,
        )
    return scenario, runs


def _show(scenario: Scenario, runs: list[Run], report: Path, *, title: str, command: str, quiet: bool) -> None:
    from partita.controller.cli.printing import print_scores
    from partita.controller.comparison import shown
    from partita.controller.report import write_report
    from partita.controller.results import result_document

    result = result_document(scenario, runs, seed=scenario.seed)
    drawn = dict(zip(result["scores"], map(shown, runs), strict=True))
    write_report(report, result, drawn, title=title, command=command)
    if not quiet:
        print_scores(result)


def _speed(scenario: Scenario) -> float:
    return scenario.demand.log.speed if scenario.demand.log else 1.0
