"""The score table: the same columns at the terminal and in the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
    return f"{value * 100:.{digits}f} %" if isinstance(value, float | int) else NONE


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
    Column("worst", "service", "attainment of the service that fared worst", _percent("worst_attainment")),
    Column("GPUs", "mean", "GPUs held, mean over time", _number("gpus_held_mean", 2)),
    Column("GPUs", "peak", "GPUs held at most", _number("gpus_held_peak")),
    Column("GPU", "hours", "GPU-hours held", _number("gpu_hours", 2)),
    Column("hours", "vs first", "GPU-hours against the first policy listed", _versus),
    Column("busy", "", "share of the held GPUs' time in which batches ran", _percent("utilisation", 1)),
    Column("batch", "mean", "mean batch size", _number("mean_batch", 2)),
    Column("p99", "ms", "99th percentile of the time to answer", lambda r, _: _plainly(r["latency_ms"]["p99"], 1)),
    Column("changes", "", "reconfigurations of the cluster", _number("reconfigurations")),
    Column("bound", "staggered", "rate the held GPUs can carry, staggered rule", _number("bound_staggered_rps")),
    Column("bound", "fluid", "rate they could carry in their largest batches", _number("bound_fluid_rps")),
)
"""Every column after the policy's name."""


def cells(scores: Mapping[str, Record]) -> list[tuple[str, list[str]]]:
    """Write the table: for each policy its name and one text a column."""
    first = next(iter(scores.values()))
    return [(name, [column.write(record, first) for column in COLUMNS]) for name, record in scores.items()]


def verdict(scores: Mapping[str, Record], targets: Mapping[str, float]) -> str:
    """Sum the table up in one sentence: the cheapest run in which every service attains its target, or the best."""
    first_name, first = next(iter(scores.items()))
    met = [name for name, record in scores.items() if _meets(record, targets)]
    name = (
        min(met, key=lambda n: float(scores[n]["gpu_hours"])) if met else max(scores, key=lambda n: _reached(scores[n]))
    )
    best = scores[name]
    text = f"{name} answered {_share(best['attainment'])} of the requests within their SLO"
    if name == first_name or not first["gpu_hours"]:
        return f"{text}, with {best['gpu_hours']:,.2f} GPU-hours."
    times = best["gpu_hours"] / first["gpu_hours"]
    return f"{text}, with {times:.2f} × the GPU-hours of {first_name} ({_share(first['attainment'])})."


def _meets(record: Record, targets: Mapping[str, float]) -> bool:
    reached = record["attainment_by_service"]
    return all(isinstance(reached[s], float | int) and reached[s] >= targets.get(s, 0.0) for s in reached)


def _reached(record: Record) -> float:
    return float(record["attainment"]) if isinstance(record["attainment"], float | int) else 0.0
