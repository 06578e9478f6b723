"""`partita mig`: what MIG allows on a GPU model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from partita.mig import GPUS, Geometry, GpuModel, gpu_model, maximal, states

if TYPE_CHECKING:
    from rich.table import Table


@click.group()
def mig() -> None:
    """List GPU models and their MIG geometries."""


@mig.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def gpus(as_json: bool) -> None:
    """List the GPU models known by name."""
    if as_json:
        click.echo(json.dumps([_describe_gpu(gpu) for gpu in GPUS], indent=1))
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in ("GPU", "memory GiB", "profiles", "geometries", "of them maximal"):
        table.add_column(heading)
    for gpu in GPUS:
        if gpu.profiles:
            names = " ".join(p.name for p in gpu.profiles if not p.variant)
            counts = (str(len(states(gpu.name))), str(len(maximal(gpu.name))))
        else:
            names, counts = "whole only, until read from the device", ("-", "-")
        table.add_row(gpu.name, f"{gpu.memory_gib:.1f}", names, *counts)
    _print(table)


@mig.command()
@click.argument("gpu")
@click.option("--all-states", is_flag=True, help="Also those to which something could be added.")
@click.option("--double-memory", is_flag=True, help="Also use the 1g profile with two memory slices.")
@click.option("--variants", is_flag=True, help="Also use the profiles with a media or graphics suffix.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def geometries(gpu: str, all_states: bool, double_memory: bool, variants: bool, as_json: bool) -> None:
    """List the MIG geometries of a GPU model, such as A100-80GB, as a scenario's `geometry` takes them.

    Without options, those to which nothing could be added, of the plain profiles. A narrow terminal is shown fewer
    columns.
    """
    model = gpu_model(gpu)
    found = (states if all_states else maximal)(model.name, double_memory=double_memory, variants=variants)
    kind = "allowed" if all_states else "maximal"
    if as_json:
        rows = [_describe(model, g) for g in found]
        click.echo(json.dumps({"gpu": model.name, "kind": kind, "count": len(rows), "geometries": rows}, indent=1))
        return
    click.echo(f"{model.name}: {len(found)} {kind} geometries")
    _print_geometries(model, found)


def _print_geometries(model: GpuModel, found: Sequence[Geometry]) -> None:
    """Print a table, of which a narrow terminal gets the columns that fit; the geometry itself is never cut."""
    from rich import box
    from rich.table import Table

    from partita.controller.cli.printing import wide_console

    sums = [_describe(model, geometry) for geometry in found]
    columns = {
        "#": [str(number) for number in range(1, len(found) + 1)],
        "memory slices": [draw(model, geometry) for geometry in found],
        "compute": [f"{s['compute_slices']}/{model.compute_slices}" for s in sums],
        "SMs": [str(s["sms"]) for s in sums],
        "GiB": [f"{s['memory_gib']:.1f}" for s in sums],
        "geometry": [str(geometry) for geometry in found],
    }
    console = wide_console()
    for left_out in ("SMs", "GiB", "memory slices", "compute"):
        if sum(3 + max(map(len, (name, *texts))) for name, texts in columns.items()) <= console.width:
            break
        del columns[left_out]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name != "geometry")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(table)


def draw(model: GpuModel, geometry: Geometry) -> str:
    """Draw the memory slices of a GPU, four characters each (two on grids of twelve): ``|3g-------------|1g-|....``."""
    width = 4 if model.memory_slices <= 8 else 2
    cells = ["." * width] * model.memory_slices
    for placed in geometry.placements:
        profile = model.profile(placed.profile)
        assert profile is not None
        short = placed.profile.partition(".")[0] + ("+" if profile.variant else "")
        text = f"|{short}".ljust(width * profile.size, "-")
        cells[placed.start : placed.start + profile.size] = [
            text[i : i + width] for i in range(0, width * profile.size, width)
        ]
    return "".join(cells) + "|"


def _describe(model: GpuModel, geometry: Geometry) -> dict[str, object]:
    used = [p for p in (model.profile(placed.profile) for placed in geometry.placements) if p is not None]
    return {
        "geometry": str(geometry),
        "profiles": geometry.counts(),
        "compute_slices": sum(p.compute_slices for p in used),
        "sms": sum(p.sms for p in used),
        "memory_gib": round(sum(p.memory_gib for p in used), 2),
    }


def _describe_gpu(gpu: GpuModel) -> dict[str, object]:
    return {
        "name": gpu.name,
        "aliases": list(gpu.aliases),
        "memory_gib": round(gpu.memory_gib, 2),
        "memory_slices": gpu.memory_slices or None,
        "compute_slices": gpu.compute_slices or None,
        "profiles": [
            {
                "name": p.name,
                "id": p.id,
                "compute_slices": p.compute_slices,
                "max_instances": p.max_instances,
                "starts": list(p.starts),
                "size": p.size,
                "memory_gib": p.memory_gib,
                "sms": p.sms,
            }
            for p in gpu.profiles
        ],
    }


def _print(table: Table) -> None:
    from partita.controller.cli.printing import wide_console

    wide_console().print(table)
