"""How a controller is, in one value: what `partita status`, /metrics and /readyz show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from partita.controller.results import decision_document
from partita.model.load import Observation
from partita.model.plan import Action, Decision
from partita.store.live_health import LogHealth

BRIEF = ("tick", "at_s", "action", "chosen", "reason", "gpus_held", "gpus_wanted")
"""What is shown of a decision."""


@dataclass(slots=True)
class Counters:
    """What has been counted since the controller started; each only ever rises."""

    turns: int = 0
    late_turns: int = 0
    decisions: dict[str, int] = field(default_factory=dict)
    commands: dict[tuple[str, str], int] = field(default_factory=dict)
    """By verb and event."""
    failures: int = 0
    troubles: dict[str, int] = field(default_factory=dict)
    """By signal: log, cluster, database, plugin."""


@dataclass(slots=True)
class Status:
    """How one controller is; changed by it as it goes, read by everybody else.

    `missing` names signals that could not be read at the last turn, `trouble` what keeps a controller from leading,
    `doubtful` instances that are only believed to be as they are shown.
    """

    cluster: str
    holder: str
    mode: str
    started_s: float
    leading: bool = False
    term: int = 0
    run: int | None = None
    turn_s: float = 0.0
    near_s: float = 0.0
    decision: dict[str, Any] | None = None
    acted: dict[str, Any] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""
    reload: str = ""
    paused: str = ""
    left: int = 0
    failed: str = ""
    quarantine: Mapping[str, str] = field(default_factory=dict)
    log: LogHealth | None = None
    now_s: float = 0.0
    watermark_s: float = 0.0
    offered_rps: Mapping[str, float] = field(default_factory=dict)
    good: Mapping[str, int] = field(default_factory=dict)
    answered: Mapping[str, int] = field(default_factory=dict)
    attainment_target: Mapping[str, float] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)
    gpus_held: int = 0
    doubtful: Mapping[str, str] = field(default_factory=dict)
    counted: Counters = field(default_factory=Counters)

    def saw(self, observation: Observation) -> None:
        """Take note of what a turn saw."""
        self.now_s, self.watermark_s = observation.now_s, observation.watermark_s
        self.missing = dict(observation.missing)
        self.paused = observation.orders.paused
        self.left, self.failed = len(observation.work.left), observation.work.failed
        self.quarantine = dict(observation.work.quarantine)
        self.offered_rps = dict(zip(observation.load.services, observation.load.rate_rps().tolist(), strict=True))
        self.gpus_held = len(observation.cluster.held)
        self.doubtful = {s.instance.id: s.problem for s in observation.cluster.instances if s.problem}
        loaded = [s for state in observation.cluster.instances for s in state.loaded]
        self.replicas = {s: loaded.count(s) for s in observation.load.services}
        for service, outcome in observation.outcomes.items():
            answered = outcome.good + outcome.late + outcome.dropped
            self.good = {**self.good, service: self.good.get(service, 0) + outcome.good}
            self.answered = {**self.answered, service: self.answered.get(service, 0) + answered}
        for signal in self.missing:
            self.counted.troubles[signal] = self.counted.troubles.get(signal, 0) + 1

    def decided(self, decision: Decision, took_s: float) -> None:
        """Take note of what a turn decided, and how long it took."""
        self.counted.turns += 1
        self.counted.late_turns += took_s > self.near_s > 0
        self.turn_s = took_s
        key = decision.action.value
        self.counted.decisions[key] = self.counted.decisions.get(key, 0) + 1
        document = decision_document(decision)
        self.decision = {
            n: document[n] for n in ("tick", "at_s", "action", "chosen", "reason", "gpus_held", "gpus_wanted")
        }
        if decision.action is Action.ACT:
            self.acted = self.decision
        for opinion in decision.opinions:
            if opinion.fault:
                self.counted.troubles["plugin"] = self.counted.troubles.get("plugin", 0) + 1

    def carried(self, verb: str, event: str) -> None:
        """Take note of what happened to a command."""
        key = (verb, event)
        self.counted.commands[key] = self.counted.commands.get(key, 0) + 1

    def problems(self) -> list[str]:
        """Name everything that is not as it should be, the worst first."""
        found = [self.trouble] if self.trouble else []
        found += [f"{signal} is missing: {why}" for signal, why in sorted(self.missing.items())]
        found += [f"{instance}: {why}" for instance, why in sorted(self.doubtful.items())]
        if self.failed:
            found.append(f"the last plan failed: {self.failed}")
        if self.paused:
            found.append(f"paused: {self.paused}")
        if self.reload:
            found.append(f"the configuration was not reloaded: {self.reload}")
        return [*found, *log_problems(self.log)]


def log_problems(log: LogHealth | None) -> list[str]:
    """Name what is not as it should be with the log."""
    if log is None:
        return []
    found = [f"gateway {w.name} is lost" for w in log.writers if w.state == "lost"]
    for name, rate in sorted(log.unconfigured.items()):
        found.append(f"service {name} is logged, {rate:,.1f} requests a second, but not configured")
    for reason, refused in sorted(log.rejected.items()):
        found.append(f"{refused.rows:,} rows of the log were refused: {reason}")
    for service, rows in sorted(log.late.items()):
        found.append(f"{rows:,} requests of {service} were logged late")
    if log.duplicates:
        found.append(f"{log.duplicates:,} batches of the log came twice")
    if log.lost:
        found.append(f"{log.lost:,} requests were lost by gateways")
    return found
