"""The score table: the same columns at the terminal and in the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from partita.controller.wording import of_target, percent
from partita.traces.services import by_detail

Record = Mapping[str, Any]
"""One score record, as it stands in a result's JSON."""


NONE = "–"
"""What stands where there is no number: a record holds a text such as "nan" there."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its two-line heading, what it means, and how a record (beside the first one) is written."""

    heading: str
    unit: str
    meaning: str
    write: Callable[[Record, Record], str]


def _share(value: object, digits: int = 2) -> str:
    return percent(value, digits) if isinstance(value, float | int) else NONE


def _plainly(value: object, digits: int = 0) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, float | int) else NONE


def _versus(record: Record, first: Record) -> str:
    if record is first or not first["gpu_hours"]:
        return NONE
    change = record["gpu_hours"] / first["gpu_hours"] - 1.0
    return f"{change * 100:+.0f} %".replace("-", "−")


def _number(key: str, digits: int = 0) -> Callable[[Record, Record], str]:
    return lambda record, _: _plainly(record[key], digits)


def _percent(key: str, digits: int = 2) -> Callable[[Record, Record], str]:
    return lambda record, _: _share(record[key], digits)


COLUMNS = (
    Column("goodput", "req/s", "requests a second answered within their SLO", _number("goodput_rps", 1)),
    Column("attained", "overall", "share of all requests answered within their SLO", _percent("attainment")),
    Column("GPU", "hours", "GPU-hours held", _number("gpu_hours", 2)),
    Column("hours", "vs first", "GPU-hours against the first policy listed", _versus),
    Column("worst", "service", "attainment of the service that fared worst", _percent("worst_attainment")),
    Column("GPUs", "mean", "GPUs held, mean over time", _number("gpus_held_mean", 2)),
    Column("GPUs", "peak", "GPUs held at most", _number("gpus_held_peak")),
    Column("busy", "", "share of the held GPUs' time in which batches ran", _percent("utilisation", 1)),
    Column("batch", "mean", "mean batch size", _number("mean_batch", 2)),
    Column("p99", "ms", "99th percentile of the time to answer", lambda r, _: _plainly(r["latency_ms"]["p99"], 1)),
    Column("GPU", "changes", "GPUs taken, given back or repartitioned, each time counted", _number("reconfigurations")),
    Column("bound", "staggered", "rate the held GPUs can carry, staggered rule", _number("bound_staggered_rps")),
    Column("bound", "fluid", "rate they could carry in their largest batches", _number("bound_fluid_rps")),
)
"""Every column after the policy's name."""

LOST = Column("lost", "requests", "requests that were running when a failure struck", lambda r, _: _plainly(_lost(r)))


def _lost(record: Record) -> int:
    return int(record.get("lost", 0))  # results of older versions do not say


def columns(scores: Mapping[str, Record]) -> tuple[Column, ...]:
    """List the columns of a table: what failures have taken is one where they did."""
    return (*COLUMNS, LOST) if any(map(_lost, scores.values())) else COLUMNS


def cells(scores: Mapping[str, Record]) -> list[tuple[str, list[str]]]:
    """Write the table: for each policy its name and one text a column."""
    first = next(iter(scores.values()))
    return [(name, [column.write(record, first) for column in columns(scores)]) for name, record in scores.items()]


def targets_of(scores: Mapping[str, Record], scenario: Mapping[str, Any]) -> dict[str, float]:
    """Return the attainment target of each service that was served."""
    targets = {entry["name"]: float(entry["attainment"]) for entry in scenario["services"]}
    served = next(iter(scores.values()))["attainment_by_service"]
    named = {s: next((p for p in (s, *by_detail(targets)) if p in targets and fnmatchcase(s, p)), None) for s in served}
    return {service: targets[name] for service, name in named.items() if name is not None}


def verdict(scores: Mapping[str, Record], targets: Mapping[str, float]) -> str:
    """Sum the table up in one sentence: the cheapest run in which every service attains its target, or the best."""
    first_name, first = next(iter(scores.items()))
    met = [name for name, record in scores.items() if not missed(record, targets)]
    name = (
        min(met, key=lambda n: float(scores[n]["gpu_hours"])) if met else max(scores, key=lambda n: _reached(scores[n]))
    )
    best = scores[name]
    failed = "" if met else "Not every target was met. " if len(scores) == 1 else "No policy met every target. "
    text = f"{failed}{name} answered {_share(best['attainment'])} of the requests within their SLO"
    if name == first_name or not first["gpu_hours"]:
        return f"{text}, with {best['gpu_hours']:,.2f} GPU-hours."
    times = best["gpu_hours"] / first["gpu_hours"]
    return f"{text}, with {times:.2f} × the GPU-hours of {first_name} ({_share(first['attainment'])})."


def misses(scores: Mapping[str, Record], targets: Mapping[str, float]) -> dict[str, str]:
    """Say, for each run in which a service did not attain its target, which one, the furthest below it first."""
    return {name: _miss(name, record, targets) for name, record in scores.items() if missed(record, targets)}


def missed(record: Record, targets: Mapping[str, float]) -> list[str]:
    """List the services below their target, the furthest below first; one that nothing was asked of missed nothing."""
    reached = record["attainment_by_service"]
    below = {s: targets.get(s, 0.0) - r for s, r in reached.items() if isinstance(r, float | int)}
    return sorted((s for s, gap in below.items() if gap > 0), key=lambda s: (-below[s], s))


def _miss(name: str, record: Record, targets: Mapping[str, float]) -> str:
    worst, *others = missed(record, targets)
    far = of_target(record["attainment_by_service"][worst], targets[worst])
    more = f" and of {len(others)} other{'s' * (len(others) > 1)}" if others else ""
    return f"{name} misses the target of {worst} ({far}){more}"


def _reached(record: Record) -> float:
    return float(record["attainment"]) if isinstance(record["attainment"], float | int) else 0.0
