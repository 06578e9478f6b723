"""The `partita` command: lazy subcommands, and errors as one sentence with an exit code.

Heavy libraries (numba, pandas, statsmodels, torch, plotly) must not be imported here nor at the top of a command's
module, so that `partita --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from partita import __version__
from partita.controller.cli.interruption import unlosable
from partita.errors import PartitaError

COMMANDS = {
    "demo": ("demo", "Play a whole trace through the loop, print the table, write a report."),
    "replay": ("replay", "Replay a scenario under one or more policies and score their goodput."),
    "trace": ("trace", "Import, inspect, make and export request traces."),
    "db": ("db", "Look after the database: migrate, status, url, stop."),
    "explain": ("explain", "Say in plain words what a decision did and why."),
    "plugins": ("plugins", "List the plugins that are installed."),
    "mig": ("mig", "List the MIG geometries of a GPU."),
}
"""Command name -> (module and function name under partita.controller.cli, one line for --help)."""


class LazyGroup(click.Group):
    """A group that knows its commands' names and help, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List commands in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        name = COMMANDS[cmd_name][0]
        command: click.Command = getattr(import_module(f"partita.controller.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the table above, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="partita")
def cli() -> None:
    """Partita: a trace-driven autoscaling controller for GPU inference clusters."""


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line; every foreseen error ends in one sentence on stderr and its exit code."""
    try:
        with unlosable():
            return cli.main(args=args, prog_name="partita", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except PartitaError as problem:
        click.echo(f"Error: {problem}", err=True)
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(130)
