"""From plans to pools: what a discipline says of itself decides how long its batches may run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from miniature import gpus, service

from partita.controller.reconcile import Wishes, build
from partita.model.cluster import Batching
from partita.model.load import Arrivals
from partita.model.staggered import NO_OVERHEADS
from partita.ports import Discipline
from partita.replay.disciplines import DISCIPLINES, Eager, Timeout
from partita.replay.pools import PoolMaker
from partita.replay.rehearsal import Rehearser

SERVICES = (service("a", slo_ms=60.5),)
"""L(b) = b + 9 ms: the SLO holds 51, half of it 21."""
NOBODY = np.empty(0, np.int64)
BUILT_IN: dict[str, Discipline] = {d.name: d for d in DISCIPLINES}


@dataclass(frozen=True, slots=True)
class Patient(Eager):
    """A plugin's discipline that looks at no deadline."""

    name: str = "patient"
    blind: bool = True


@dataclass(frozen=True, slots=True)
class Obedient(Patient):
    """One that, besides, runs what it is set to."""

    name: str = "obedient"
    max_batch_as_set: bool = True


@dataclass(frozen=True, slots=True)
class Sharp(Timeout):
    """One that is made from a built-in one, but looks at deadlines."""

    name: str = "sharp"
    blind: bool = False


KNOWN: Mapping[str, Discipline] = {**BUILT_IN, "patient": Patient(), "obedient": Obedient(), "sharp": Sharp()}


def largest(batching: Batching, known: Mapping[str, Discipline] = KNOWN) -> int:
    plan = build(1, Wishes({"gpu0": None}, {"a": batching}), SERVICES, gpus(1), [1.0], "")
    return int(PoolMaker(SERVICES, NO_OVERHEADS, known).pool(plan.sub_clusters[0], NOBODY, NOBODY).max_batch[0])


@pytest.mark.parametrize(
    ("discipline", "unset", "set_to_64"),
    [
        ("deferred", 51, 51),
        ("eager", 51, 51),
        ("timeout", 21, 21),
        ("triton", 21, 64),
        ("patient", 21, 21),
        ("obedient", 21, 64),
        ("sharp", 51, 51),
    ],
)
def test_the_largest_batch_is_what_the_disciplines_word_allows(discipline: str, unset: int, set_to_64: int) -> None:
    assert largest(Batching(discipline)) == unset
    assert largest(Batching(discipline, max_batch=64)) == set_to_64
    assert largest(Batching(discipline, max_batch=8)) == 8


def test_the_built_in_disciplines_are_known_without_being_named() -> None:
    plan = build(1, Wishes({"gpu0": None}, {"a": Batching("timeout")}), SERVICES, gpus(1), [1.0], "")
    assert PoolMaker(SERVICES, NO_OVERHEADS).pool(plan.sub_clusters[0], NOBODY, NOBODY).max_batch.tolist() == [21]


def test_rehearsal_knows_what_plugins_bring() -> None:
    """Sixty requests at once: 51 of them fit into one batch that ends in time, 42 into two batches of a blind one."""
    load = Arrivals(np.zeros(60, np.int64), np.array([0, 60]), np.zeros(60, np.float32))

    def good(name: str) -> int:
        plan = build(1, Wishes({"gpu0": None}, {"a": Batching(name)}), SERVICES, gpus(1), [1.0], "")
        return int(Rehearser(SERVICES, NO_OVERHEADS, KNOWN).rehearse(plan, load, 1_000_000_000).good.sum())

    assert (good("eager"), good("patient")) == (51, 42)
