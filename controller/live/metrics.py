"""A controller's status as Prometheus metrics, read when they are asked for.

Every name begins with ``partita_``; units are base units; what only rises ends in ``_total``. Labels take values from
the cluster file, or from what is bounded here, so that the number of series does not grow with time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from partita import __version__
from partita.controller.live.status import Status
from partita.model.plan import Action
from partita.store.live_health import LogHealth

SIGNALS = ("cluster", "database", "log", "plugin")
"""Signals that may be missing, and show 0 as long as they are there."""
WRITER_STATES = ("live", "lost", "closed")
Values = Mapping[Any, float]
"""Values by the tuple of their labels; an empty tuple where there are none."""
MOST_VALUES = 50
"""Values of a label that come from outside the cluster file; the rest, the smallest, is summed as OTHERS."""
OTHERS = "(others)"


class StatusCollector(Collector):
    """Turns a status into metrics at every scrape."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: what is there is only known at a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        status = self._status
        yield _gauge("build_info", "Version of Partita, as a label; always 1.", {(__version__,): 1.0}, "version")
        for section in (_controller, _turns, _work, _cluster, _services, _signals):
            yield from section(status)
        if status.log is not None:
            yield from _log(status.log)


def registry(status: Status) -> CollectorRegistry:
    """Return a registry of a status and nothing else."""
    made = CollectorRegistry(auto_describe=False)
    made.register(StatusCollector(status))
    return made


def _controller(status: Status) -> Iterator[Metric]:
    yield _value("controller_leading", "1 while this controller leads, 0 while it stands by.", status.leading)
    yield _value("controller_term", "Number of the leadership that this controller holds or held last.", status.term)
    yield _value("controller_advisory", "1 if this controller only says what it would do.", status.mode == "advisory")
    yield _value("controller_start_time_seconds", "When this controller started, in unix time.", status.started_s)
    yield _value("controller_problems", "Number of problems that partita status names.", len(status.problems()))
    yield _value("configuration_refused", "1 if the configuration was to be reloaded and was refused.", status.reload)


def _turns(status: Status) -> Iterator[Metric]:
    counted = status.counted
    yield _value(
        "turn_duration_seconds", "How long the last turn took, from what it saw to its journal.", status.turn_s
    )
    yield _value("turn_interval_seconds", "How often the loop is to turn.", status.near_s)
    yield _counter("turns", "Turns of the loop.", {(): counted.turns})
    yield _counter("turns_late", "Turns that took longer than the interval.", {(): counted.late_turns})
    actions = {(action.value,): counted.decisions.get(action.value, 0) for action in Action}
    yield _counter("decisions", "Decisions, by what they did.", actions, "action")


def _work(status: Status) -> Iterator[Metric]:
    counted = status.counted
    yield _counter("commands", "What happened to commands.", dict(counted.commands), "verb", "event")
    yield _counter("plans_failed", "Plans that could not be carried out and were undone.", {(): counted.failures})
    yield _value("plan_commands_left", "Commands of the last plan that are not done yet.", status.left)
    yield _value("paused", "1 while an operator lets the controller change nothing.", status.paused)
    yield _value("quarantined", "GPUs and commands that failed and are left alone for now.", len(status.quarantine))


def _cluster(status: Status) -> Iterator[Metric]:
    decision = status.decision
    yield _value("gpus_held", "GPUs that are held.", status.gpus_held)
    yield _value("gpus_wanted", "GPUs that the last decision wants.", decision["gpus_wanted"] if decision else 0)


def _services(status: Status) -> Iterator[Metric]:
    names = sorted(status.attainment_target)

    def by_service(values: Mapping[str, float]) -> Values:
        return {(name,): float(values.get(name, 0)) for name in names}

    yield _gauge("replicas", "Replicas that are loaded.", by_service(status.replicas), "service")
    yield _gauge(
        "offered_requests_per_second",
        "Rate of requests, as the last turn saw it.",
        by_service(status.offered_rps),
        "service",
    )
    yield _gauge(
        "attainment_target_ratio",
        "Share of requests that must be answered within their SLO.",
        by_service(status.attainment_target),
        "service",
    )
    yield _counter("requests_good", "Requests answered within their SLO.", by_service(status.good), "service")
    yield _counter(
        "requests_answered",
        "Requests answered within their SLO, late, or dropped.",
        by_service(status.answered),
        "service",
    )


def _signals(status: Status) -> Iterator[Metric]:
    names = sorted({*SIGNALS, *status.missing, *status.counted.troubles})
    missing = {(name,): float(name in status.missing) for name in names}
    turns = {(name,): float(status.counted.troubles.get(name, 0)) for name in names}
    yield _gauge("signal_missing", "1 while the loop decides without this signal.", missing, "signal")
    yield _counter("signal_missing_turns", "Turns and attempts at which a signal was missing.", turns, "signal")


def _log(log: LogHealth) -> Iterator[Metric]:
    if log.watermark_s is not None:
        yield _value("log_lag_seconds", "How far the log is behind.", max(0.0, log.now_s - log.watermark_s))
    states = Counter(str(writer.state) for writer in log.writers)
    yield _gauge("log_writers", "Processes that log, by state.", {(s,): states[s] for s in WRITER_STATES}, "state")
    rejected = _bounded({reason: refused.rows for reason, refused in log.rejected.items()})
    yield _counter("log_rows_rejected", "Rows of the log that were refused.", rejected, "reason")
    yield _counter(
        "log_rows_late", "Requests that were logged too late to count in time.", _bounded(log.late), "service"
    )
    yield _counter("log_duplicate_batches", "Batches that came again and changed nothing.", {(): log.duplicates})
    yield _counter("log_requests_lost", "Requests that gateways gave up logging.", {(): log.lost})
    yield _gauge(
        "log_unconfigured_requests_per_second",
        "Rate of services that are logged but not configured.",
        _bounded(log.unconfigured),
        "service",
    )


def _bounded(values: Mapping[str, float]) -> Values:
    """Keep the largest values by name, and sum the others."""
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(value for _, value in ranked[MOST_VALUES:])
    return {(name,): value for name, value in [*ranked[:MOST_VALUES], (OTHERS, rest)] if name != OTHERS or rest}


def _value(name: str, meaning: str, value: float | str) -> Metric:
    """Return a gauge without labels; a text counts as 1 unless it is empty."""
    return _gauge(name, meaning, {(): float(bool(value)) if isinstance(value, str) else float(value)})


def _gauge(name: str, meaning: str, values: Values, *labels: str) -> Metric:
    return _family(GaugeMetricFamily, name, meaning, values, labels)


def _counter(name: str, meaning: str, values: Values, *labels: str) -> Metric:
    return _family(CounterMetricFamily, name, meaning, values, labels)


def _family(
    kind: Callable[..., GaugeMetricFamily | CounterMetricFamily],
    name: str,
    meaning: str,
    values: Values,
    labels: tuple[str, ...],
) -> Metric:
    family = kind(f"partita_{name}", meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
