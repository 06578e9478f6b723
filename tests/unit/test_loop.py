"""One turn of the loop: pure, safe with what is missing or wrong, and never without a reason."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from math import inf
from typing import Any

import numpy as np
import pytest
from miniature import DEFAULTS, Stage, cut, even, gpus, make_loop, random_instants, service

from partita.controller.loop import Loop
from partita.controller.state import Settings
from partita.hookspecs import hookimpl
from partita.mig import Geometry
from partita.model.cluster import Batching, Gpu
from partita.model.load import Load, Observation
from partita.model.plan import (
    Acquire,
    Action,
    Batchings,
    Budgets,
    Capacity,
    Command,
    CreateInstance,
    DestroyInstance,
    Geometries,
    Placement,
    Plan,
    Proposal,
    Release,
    StartReplicas,
    StopReplicas,
)
from partita.model.service import Bucket, Service
from partita.plugins import reactive, static, symphony

SERVICES = (service("a"), service("b"))
INVENTORY = gpus(4)
BUSY = (even(300.0, 200.0), even(100.0, 200.0))
"""0.55 GPUs' worth in batches."""
GONE = ("Drain", "StopReplicas", "DestroyInstance")
"""What is done about an instance that is not wanted any more."""


def named(value: object) -> str:
    """Name a plugin the same in every process."""
    return str(getattr(value, "__name__", type(value).__name__))


class Wants:
    """Asks for a number of GPUs."""

    def __init__(self, number: int, *, firm: bool = False, alternatives: tuple[int, ...] = ()) -> None:
        self._capacity = Capacity(number, alternatives, firm)

    @hookimpl
    def propose_capacity(self) -> Proposal:
        return Proposal(self._capacity, f"always {self._capacity.gpus}")


class Says:
    """Answers some hooks with what it was given."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    @hookimpl
    def propose_batching(self) -> Proposal | None:
        return self._answers.get("batching")

    @hookimpl
    def propose_geometry(self) -> Proposal | None:
        return self._answers.get("geometry")

    @hookimpl
    def propose_placement(self) -> Proposal | None:
        return self._answers.get("placement")

    @hookimpl
    def veto(self) -> str | None:
        return self._answers.get("veto")

    @hookimpl
    def score_terms(self, candidate: Plan) -> Mapping[str, float] | None:
        terms = self._answers.get("terms")
        return terms(candidate) if callable(terms) else terms


class Raises:
    """Raises in whatever hook it is asked."""

    @hookimpl
    def propose_capacity(self) -> Proposal:
        raise RuntimeError("no idea")

    @hookimpl
    def score_terms(self) -> Mapping[str, float]:
        raise RuntimeError("no idea of terms")


def stage(
    plugins: Mapping[str, object],
    *,
    services: tuple[Service, ...] = SERVICES,
    inventory: tuple[Gpu, ...] = INVENTORY,
    instants: tuple[Any, ...] = BUSY,
    warm: bool = True,
    settings: Settings = DEFAULTS,
    **how: Any,
) -> Stage:
    """Make a stage; a warm one has turned without any plugin until there was enough history."""
    made = Stage(make_loop(services, inventory, plugins, settings=settings, **how), instants, span_s=200.0)
    if warm:
        silent = make_loop(services, inventory, {}, settings=settings, **how)
        made.loop, loop = silent, made.loop
        made.turns(4)
        made.loop = loop
        made.state = replace(made.state, epoch_at_s=0.0)
    return made


def facts(observation: Observation) -> bytes:
    return pickle.dumps(observation)


# Pure ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", [static, reactive, symphony, Wants(2, alternatives=(1, 3))], ids=named)
def test_a_turn_is_pure(plugin: object) -> None:
    made = stage({"p": plugin})
    observation = made.observe()
    before = facts(observation), pickle.dumps((made.state.near.steps.counts, made.state.wishes, made.state.standing))
    first, again = (made.loop.step(made.state, observation) for _ in range(2))
    assert first[1].decision == again[1].decision
    assert first[2] == again[2]
    assert first[0].host == again[0].host
    assert first[0].standing == again[0].standing
    assert before[0] == facts(observation)
    assert before[1] == pickle.dumps((made.state.near.steps.counts, made.state.wishes, made.state.standing))
    # A loop of its own over the same facts says the same.
    assert stage({"p": plugin}).loop.step(made.state, observation)[1].decision == first[1].decision


def test_a_turn_asks_no_clock_and_no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage({"p": symphony})
    observation = made.observe()
    calm = made.loop.step(made.state, observation)[1].decision

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the loop looked outside")

    for name in ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "sleep"):
        monkeypatch.setattr(f"time.{name}", refuse)
    monkeypatch.setattr("random.random", refuse)
    monkeypatch.setattr("numpy.random.random", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    assert made.loop.step(made.state, observation)[1].decision == calm


def test_the_order_in_which_plugins_are_found_does_not_matter() -> None:
    plugins = {"a": Wants(2), "b": Wants(3, firm=True), "c": Raises(), "d": Wants(1, firm=True), "e": symphony}
    seen = []
    for order in permutations(plugins):
        made = stage({name: plugins[name] for name in order})
        seen.append(made.turn()[0].decision)
        if len(seen) > 10:
            break
    assert all(decision == seen[0] for decision in seen)
    assert [o.plugin for o in seen[0].opinions if o.hook == "propose_capacity"] == ["a", "b", "c", "d", "e"]


# What is missing ----------------------------------------------------------------------------------------------------


def test_too_little_history_holds_and_says_so() -> None:
    made = stage({"p": Wants(1, firm=True)}, warm=False)
    turn, commands = made.turn()
    assert (turn.decision.action, commands, turn.plan) == (Action.HOLD, (), None)
    assert "no forecast yet" in turn.decision.reason
    assert "a forecast needs 2" in turn.decision.reason
    assert turn.decision.gpus_held == turn.decision.gpus_wanted == 4
    assert [t.decision.action for t in made.turns(3)].count(Action.ACT) == 1


@pytest.mark.parametrize("plugin", [Wants(1, firm=True), Wants(1), symphony, reactive], ids=named)
def test_a_log_that_stands_still_is_not_read_as_no_load(plugin: object) -> None:
    """The watermark stops at 40 s; whatever a policy wants then, GPUs stay."""
    made = stage({"p": plugin})
    observation = made.observe()
    names = tuple(s.name for s in SERVICES)
    state, held = made.state, []
    for k in range(30):
        now_s = observation.now_s + 61.0 + 10 * k
        stuck = replace(
            observation,
            now_s=now_s,
            watermark_s=observation.watermark_s - 10.0,
            load=Load(names, observation.load.start_s, 1.0, np.empty((2, 0))),
            outcomes={},
            recent=None,
        )
        state, turn, commands = made.loop.step(state, stuck)
        assert commands == ()
        assert turn.decision.action is Action.HOLD
        assert turn.decision.reason.startswith("the log is ")
        assert "the last good plan stays" in turn.decision.reason
        held.append(len(state.standing.gpus))
    assert set(held) == {4}


def test_a_gap_in_the_log_is_made_up_for_when_it_comes_back() -> None:
    made = stage({"p": Wants(4)})
    ends = [made.state.near.rest.end_s]
    for _ in range(3):
        made.turn()
        ends.append(made.state.near.rest.end_s)
    made.world.advance(made.world.now_ns + 25 * 10**9)
    made.turn()
    assert made.state.near.rest.end_s == ends[-1] + 35.0
    assert np.all(np.abs(made.state.near.steps.rate_rps() - [300.0, 100.0]) < 1.0)


@pytest.mark.parametrize("plugin", [static, reactive, symphony], ids=named)
def test_no_load_at_all_ends_at_one_gpu_or_where_it_began(plugin: object) -> None:
    nothing = np.empty(0, np.int64)
    made = stage({"p": plugin}, instants=(nothing, nothing), warm=False)
    turns = made.turns(16)
    assert all(t.decision.reason for t in turns)
    assert not [o for t in turns for o in t.decision.opinions if o.fault]
    # static is told no peak, and reactive waits five minutes before it gives anything back.
    assert len(made.state.standing.gpus) == (1 if plugin is symphony else 4)
    assert all(np.isfinite(a.cost) for t in turns for a in t.decision.candidates)


@pytest.mark.parametrize("plugin", [static, reactive, symphony], ids=named)
def test_a_service_without_any_request_is_still_served(plugin: object) -> None:
    made = stage({"p": plugin}, instants=(BUSY[0], np.empty(0, np.int64)), warm=False)
    turns = made.turns(15)
    assert not [o for t in turns for o in t.decision.opinions if o.fault]
    assert {r.service for r in made.state.standing.routes} == {"a", "b"}


def test_without_recent_requests_nothing_is_rehearsed_and_nothing_claimed() -> None:
    nothing = np.empty(0, np.int64)
    made = stage({"p": Wants(2)}, instants=(nothing, nothing))
    decision = made.turn()[0].decision
    assert decision.gpus_wanted == 2
    assert "has no recent request to be judged by" in decision.reason


# Acting -------------------------------------------------------------------------------------------------------------


def test_fewer_gpus_that_do_are_taken_and_the_reason_says_what_they_save() -> None:
    turn, commands = stage({"p": Wants(2)}).turn()
    assert turn.decision.action is Action.ACT
    assert (turn.decision.chosen, turn.decision.gpus_held, turn.decision.gpus_wanted) == ("p: 2 GPUs", 4, 2)
    assert "meets every target in rehearsal and costs" in turn.decision.reason
    assert [type(c).__name__ for c in commands] == ["SetRoutes", *GONE * 2, "Release", "Release"]
    assert turn.decision.commands == commands
    assert [a.label for a in turn.decision.candidates] == ["standing", "p: 2 GPUs"]
    standing, chosen = turn.decision.candidates
    assert chosen.cost == pytest.approx(2 * 600 / 3600)
    assert standing.change_cost == 0.0


def test_fewer_gpus_that_would_not_do_are_not_taken() -> None:
    """1700 requests a second keep 1700·(64+9)/64 ms = 1.9 GPUs busy in the largest batches there are."""
    heavy = (random_instants(1500.0, 100.0, 1), random_instants(200.0, 100.0, 2))
    turn, commands = stage({"p": Wants(1)}, instants=heavy).turn()
    assert commands == ()
    assert "the standing plan meets every target in rehearsal; p: 1 GPU misses b's target" in turn.decision.reason


def test_what_stands_already_is_no_candidate_and_has_its_reason() -> None:
    turn, commands = stage({"p": Wants(4)}).turn()
    assert commands == ()
    assert turn.decision.action is Action.HOLD
    assert turn.decision.reason == "the standing plan is what is asked for (p: always 4)"
    assert stage({}).turn()[0].decision.reason == "no plugin asks for a change"


def test_a_firm_wish_acts_whatever_rehearsal_would_say() -> None:
    heavy = (even(3000.0, 100.0), even(200.0, 100.0))
    turn, commands = stage({"p": Wants(1, firm=True)}, instants=heavy).turn()
    assert [type(c).__name__ for c in commands] == ["SetRoutes", *GONE * 3, "Release", "Release", "Release"]
    assert "as its policy's own rule wants: always 1" in turn.decision.reason


def test_a_firm_wish_for_what_stands_keeps_it() -> None:
    made = stage({"p": Wants(4, firm=True), "q": Wants(1)})
    assert [t.decision.action for t in made.turns(3)] == [Action.HOLD] * 3


def test_a_decision_carried_out_is_not_taken_again() -> None:
    made = stage({"p": Wants(2)})
    made.turn()
    assert [t.decision.action for t in made.turns(4)] == [Action.HOLD] * 4
    assert made.state.standing.gpus == made.state.standing.gpus[:2]


# What is refused ----------------------------------------------------------------------------------------------------


def test_a_candidate_beyond_the_budget_is_refused_with_the_reason() -> None:
    made = stage({"p": Wants(4, firm=True)}, settings=Settings(budgets=Budgets(max_gpus=2)))
    turn, commands = made.turn()
    assert commands == ()
    assert [a.rejected for a in turn.decision.candidates] == ["", "4 GPUs held, 2 allowed"]
    assert turn.decision.reason == "no candidate is allowed (p: 4 GPUs: 4 GPUs held, 2 allowed)"


def test_a_candidate_without_the_memory_is_refused_with_the_reason() -> None:
    """The second GPU has slices of 9.5 GiB, the service needs 20."""
    inventory = (INVENTORY[0], replace(INVENTORY[1], geometry=cut("7x1g.10gb")))
    big = (service("big", memory_gib=20.0),)
    made = stage(
        {"p": Wants(2, firm=True)},
        services=big,
        inventory=inventory,
        instants=(BUSY[0],),
        settings=Settings(budgets=Budgets(max_gpus=1)),
    )
    made.loop = replace(made.loop, settings=Settings())
    turn, commands = made.turn()
    assert commands == ()
    assert "its services need 20 GiB, its instances have 9.5 GiB" in turn.decision.candidates[1].rejected


def test_a_veto_is_kept_with_its_author() -> None:
    turn, commands = stage({"p": Wants(2, firm=True), "q": Says(veto="not today")}).turn()
    assert commands == ()
    assert turn.decision.candidates[1].rejected == "q vetoes: not today"


def test_terms_weigh_in_the_cost() -> None:
    def dear(candidate: Plan) -> dict[str, float]:
        return {"few": 10.0 if len(candidate.gpus) < 4 else 0.0}

    turn, commands = stage({"p": Wants(2), "q": Says(terms=dear)}).turn()
    assert commands == ()
    assert turn.decision.candidates[1].terms == {"q.few": 10.0}
    assert "would save nothing" in turn.decision.reason


# Plugins that fail ---------------------------------------------------------------------------------------------------


def test_a_plugin_that_raises_costs_only_its_own_proposal_and_is_benched() -> None:
    made = stage({"good": Wants(2), "raises": Raises()})
    turns = made.turns(6)
    assert turns[0].decision.gpus_wanted == 2
    said = [next(o for o in t.decision.opinions if o.plugin == "raises") for t in turns]
    assert {o.hook for o in said} == {"propose_capacity"}
    assert [o.fault for o in said[:3]] == ["raised RuntimeError: no idea"] * 3
    assert all("benched until tick" in o.fault for o in said[3:])


def test_a_plugin_that_fails_at_pricing_is_named_and_benched_too() -> None:
    class Prices:
        @hookimpl
        def score_terms(self) -> Mapping[str, float]:
            return {"much": float("nan")}

    class Changes:
        @hookimpl
        def propose_capacity(self, standing: Plan, memory: Any) -> Proposal:
            number = 1 + (memory or 0) % 2
            return Proposal(Capacity(number, firm=True), "to and fro", number)

    made = stage({"p": Changes(), "q": Prices()})
    turns = made.turns(5)
    faults = [[o.fault for o in t.decision.opinions if o.plugin == "q"] for t in turns]
    assert all(faults), "a fault in score_terms is not told"
    assert faults[0][0] == "term much is nan, not a finite number"
    assert "benched until tick" in faults[-1][0]
    assert all(t.decision.action is Action.ACT for t in turns)


HALVES = cut("3g.40gb@0,3g.40gb@4")


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"batching": Batchings((("a", Batching("psychic")), ("b", Batching("psychic"))))}, "psychic"),
        ({"batching": Batchings((("a", Batching("eager")),))}, "batch alike"),
        (
            {"batching": Batchings(tuple((n, Batching("eager", options=(("drop", "all"),))) for n in "ab"))},
            "'all' is none of window, timeout",
        ),
        ({"placement": Placement(((("a",), 1.0),))}, "the routes of b do not cover all requests"),
        ({"placement": Placement(((("a", "b"), 1.0), (("b",), 1.0)))}, "the routes of b"),
    ],
)
def test_a_wish_that_cannot_be_had_costs_nobody_else_their_say(answers: dict[str, Any], problem: str) -> None:
    """It would be part of every candidate: without care, one bad wish refuses all plans from then on."""
    proposals = {hook: Proposal(suggestion, "so there") for hook, suggestion in answers.items()}
    made = stage({"good": Wants(2), "odd": Says(**proposals)})
    turn, commands = made.turn()
    assert turn.decision.gpus_wanted == 2
    assert commands
    said = next(o for o in turn.decision.opinions if o.plugin == "odd")
    assert problem in said.fault
    made.turns(3)
    assert made.cluster.observe(made.world.now_ns).held == ("gpu0", "gpu1")


def test_wishes_of_one_plugin_are_taken_together() -> None:
    """Halves alone have no room for both services together, and need not: the same plugin sets them apart."""
    big = (service("a", memory_gib=30.0), service("b", memory_gib=30.0))
    first: dict[str, Geometry | None] = {g.id: HALVES for g in INVENTORY}
    apart = Proposal(Placement(((("a",), 3.0), (("b",), 1.0))), "apart")
    both = Says(geometry=Proposal(Geometries(tuple(first.items())), "halves"), placement=apart)
    made = stage({"p": both}, services=big)
    turn, _ = made.turn()
    assert not [o for o in turn.decision.opinions if o.fault]
    assert turn.decision.candidates[1].rejected == ""
    groups = turn.decision.candidates[1].plan.sub_clusters
    assert [(g.services, len(g.instances)) for g in groups] == [(("a",), 6), (("b",), 2)]


# Verify -------------------------------------------------------------------------------------------------------------


def lost(gpu: str) -> list[Command]:
    """Take a whole GPU away behind the controller's back."""
    return [DestroyInstance(gpu, "someone else"), Release(gpu, "someone else")]


def test_a_gpu_lost_behind_our_back_is_commanded_again() -> None:
    made = stage({"p": Wants(4)})
    made.cluster.apply(lost("gpu2"), made.world.now_ns)
    turn, commands = made.turn()
    assert [type(c) for c in commands] == [Acquire, CreateInstance, StartReplicas]
    assert turn.decision.action is Action.ACT
    assert turn.decision.gpus_held == 3
    assert turn.decision.reason.endswith("the cluster differs from the standing plan and is put right")
    assert turn.plan == made.state.standing
    assert made.turn()[1] == ()


def test_an_instance_emptied_behind_our_back_is_loaded_again() -> None:
    made = stage({"p": Wants(4)})
    made.cluster.apply([StopReplicas("gpu1", ("a",), "someone else")], made.world.now_ns)
    [command] = made.turn()[1]
    assert isinstance(command, StartReplicas)
    assert (command.instance, command.services) == ("gpu1", ("a",))
    assert made.turn()[1] == ()


def test_drift_is_put_right_beside_a_change() -> None:
    made = stage({"p": Wants(2)})
    made.cluster.apply(lost("gpu0"), made.world.now_ns)
    added, taken = ["Acquire", "CreateInstance", "StartReplicas", "SetRoutes"], [*GONE * 2, "Release", "Release"]
    assert [type(c).__name__ for c in made.turn()[1]] == [*added, *taken]


# Epochs -------------------------------------------------------------------------------------------------------------


def test_far_hooks_are_asked_once_an_epoch() -> None:
    made = stage({"p": Says(placement=Proposal(Placement(((("a", "b"), 1.0),)), "together"))}, warm=False)
    made.loop = replace(made.loop, settings=replace(made.loop.settings, epoch_s=30.0))
    turns = made.turns(12)
    asked = [any(o.hook == "propose_placement" for o in t.decision.opinions) for t in turns]
    at = [t.decision.at_s for t, yes in zip(turns, asked, strict=True) if yes]
    assert at[0] == 30.0
    assert set(np.diff(at)) == {30.0}


def test_each_tick_draws_its_own_rehearsal_and_the_seed_decides_it() -> None:
    def shares(seed: int) -> list[float]:
        heavy = (even(1500.0, 100.0), even(1500.0, 100.0))
        made = stage({"p": Wants(1)}, instants=heavy, settings=Settings(seed=seed))
        return [t.decision.candidates[1].attainment for t in made.turns(2) if len(t.decision.candidates) > 1]

    assert shares(1) == shares(1)
    assert shares(1) != shares(2)


def test_the_first_state_is_the_cluster_as_given() -> None:
    loop: Loop = make_loop(SERVICES, INVENTORY, {}, settings=Settings(budgets=Budgets(max_gpus=3)))
    assert [h.gpu for h in loop.begin().standing.gpus] == ["gpu0", "gpu1", "gpu2"]
    assert loop.begin().standing.reason == "the cluster as given"


class Notes:
    """Keeps the services that it is told of."""

    def __init__(self) -> None:
        self.told: list[tuple[Service, ...]] = []

    @hookimpl
    def propose_capacity(self, services: tuple[Service, ...]) -> None:
        self.told.append(services)


def test_plugins_are_told_the_mix_of_sizes_that_the_log_has_shown() -> None:
    """Requests are as large as their number: the first 1,000 are small, those of b are all larger."""
    small, large = (
        [replace(c, bucket=bucket) for c in service("a").curves]
        for bucket in (Bucket(0.0, 1000.0), Bucket(1000.0, inf))
    )
    sized = Service.measured("a", 0.1, 0.99, 2.0, [*small, *large])
    notes = Notes()
    stage({"notes": notes}, services=(sized, service("b"))).turn()
    [(a, b)] = notes.told
    # 49 of 50 seconds are in the log, 14,700 requests of a; 20 more count as large, since nothing was known before.
    assert a.mix == pytest.approx((1001 / 14720, 13719 / 14720))
    assert b.mix == ()
