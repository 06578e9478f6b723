"""Queueing disciplines: how queued requests become batches on the instances of a pool."""

from partita.ports import Discipline
from partita.replay.disciplines.deferred import Deferred, Eager
from partita.replay.disciplines.timeout import Timeout
from partita.replay.disciplines.triton import Triton

DISCIPLINES: tuple[Discipline, ...] = (Deferred(), Eager(), Timeout(), Triton())
"""The built-in disciplines; plugins add more."""

__all__ = ["DISCIPLINES", "Deferred", "Eager", "Timeout", "Triton"]
