"""A turn when the world is not as it should be: signals missing, work going on, failures, orders, changes by others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from miniature import DEFAULTS, Stage, even, gpus, make_loop, service

from partita.controller.commands import after, commands_for, signature
from partita.controller.recording import decode, encode, recorded
from partita.controller.state import OnDrift, OnMissing, Settings, Turn
from partita.hookspecs import hookimpl
from partita.model.cluster import Batching, InstanceState, Status, instances_of
from partita.model.load import Observation, Orders, Work
from partita.model.plain import to_json
from partita.model.plan import (
    Acquire,
    Action,
    Budgets,
    Capacity,
    Command,
    Proposal,
    SetBatching,
    SetRoutes,
    StartReplicas,
    target,
)
from partita.ports import Capabilities

SERVICES = (service("a"), service("b"))
INVENTORY = gpus(4)
BUSY = (even(300.0, 400.0), even(100.0, 400.0))


class Wants:
    """Asks for a number of GPUs, firmly."""

    def __init__(self, number: int) -> None:
        self.number = number

    @hookimpl
    def propose_capacity(self) -> Proposal:
        return Proposal(Capacity(self.number, firm=True), f"always {self.number}")


def stage(number: int, settings: Settings = DEFAULTS, **how: Any) -> tuple[Stage, Wants]:
    """Make a stage that has turned until it holds this many GPUs."""
    wants = Wants(number)
    made = Stage(make_loop(SERVICES, INVENTORY, {"p": wants}, settings=settings, **how), BUSY, span_s=400.0)
    made.turns(6)
    assert len(made.state.standing.gpus) == number
    return made, wants


def step(made: Stage, **changed: Any) -> tuple[Turn, tuple[Command, ...]]:
    """Let an interval pass, and decide on what is seen with some of it replaced."""
    observation = replace(made.observe(), **changed)
    made.state, turn, commands = made.loop.step(made.state, observation)
    return turn, commands


# Signals that are missing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["log", "cluster"])
def test_nothing_is_taken_away_while_a_signal_is_missing(signal: str) -> None:
    made, wants = stage(3)
    wants.number = 1
    for _ in range(5):
        turn, commands = step(made, missing={signal: "it is away"})
        assert commands == ()
        assert turn.decision.action is Action.HOLD
        assert f"{signal}: it is away" in turn.decision.reason
    assert len(made.state.standing.gpus) == 3
    _, commands = step(made)  # it is back: now what is wanted is done
    assert {type(c).__name__ for c in commands} >= {"Drain", "Release"}


def test_a_log_that_stands_still_is_missing_after_a_while_and_no_zero() -> None:
    made, _ = stage(3)
    seen = made.observe()
    still = replace(seen.load, counts=np.empty((2, 0)))
    late = replace(seen, now_s=seen.watermark_s + made.loop.settings.stale_s + 1, load=still)
    made.state, turn, commands = made.loop.step(made.state, late)
    assert (turn.decision.action, commands) == (Action.HOLD, ())
    assert "the log is 61 s behind" in turn.decision.reason


@pytest.mark.parametrize(
    ("rule", "floor", "most", "expected"),
    [
        (OnMissing.HOLD, 4, None, 2),
        (OnMissing.FLOOR, 3, None, 3),
        (OnMissing.FLOOR, 1, None, 2),  # a floor is no ceiling
        (OnMissing.OPEN, 0, None, 4),
        (OnMissing.OPEN, 0, 3, 3),  # never more than the budget
        (OnMissing.FLOOR, 9, None, 4),  # nor than there are
    ],
)
def test_more_may_be_held_while_a_signal_is_missing_but_never_less(
    rule: OnMissing, floor: int, most: int | None, expected: int
) -> None:
    settings = replace(DEFAULTS, on_missing=rule, floor_gpus=floor, budgets=Budgets(max_gpus=most))
    made, _ = stage(2, settings)
    turn, commands = step(made, missing={"log": "it is away"})
    assert len(made.state.standing.gpus) == expected
    assert [c.gpu for c in commands if isinstance(c, Acquire)] == [f"gpu{n}" for n in range(2, expected)]
    assert turn.decision.action is (Action.ACT if expected > 2 else Action.HOLD)
    assert not {type(c).__name__ for c in commands} & {"Drain", "StopReplicas", "DestroyInstance", "Release"}


def test_what_was_lost_is_put_right_though_the_log_is_missing() -> None:
    made, _ = stage(2)
    cluster = made.observe().cluster
    without = replace(cluster, instances=cluster.instances[:1])
    turn, commands = step(made, missing={"log": "it is away"}, cluster=without)
    assert [target(c) for c in commands] == ["gpu1", "gpu1"]
    assert "put right" in turn.decision.reason


def test_nothing_is_done_to_a_cluster_that_cannot_be_seen() -> None:
    made, _ = stage(2)
    cluster = made.observe().cluster
    turn, commands = step(made, missing={"cluster": "no route"}, cluster=replace(cluster, instances=()))
    assert commands == ()
    assert "until it can be seen" in turn.decision.reason


# Work that goes on, and work that failed ------------------------------------------------------------------------------


def test_nothing_new_is_decided_while_a_plan_is_carried_out() -> None:
    made, wants = stage(3)
    wants.number = 1
    left = (StartReplicas("gpu2", ("a",), (Batching("deferred"),), "why"),)
    turn, commands = step(made, work=Work(7, left))
    assert commands == ()
    assert turn.decision.reason == "decision 7 goes on: 1 command is left"
    assert len(made.state.standing.gpus) == 3


def failing(made: Stage, wanted: int) -> tuple[Command, ...]:
    """Decide on another number of GPUs, which is then not carried out; return the commands."""
    observation = made.observe()
    made.state, _, commands = made.loop.step(made.state, observation)
    assert len(made.state.standing.gpus) == wanted
    return commands


def test_a_plan_that_failed_gives_way_to_the_last_good_one_and_is_planned_around() -> None:
    made, wants = stage(1)
    wants.number = 2
    commands = failing(made, 2)
    starting = next(c for c in commands if isinstance(c, StartReplicas))
    quarantine = {"gpu1": "it does not start", signature(starting): "it does not start"}
    work = Work(made.state.tick, (), "it does not start", 1, quarantine)
    turn, commands = step(made, work=work)
    # The next GPU that is not in quarantine is taken in its place.
    assert [c.gpu for c in commands if isinstance(c, Acquire)] == ["gpu2"]
    assert [h.gpu for h in made.state.standing.gpus] == ["gpu0", "gpu2"]
    assert turn.decision.action is Action.ACT


def test_where_nothing_can_be_planned_around_the_good_plan_stays() -> None:
    made, wants = stage(1)
    wants.number = 4
    commands = failing(made, 4)
    quarantine = {f"gpu{n}": "no power" for n in (1, 2, 3)}
    turn, commands = step(made, work=Work(made.state.tick, (), "no power", 1, quarantine))
    assert commands == ()
    assert [h.gpu for h in made.state.standing.gpus] == ["gpu0"]
    assert turn.decision.action is Action.HOLD


def test_a_failure_is_heeded_once() -> None:
    made, wants = stage(1)
    wants.number = 2
    failing(made, 2)
    work = Work(made.state.tick, (), "an accident", 1, {})
    step(made, work=work)
    assert len(made.state.standing.gpus) == 2  # decided anew, nothing being in quarantine
    made.state, _, commands = made.loop.step(made.state, replace(made.observe(), work=work))
    assert [c.gpu for c in commands if isinstance(c, Acquire)] == ["gpu1"]
    assert len(made.state.standing.gpus) == 2


def test_what_cannot_be_put_right_is_not_tried_at_every_turn() -> None:
    made, _ = stage(2)
    cluster = made.observe().cluster
    without = replace(cluster, instances=cluster.instances[:1])
    commands = commands_for(made.state.standing, without)
    quarantine = {signature(commands[-1]): "out of memory"}
    turn, commands = step(made, cluster=without, work=Work(quarantine=quarantine))
    assert commands == ()
    assert "what would put it right failed: out of memory" in turn.decision.reason


# Changes by others ----------------------------------------------------------------------------------------------------


def changed_by_hand(made: Stage) -> Any:
    """Return the cluster with the batching of one service changed on every instance."""
    cluster = made.observe().cluster
    other = Batching("deferred", max_batch=3)
    states = tuple(replace(s, batching={**s.batching, "a": other}) for s in cluster.instances)
    return replace(cluster, instances=states)


def test_drift_is_repaired_by_default() -> None:
    made, _ = stage(2)
    turn, commands = step(made, cluster=changed_by_hand(made))
    assert [(type(c), c.services) for c in commands if isinstance(c, SetBatching)] == [(SetBatching, ("a",))] * 2
    assert "differs from the standing plan and is put right" in turn.decision.reason


def test_drift_is_adopted_where_that_is_the_rule() -> None:
    made, _ = stage(2, replace(DEFAULTS, on_drift=OnDrift.ADOPT))
    turn, commands = step(made, cluster=changed_by_hand(made))
    assert {type(c) for c in commands} <= {SetRoutes}  # they say how the groups batch
    assert "adopted as the standing plan" in turn.decision.reason
    assert {b.max_batch for g in made.state.standing.sub_clusters for b in g.batching} == {3, None}
    assert made.state.wishes.batching["a"].max_batch == 3


def test_what_was_adopted_is_turned_on_from() -> None:
    made, wants = stage(2, replace(DEFAULTS, on_drift=OnDrift.ADOPT))
    changed = changed_by_hand(made)
    _, commands = step(made, cluster=changed)
    for command in commands:
        changed = after(changed, command)
    turn, commands = step(made, cluster=changed)
    assert (turn.decision.action, commands) == (Action.HOLD, ())
    assert "adopted" not in turn.decision.reason
    wants.number = 3
    _, commands = step(made, cluster=changed)
    assert [c.gpu for c in commands if isinstance(c, Acquire)] == ["gpu2"]


@pytest.mark.parametrize("how", ["surplus", "mixed"])
def test_what_is_no_plan_of_its_own_is_put_right_and_never_adopted_again_and_again(how: str) -> None:
    made, wants = stage(2, replace(DEFAULTS, on_drift=OnDrift.ADOPT))
    cluster = changed_by_hand(made)
    if how == "surplus":
        [extra] = instances_of(INVENTORY[3], None)
        cluster = replace(cluster, instances=(*cluster.instances, InstanceState(extra, Status.READY)))
    else:
        first, second = made.observe().cluster.instances[:1], cluster.instances[1:]
        cluster = replace(cluster, instances=(*first, *second))
    wants.number = 3
    turn, commands = step(made, cluster=cluster)
    assert turn.decision.action is Action.ACT
    assert [c.gpu for c in commands if isinstance(c, Acquire)] == ["gpu2"]


def test_with_several_groups_none_loses_a_replica_while_a_signal_is_missing() -> None:
    settings = replace(DEFAULTS, on_missing=OnMissing.OPEN)
    services = (service("hot", memory_gib=60.0), service("cold", memory_gib=60.0))
    made = Stage(
        make_loop(services, gpus(8), {"p": Wants(6)}, settings=settings), (BUSY[0], BUSY[1][:20]), span_s=400.0
    )
    made.turns(6)
    before = Counter(r.service for r in made.state.standing.replicas())
    _, commands = step(made, missing={"log": "it is away"})
    now = Counter(r.service for r in made.state.standing.replicas())
    assert all(now[name] >= before[name] for name in before)
    assert sum(now.values()) == 8
    assert not {type(c).__name__ for c in commands} & {"Drain", "StopReplicas", "DestroyInstance", "Release"}


def test_what_the_hands_take_for_good_is_what_a_failure_goes_back_to() -> None:
    made, wants = stage(1)
    wants.number = 3
    commands = failing(made, 3)
    good = made.state.standing
    # The plan was carried out while nothing could be seen; then a repair of it fails.
    work = Work(made.state.tick, (), "no power", 1, {signature(commands[0]): "no power"}, good)
    made.state, _, commands = made.loop.step(made.state, replace(made.observe(), work=work, missing={"log": "away"}))
    assert len(made.state.standing.gpus) == 3
    assert not {type(c).__name__ for c in commands} & {"Drain", "Release"}


def test_what_cannot_stand_is_not_adopted_but_repaired() -> None:
    made, _ = stage(2, replace(DEFAULTS, on_drift=OnDrift.ADOPT))
    cluster = made.observe().cluster
    empty = tuple(replace(s, loaded=(), batching={}) for s in cluster.instances)
    _, commands = step(made, cluster=replace(cluster, instances=empty))
    assert {type(c) for c in commands} == {StartReplicas}


# Orders ---------------------------------------------------------------------------------------------------------------


def test_a_pause_changes_nothing_and_says_by_whom() -> None:
    made, wants = stage(3)
    wants.number = 1
    turn, commands = step(made, orders=Orders("pause by ann: the audit"))
    assert (commands, turn.decision.reason) == ((), "paused: pause by ann: the audit")
    assert len(made.state.standing.gpus) == 3


def test_a_rollback_is_obeyed_though_paused_and_stays() -> None:
    made, wants = stage(3)
    before = made.state.standing
    wants.number = 1
    made.turns(2)
    assert len(made.state.standing.gpus) == 1
    orders = Orders("rollback by ann", before, "rollback by ann to the plan of decision 6, run 1")
    turn, commands = step(made, orders=orders)
    assert [c.gpu for c in commands if isinstance(c, Acquire)] == ["gpu1", "gpu2"]
    assert "rollback by ann" in commands[0].reason
    assert turn.plan is not None
    turn, _ = step(made, orders=Orders("rollback by ann"))
    assert turn.decision.action is Action.HOLD
    assert len(made.state.standing.gpus) == 3


def test_a_rollback_to_what_is_not_allowed_any_more_is_refused_with_the_reason() -> None:
    made, _ = stage(2, replace(DEFAULTS, budgets=Budgets(max_gpus=2)))
    whole = make_loop(SERVICES, INVENTORY, {}).begin().standing
    turn, commands = step(made, orders=Orders("rollback by ann", whole, "the rollback"))
    assert commands == ()
    assert "the rollback cannot be had: 4 GPUs held, 2 allowed" in turn.decision.reason


# What executors can do ------------------------------------------------------------------------------------------------


def test_what_the_executor_cannot_do_is_not_planned() -> None:
    made, wants = stage(2)
    made.loop = replace(made.loop, capabilities=Capabilities(("timeout",), partition=False, shares=False))
    wants.number = 3
    turn, commands = step(made)
    assert commands == ()
    [refused] = [c for c in turn.decision.candidates if c.rejected]
    assert "the executor cannot batch by 'deferred', only by timeout" in refused.rejected


# What is recorded -----------------------------------------------------------------------------------------------------


def test_a_record_of_a_turn_gives_the_same_decision_to_the_last_bit() -> None:
    made, wants = stage(2)
    state, again = recorded(made.state), recorded(made.state)
    for number, changed in enumerate(
        [{}, {"missing": {"log": "away"}}, {"work": Work(3, (Acquire("gpu3", "x"),))}, {}]
    ):
        wants.number = 1 + number % 3
        observation = replace(made.observe(), **changed)
        state, turn, commands = made.loop.step(state, observation)
        again, other, same = made.loop.step(again, decode(Observation, encode(observation)))
        assert to_json(turn.decision) == to_json(other.decision)
        assert commands == same
        assert encode(state) == encode(again)


def test_a_damaged_record_is_told_from_one_of_another_version() -> None:
    whole = encode(stage(1)[0].observe())
    with pytest.raises(ValueError, match="damaged"):
        decode(Observation, whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="another version"):
        decode(Observation, encode({"no": "observation"}))


def test_need_is_at_most_what_the_plan_has() -> None:
    made, wants = stage(4)
    for number in (1, 2, 3):
        wants.number = number
        turn, _ = step(made)
        needs: Mapping[str, int] = turn.need
        assert set(needs) == {"a", "b"}
        assert all(1 <= n <= number for n in needs.values())
