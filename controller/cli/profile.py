"""`partita profile`: what a table of measured latencies holds, and the curves that a scenario makes of it."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from partita.traces.latency_tables import Curves, LatencyTable


@click.group()
def profile() -> None:
    """Look at tables of measured latencies."""


@profile.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME", help="The model to show.  [default: the only one, or a list of all]")
@click.option("--format", "form", metavar="NAME", help="partita, parvagpu or hasgpu.  [default: as the columns tell]")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="MPS processes side by side.")
@click.option(
    "--time-quota", type=click.FloatRange(0, 100, min_open=True), default=100.0, show_default=True, help="In percent."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def show(file: Path, model: str | None, form: str | None, processes: int, time_quota: float, as_json: bool) -> None:
    """Show the latency curves of a table, in milliseconds by batch, as a scenario with `latency: {table: …}` has them.

    \b
    Examples:
        partita profile show profiles.csv.gz
        partita profile show profiles.csv.gz --model resnet50
    """
    from partita.traces.latency_tables import read_latency_table

    table = read_latency_table(file, format=form)
    if model is None and len(table.models()) > 1:
        _list_models(table, as_json=as_json)
        return
    curves = table.curves(model, processes=processes, time_quota_percent=time_quota)
    name = table.only_model(model)
    if as_json:
        click.echo(json.dumps(_plain(table, name, curves), indent=1))
        return
    click.echo(f"{table.path}: {table.format} table, model {name}, milliseconds by batch")
    _print_curves(curves)
    for remark in curves.remarks:
        click.echo(f"  {remark}")


def _list_models(table: LatencyTable, *, as_json: bool) -> None:
    rows = []
    for name in table.models():
        own = [row for row in table.rows if row.model == name]
        rows.append(
            {
                "model": name,
                "profiles": sorted({row.profile for row in own}),
                "gpu_percents": sorted({row.gpu_percent for row in own}),
                "buckets": sorted({row.bucket for row in own if row.bucket < inf}),
                "processes": sorted({row.processes for row in own}),
                "time_quotas_percent": sorted({row.time_quota_percent for row in own}),
                "batches": sorted({row.batch for row in own}),
                "measurements": len(own),
                "failed": sum(row.latency_s is None for row in own),
            }
        )
    if as_json:
        click.echo(json.dumps({"file": str(table.path), "format": table.format, "models": rows}, indent=1))
        return
    click.echo(f"{table.path}: {table.format} table with {len(rows)} models (--model NAME shows one)")
    headings = ["model", "profiles", "GPU %", "buckets", "processes", "time quota %", "batches", "rows", "failed"]
    _print(headings, [[_span(value) for value in row.values()] for row in rows])


def _span(value: object) -> str:
    """Write a cell: a list of numbers by its ends."""
    if not isinstance(value, list):
        return str(value)
    texts = [f"{v:g}" if isinstance(v, float) else str(v) for v in value]
    if len(texts) > 4 and not isinstance(value[0], str):
        return f"{texts[0]} … {texts[-1]} ({len(texts)})"
    return " ".join(texts) or "-"


def _print_curves(curves: Curves) -> None:
    from partita.model.service import label

    batches = sorted({batch for curve in curves.curves for batch, _ in curve.points})
    sized = any(curve.bucket.up_to < inf for curve in curves.curves)
    rows = []
    for curve in curves.curves:
        ms = {batch: f"{seconds * 1e3:.4g}" for batch, seconds in curve.points}
        size = [f"{curve.bucket.up_to:g}"] if sized else []
        rows.append([label(curve.profile, curve.gpu_percent), *size, *(ms.get(batch, "-") for batch in batches)])
    _print(["instance", *(["size up to"] if sized else []), *map(str, batches)], rows)


def _plain(table: LatencyTable, name: str, curves: Curves) -> dict[str, Any]:
    return {
        "file": str(table.path),
        "format": table.format,
        "model": name,
        "curves": [
            {
                "profile": curve.profile,
                "gpu_percent": curve.gpu_percent,
                "size_up_to": None if curve.bucket.up_to == inf else curve.bucket.up_to,
                "latency_ms": {str(batch): seconds * 1e3 for batch, seconds in curve.points},
            }
            for curve in curves.curves
        ],
        "remarks": list(curves.remarks),
    }


def _print(headings: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from partita.controller.cli.printing import wide_console

    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for n, heading in enumerate(headings):
        grid.add_column(Text(heading), justify="left" if n == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    wide_console().print(grid)
