"""`partita plugins`: list what is installed, and check one plugin against the rules of the hooks."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from partita.plugins.host import PluginHost


@click.group()
def plugins() -> None:
    """List and check the plugins that are installed."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_plugins(as_json: bool) -> None:
    """List the plugins with their version, hooks and status.

    PARTITA_PLUGINS=name,name restricts which are loaded; set but empty, none is.
    """
    rows = _rows(PluginHost.load())
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _print_table(rows)


@plugins.command("check")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def check(name: str, as_json: bool) -> None:
    """Run the plugin NAME over example ticks and list the rules that it breaks; exit code 1 if there are any."""
    from partita.plugins.kit import check_plugin

    host = PluginHost.load([name])
    problems = [b.problem for b in host.broken] + [p for plugin in host.plugins for p in check_plugin(plugin)]
    if as_json:
        click.echo(json.dumps({"name": name, "problems": problems}, indent=2, ensure_ascii=False))
    elif problems:
        click.echo("\n".join(f"{name}: {problem}" for problem in problems))
    else:
        click.echo(f"{name}: no problems found.")
    if problems:
        sys.exit(1)


def _rows(host: PluginHost) -> list[dict[str, Any]]:
    """Describe every plugin, in order of the names; `problem` is empty for those that can be used."""
    usable = [
        {
            "name": p.name,
            "version": p.version,
            "distribution": p.distribution,
            "hooks": list(p.hooks),
            "status": "ok",
            "problem": "",
        }
        for p in host.plugins
    ]
    broken = [
        {
            "name": b.name,
            "version": b.version,
            "distribution": b.distribution,
            "hooks": [],
            "status": "broken",
            "problem": b.problem,
        }
        for b in host.broken
    ]
    return sorted([*usable, *broken], key=lambda row: str(row["name"]))


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        click.echo("No plugins are loaded.")
        return
    table = Table(title="Plugins", title_justify="left")
    for heading in ("name", "version", "from", "hooks", "status"):
        table.add_column(heading)
    for row in rows:
        status = Text("ok", "green") if row["status"] == "ok" else Text(f"broken: {row['problem']}", "red")
        cells = (row["name"], row["version"], row["distribution"], ", ".join(row["hooks"]))
        table.add_row(*(Text(cell) for cell in cells), status)
    Console().print(table)
