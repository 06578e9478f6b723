"""The kit: it passes good plugins and names what is wrong with bad ones."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from partita.hookspecs import hookimpl
from partita.model.plan import Capacity, Geometries, Proposal, feasible
from partita.plugins import reactive, static
from partita.plugins.host import HOOKS, PROPOSE_HOOKS
from partita.plugins.kit import check_plugin, example_ticks

COUNTER = count()


class Good:
    @hookimpl
    def propose_capacity(self, observation: Any, memory: Any) -> Proposal:
        seen = [*(memory or []), float(observation.load.rate_rps().sum())][-3:]
        return Proposal(Capacity(1 + len(seen)), "grows", seen)

    @hookimpl
    def veto(self, candidate: Any) -> str | None:
        return "too many" if len(candidate.gpus) > 6 else None

    @hookimpl
    def score_terms(self, candidate: Any) -> dict[str, float]:
        return {"gpus": len(candidate.gpus)}

    @hookimpl
    def register_disciplines(self) -> None:
        return None


class ChangesInput:
    @hookimpl
    def propose_capacity(self, observation: Any) -> Proposal:
        observation.load.counts[:] = 0
        return Proposal(Capacity(1), "wrote")


class ChangesNothingItSaysItMay:
    @hookimpl
    def propose_capacity(self, memory: Any) -> Proposal:
        mine = memory or []
        mine.append(1)
        return Proposal(Capacity(1), "wrote into its own memory", mine)


class Random:
    @hookimpl
    def propose_capacity(self) -> Proposal:
        return Proposal(Capacity(next(COUNTER) % 8), "by chance")


class HidesState:
    def __init__(self) -> None:
        self.seen: dict[float, int] = {}

    @hookimpl
    def propose_capacity(self, observation: Any) -> Proposal:
        self.seen.setdefault(observation.now_s, len(self.seen))
        return Proposal(Capacity(min(8, max(self.seen.values()))), "what I recall myself")


class Greedy:
    @hookimpl
    def propose_capacity(self, inventory: Any) -> Proposal:
        return Proposal(Capacity(1, (len(inventory) + 1,)), "more")


class Raises:
    @hookimpl
    def propose_geometry(self, observation: Any) -> Proposal:
        return Proposal(Geometries(()), f"{1 / float(observation.load.counts.sum())}")


class BringsNumbers:
    @hookimpl
    def register_executors(self) -> Any:
        return {"mine": 3}


@pytest.mark.parametrize("plugin", [Good(), ChangesNothingItSaysItMay(), static, reactive])
def test_good_plugins_pass(plugin: object) -> None:
    assert check_plugin(plugin) == []


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [
        (ChangesInput(), "propose_capacity, wave 0: changes its input observation"),
        (Random(), "propose_capacity, wave 0: the same input twice gives Capacity(gpus="),
        (HidesState(), "the same ticks again give Capacity(gpus=8"),
        (Greedy(), "propose_capacity, wave 0: asks for 9 GPUs, the inventory has 8"),
        (Raises(), "propose_geometry, no load: raised ZeroDivisionError"),
        (BringsNumbers(), "register_executors: brings something other than executor classes by name"),
        (object(), "implements no hook"),
        (Good, "names the class Good; a plugin is a module or an object"),
    ],
)
def test_bad_plugins_are_named(plugin: object, problem: str) -> None:
    assert problem in "\n".join(check_plugin(plugin))


def test_options_are_handed_on() -> None:
    assert any("no such option" in p for p in check_plugin(static, options={"wrong": 1}))
    assert check_plugin(static, options={"peak_rps.service-0": 100.0, "utilisation": 0.5}) == []


def test_example_ticks_are_possible_and_cover_every_hook() -> None:
    for tick in example_ticks():
        assert feasible(tick.standing, tick.services, tick.inventory) == ()
        assert tick.observation.watermark_s < tick.observation.now_s
        for hook in (*PROPOSE_HOOKS, "veto", "score_terms"):
            assert hook in HOOKS
            assert tick.arguments(hook)
