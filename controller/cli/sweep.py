"""`partita sweep`: replay every combination of values of a scenario's keys."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from partita.controller.cli.options import Database, database_options
from partita.errors import ConfigError

if TYPE_CHECKING:
    from partita.controller.whatif.grid import Cell
    from partita.controller.whatif.task import Task
    from partita.controller.whatif.workers import Workers


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--vary",
    "varied",
    multiple=True,
    metavar="KEY=V1,V2",
    help="A key of the scenario, as a dotted path, and the values it takes; several make a grid.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Runs of each combination: the scenario's seed and those after it.",
)
@click.option("--policy", "policies", multiple=True, metavar="NAME", help="Policy to play; without, no controller.")
@click.option(
    "--engine",
    type=click.Choice(["local", "dask"]),
    default="local",
    show_default=True,
    help="Where cells run: the cores of this machine, or a Dask cluster.",
)
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Address of the Dask scheduler.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Local processes.  [default: one a core]")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="FILE.parquet", help="Where the results go."
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors; the file is still written.")
@database_options
def sweep(
    scenario: Path,
    varied: tuple[str, ...],
    seeds: int,
    policies: tuple[str, ...],
    engine: str,
    scheduler: str | None,
    workers: int | None,
    out: Path,
    quiet: bool,
    database: Database,
) -> None:
    """Replay SCENARIO once for every combination of varied values, policies and seeds.

    The results go to one Parquet file, a row for each run, and a table shows the means over the seeds. Each result is
    kept in FILE.parquet.journal as it arrives: after a crash or Ctrl-C the same command goes on with what is missing.
    docs/what-if.md says more.

    \b
    Examples:
      partita sweep scenario.yaml --vary load.arrivals.rate_rps=2000,3000,4000 --seeds 5 --out rates.parquet
      partita sweep scenario.yaml --vary discipline.name=deferred,eager --vary cluster.0.count=4,8 --out grid.parquet
      partita sweep scenario.yaml --vary … --engine dask --scheduler tcp://127.0.0.1:8786 --out grid.parquet
      partita sweep scenario.yaml --policy static --policy symphony --seeds 5 --out policies.parquet
    """
    from partita.controller.cli.progress import counting
    from partita.controller.config import Scenario
    from partita.controller.whatif.check import check_runs
    from partita.controller.whatif.grid import cells_of, read_vary
    from partita.controller.whatif.journal import SweepJournal, header_of
    from partita.controller.whatif.sweep import journal_beside, run_cells, table_of, write_table

    if (engine == "dask") != (scheduler is not None):
        raise click.UsageError("--engine dask and --scheduler go together")
    if scheduler is not None and not scheduler.strip():
        raise ConfigError("names no address, such as tcp://127.0.0.1:8786", key="--scheduler", value=scheduler)
    given = Scenario.load(scenario)
    cells = cells_of(
        given,
        [read_vary(text) for text in varied],
        folder=scenario.parent,
        policies=tuple(dict.fromkeys(policies)) or (None,),
        seeds=range(given.seed, given.seed + seeds),
    )
    scenarios = [cell.scenario for cell in cells]
    check_runs((s.discipline.name for s in scenarios), (cell.policy for cell in cells), scenarios)
    beside = journal_beside(out)
    header = header_of(given)
    with ExitStack() as stack:
        dsn = stack.enter_context(database.serve()) if given.demand.log else None
        journal = stack.enter_context(SweepJournal(beside, header))
        watch = stack.enter_context(counting("cells", quiet=quiet))
        try:
            records = run_cells(
                cells, journal=journal, open_workers=_engine(engine, scheduler, workers), dsn=dsn, watch=watch
            )
        except KeyboardInterrupt:
            kept = sum(cell.name in journal.done for cell in cells)
            click.echo(f"{kept:,} of {len(cells):,} cells are kept in {beside}: the same command goes on.", err=True)
            raise
    write_table(out, table_of(cells, records), header, cells)
    if not quiet:
        from partita.controller.cli.printing import print_table
        from partita.controller.whatif.tables import sweep_table

        print_table(sweep_table(cells, records))
    _end(cells, records)


def _engine(engine: str, scheduler: str | None, workers: int | None) -> Callable[[Callable[[Task], None]], Workers]:
    from partita.controller.whatif.workers import LocalWorkers, cores

    if engine == "local":
        return lambda began: LocalWorkers(workers or cores(), began=began)
    from partita.controller.whatif.dask_workers import DaskWorkers

    assert scheduler is not None
    return lambda began: DaskWorkers(scheduler, began=began)


def _end(cells: Sequence[Cell], records: Mapping[str, Mapping[str, Any]]) -> None:
    """Say which cells failed; exit code 1 if any did."""
    from partita.controller.whatif.grid import written

    failed = [(cell, records[cell.name]["problem"]) for cell in cells if records[cell.name]["problem"] is not None]
    for cell, problem in failed:
        settings = [f"{key}={written(value)}" for key, value in cell.settings]
        policy = [] if cell.policy is None else [cell.policy]
        click.echo(f"Failed: {', '.join([*settings, *policy, f'seed {cell.seed}'])}: {problem}", err=True)
    if failed:
        click.echo(f"Error: {len(failed):,} of {len(cells):,} cells failed; the others are in the file.", err=True)
        sys.exit(1)
