"""`partita capacity`: the highest rate that a cluster carries, or the fewest GPUs for a rate."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from partita.controller.cli.options import Database, command_line, database_options
from partita.errors import ConfigError

if TYPE_CHECKING:
    from partita.controller.config import Scenario
    from partita.controller.whatif.capacity import By, Find


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--bad-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Share of requests that may be late or dropped.",
)
@click.option(
    "--by",
    type=click.Choice(["worst", "average"]),
    default="worst",
    show_default=True,
    help="Whose bad rate it is: the worst service's, or that of all requests.",
)
@click.option(
    "--find",
    type=click.Choice(["rate", "gpus"]),
    default="rate",
    show_default=True,
    help="The highest rate for the scenario's GPUs, or the fewest GPUs for its rate.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Searches to take the mean of: the scenario's seed and those after it.",
)
@click.option(
    "--discipline",
    "disciplines",
    multiple=True,
    metavar="NAME",
    help="Discipline to use instead of the scenario's; several are compared.",
)
@click.option("--policy", metavar="NAME", help="Policy to play; without, the cluster as given.")
@click.option(
    "--resolution",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    default=0.005,
    show_default=True,
    help="How close a rate is searched, as a share of it.",
)
@click.option(
    "--curve",
    type=click.IntRange(min=0, max=1000),
    default=0,
    metavar="N",
    help="Also measure N rates evenly up to the fluid bound, for a figure.",
)
@click.option("--scan", is_flag=True, help="Scan every discipline on a grid, not only those that are not monotone.")
@click.option(
    "--entry",
    type=click.IntRange(min=0),
    metavar="N",
    help="With --find gpus: which entry of the cluster is counted, from 0.  [default: the only one]",
)
@click.option("--most", type=click.IntRange(min=1), metavar="N", help="With --find gpus: never try more than this.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [default: one a core]")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all that was measured."
)
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a self-contained report.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors; files are still written.")
@database_options
def capacity(
    scenario: Path,
    bad_rate: float,
    by: By,
    find: Find,
    seeds: int,
    disciplines: tuple[str, ...],
    policy: str | None,
    resolution: float,
    curve: int,
    scan: bool,
    entry: int | None,
    most: int | None,
    workers: int | None,
    json_file: Path | None,
    report: Path | None,
    quiet: bool,
    database: Database,
) -> None:
    """Find the highest offered rate at which SCENARIO keeps its bad rate, or the fewest GPUs for its own rate.

    The mean over several seeds is given with its 95 % interval, beside what the cluster could carry at best. A
    discipline that fares better under more load somewhere is scanned on a grid, and marked. docs/what-if.md says more.

    \b
    Examples:
      partita capacity scenario.yaml --bad-rate 0.01
      partita capacity scenario.yaml --discipline deferred --discipline eager --curve 12 --json capacity.json
      partita capacity scenario.yaml --discipline deferred --discipline eager --curve 12 --report capacity.html
      partita capacity scenario.yaml --find gpus --by average --policy symphony
    """
    from partita.controller.cli.progress import counting
    from partita.controller.config import Scenario
    from partita.controller.results import check_writable, result_text, write_whole
    from partita.controller.whatif.capacity import Asked, Point, capacity_document, look_at, search
    from partita.controller.whatif.check import check_runs
    from partita.controller.whatif.workers import LocalWorkers, cores

    given = Scenario.load(scenario)
    if json_file is not None:
        check_writable(json_file, "--json")
    if report is not None:
        check_writable(report, "--report")
    names = tuple(dict.fromkeys(disciplines)) or (given.discipline.name,)
    with ExitStack() as stack:
        asked = Asked(
            given,
            scenario.parent,
            names,
            tuple(range(given.seed, given.seed + seeds)),
            find=find,
            by=by,
            bad_rate=bad_rate,
            resolution=resolution,
            curve=curve,
            scan=scan,
            policy=policy,
            entry=_entry(given, entry) if find == "gpus" else 0,
            most_gpus=most,
            dsn=stack.enter_context(database.serve()) if given.demand.log else None,
        )
        check_runs(names, [policy], [given])
        basis, points = look_at(asked), list[Point]()
        watch = stack.enter_context(counting("runs", quiet=quiet))
        try:
            answers = search(asked, basis, lambda: LocalWorkers(workers or cores()), points=points, watch=watch)
        except KeyboardInterrupt:
            if json_file is not None and points:
                write_whole(json_file, result_text(capacity_document(asked, basis, [], points, finished=False)))
                click.echo(f"The {len(points):,} runs that were done are in {json_file}.", err=True)
            raise
    document = capacity_document(asked, basis, answers, points)
    if json_file is not None:
        write_whole(json_file, result_text(document))
    if report is not None:
        from partita.controller.report import write_capacity

        write_capacity(report, document, title=scenario.stem, command=command_line())
    if not quiet:
        from partita.controller.cli.printing import print_table
        from partita.controller.whatif.tables import capacity_remarks, capacity_table

        print_table(capacity_table(document))
        for line in capacity_remarks(document):
            click.echo(line)


def _entry(scenario: Scenario, entry: int | None) -> int:
    there = len(scenario.cluster)
    if entry is None and there > 1:
        raise ConfigError(f"the cluster has {there} entries: say which is counted, 0 to {there - 1}", key="--entry")
    if entry is not None and entry >= there:
        raise ConfigError(
            f"there is no entry {entry} in the cluster, the last is {there - 1}", key="--entry", value=entry
        )
    return entry or 0
