"""The host: one-by-one calls, faults that cost only their own proposal, benches, memory, independence of order."""

from __future__ import annotations

import operator
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from partita.errors import ConfigError
from partita.hookspecs import hookimpl
from partita.model.plan import Capacity, Opinion, Proposal
from partita.plugins.host import BENCH_TICKS, HostState, PluginHost
from partita.plugins.kit import ExampleTick, example_ticks

TICK = example_ticks()[0]


class Wants:
    """Asks for a fixed number of GPUs and takes no arguments at all."""

    def __init__(self, gpus: Any) -> None:
        self.gpus = gpus

    @hookimpl
    def propose_capacity(self) -> Proposal:
        return Proposal(Capacity(self.gpus), f"always {self.gpus}")


class Raises:
    """Raises at the ticks given by the operator."""

    @hookimpl
    def propose_capacity(self, observation: Any, options: Any) -> Proposal:
        if observation.now_s in options.get("at", ()):
            raise RuntimeError("boom\nbang")
        return Proposal(Capacity(1), "well")


class Remembers:
    """Counts its calls in its memory, which it changes in place."""

    @hookimpl
    def propose_capacity(self, memory: Any) -> Proposal:
        seen = memory or []
        seen.append(len(seen))
        return Proposal(Capacity(len(seen)), "counts", seen)


def propose(
    host: PluginHost, state: HostState, tick: int, given: ExampleTick = TICK, **more: Any
) -> tuple[dict[str, int], dict[str, Opinion], HostState]:
    arguments = {**given.arguments("propose_capacity"), "options": {}, **more}
    proposals, opinions, state = host.propose("propose_capacity", tick=tick, state=state, **arguments)
    gpus = {name: p.suggestion.gpus for name, p in proposals if isinstance(p.suggestion, Capacity)}
    return gpus, {o.plugin: o for o in opinions}, state


def test_each_proposal_stands_with_its_reason_in_order_of_names() -> None:
    host = PluginHost.of({"b": Wants(2), "a": Wants(1)})
    gpus, opinions, _ = propose(host, HostState(), 0)
    assert list(gpus.items()) == [("a", 1), ("b", 2)]
    assert list(opinions.values()) == [
        Opinion("a", "propose_capacity", "always 1"),
        Opinion("b", "propose_capacity", "always 2"),
    ]


def test_the_order_of_registration_never_matters() -> None:
    subjects = {"a": Wants(1), "b": Wants(-1), "c": Remembers(), "d": Raises()}
    results = []
    for order in permutations(subjects):
        host, state = PluginHost.of({name: subjects[name] for name in order}), HostState()
        for tick in range(5):
            *answer, state = propose(host, state, tick)
            results.append((tick, answer, state))
    first = results[:5]
    assert all(results[i : i + 5] == first for i in range(0, len(results), 5))


@pytest.mark.parametrize(
    ("subject", "fault"),
    [
        (Wants(-1), "-1 is no number of GPUs: it must be from 0 to 100000"),
        (Wants(float("nan")), "gives nan as a number of GPUs, not a whole number"),
        (Wants(True), "gives True as a number of GPUs, not a whole number"),
        (Wants(10**9), "1000000000 is no number of GPUs: it must be from 0 to 100000"),
    ],
)
def test_nonsense_costs_only_its_own_proposal(subject: object, fault: str) -> None:
    gpus, opinions, state = propose(PluginHost.of({"bad": subject, "good": Wants(3)}), HostState(), 0)
    assert gpus == {"good": 3}
    assert opinions["bad"] == Opinion("bad", "propose_capacity", "", fault)
    assert state.faults == {"bad": 1}


def test_a_plugin_that_raises_is_named_in_one_line() -> None:
    options = {"raises": {"at": (TICK.observation.now_s,)}}
    gpus, opinions, _ = propose(PluginHost.of({"raises": Raises(), "good": Wants(3)}), HostState(), 0, options=options)
    assert gpus == {"good": 3}
    assert opinions["raises"].fault == "raised RuntimeError: boom bang"


def test_a_plugin_that_ends_the_program_is_only_a_fault() -> None:
    class Exits:
        @hookimpl
        def propose_capacity(self) -> Proposal:
            raise SystemExit(3)

    _, opinions, _ = propose(PluginHost.of({"exits": Exits()}), HostState(), 0)
    assert opinions["exits"].fault == "raised SystemExit: 3"


def test_options_reach_only_their_plugin_and_none_means_no_opinion() -> None:
    class Echoes:
        @hookimpl
        def propose_capacity(self, options: Any) -> Proposal | None:
            return Proposal(Capacity(options["gpus"]), "as told") if options else None

    host = PluginHost.of({"one": Echoes(), "two": Echoes(), "none": Echoes()})
    gpus, opinions, _ = propose(host, HostState(), 0, options={"one": {"gpus": 1}, "two": {"gpus": 2}})
    assert gpus == {"one": 1, "two": 2}
    assert "none" not in opinions


def test_only_restricts_who_is_asked() -> None:
    gpus, _, _ = propose(PluginHost.of({"a": Wants(1), "b": Wants(2)}), HostState(), 0, only=("b",))
    assert gpus == {"b": 2}


def test_memory_comes_back_and_the_state_before_stays_as_it_was() -> None:
    host, states = PluginHost.of({"counter": Remembers()}), [HostState()]
    for tick in range(3):
        gpus, _, state = propose(host, states[-1], tick)
        assert gpus == {"counter": tick + 1}
        again, _, _ = propose(host, states[-1], tick)
        assert again == gpus
        states.append(state)
    assert [s.memory.get(("counter", "propose_capacity")) for s in states] == [None, [0], [0, 1], [0, 1, 2]]


def test_a_plugin_cannot_change_what_it_is_shown() -> None:
    class Scribbles:
        @hookimpl
        def propose_capacity(self, observation: Any, near: Any, services: Any, options: Any) -> Proposal:
            for act in (
                lambda: observation.load.counts.fill(0),
                lambda: observation.recent.ns.fill(0),
                lambda: near.rps.fill(0),
                lambda: operator.setitem(observation.outcomes, "service-0", None),
                lambda: operator.setitem(observation.cluster.instances[0].batching, "service-0", None),
                lambda: operator.setitem(observation.missing, "log", "away"),
                lambda: operator.setitem(observation.work.quarantine, "gpu-0", "broken"),
                lambda: operator.setitem(services, 0, None),
                lambda: operator.setitem(options, "key", 1),
            ):
                with pytest.raises((ValueError, TypeError)):
                    act()
            return Proposal(Capacity(1), "tried everything")

    before = TICK.observation.load.counts.copy()
    gpus, opinions, _ = propose(PluginHost.of({"s": Scribbles()}), HostState(), 0, services=list(TICK.services))
    assert gpus == {"s": 1}, opinions
    assert np.array_equal(TICK.observation.load.counts, before)
    assert TICK.observation.load.counts.flags.writeable


def test_three_faults_in_a_row_bench_a_plugin_for_longer_each_time() -> None:
    host, state = PluginHost.of({"bad": Wants(-1), "good": Wants(2)}), HostState()
    asked = []
    for tick in range(60):
        gpus, opinions, state = propose(host, state, tick)
        assert gpus == {"good": 2}
        if opinions["bad"].fault.startswith("benched"):
            assert opinions["bad"].fault.endswith(
                "its last fault: -1 is no number of GPUs: it must be from 0 to 100000"
            )
        else:
            asked.append(tick)
    # Ticks 0-2 fault; then benches of 10, 20 and 40 ticks, with one trial between.
    assert asked == [0, 1, 2, 2 + BENCH_TICKS + 1, 2 + 3 * BENCH_TICKS + 2]
    assert state.faults == {"bad": 5}


def test_a_good_answer_ends_a_streak_and_clears_the_bench() -> None:
    ticks = example_ticks()
    bad = {0, 1, 3, 4, 5, 16}  # 0-1 is no streak of three; 3-5 benches until 16; the trial there fails
    host, state, asked = PluginHost.of({"raises": Raises()}), HostState(), []
    for tick in range(50):
        given = ticks[tick % len(ticks)]
        options = {"raises": {"at": (given.observation.now_s,) if tick in bad else ()}}
        _, opinions, state = propose(host, state, tick, given, options=options)
        if not opinions["raises"].fault.startswith("benched"):
            asked.append(tick)
    assert asked == [*range(6), 16, *range(37, 50)]
    assert state.benches == {}
    assert state.streaks == {}


def test_a_hook_that_always_fails_is_benched_though_another_answers_well() -> None:
    class Half:
        @hookimpl
        def propose_capacity(self) -> Proposal:
            return Proposal(Capacity(1), "fine")

        @hookimpl
        def propose_batching(self) -> Proposal:
            raise RuntimeError("never")

    host, state = PluginHost.of({"half": Half()}), HostState()
    for tick in range(3):
        _, _, state = propose(host, state, tick)
        _, _, state = host.propose(
            "propose_batching", tick=tick, state=state, options={}, **TICK.arguments("propose_batching")
        )
    assert state.benched_until("half", 3) == 3 + BENCH_TICKS


def test_vetoes_carry_reasons_and_a_failing_veto_does_not_count() -> None:
    class Frugal:
        @hookimpl
        def veto(self, candidate: Any, standing: Any) -> str | None:
            return "no more GPUs today" if len(candidate.gpus) > len(standing.gpus) else None

    class Broken:
        @hookimpl
        def veto(self) -> Any:
            return True

    host = PluginHost.of({"frugal": Frugal(), "broken": Broken()})
    arguments = {**TICK.arguments("veto"), "options": {}}
    state = HostState()
    for _ in range(5):  # five candidates of one tick are one turn: they do not bench
        vetoes, opinions, state = host.vetoes(tick=0, state=state, **arguments)
        assert vetoes == [("frugal", "no more GPUs today")]
        assert opinions == [Opinion("broken", "veto", "", "answered True instead of the reason of its veto or None")]
    assert state.benched_until("broken", 1) is None
    assert state.faults == {"broken": 5}
    vetoes, _, _ = host.vetoes(tick=1, state=state, **{**arguments, "candidate": TICK.standing})
    assert vetoes == []


def test_score_terms_are_named_after_their_plugin() -> None:
    class Green:
        @hookimpl
        def score_terms(self, candidate: Any) -> dict[str, float]:
            return {"carbon": 0.5 * len(candidate.gpus), "age": -1}

    class Nonsense:
        @hookimpl
        def score_terms(self) -> dict[str, float]:
            return {"carbon": float("inf")}

    host = PluginHost.of({"green": Green(), "bad": Nonsense()})
    terms, opinions, _ = host.terms(tick=0, state=HostState(), options={}, **TICK.arguments("score_terms"))
    assert terms == {"green.age": -1.0, "green.carbon": 2.5}  # the candidate holds 4 + 1 GPUs
    assert [o.fault for o in opinions] == ["term carbon is inf, not a finite number"]


def test_registered_things_are_collected_and_clashes_named() -> None:
    class Line:
        name = "line"

        def forecast(self, history: Any, *, steps: int, levels: Any) -> Any:
            raise AssertionError("it is only collected, never asked")

    class Brings:
        def __init__(self, things: Any) -> None:
            self.things = things

        @hookimpl
        def register_forecasters(self) -> Any:
            return self.things

    line = Line()
    host = PluginHost.of({"a": Brings([line]), "b": Brings([Line()]), "c": Brings([3]), "d": Brings(None)})
    found, opinions = host.brought("register_forecasters")
    assert found == {"line": line}
    assert [(o.plugin, o.fault) for o in opinions] == [
        ("b", "brings 'line', which is there already"),
        ("c", "brings a int, which is not what register_forecasters is for"),
    ]


def test_a_policy_that_does_not_exist_is_refused_by_name() -> None:
    host = PluginHost.of({"a": Wants(1)})
    host.require(["a"])
    with pytest.raises(ConfigError, match="no policy is named 'b'; there are: a"):
        host.require(["b"])


def test_the_loop_must_pass_what_the_hook_takes() -> None:
    with pytest.raises(TypeError, match="propose_capacity takes far, inventory"):
        PluginHost.of({"a": Wants(1)}).propose(
            "propose_capacity", tick=0, state=HostState(), services=(), inventory=(), options={}
        )
