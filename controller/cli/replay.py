"""`partita replay`: play a scenario under one or more policies and score them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from partita.controller.cli.options import Database, command_line, database_options

if TYPE_CHECKING:
    from partita.controller.config import Scenario


def _print_schema(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from partita.controller.config import Scenario

        click.echo(json.dumps(Scenario.model_json_schema(by_alias=True), indent=1))
        ctx.exit()


@click.command()
@click.argument("scenario", required=False, type=click.Path(path_type=Path))
@click.option("--policy", "policies", multiple=True, metavar="NAME", help="Policy to play instead of the scenario's.")
@click.option("--discipline", metavar="NAME", help="Discipline to use instead of the scenario's.")
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout, and nothing else.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a self-contained report.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed to use instead of the scenario's.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors; files are still written.")
@click.option("--journal", is_flag=True, help="Write every turn of the loop to the database, for partita explain.")
@click.option(
    "--recorded",
    type=click.IntRange(min=1),
    metavar="RUN",
    help="Instead of a scenario: make the decisions of a live run again and compare them with its journal.",
)
@click.option(
    "--plugin-timeout",
    "plugin_limit_s",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="One call of a plugin that takes longer counts as hung.",
)
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON schema of scenarios.",
)
@database_options
def replay(
    scenario: Path | None,
    policies: tuple[str, ...],
    discipline: str | None,
    json_file: str | None,
    report: Path | None,
    seed: int | None,
    quiet: bool,
    journal: bool,
    recorded: int | None,
    plugin_limit_s: float,
    database: Database,
) -> None:
    """Play SCENARIO (a YAML file) through the loop on a simulated cluster and score every policy.

    A scenario without policies is a plain measurement of the discipline on the cluster as given. The same seed gives
    the same result, whatever the machine; docs/scenario.md explains every key, docs/replay.md every column of the table
    that is printed.

    With --recorded, a live run's turns are decided once more from what they saw. The loop is pure, so every decision
    must come out the same, to the last bit; if one does not, it is shown, and the exit code is 1.

    \b
    Examples:
      partita replay scenario.yaml
      partita replay scenario.yaml --policy symphony --policy reactive --report report.html
      partita replay scenario.yaml --discipline eager --json - | jq .scores
      partita replay scenario.yaml --journal && partita explain
      partita replay --recorded 3
    """
    if recorded is not None:
        _refuse_beside_recorded(scenario, policies, discipline, json_file, report, seed, journal)
        _replay_recorded(recorded, database, quiet=quiet)
        return
    if scenario is None:
        raise click.UsageError("name a SCENARIO, or a live run with --recorded")
    from partita.controller.config import Scenario
    from partita.controller.results import check_writable, result_document, result_text, write_whole
    from partita.plugins.host import PluginHost

    wanted = _adjust(Scenario.load(scenario), policies, discipline, seed)
    for remark in () if quiet else dict.fromkeys(wanted.remarks()):
        click.echo(f"Note: {remark}.", err=True)
    names = list(wanted.policy_options())
    PluginHost.load().require(names)
    if json_file not in (None, "-"):
        check_writable(Path(json_file), "--json")
    if report is not None:
        check_writable(report, "--report")

    if journal and not names:
        click.echo("Warning: --journal writes nothing: without policies there are no decisions.", err=True)
        journal = False

    from partita.controller.cli.progress import watching
    from partita.controller.comparison import compare, shown
    from partita.controller.demand import read_demand

    with ExitStack() as stack:
        dsn = stack.enter_context(database.serve()) if journal or wanted.demand.log else None
        journals = _journals(wanted, dsn) if journal and dsn else None
        with _reading(wanted, quiet=quiet):
            demand = read_demand(wanted, dsn=dsn)
        watch = stack.enter_context(watching(quiet=quiet, in_lines=True))
        runs = compare(
            wanted,
            names,
            seed=wanted.seed,
            plugin_limit_s=plugin_limit_s,
            demand=demand,
            watch=watch,
            journal=journals,
            record_gpus=report is not None,
        )
    result = result_document(wanted, runs, seed=wanted.seed)
    if json_file == "-":
        click.echo(result_text(result), nl=False)
    elif json_file is not None:
        write_whole(Path(json_file), result_text(result))
    if report is not None:
        from partita.controller.report import write_report

        drawn = dict(zip(result["scores"], map(shown, runs), strict=True))
        write_report(report, result, drawn, title=scenario.stem, command=command_line())
    if not quiet and json_file != "-":
        from partita.controller.cli.printing import print_scores

        print_scores(result)


def _refuse_beside_recorded(
    scenario: Path | None,
    policies: tuple[str, ...],
    discipline: str | None,
    json_file: str | None,
    report: Path | None,
    seed: int | None,
    journal: bool,
) -> None:
    """Refuse what would make another run of it."""
    given = {
        "SCENARIO": scenario,
        "--policy": policies,
        "--discipline": discipline,
        "--json": json_file,
        "--report": report,
        "--seed": seed,
        "--journal": journal,
    }
    for name, value in given.items():
        if value is not None and value is not False and value != ():
            raise click.UsageError(f"{name} has no place beside --recorded, which plays a run as it was")


def _replay_recorded(run: int, database: Database, *, quiet: bool) -> None:
    """Make a live run's decisions again and say whether they are the same; exit code 1 if one is not."""
    from partita.controller.recorded import compare, divergence_lines
    from partita.store.connection import connect

    async def compared(dsn: str) -> Any:
        async with connect(dsn) as connection:
            return await compare(connection, run)

    with database.serve() as dsn:
        found = asyncio.run(compared(dsn))
    if found.divergence is not None:
        for line in divergence_lines(found):
            click.echo(line)
        sys.exit(1)
    if not quiet:
        click.echo(f"Run {run}: {found.same:,} decision{'s' if found.same != 1 else ''}, all the same.")


def _adjust(scenario: Scenario, policies: tuple[str, ...], discipline: str | None, seed: int | None) -> Scenario:
    """Return the scenario with what the command line says instead of the file; a policy named keeps its options."""
    from partita.controller.whatif.check import check_runs

    changes: dict[str, Any] = {}
    if policies:
        listed = {p if isinstance(p, str) else p.name: p for p in scenario.policies}
        changes["policies"] = [listed.get(name, name) for name in dict.fromkeys(policies)]
    if discipline is not None and discipline != scenario.discipline.name:
        check_runs([discipline], [])
        changes["discipline"] = scenario.discipline.renamed(discipline)
    if seed is not None:
        changes["seed"] = seed
    return scenario.model_copy(update=changes)


@contextmanager
def _reading(scenario: Scenario, *, quiet: bool) -> Iterator[None]:
    """Show how much of a trace file has been looked through."""
    from partita.controller.cli.progress import watching
    from partita.traces.files import watch_reading

    if scenario.demand.trace is None:
        yield
        return
    with watching(quiet=quiet, unit="MB/s") as watch:
        report = watch("reading the trace")
        with watch_reading(lambda done, total: report(done / 1e6, total / 1e6)):
            yield


def _journals(scenario: Scenario, dsn: str) -> Any:
    from partita.controller.journaling import ReplayJournal

    return lambda policy: ReplayJournal(dsn, policy=policy, scenario=scenario)
