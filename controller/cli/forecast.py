"""`partita forecast`: judge forecasts by what came, and show those that are made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from partita.controller.cli.options import Database, command_line, database_options
from partita.errors import ConfigError

if TYPE_CHECKING:
    from partita.controller.load_detail import Detail
    from partita.controller.load_series import Source
    from partita.model.load import Forecast, Load
    from partita.traces.buckets import Buckets

HORIZONS = "1m,15m,1h,24h"
KEPT_ORIGINS = 3
"""Forecasts of each model that a report draws."""

BUCKETS = click.option(
    "--buckets",
    metavar="EDGES|FILE",
    help="Tell input sizes apart by these upper edges, with commas between, or by those of a scenario's services.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


@click.group()
def forecast() -> None:
    """Judge forecasts by what came, and show those that are made.

    `backtest` tries models on a trace or on the log, `status` says how good the running controller's forecasts have
    been and which model is in charge, `show` draws the present one, `models` lists what there is, `train` trains the
    one that must be.
    """


@forecast.command()
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Trace to forecast, instead of a log.")
@click.option("--format", "forced", metavar="NAME", help="Format of the trace, where it is not told rightly.")
@click.option(
    "--bin", "bin_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Width of the trace's bins."
)
@click.option(
    "--import", "number", type=click.IntRange(min=1), metavar="N", help="Import in the database, instead of a log."
)
@click.option(
    "--horizons",
    default=None,
    metavar="TIMES",
    help=f"How far ahead, with commas between.  [default: {HORIZONS}, those that steps fit]",
)
@click.option("--step", metavar="TIME", help="Width of a step.  [default: 1m, or the trace's bins if wider]")
@click.option("--models", metavar="NAMES", help="Models, with commas between, or all.  [default: those in use]")
@click.option("--service", "services", multiple=True, metavar="PATTERN", help="Only services that match; repeatable.")
@click.option(
    "--origins", type=click.IntRange(min=1), default=24, show_default=True, help="From how many instants to forecast."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="What ties are drawn from.")
@BUCKETS
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write every score there.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML report there.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@database_options
def backtest(
    trace: Path | None,
    forced: str | None,
    bin_s: float | None,
    number: int | None,
    horizons: str | None,
    step: str | None,
    models: str | None,
    services: tuple[str, ...],
    origins: int,
    seed: int,
    buckets: str | None,
    json_file: Path | None,
    report: Path | None,
    quiet: bool,
    database: Database,
) -> None:
    """Forecast a trace or the live log from instants in its last week or fifth, and score that by what came.

    The error at a horizon is that of the last fifth of the steps up to it. Ratios are against the daily seasonal-naive;
    docs/forecasting-backtest.md says how each score is reckoned. Burstiness and, of single requests, the shares of
    input sizes are forecast too, and held against their last value. With --buckets there is a series for each service
    and bucket, such as chat:up-to-512, and one for requests of unknown size.

    \b
    Examples:
      partita forecast backtest --trace client_rates_600s.csv.gz --horizons 10m,1h,24h
      partita forecast backtest --trace conv.csv.gz --horizons 1m,5m --step 10s --report out.html
      partita forecast backtest --trace conv.csv.gz --horizons 1m --step 10s --buckets 512,2048
      partita forecast backtest --dsn postgresql://localhost/partita --models smoothing,last-value --json scores.json
    """
    from partita.controller.load_detail import Detail, parse_buckets
    from partita.controller.load_series import parse_span
    from partita.controller.models import choose_models, known_models
    from partita.controller.results import check_writable

    for path, option in ((json_file, "--json"), (report, "--report")):
        if path is not None:
            check_writable(path, option)
    if trace is not None and number is not None:
        raise ConfigError("--trace and --import name two sources; give one", key="--import", value=number)
    wanted = (
        None if horizons is None else tuple(parse_span(text, "--horizons") for text in _names(horizons, "--horizons"))
    )
    step_s = None if step is None else parse_span(step, "--step")
    chosen = choose_models(_names(models, "--models"), known_models())
    detail = Detail(None if buckets is None else parse_buckets(buckets))
    if trace is not None:
        from partita.controller.load_series import series_of_trace

        source = series_of_trace(trace, step_s=step_s, forced=forced, bin_s=bin_s, detail=detail)
    else:
        source = _from_database(database, number, step_s, detail)
    _backtest(source, detail, chosen, wanted, services, origins, seed, json_file, report, quiet)


def _names(text: str | None, option: str) -> list[str]:
    """Return what stands between the commas; nothing if the option was not given, ConfigError if it is empty."""
    if text is None:
        return []
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise ConfigError("it names nothing", key=option, value=text)
    return found


def _from_database(
    database: Database, number: int | None, step_s: float | None, detail: Detail | None = None
) -> Source:
    from partita.controller.load_series import series_of_import, series_of_live

    with database.serve() as dsn:
        if number is not None:
            return series_of_import(dsn, number, step_s=step_s, detail=detail)
        return asyncio.run(series_of_live(dsn, step_s=step_s, detail=detail))


def _backtest(
    source: Source,
    detail: Detail,
    models: Sequence[Any],
    wanted: tuple[float, ...] | None,
    services: Sequence[str],
    origins: int,
    seed: int,
    json_file: Path | None,
    report: Path | None,
    quiet: bool,
) -> None:
    from time import perf_counter

    from partita.controller.backtesting import backtest_document
    from partita.controller.cli.progress import counting
    from partita.controller.load_character import character_scores
    from partita.controller.load_series import forecastable, picked
    from partita.controller.results import result_text, write_whole
    from partita.forecasting.backtest import Settings, choose_origins
    from partita.forecasting.backtest import backtest as run
    from partita.traces.buckets import owner

    load = picked(source.series.load, services)
    settings = Settings(_horizons(wanted, load, source), origins=origins, seed=seed)
    instants = _judged(lambda: choose_origins(load, settings))
    load, left_out = forecastable(load, instants[0])
    if not load.services:
        raise ConfigError(
            f"{source.name} holds no series that can be forecast: {next(iter(left_out.values()), 'empty')}"
        )
    reach = round(max(settings.horizons_s) / load.step_s)
    drawn = _drawn(instants, reach, load.counts.shape[1]) if report is not None else set()
    kept: dict[str, dict[int, Forecast]] = {}

    def seen(model: str, origin: int, made: Forecast) -> None:
        if origin in drawn:
            kept.setdefault(model, {})[origin] = made

    with counting("forecasts", quiet=quiet) as told:
        found = _judged(lambda: run(load, models, settings, clock=perf_counter, seen=seen, told=told))
    if not found.errors:
        why = "; ".join(f"{name}: {problem}" for name, problem in found.failed.items())
        raise ConfigError(f"no model gave a forecast ({why})", key="--models")
    document = backtest_document(source, found, left_out)
    owners = list(dict.fromkeys(map(owner, load.services))) if detail.buckets is not None else load.services
    document |= character_scores(detail, load.services, owners)
    if json_file is not None:
        write_whole(json_file, result_text(document))
    if report is not None:
        from partita.controller.report import write_forecasts

        write_forecasts(
            report, document, found, load, kept, title=f"Forecasts of {source.name}", command=command_line()
        )
    if not quiet:
        _print(document)


def _drawn(origins: Sequence[int], reach: int, length: int) -> set[int]:
    """Choose the last origins whose forecasts are whole and do not lie over each other."""
    found: list[int] = []
    for origin in reversed(origins):
        if origin + reach <= (found[-1] if found else length) and len(found) < KEPT_ORIGINS:
            found.append(origin)
    return set(found)


def _judged(work: Any) -> Any:
    """Turn what a series or a setting does not allow into the mistake of whoever asked for it."""
    from partita.errors import ForecastError

    try:
        return work()
    except ForecastError as problem:
        raise ConfigError(str(problem), key="--horizons") from None


def _horizons(wanted: tuple[float, ...] | None, load: Load, source: Source) -> tuple[float, ...]:
    """Return the horizons asked for, or those of the usual ones that the steps and the series' length allow."""
    from partita.controller.load_series import parse_span

    if wanted is not None:
        return tuple(sorted(set(wanted)))
    step_s, length = load.step_s, load.counts.shape[1]
    usual = [parse_span(text, "--horizons") for text in HORIZONS.split(",")]
    found = tuple(h for h in usual if h % step_s == 0 and h / step_s <= length / 5)
    if not found:
        raise ConfigError(
            f"{source.name} is {length} steps of {step_s:g} s, too short for {HORIZONS}; give shorter ones",
            key="--horizons",
        )
    return found


def _print(document: dict[str, Any]) -> None:
    from partita.controller.backtesting import backtest_table, remarks
    from partita.controller.cli.printing import print_table
    from partita.controller.load_character import character_remarks

    print_table(backtest_table(document))
    for line in (*remarks(document), *character_remarks(document)):
        click.echo(line)


@forecast.command()
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Trace to learn from, instead of a log.")
@click.option("--format", "forced", metavar="NAME", help="Format of the trace, where it is not told rightly.")
@click.option(
    "--import", "number", type=click.IntRange(min=1), metavar="N", help="Import in the database, instead of a log."
)
@click.option("--model", default="global", show_default=True, metavar="NAME", help="Model to train.")
@click.option("--step", default="10m", show_default=True, metavar="TIME", help="Width of a step.")
@click.option("--service", "services", multiple=True, metavar="PATTERN", help="Only services that match; repeatable.")
@click.option("--incremental", is_flag=True, help="Go on from what was learned last, on what has come since.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Keep what was learned there, not in the database."
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@database_options
def train(
    trace: Path | None,
    forced: str | None,
    number: int | None,
    model: str,
    step: str,
    services: tuple[str, ...],
    incremental: bool,
    out: Path | None,
    quiet: bool,
    database: Database,
) -> None:
    """Train the global model on a trace, an import or the live log, and keep what it learned (needs torch).

    The newest fifth of the history, two weeks at most, is not trained on: it says when to stop and how far off
    quantiles are, and how good the model is. With --incremental it begins from the newest state in the
    database, or in --out.

    \b
    Examples:
      partita forecast train --trace client_rates_600s.csv.gz --out global.npz
      partita forecast train --dsn postgresql://localhost/partita --incremental
    """
    from time import perf_counter

    from partita.controller.cli.progress import counting
    from partita.controller.forecast_training import keep, kept, read_model, training_lines, write_model
    from partita.controller.forecast_training import train as run
    from partita.controller.load_series import forecastable, parse_span, picked, series_of_trace
    from partita.controller.models import choose_models, known_models
    from partita.controller.results import check_writable
    from partita.forecasting import GlobalModel

    if trace is not None and number is not None:
        raise ConfigError("--trace and --import name two sources; give one", key="--import", value=number)
    if not isinstance(choose_models([model], known_models())[0], GlobalModel):
        raise ConfigError(f"{model} is not trained: it learns from each history anew", key="--model", value=model)
    if out is not None:
        check_writable(out, "--out")
    step_s = parse_span(step, "--step")
    before = None
    if incremental:
        if out is not None:
            before = read_model(out)
        else:
            with database.serve() as dsn:
                before = asyncio.run(kept(dsn, model))
        if before is None:
            raise ConfigError(f"there is no trained {model} to go on from: train it first", key="--incremental")
    if trace is not None:
        source = series_of_trace(trace, step_s=step_s, forced=forced)
    else:
        source = _from_database(database, number, step_s)
    load = picked(source.series.load, services)
    load, _ = forecastable(load, load.counts.shape[1])
    with counting("epochs", quiet=quiet) as told:
        found = run(load, before, clock=perf_counter, told=told)
    if out is not None:
        write_model(out, found.model)
    else:
        with database.serve() as dsn:
            asyncio.run(keep(dsn, found.model))
    if not quiet:
        click.echo("\n".join(training_lines(found)))


@forecast.command("models")
@JSON
@database_options
def list_models(as_json: bool, database: Database) -> None:
    """List the forecasting models, those of plugins too, and what was trained of them where a database runs already.

    \b
    Example:
      partita forecast models
    """
    from partita.controller.models import known_models

    known = known_models()
    trained = _trained(database)
    if as_json:
        from partita.model.plain import to_json

        click.echo(
            to_json(
                [{"name": n, "from": k.origin, "about": k.about, "trained": trained.get(n)} for n, k in known.items()]
            )
        )
        return
    width = max(map(len, known))
    for name, one in known.items():
        newest = trained.get(name)
        more = f"; newest: {newest['version']}, until {newest['trained_until']}" if newest else ""
        click.echo(f"{name:<{width}}  {one.origin:<8}  {one.about}{more}")


def _trained(database: Database) -> dict[str, Any]:
    """Return what was trained last of each model; nothing where no database runs, or it is not up to date."""
    from partita.errors import PartitaError
    from partita.store import embedded
    from partita.store.checkpoints import newest_checkpoints
    from partita.store.connection import connect

    dsn = database.dsn or embedded.status(database.data_dir).dsn
    if dsn is None:
        return {}

    async def look() -> Any:
        async with connect(dsn) as connection:
            return await newest_checkpoints(connection)

    try:
        found = asyncio.run(look())
    except PartitaError:
        return {}
    return {name: {**one, "trained_until": f"{one['trained_until']:%Y-%m-%d %H:%M}"} for name, one in found.items()}


RUN = click.option("--run", type=click.IntRange(min=1), metavar="N", help="Number of the run.  [default: the last]")


@forecast.command()
@RUN
@JSON
@database_options
def status(run: int | None, as_json: bool, database: Database) -> None:
    """Say which model makes each service's forecast, how good it has been lately, and what it beats.

    A model that was clearly worse than the naive forecast over its last forecasts has given way to that one, until it
    is better again. Scores are those that a controller, or a replay with --journal, wrote into the database.

    \b
    Examples:
      partita forecast status
      partita forecast status --run 3 --json | jq '.services[] | select(.ratio > 1)'
    """
    from partita.controller.forecastview import charges_document, charges_table, run_line

    with database.serve() as dsn:
        found, charges, present = asyncio.run(_read_charges(dsn, run))
    if as_json:
        from partita.model.plain import to_json

        click.echo(to_json(charges_document(found, charges, present)))
        return
    click.echo(f"Forecasts of {run_line(found)}:")
    if not charges:
        click.echo(
            "None has been scored: no truth has come yet, or no model gave a forecast (partita explain says why)."
        )
    else:
        from partita.controller.cli.printing import print_table

        print_table(charges_table(charges))
    for horizon, model in present.items():
        click.echo(f"The present {horizon} forecast: {model}")


async def _read_charges(dsn: str, run: int | None) -> Any:
    from partita.controller.forecastview import read_charges, read_present
    from partita.store.connection import connect

    async with connect(dsn) as connection:
        found, charges = await read_charges(connection, run)
        return found, charges, await read_present(connection, found.id)


@forecast.command()
@click.argument("service")
@RUN
@BUCKETS
@JSON
@database_options
def show(service: str, run: int | None, buckets: str | None, as_json: bool, database: Database) -> None:
    """Draw the present forecasts of SERVICE, and list their quantiles.

    Bars are the median, dots the 95th percentile; at the left of the line is what came before. Of a live cluster it
    also says how bursty the load is (index of dispersion: 1 for Poisson arrivals), how large inputs are, and what is
    expected of both; with --buckets, or where the service has buckets of its own, also the shares by bucket.

    \b
    Examples:
      partita forecast show resnet50
      partita forecast show chat --run 3 --json
      partita forecast show chat --buckets 512,2048
    """
    from partita.controller.forecastview import run_line, shown_document
    from partita.controller.load_detail import parse_buckets

    wanted = None if buckets is None else parse_buckets(buckets)
    with database.serve() as dsn:
        found, shown, more = asyncio.run(_read_shown(dsn, run, service, wanted))
    if as_json:
        from partita.model.plain import to_json

        click.echo(to_json({**shown_document(found, shown), **more}))
        return
    click.echo(f"Forecasts of {service}, {run_line(found)}:")
    _draw(shown, more)


def _draw(shown: Sequence[Any], more: dict[str, Any]) -> None:
    from partita.controller.cli.printing import print_table
    from partita.controller.forecastview import chart_lines, shown_heading, shown_table
    from partita.controller.load_character import character_lines, shares_table

    for one in shown:
        click.echo(f"\n{shown_heading(one)}")
        click.echo("\n".join(chart_lines(one)))
        print_table(shown_table(one))
    if more.get("dispersion") is not None:
        click.echo(f"Index of dispersion by {more['step_s']:g} s over the last hour: {more['dispersion']:.2f}")
    if more.get("sizes"):
        listed = ", ".join(
            f"P{float(level) * 100:g} {float(f'{size:.3g}'):,g}" for level, size in more["sizes"].items()
        )
        click.echo(f"Input sizes over the last hour: {listed}")
    for line in character_lines(more):
        click.echo(line)
    if (table := shares_table(more)) is not None:
        print_table(table)


async def _read_shown(dsn: str, run: int | None, service: str, buckets: Buckets | None) -> Any:
    from partita.controller.forecastview import ahead, lately, read_shown
    from partita.store.connection import connect

    async with connect(dsn) as connection:
        found, shown = await read_shown(connection, run, service)
    if found.kind != "live":
        return found, shown, {}
    shown, more = await lately(dsn, service, shown)
    return found, shown, {**more, **await ahead(dsn, found.id, service, buckets)}
