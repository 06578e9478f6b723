"""`partita trace`: import, inspect, make and export request traces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from partita.controller.cli.options import Database, database_options
from partita.controller.cli.trace_sources import Asked, source_options

if TYPE_CHECKING:
    from rich.table import Table

    from partita.controller.tracefiles import Imported
    from partita.traces.summary import TraceSummary

RAW = click.option("--raw", is_flag=True, help="Take counts as requests, drawn inside their bins.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
QUIET = click.option("--quiet", is_flag=True, help="Print nothing but errors.")


@click.group()
def trace() -> None:
    """Import, inspect, make and export request traces.

    Files may be plain or compressed (.gz, .zst). Formats: azure-llm, servegen, mooncake, litellm, openai, counts, csv,
    parquet, and what plugins bring; docs/traces.md describes them, and the options that say more about a file or change
    what comes of it.
    """


@trace.command("import")
@source_options(required=True)
@RAW
@JSON
@QUIET
@database_options
def import_files(asked: Asked, raw: bool, as_json: bool, quiet: bool, database: Database) -> None:
    """Bring traces into the database, each exactly once.

    A FILE may also be a database with LiteLLM's spend logs, postgresql://user@host/name. Requests become rows of the
    request log. Counts stay counts, so that nothing is lost, and a replay draws the instants; --raw draws them now.
    What is there already (with the same options) adds nothing.

    \b
    Examples:
      partita trace import azure_conv.csv.gz --service chat
      partita trace import client_rates_600s.csv.gz --map 'm-small/*=*' --to 1d
      partita trace import postgresql://reader@proxy/litellm --service-by model --status success
    """
    from partita.controller.tracefiles import import_traces

    options = asked.import_options(raw=raw)
    done: list[tuple[str, Imported]] = []
    with asked.open() as members, database.serve() as dsn:
        for group in asked.groups(members):
            name = " + ".join(str(path) for _, path in group)
            with _progress(group[0][1].name, quiet=quiet or as_json) as watch:
                work = import_traces(dsn, group, options, alignment=asked.alignment, watch=watch)
                found = asyncio.run(work)
            done.append((name, found))
            if not as_json and not quiet:
                click.echo(_sentence(name, found))
    if as_json:
        from partita.model.plain import to_json

        click.echo(to_json([_import_document(name, found) for name, found in done]))


@trace.command()
@source_options(required=True)
@JSON
def info(asked: Asked, as_json: bool) -> None:
    """Say what a trace FILE holds: format, time, services, rates; with options for changes, what would come of it.

    \b
    Examples:
      partita trace info azure_conv.csv.gz
      partita trace info requests.csv --columns ts=when:ms,service=model,size=tokens --thin 0.1
    """
    from partita.controller.tracefiles import change_traces, summarise_changed

    documents = []
    with asked.open() as members:
        for group in asked.groups(members):
            name = " + ".join(str(path) for _, path in group)
            with _progress(name, quiet=as_json):
                summary = summarise_changed(change_traces(group, asked.changes(), asked.alignment), name)
            documents.append({"file": name, **_summary_document(summary)})
            if not as_json:
                _print_summary(name, summary)
    if as_json:
        from partita.model.plain import to_json

        click.echo(to_json(documents[0] if len(documents) == 1 else documents))


@trace.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--services", type=click.IntRange(min=1), default=8, show_default=True, help="How many services.")
@click.option("--days", type=float, default=1.0, show_default=True, help="How many days.")
@click.option(
    "--rate",
    "rate_rps",
    type=float,
    default=100.0,
    show_default=True,
    help="Mean requests a second, in all, over whole weeks and many bursts.",
)
@click.option("--skew", type=float, default=1.0, show_default=True, help="Service k has the share k**-SKEW.")
@click.option("--burstiness", type=float, default=1.0, show_default=True, help="Bursts a day; 0 is Poisson, no bursts.")
@click.option("--noise", type=float, default=0.1, show_default=True, help="Relative noise of a minute's rate.")
@click.option("--counts", is_flag=True, help="Write requests per minute instead of single requests.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, another trace.")
@JSON
@QUIET
def synth(
    out: Path,
    services: int,
    days: float,
    rate_rps: float,
    skew: float,
    burstiness: float,
    noise: float,
    counts: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a trace of many services, with cycles of a day and a week, bursts and a skew, and write it to OUT.

    OUT ends in .parquet, .csv, .csv.gz or .csv.zst. The same options give the same trace. --rate is the mean in the
    long run: weekends lie below it and weekdays 12 % above, and a single day has more or fewer bursts than the mean.

    \b
    Example:
      partita trace synth week.parquet --services 20 --days 7 --rate 300 --skew 1.2 --seed 1
    """
    from partita.traces.synth import SynthSpec, synthesise, synthesise_counts
    from partita.traces.writers import check_target, write_trace

    check_target(out)
    spec = SynthSpec(services, days, rate_rps, skew, burstiness, noise=noise)
    expected = spec.bins * spec.services if counts else rate_rps * spec.bins * spec.bin_s
    with _progress(out.name, quiet=quiet or as_json, expected=expected) as watch:
        blocks = synthesise_counts(spec, seed) if counts else synthesise(spec, seed)
        rows = write_trace(out, _watched(blocks, watch), bin_s=spec.bin_s)
    _print_written(out, rows, as_json=as_json, quiet=quiet)


@trace.command()
@click.argument("out", type=click.Path(path_type=Path))
@source_options(required=False)
@click.option("--import", "number", type=int, metavar="ID", help="Which import.  [default: the newest]")
@RAW
@JSON
@QUIET
@database_options
def export(
    out: Path, asked: Asked, number: int | None, raw: bool, as_json: bool, quiet: bool, database: Database
) -> None:
    """Write a trace to OUT (.parquet, .csv, .csv.gz or .csv.zst): an import from the database, or FILEs as one.

    Requests are written as requests and counts as counts, unless --raw draws them; read again, they are the same.

    \b
    Examples:
      partita trace export hour.parquet --import 3 --from 2h --to 3h
      partita trace export both.parquet chat.jsonl code.jsonl --superpose aligned --speed 2
    """
    from partita.controller.tracefiles import change_traces, choose_import, export_trace, write_changed
    from partita.traces.writers import check_target

    check_target(out)
    if asked.files:
        if number is not None:
            raise click.UsageError("give FILEs or --import, not both")
        if len(asked.files) > 1 and not asked.superposes:
            raise click.UsageError("several FILEs become one trace: give --superpose aligned or --superpose dated")
        with asked.open() as members, _progress(out.name, quiet=quiet or as_json) as watch:
            rows = write_changed(out, change_traces(members, asked.changes(raw=raw), asked.alignment), watch=watch)
    else:
        if raw:
            raise click.UsageError("--raw is for FILEs; draw counts when they are imported")
        asked.refuse_reading_options()
        with database.serve() as dsn:
            record = asyncio.run(choose_import(dsn, number))
            with _progress(out.name, quiet=quiet or as_json, expected=record.rows) as watch:
                changes = asked.changes()
                rows = export_trace(
                    dsn,
                    record,
                    out,
                    begin=changes.begin,
                    end=changes.end,
                    changes=replace(changes, begin=None, end=None),
                    watch=watch,
                )
    _print_written(out, rows, as_json=as_json, quiet=quiet)


@contextmanager
def _progress(name: str, *, quiet: bool, expected: float | None = None) -> Iterator[Callable[[int], None]]:
    """Show rows, rows a second and the time left on a terminal's stderr; yield what to tell the rows to.

    How much is done is told by the part of the file that was read, or by the rows where so many are `expected`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from partita.traces.files import watch_reading

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[rows]:,} rows  {task.fields[speed]:,.0f} rows/s  left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bars:
        task = bars.add_task(name, total=expected, rows=0, speed=0.0)

        def count(rows: int) -> None:
            elapsed = bars.tasks[0].elapsed or 0.0
            completed = None if expected is None else min(rows, expected)
            bars.update(task, completed=completed, rows=rows, speed=rows / elapsed if elapsed > 0 else 0.0)

        with watch_reading(lambda done, total: bars.update(task, completed=done, total=total)):
            yield count


def _watched(blocks: Iterator[Any], watch: Callable[[int], None]) -> Iterator[Any]:
    rows = 0
    for block in blocks:
        rows += block.at_ns.size
        watch(rows)
        yield block


def _sentence(path: str, found: Imported) -> str:
    record = found.record
    if not found.added:
        return f"{path}: was imported before (import {record.id}, {record.rows:,} rows); nothing added."
    what = "requests" if record.kind == "requests" else f"bins with {record.requests:,} requests"
    left_out = f", {found.left_out:,} requests of other services left out" if found.left_out else ""
    return f"{path}: {record.rows:,} {what} added{left_out} (format {record.format}, import {record.id})."


def _import_document(path: str, found: Imported) -> dict[str, Any]:
    record = found.record
    return {
        "file": path,
        "added": found.added,
        "import": record.id,
        "format": record.format,
        "kind": record.kind,
        "rows": record.rows,
        "requests": record.requests,
        "left_out": found.left_out,
        "first": None if record.first_ts is None else record.first_ts.isoformat(),
        "end": None if record.end_ts is None else record.end_ts.isoformat(),
    }


def _summary_document(summary: TraceSummary) -> dict[str, Any]:
    rates = zip(summary.services, summary.requests, summary.mean_rps, summary.peak_minute_rps, strict=True)
    return {
        "format": summary.info.format,
        "kind": summary.info.kind,
        "bin_s": summary.info.bin_s,
        "first_ns": summary.begin_ns,
        "end_ns": summary.end_ns,
        "span_s": summary.span_s,
        "rows": summary.entries,
        "missing_bins": summary.missing_bins,
        "requests": int(summary.requests.sum()),
        "services": {
            name: {"requests": int(n), "mean_rps": float(mean), "peak_minute_rps": float(peak)}
            for name, n, mean, peak in rates
        },
    }


def _print_summary(file: str, summary: TraceSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    told = Table.grid(padding=(0, 2))
    bins = "" if summary.info.bin_s is None else f" in bins of {summary.info.bin_s:g} s"
    lines = [
        ("file", file),
        ("format", f"{summary.info.format}, {summary.info.kind}{bins}"),
        ("time", f"{_date(summary.begin_ns)} to {_date(summary.end_ns)} UTC ({_duration(summary.span_s)})"),
        ("rows", f"{summary.entries:,}"),
        ("requests", f"{summary.requests.sum():,}, {summary.mean_rps.sum():,.2f} a second"),
    ]
    if summary.info.bin_s is not None:
        lines.append(("missing", f"{summary.missing_bins:,} bins (not read as 0; nothing arrives in them)"))
    for name, text in lines:
        told.add_row(f"[bold]{name}[/bold]", text)
    console = Console()
    console.print(told)
    console.print(_service_table(summary))


def _service_table(summary: TraceSummary) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("service", box=box.SIMPLE_HEAD)
    longest = "minute" if (summary.info.bin_s or 0) <= 60 else "bin"
    for heading in ("requests", "share", "mean rps", f"peak {longest}, rps"):
        table.add_column(heading, justify="right")
    total = max(1, int(summary.requests.sum()))
    order = sorted(range(len(summary.services)), key=lambda k: (-int(summary.requests[k]), summary.services[k]))
    for k in order:
        n = int(summary.requests[k])
        rates = (f"{summary.mean_rps[k]:,.3f}", f"{summary.peak_minute_rps[k]:,.3f}")
        table.add_row(Text(summary.services[k]), f"{n:,}", f"{n / total * 100:.1f} %", *rates)
    return table


def _print_written(out: Path, rows: int, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        from partita.model.plain import to_json

        click.echo(to_json({"file": str(out), "rows": rows, "bytes": out.stat().st_size}))
    elif not quiet:
        click.echo(f"{out}: {rows:,} rows, {out.stat().st_size / 2**20:,.1f} MiB.")


def _date(ns: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
