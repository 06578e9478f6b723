"""The loop's outside: what it asks of its ports, in which order, and that replay runs the same code."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from miniature import Stage, even, gpus, make_loop, make_world, service

from partita.controller.loop import Loop
from partita.controller.state import Turn
from partita.controller.turn import AtOnce, Watch, run
from partita.errors import StoreError
from partita.hookspecs import hookimpl
from partita.model.cluster import ClusterState
from partita.model.plan import Action, Capacity, Command, Plan, Proposal
from partita.ports import LogView, Tick
from partita.replay.cluster import SimulatedCluster
from partita.replay.world import ReplayClock, ReplayExecutor, ReplayLog, World

SERVICES = (service("a"), service("b"))
INSTANTS = (even(300.0, 95.0), even(100.0, 95.0))


class Swings:
    """Wants one GPU more or less at every turn."""

    @hookimpl
    def propose_capacity(self, standing: Plan) -> Proposal:
        return Proposal(Capacity(3 - len(standing.gpus) % 2, firm=True), "to and fro")


@dataclass
class Ports:
    """Every port of one world, keeping a diary of what was asked."""

    world: World
    diary: list[tuple[str, float]] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    fails: bool = False

    def note(self, what: str) -> None:
        self.diary.append((what, self.world.now_ns / 1e9))

    def now_s(self) -> float:
        return ReplayClock(self.world).now_s()

    async def sleep_until(self, at_s: float) -> None:
        await ReplayClock(self.world).sleep_until(at_s)
        self.note("slept")

    async def read(self, since_s: float, window_s: float) -> LogView:
        self.note("read")
        return await ReplayLog(self.world).read(since_s, window_s)

    async def apply(self, commands: Sequence[Command]) -> None:
        self.note("applied")
        await ReplayExecutor(self.world).apply(commands)

    async def observe(self) -> ClusterState:
        self.note("looked")
        return await ReplayExecutor(self.world).observe()

    async def record(self, tick: Tick) -> None:
        if self.fails and tick.decision.action is Action.ACT:
            raise StoreError("the database is away")
        self.note("recorded")
        self.ticks.append(tick)

    async def close(self) -> None:
        self.note("closed")


def play(loop: Loop, *, until_s: float = 95.0, fails: bool = False) -> tuple[Ports, list[Turn]]:
    cluster = SimulatedCluster(loop.inventory, loop.prices.delays)
    cluster.begin_with(loop.begin().standing)
    ports, turns = Ports(make_world(SERVICES, INSTANTS, cluster, span_s=95.0), fails=fails), list[Turn]()
    asyncio.run(
        run(
            loop,
            loop.begin(),
            log=ports,
            hands=AtOnce(ports),
            clock=ports,
            until_s=until_s,
            journal=ports,
            watch=Watch(turned=turns.append),
        )
    )
    return ports, turns


def loop() -> Loop:
    return make_loop(SERVICES, gpus(3), {"p": Swings()})


def test_each_turn_is_journaled_before_anything_is_applied() -> None:
    ports, turns = play(loop())
    by_turn: dict[float, list[str]] = {}
    for what, at_s in ports.diary:
        by_turn.setdefault(at_s, []).append(what)
    assert list(by_turn) == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0]
    assert by_turn.pop(95.0) == ["slept"]
    for at_s, turn in zip(by_turn, turns, strict=True):
        acts = turn.decision.action is Action.ACT
        assert by_turn[at_s] == ["slept", "read", "looked", "recorded", *(["applied"] if acts else [])]
        assert turn.decision.at_s == at_s
    assert [t.decision.action for t in turns].count(Action.ACT) >= 6


def test_what_is_journaled_is_what_was_decided() -> None:
    ports, turns = play(loop())
    assert [t.decision for t in ports.ticks] == [t.decision for t in turns]
    for tick in ports.ticks:
        assert (tick.plan is not None) == (tick.decision.action is Action.ACT)
        assert tick.plan is None or len(tick.plan.gpus) == tick.decision.gpus_wanted
    assert [t.decision.tick for t in ports.ticks] == list(range(1, 10))


def test_nothing_is_applied_that_could_not_be_journaled() -> None:
    with pytest.raises(StoreError, match="the database is away"):
        play(loop(), fails=True)


def test_the_log_is_read_on_from_where_it_ended() -> None:
    """Every second of load reaches the loop once: the history's counts are those of the trace."""
    made = loop()
    cluster = SimulatedCluster(made.inventory, made.prices.delays)
    cluster.begin_with(made.begin().standing)
    ports = Ports(make_world(SERVICES, INSTANTS, cluster, span_s=95.0, log_delay_s=2.5))
    state = asyncio.run(run(made, made.begin(), log=ports, hands=AtOnce(ports), clock=ports, until_s=95.0))
    assert state.near.rest.end_s == 87.0  # 90 − 2.5, the second that is whole
    assert state.near.steps.counts.sum() + state.near.rest.counts.sum() == 400.0 * 87


def test_it_turns_like_the_stage_of_these_tests() -> None:
    """The tests of `step` drive the loop by hand; this is what they stand for."""
    made = loop()
    stage = Stage(made, INSTANTS, span_s=95.0)
    by_hand = [stage.turn()[0].decision for _ in range(9)]
    assert [t.decision for t in play(made)[1]] == by_hand


def test_a_run_shorter_than_a_turn_decides_nothing() -> None:
    ports, turns = play(loop(), until_s=9.9)
    assert turns == []
    assert ports.world.now_ns == 9_900_000_000


def test_fractions_of_a_second_add_up() -> None:
    made = loop()
    made = replace(made, settings=replace(made.settings, near_s=2.5))
    _, turns = play(made, until_s=20.0)
    assert [t.decision.at_s for t in turns] == [2.5 * k for k in range(1, 9)]
    seen = [t.near.rps for t in turns if t.near is not None]
    assert seen[-1].sum(axis=0).mean() == pytest.approx(400.0, rel=0.05)


def test_a_replay_can_be_stopped_between_two_turns() -> None:
    """Ctrl-C cancels the task, which only an await that suspends can see."""
    made = loop()
    cluster = SimulatedCluster(made.inventory, made.prices.delays)
    cluster.begin_with(made.begin().standing)
    ports, turns = Ports(make_world(SERVICES, INSTANTS, cluster, span_s=95.0)), list[Turn]()

    def interrupt(turn: Turn) -> None:
        turns.append(turn)
        if len(turns) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(
            run(
                made,
                made.begin(),
                log=ports,
                hands=AtOnce(ports),
                clock=ports,
                until_s=95.0,
                watch=Watch(turned=interrupt),
            )
        )
    assert len(turns) == 2
