"""`partita trace`: import, inspect, make and export request traces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from partita.controller.cli.options import Database, database_options

if TYPE_CHECKING:
    from rich.table import Table

    from partita.controller.tracefiles import Imported
    from partita.traces.summary import TraceSummary

FORMAT = click.option("--format", "forced", metavar="NAME", help="Format of the file, where it is not told rightly.")
BIN = click.option(
    "--bin", "bin_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Width of bins."
)
FROM = click.option(
    "--from", "begin", metavar="WHEN", help="Start: a date, or a time after the trace's start (90, 1.5h)."
)
TO = click.option("--to", "end", metavar="WHEN", help="End, likewise.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
QUIET = click.option("--quiet", is_flag=True, help="Print nothing but errors.")


@click.group()
def trace() -> None:
    """Import, inspect, make and export request traces.

    Files may be plain or compressed (.gz, .zst). Formats: azure-llm, servegen, counts, csv, parquet, and what plugins
    bring; docs/traces.md describes them.
    """


@trace.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@FORMAT
@click.option("--service", metavar="NAME", help="Name of the one service that the trace is for.")
@click.option(
    "--map", "rules", multiple=True, metavar="PATTERN=NAME", help="Rename services; what matches none is left out."
)
@FROM
@TO
@BIN
@click.option("--raw", is_flag=True, help="Import counts as requests, drawn inside their bins.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="What --raw draws from.")
@JSON
@QUIET
@database_options
def import_files(
    files: tuple[Path, ...],
    forced: str | None,
    service: str | None,
    rules: tuple[str, ...],
    begin: str | None,
    end: str | None,
    bin_s: float | None,
    raw: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
    database: Database,
) -> None:
    """Bring trace files into the database, each exactly once.

    Requests become rows of the request log. Counts stay counts, so that nothing is lost, and a replay draws the
    instants; --raw draws them now. A file that is there already (with the same options) adds nothing.

    \b
    Examples:
      partita trace import azure_conv.csv.gz --service chat
      partita trace import client_rates_600s.csv.gz --map 'm-small/*=*' --to 1d
    """
    from partita.controller.tracefiles import ImportOptions, choose_reader, import_trace

    options = ImportOptions(_service_rules(service, rules), begin, end, bin_s, raw, seed)
    readers = [choose_reader(path, forced=forced, bin_s=bin_s) for path in files]
    done: list[Imported] = []
    with database.serve() as dsn:
        for path, reader in zip(files, readers, strict=True):
            with _progress(path.name, quiet=quiet or as_json) as watch:
                found = asyncio.run(import_trace(dsn, path, reader, options, watch=watch))
            done.append(found)
            if not as_json and not quiet:
                click.echo(_sentence(path, found))
    if as_json:
        from partita.model.plain import to_json

        click.echo(to_json([_import_document(path, found) for path, found in zip(files, done, strict=True)]))


@trace.command()
@click.argument("file", type=click.Path(path_type=Path))
@FORMAT
@BIN
@JSON
def info(file: Path, forced: str | None, bin_s: float | None, as_json: bool) -> None:
    """Say what a trace FILE holds: format, time, services, rates.

    \b
    Example:
      partita trace info azure_conv.csv.gz
    """
    from partita.controller.tracefiles import choose_reader
    from partita.traces.summary import summarise

    reader = choose_reader(file, forced=forced, bin_s=bin_s)
    with _progress(file.name, quiet=as_json):
        summary = summarise(reader, file)
    if as_json:
        from partita.model.plain import to_json

        click.echo(to_json({"file": str(file), **_summary_document(summary)}))
    else:
        _print_summary(file, summary)


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
@click.option("--import", "number", type=int, metavar="ID", help="Which import.  [default: the newest]")
@FROM
@TO
@JSON
@QUIET
@database_options
def export(
    out: Path, number: int | None, begin: str | None, end: str | None, as_json: bool, quiet: bool, database: Database
) -> None:
    """Write an imported trace from the database to OUT (.parquet, .csv, .csv.gz or .csv.zst).

    \b
    Example:
      partita trace export hour.parquet --import 3 --from 2h --to 3h
    """
    from partita.controller.tracefiles import choose_import, export_trace
    from partita.traces.writers import check_target

    check_target(out)
    with database.serve() as dsn:
        record = asyncio.run(choose_import(dsn, number))
        with _progress(out.name, quiet=quiet or as_json, expected=record.rows) as watch:
            rows = export_trace(dsn, record, out, begin=begin, end=end, watch=watch)
    _print_written(out, rows, as_json=as_json, quiet=quiet)


def _service_rules(service: str | None, rules: tuple[str, ...]) -> dict[str, str | None]:
    if service is not None and rules:
        raise click.UsageError("give --service or --map, not both")
    found: dict[str, str | None] = {} if service is None else {"*": service}
    for rule in rules:
        pattern, equals, name = rule.rpartition("=")
        if not (pattern and equals and name):
            raise click.BadParameter(f"{rule!r} is not PATTERN=NAME", param_hint="--map")
        found[pattern] = name
    return found


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


def _sentence(path: Path, found: Imported) -> str:
    record = found.record
    if not found.added:
        return f"{path}: was imported before (import {record.id}, {record.rows:,} rows); nothing added."
    what = "requests" if record.kind == "requests" else f"bins with {record.requests:,} requests"
    left_out = f", {found.left_out:,} requests of other services left out" if found.left_out else ""
    return f"{path}: {record.rows:,} {what} added{left_out} (format {record.format}, import {record.id})."


def _import_document(path: Path, found: Imported) -> dict[str, Any]:
    record = found.record
    return {
        "file": str(path),
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


def _print_summary(file: Path, summary: TraceSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    told = Table.grid(padding=(0, 2))
    bins = "" if summary.info.bin_s is None else f" in bins of {summary.info.bin_s:g} s"
    lines = [
        ("file", str(file)),
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
