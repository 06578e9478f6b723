"""How long and how often is waited while a plan is carried out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often is waited for what; in seconds where it says so."""

    poll_s: float = 0.5
    done_s: float = 300.0
    """For a command that was started to be seen done."""
    room_s: float = 600.0
    """For capacity above what is needed, before something is drained."""
    busy_tries: int = 10
    backoff_s: float = 0.5
    """After the first Busy; doubled after each, up to thirty seconds."""
    quarantine_s: float = 300.0
    call_s: float = 600.0
    """For one call of the executor; one that hangs longer is taken for failed, its outcome unknown."""
    look_s: float = 20.0
    """For one look at the cluster."""
    keep_need: bool = True
    side_by_side: int = 8
    """Instances or replicas that are started at one time."""


PATIENT = Patience()
