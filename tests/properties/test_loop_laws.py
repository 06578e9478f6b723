"""Laws of the whole loop over random loads and whatever plugins say."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miniature import Stage, cut, gpus, make_loop, random_instants, service

from partita.controller.commands import commands_for
from partita.controller.state import Settings, Turn
from partita.hookspecs import hookimpl
from partita.model.cluster import Batching
from partita.model.plan import Action, Batchings, Budgets, Capacity, Geometries, Placement, Proposal, feasible
from partita.plugins import reactive, static, symphony

INVENTORY = gpus(4)
CUTS = tuple(map(cut, (None, None, "7x1g.10gb", "3g.40gb@0,3g.40gb@4")))
SPAN_S = 150.0

examples = settings(
    max_examples=int(os.environ.get("PARTITA_EXAMPLES", "30")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Capricious:
    """Says something else at every turn, sense or nonsense, from a list that it goes through by its memory."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def _next(self, hook: str, memory: Any) -> Any:
        mine = [a for h, a in self._answers if h == hook]
        turn = (memory or 0) + 1
        said = mine[turn % len(mine)] if mine else None
        if isinstance(said, str):
            raise RuntimeError(said)
        return Proposal(said, "a whim", turn) if said is not None else None

    @hookimpl
    def propose_capacity(self, memory: Any) -> Proposal | None:
        return self._next("capacity", memory)  # type: ignore[no-any-return]

    @hookimpl
    def propose_batching(self, memory: Any) -> Proposal | None:
        return self._next("batching", memory)  # type: ignore[no-any-return]

    @hookimpl
    def propose_geometry(self, memory: Any) -> Proposal | None:
        return self._next("geometry", memory)  # type: ignore[no-any-return]

    @hookimpl
    def propose_placement(self, memory: Any) -> Proposal | None:
        return self._next("placement", memory)  # type: ignore[no-any-return]


batchings = st.sampled_from(["deferred", "eager", "timeout", "psychic"]).map(
    lambda d: Batchings((("a", Batching(d)), ("b", Batching(d)), ("c", Batching(d))))
)
answers = st.lists(
    st.one_of(
        st.tuples(st.just("capacity"), st.builds(Capacity, st.integers(0, 6), firm=st.booleans())),
        st.tuples(st.just("capacity"), st.sampled_from([Capacity(-1), "out of ideas"])),
        st.tuples(st.just("batching"), batchings),
        st.tuples(st.just("batching"), st.just(Batchings((("b", Batching("eager")),)))),
        st.tuples(
            st.just("geometry"),
            st.lists(st.sampled_from(CUTS), min_size=4, max_size=4).map(
                lambda cuts: Geometries(tuple((g.id, c) for g, c in zip(INVENTORY, cuts, strict=True)))
            ),
        ),
        st.tuples(
            st.just("placement"),
            st.sampled_from(
                [
                    Placement(((("a", "b", "c"), 1.0),)),
                    Placement(((("a",), 1.0), (("b", "c"), 2.0))),
                    Placement(((("a",), 1.0),)),
                    Placement(((("a", "b"), 1.0), (("b", "c"), 1.0))),
                ]
            ),
        ),
    ),
    max_size=12,
)


def check(stage: Stage, turn: Turn) -> None:
    """Hold one turn against what must always be so."""
    decision, loop = turn.decision, stage.loop
    assert decision.reason
    assert (decision.action is Action.ACT) == bool(decision.commands)
    assert all(o.reason or o.fault for o in decision.opinions)
    assert feasible(stage.state.standing, loop.services, loop.inventory, loop.settings.budgets) == ()
    assert loop.rehearser.refusal(stage.state.standing) == ""
    assert decision.gpus_wanted == len(stage.state.standing.gpus)
    # What was decided is under way at once: nothing of it is left to command.
    assert commands_for(stage.state.standing, stage.cluster.observe(stage.world.now_ns)) == ()


@examples
@given(
    st.lists(st.sampled_from([0.0, 5.0, 100.0, 400.0]), min_size=3, max_size=3),
    st.lists(st.sampled_from([2.0, 9.0, 30.0, 50.0]), min_size=3, max_size=3),
    answers,
    st.sets(st.sampled_from(["static", "reactive", "symphony"])),
    st.sampled_from([None, None, 3]),
    st.integers(0, 100),
)
def test_whatever_plugins_say_the_loop_goes_on_with_a_plan_that_can_be(
    rates: list[float], memory: list[float], said: list[Any], others: set[str], max_gpus: int | None, seed: int
) -> None:
    services = tuple(service(name, memory_gib=m) for name, m in zip("abc", memory, strict=True))
    known: dict[str, object] = {"static": static, "reactive": reactive, "symphony": symphony}
    plugins = {"whims": Capricious(said), **{name: known[name] for name in sorted(others)}}
    how = Settings(epoch_s=30.0, rehearse_s=20.0, budgets=Budgets(max_gpus=max_gpus))
    instants = [random_instants(rate, SPAN_S, seed + n) for n, rate in enumerate(rates)]

    def decisions() -> list[Any]:
        stage = Stage(make_loop(services, INVENTORY, plugins, settings=how), instants, span_s=SPAN_S)
        if feasible(stage.state.standing, services, INVENTORY, how.budgets):
            return []
        made = []
        for _ in range(15):
            turn, _ = stage.turn()
            check(stage, turn)
            made.append(turn.decision)
        score = stage.world.finish()
        assert score.offered == score.good + score.late + score.dropped == sum(map(len, instants))
        assert np.isfinite(score.gpu_hours)
        return [*made, score]

    assert decisions() == decisions()
