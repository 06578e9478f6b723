"""Queueing disciplines: how queued requests become batches on the instances of a pool."""

from partita.ports import Discipline
from partita.replay.disciplines.adaptive import Adaptive
from partita.replay.disciplines.clipper import Clipper
from partita.replay.disciplines.clockwork import Clockwork
from partita.replay.disciplines.deferred import Deferred, Eager
from partita.replay.disciplines.nexus import Nexus
from partita.replay.disciplines.shepherd import Shepherd
from partita.replay.disciplines.temporal import Temporal
from partita.replay.disciplines.timeout import Timeout
from partita.replay.disciplines.triton import Triton

DISCIPLINES: tuple[Discipline, ...] = (
    Adaptive(),
    Clipper(),
    Clockwork(),
    Deferred(),
    Eager(),
    Nexus(),
    Shepherd(),
    Temporal(),
    Timeout(),
    Triton(),
)
"""The built-in disciplines; plugins add more."""

__all__ = [
    "DISCIPLINES",
    "Adaptive",
    "Clipper",
    "Clockwork",
    "Deferred",
    "Eager",
    "Nexus",
    "Shepherd",
    "Temporal",
    "Timeout",
    "Triton",
]
