"""`partita run`: control a live cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from partita.controller.cli.options import Database, database_options


@click.command()
@click.argument("cluster", type=click.Path(path_type=Path))
@click.option("--advisory", is_flag=True, help="Decide, journal and say what would be done, but change nothing.")
@click.option("--holder", metavar="NAME", help="What this controller is called.  [default: host and process]")
@click.option("--check", is_flag=True, help="Check the file and end.")
@database_options
def run(cluster: Path, advisory: bool, holder: str | None, check: bool, database: Database) -> None:
    """Control the live cluster that CLUSTER (a YAML file) describes, until told to end.

    Several controllers of one cluster may run: one leads, the others stand by and take over within ten seconds. Every
    decision is journaled with its reasons (partita explain), and told in a line that begins with AUDIT. SIGTERM ends
    it, after the command in flight; SIGHUP reads the file again. docs/run.md explains every key of the file.

    \b
    Examples:
      partita run cluster.yaml --check
      partita run cluster.yaml --advisory
      partita run cluster.yaml --dsn postgresql://partita@db.example.org/partita
      partita status
    """
    from partita.controller.cluster_file import ClusterFile
    from partita.controller.live.controller import Controller, Surroundings
    from partita.controller.live.parts import checked

    file = ClusterFile.load(cluster)
    checked(file)
    if check:
        click.echo(f"{cluster} is fine: {file.name}, {len(file.inventory())} GPUs, {len(file.services())} services.")
        return
    from partita.controller.live.outlook import serve

    async def control(dsn: str) -> None:
        around = Surroundings(cluster, dsn, advisory=advisory, holder=holder or "", revive=database.revive, serve=serve)
        await Controller(file, around).run()

    with database.serve() as dsn:
        asyncio.run(control(dsn))
