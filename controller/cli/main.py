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
    "demo": ("demo", "demo", "Play a whole trace through the loop, print the table, write a report."),
    "demo-live": ("demo_live", "demo_live", "Control a real Triton server on this machine, and compare with replay."),
    "replay": ("replay", "replay", "Replay a scenario under one or more policies and score their goodput."),
    "capacity": ("capacity", "capacity", "Find the highest rate a cluster carries, or the fewest GPUs for its rate."),
    "sweep": ("sweep", "sweep", "Replay every combination of values, on all cores or a Dask cluster."),
    "compare": ("compare", "compare", "Compare results: differences, and whether they are more than chance."),
    "forecast": ("forecast", "forecast", "Judge forecasts: backtest, status, show, models."),
    "trace": ("trace", "trace", "Import, inspect, make and export request traces."),
    "db": ("db", "db", "Look after the database: migrate, status, url, stop."),
    "run": ("run", "run", "Control a live cluster."),
    "runtime": ("runtime", "runtime", "Serve requests with Partita's own batching runtime."),
    "status": ("status", "status", "Say how a live cluster and its controllers are."),
    "plan": ("plan", "plan", "Show a live cluster's plans, their differences and their history."),
    "pause": ("orders", "pause", "Let the controller change nothing until resume."),
    "resume": ("orders", "resume", "Let the controller decide again."),
    "rollback": ("orders", "rollback", "Put an earlier plan into force again, and pause."),
    "explain": ("explain", "explain", "Say in plain words what a decision did and why."),
    "plugins": ("plugins", "plugins", "List the plugins that are installed."),
    "profile": ("profile", "profile", "Look at tables of measured latencies."),
    "mig": ("mig", "mig", "List the MIG geometries of a GPU."),
}
"""Command name -> (module under partita.controller.cli, function in it, one line for --help)."""


class LazyGroup(click.Group):
    """A group that knows its commands' names and help, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List commands in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"partita.controller.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the table above, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


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
