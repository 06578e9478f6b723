"""A decision in plain words says everything that stands in it."""

import json
from dataclasses import replace

import pytest

from partita.controller.explanation import default_decision, explain, list_decisions
from partita.controller.results import decision_document
from partita.model.cluster import Batching, Instance
from partita.model.plan import (
    Acquire,
    Action,
    Appraisal,
    Command,
    CreateInstance,
    Decision,
    DestroyInstance,
    Drain,
    Objective,
    Opinion,
    Plan,
    Release,
    SetRoutes,
    StartReplicas,
    StopReplicas,
)

DEFERRED = Batching("deferred")
NOTHING = Plan((), (), ())
STANDING = Appraisal("standing", NOTHING, 6, 1.0, 0.0001, 0.0, "detect", 1.0, 0.0, 0)
SMALLER = Appraisal("symphony: 5 GPUs", NOTHING, 5, 0.9996, 0.0003, 0.0, "embed", 0.8333, 0.01, 2, {"power": -0.1})
REFUSED = Appraisal("magic: 1 GPU", NOTHING, 1, 0.0, 0.0, 0.0, "", 0.0, 0.0, 0, rejected="magic vetoes it: too few")
LONG = "fewer will do, and they must be the cheaper ones, which is a reason too long for one line"
ACTED = Decision(
    tick=704,
    at_s=7040.0,
    action=Action.ACT,
    chosen="symphony: 5 GPUs",
    reason="symphony: 5 GPUs meets every target in rehearsal",
    opinions=(
        Opinion("symphony", "propose_capacity", "5 will do"),
        Opinion("magic", "veto", "", "raised KeyError: 'x'"),
    ),
    candidates=(STANDING, SMALLER, REFUSED),
    commands=(
        Acquire("gpu06", LONG),
        Acquire("gpu07", LONG),
        Release("gpu05", LONG),
        Release("gpu04", "no longer needed"),
    ),
    objective=Objective(period_s=600.0, margin=0.02),
    offered_rps=89.7,
    forecast_rps=96.04,
    gpus_held=6,
    gpus_wanted=5,
)
HELD = replace(
    ACTED,
    tick=705,
    action=Action.HOLD,
    chosen="standing",
    reason="nothing saves enough",
    opinions=(),
    candidates=(),
    commands=(),
    forecast_rps=float("nan"),
    gpus_held=1,
    gpus_wanted=1,
)


def test_a_decision_that_acted() -> None:
    assert explain(decision_document(ACTED), run="symphony").splitlines() == [
        "Decision 704 of symphony, at 1:57:20: acted, from 6 to 5 GPUs (symphony: 5 GPUs).",
        "Why: symphony: 5 GPUs meets every target in rehearsal.",
        "Measured: 89.7 requests a second, 6 GPUs held.",
        "Expected: 96.0 requests a second.",
        "Suggested:",
        "    symphony on capacity: 5 will do",
        "    magic on veto lost its say: raised KeyError: 'x'",
        "Rehearsed:",
        "    standing: 6 GPUs, 100.00 % in time (± 0.01; worst detect), costs 1.000",
        "  › symphony: 5 GPUs: 99.96 % in time (± 0.03; worst embed), costs 0.833 + 0.010 for the change in 2 "
        "commands; power -0.100",
        "    magic: 1 GPU: refused, magic vetoes it: too few",
        "Commanded:",
        "    Acquire gpu06, gpu07; Release gpu05: fewer will do, and they must be the cheaper ones, which is",
        "        a reason too long for one line",
        "    Release gpu04: no longer needed",
        "Weighed by: attainment first, then cost over 600 s, then fewer commands; a change must save 2 %.",
    ]


def added(*gpus: str) -> list[Command]:
    """Hold GPUs that serve one service, in the order of `commands_for`."""
    return [
        *(Acquire(gpu, "more") for gpu in gpus),
        *(CreateInstance(Instance(gpu, gpu, 80.0), "more") for gpu in gpus),
        *(StartReplicas(gpu, ("a",), (DEFERRED,), "more") for gpu in gpus),
    ]


def taken(instances: list[str], gpu: str) -> list[Command]:
    """Give up a GPU with these instances."""
    gone: list[Command] = []
    for key in instances:
        gone += [Drain(key, ("a",), "less"), StopReplicas(key, ("a",), "less"), DestroyInstance(key, "less")]
    return [*gone, Release(gpu, "less")]


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (
            [SetRoutes((), (), "less"), *taken(["gpu05"], "gpu05")],
            "SetRoutes; Drain, StopReplicas, DestroyInstance and Release gpu05: less",
        ),
        (
            [*added("gpu1", "gpu2"), SetRoutes((), (), "more")],
            "Acquire, CreateInstance and StartReplicas gpu1, gpu2; SetRoutes: more",
        ),
        (added("g0", "g1", "g2", "g3"), "Acquire, CreateInstance and StartReplicas g0, g1, g2, g3: more"),
        (added(*(f"g{n}" for n in range(11))), "Acquire, CreateInstance and StartReplicas g0, g1, g2 and 8 more: more"),
        (taken(["g/0", "g/4"], "g"), "Drain, StopReplicas and DestroyInstance g/0, g/4; Release g: less"),
        (
            [*taken(["g1"], "g1"), *added("g2")],
            "Drain, StopReplicas, DestroyInstance and Release g1: less\n"
            "    Acquire, CreateInstance and StartReplicas g2: more",
        ),
        ([Drain("g1", ("a",), "less")], "Drain g1: less"),
    ],
)
def test_commands_to_the_same_targets_are_named_together(commands: list[Command], said: str) -> None:
    document = decision_document(replace(ACTED, commands=tuple(commands)))
    assert f"Commanded:\n    {said}\nWeighed by" in explain(document, run="x")


def test_a_decision_that_found_nothing_to_do() -> None:
    said = explain(decision_document(HELD), run="static")
    assert "nothing to do, 1 GPU kept." in said
    assert "Expected: nothing, there was no forecast yet." in said
    assert "Suggested: nothing: no plugin had an opinion." in said
    assert "Rehearsed: nothing: there was no candidate." in said
    assert "Commanded: nothing." in said


def test_what_was_not_rehearsed_is_not_said_to_have_answered_anything() -> None:
    unknown = replace(STANDING, attainment=None, worst_service="")
    said = explain(decision_document(replace(ACTED, candidates=(unknown,))), run="static")
    assert "    standing: 6 GPUs, not rehearsed, costs 1.000\n" in said


def test_dates_are_shown_as_dates() -> None:
    assert "at 2023-11-16 18:15:46:" in explain(decision_document(replace(ACTED, at_s=1_700_158_546.0)), run="live")


def test_the_last_that_acted_is_the_one_to_explain() -> None:
    acted, held = decision_document(ACTED), decision_document(HELD)
    assert default_decision([acted, held]) is acted
    assert default_decision([held]) is held
    assert default_decision([]) is None


def test_a_list_has_a_line_for_each() -> None:
    kept = replace(HELD, tick=706, reason="the standing plan meets every target")
    assert list(list_decisions(map(decision_document, (ACTED, HELD, kept)))) == [
        "    704       1:57:20  act       6 → 5 GPUs  symphony: 5 GPUs meets every target in rehearsal",
        "    705       1:57:20  hold           1 GPU  standing: nothing saves enough",
        "    706       1:57:20  hold           1 GPU  the standing plan meets every target",
    ]


@pytest.mark.parametrize("decision", [ACTED, HELD])
def test_a_decision_survives_json(decision: Decision) -> None:
    document = decision_document(decision)
    assert explain(json.loads(json.dumps(document, allow_nan=False)), run="x") == explain(document, run="x")
