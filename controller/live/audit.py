"""One line for everything a controller decides or does: ``AUDIT`` and JSON, for people and for log collectors.

Names of events are only ever added (`EVENTS`), and `event`, `at`, `cluster`, `holder` and `term` stand in every line.
All else that is said goes through structlog as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog

from partita.controller.results import decision_document
from partita.model.plain import to_json
from partita.model.plan import Decision

EVENTS = (
    "clock",
    "command",
    "decision",
    "ended",
    "failed",
    "leading",
    "log",
    "order",
    "reload",
    "resumed",
    "standby",
    "started",
    "stopped",
    "trouble",
    "would",
)
"""Every event there is; a test keeps them."""


class Audit:
    """Writes the audit lines of one controller."""

    def __init__(self, cluster: str, holder: str, *, stream: TextIO | None = None) -> None:
        self._cluster, self._holder = cluster, holder
        self._stream = stream
        self.term = 0

    def tell(self, event: str, details: Mapping[str, object] | None = None) -> None:
        """Write one line."""
        assert event in EVENTS, event
        line = {
            "event": event,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "cluster": self._cluster,
            "holder": self._holder,
            "term": self.term,
            **(details or {}),
        }
        print(f"AUDIT {to_json(line)}", file=self._stream or sys.stderr, flush=True)

    def decision(self, run: int, decision: Decision) -> None:
        """Write the line of one decision: what was chosen and why, not what else was weighed."""
        document = decision_document(decision)
        brief = {name: document[name] for name in ("tick", "action", "chosen", "reason", "gpus_held", "gpus_wanted")}
        rates = {name: document[name] for name in ("offered_rps", "forecast_rps")}
        self.tell("decision", {"run": run, **brief, **rates, "commands": len(decision.commands)})


def log_as_json() -> Any:
    """Return a structlog logger that writes JSON lines to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    return structlog.get_logger("partita")
