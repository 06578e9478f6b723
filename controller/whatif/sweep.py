"""Running the cells of a sweep that are not done yet, and what they gave as one table of columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partita.controller.results import FIXED, check_writable, write_whole
from partita.controller.whatif.grid import Cell
from partita.controller.whatif.journal import SweepJournal
from partita.controller.whatif.task import Outcome, Task
from partita.controller.whatif.workers import Workers
from partita.model.plain import to_json
from partita.replay.score import Score

if TYPE_CHECKING:
    import polars

JOURNAL_SUFFIX = ".journal"
METADATA = "partita_sweep"
"""Key under which a Parquet's metadata holds the journal's header and the keys varied."""

Record = Mapping[str, Any]


def journal_beside(out: Path) -> Path:
    """Return where the journal of a sweep with these results is; ConfigError if neither can be written."""
    check_writable(out, "--out")
    return out.with_name(out.name + JOURNAL_SUFFIX)


def run_cells(
    cells: Sequence[Cell],
    *,
    journal: SweepJournal,
    open_workers: Callable[[Callable[[Task], None]], Workers],
    dsn: str | None = None,
    watch: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Record]:
    """Run what the journal does not hold; return the records of all cells by name.

    Only a problem that would be the same again counts as done: a cell whose workers died is tried anew next time.
    """
    missing = [cell for cell in cells if not _is_settled(journal.done.get(cell.name))]
    done = len(cells) - len(missing)
    watch(done, len(cells))
    if missing:
        with open_workers(lambda task: journal.begin(task.name)) as workers:
            for cell in missing:
                workers.submit(Task(cell.name, cell.scenario, cell.seed, cell.policy, dsn))
            while finished := workers.finished():
                for task, outcome in finished:
                    journal.finish(task.name, _record(outcome))
                    done += 1
                    watch(done, len(cells))
    return {cell.name: journal.done[cell.name] for cell in cells}


def _is_settled(record: Record | None) -> bool:
    return record is not None and (record["problem"] is None or record["kind"] is not None)


def _record(outcome: Outcome) -> Record:
    return {
        "score": outcome.score,
        "problem": outcome.problem,
        "kind": outcome.kind,
        "wall_s": outcome.wall_s,
        "worker": outcome.worker,
    }


def table_of(cells: Sequence[Cell], records: Mapping[str, Record]) -> polars.DataFrame:
    """Put cells and their records into columns: one row a cell, in the grid's order.

    Columns are the varied keys, policy, seed, problem, wall_s, then every field of the score: percentiles as
    ``latency_ms.p99``, what is by service as a list of structs, ``services``.
    """
    import polars as pl

    rows = [_row(cell, records[cell.name]) for cell in cells]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pl.DataFrame([pl.Series(name, values, strict=False) for name, values in columns.items()])


def _row(cell: Cell, record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {key: _value(value) for key, value in cell.settings}
    row |= {"policy": cell.policy or FIXED, "seed": cell.seed, "problem": record["problem"], "wall_s": record["wall_s"]}
    score = record["score"]
    if score is None:
        return row
    by_service = ("offered_by_service", "good_by_service", "attainment_by_service")
    for key in (each.name for each in fields(Score) if each.name not in by_service):
        value = score[key]
        if isinstance(value, Mapping):
            row |= {f"{key}.{part}": number for part, number in value.items()}
        else:
            row[key] = value
    row["services"] = [
        {"service": name, **{key.removesuffix("_by_service"): score[key][name] for key in by_service}}
        for name in score["offered_by_service"]
    ]
    return row


def _value(value: object) -> object:
    return value if isinstance(value, bool | int | float | str | None) else to_json(value)


def write_table(out: Path, table: polars.DataFrame, header: Mapping[str, Any], cells: Sequence[Cell]) -> None:
    """Write the results' Parquet so that it is there whole or not at all; what was varied is in its metadata."""
    buffer = BytesIO()
    varied = [key for key, _ in cells[0].settings]
    table.write_parquet(buffer, metadata={METADATA: to_json({**header, "varied": varied})})
    write_whole(out, buffer.getvalue())
