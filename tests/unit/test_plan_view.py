"""A plan in words, the difference of two plans, and what became of their commands."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from miniature import MODEL, cut

from partita.controller.planview import (
    Difference,
    counted_of,
    difference,
    difference_lines,
    is_failed,
    outcome,
    plan_lines,
    story_document,
    story_lines,
)
from partita.model.cluster import Batching, Gpu, Instance, Route, SubCluster, instances_of
from partita.model.plain import to_json
from partita.model.plan import HeldGpu, Plan, same
from partita.store.operators import CommandRecord, EventRecord

EAGER, PATIENT = Batching("eager"), Batching("timeout", 0.02, 8)
HALVES = cut("2x3g.40gb")
GPUS = [Gpu(f"gpu{n}", MODEL, 80.0) for n in range(12)]
WHOLE = [instances_of(gpu, None)[0] for gpu in GPUS]
LOW, HIGH = instances_of(GPUS[1], HALVES)
ONE = Plan(
    (HeldGpu("gpu0"), HeldGpu("gpu1", HALVES)),
    (
        SubCluster("large", (WHOLE[0],), ("a", "b", "c"), (EAGER, EAGER, PATIENT)),
        SubCluster("small", (LOW, HIGH), ("a",), (EAGER,)),
    ),
    (
        Route("a", "small", up_to_size=64.0),
        Route("a", "large", weight=0.75),
        Route("a", "small", weight=0.25),
        Route("b", "large"),
        Route("c", "large"),
    ),
    "two will do",
)
OTHER = Plan(
    (HeldGpu("gpu1"), HeldGpu("gpu2")),
    (SubCluster("large", (replace(WHOLE[1], gpu_percent=50.0), WHOLE[2]), ("a", "b", "c"), (EAGER, PATIENT, PATIENT)),),
    tuple(Route(s, "large") for s in "abc"),
    "whole ones",
)


def test_a_plan_in_words() -> None:
    assert list(plan_lines(ONE)) == [
        "Holds 2 GPUs: gpu0 whole; gpu1 as 3g.40gb@0,3g.40gb@4.",
        "Sub-cluster large: 1 instance (gpu0).",
        "    a, b: eager",
        "    c: timeout, waits at most 20 ms, at most 8 a batch",
        "Sub-cluster small: 2 instances (gpu1/3g.40gb@0, gpu1/3g.40gb@4).",
        "    a: eager",
        "Routes: a to small up to size 64, large (75 %), small (25 %); b, c to large.",
    ]


def test_of_many_names_the_last_are_counted() -> None:
    plan = Plan(tuple(HeldGpu(g.id) for g in GPUS), (), ())
    assert list(plan_lines(plan)) == [
        "Holds 12 GPUs: gpu0, gpu1, gpu2, gpu3, gpu4, gpu5, gpu6 and 5 more whole.",
        "Routes: none.",
    ]


def test_an_empty_plan_is_said_too() -> None:
    assert list(plan_lines(Plan((), (), ()))) == ["Holds 0 GPUs.", "Routes: none."]


def test_a_plan_differs_from_itself_in_nothing_whatever_its_reason() -> None:
    renamed = replace(ONE, reason="another")
    assert same(ONE, renamed)
    assert not difference(ONE, renamed)
    assert list(difference_lines(difference(ONE, renamed))) == ["No difference."]
    assert not same(ONE, OTHER)


def test_a_difference_names_everything_that_changes() -> None:
    found = difference(ONE, OTHER)
    assert found == Difference(
        taken=("gpu2",),
        given_back=("gpu0",),
        recut={"gpu1": ("3g.40gb@0,3g.40gb@4", "whole")},
        replicas={"a": (3, 2), "b": (1, 2), "c": (1, 2)},
        started=dict.fromkeys("abc", ("gpu1", "gpu2")),
        stopped={"a": ("gpu0", LOW.id, HIGH.id), "b": ("gpu0",), "c": ("gpu0",)},
        batching={"b": ("eager", "timeout, waits at most 20 ms, at most 8 a batch")},
        routes=(
            "a to small up to size 64, large (75 %), small (25 %); b, c to large",
            "a, b, c to large",
        ),
    )
    assert list(difference_lines(found)) == [
        "takes 1 GPU: gpu2",
        "gives back 1 GPU: gpu0",
        "cuts gpu1 otherwise: 3g.40gb@0,3g.40gb@4 → whole",
        "a: 3 → 2 replicas, starts on gpu1, gpu2, leaves gpu0, gpu1/3g.40gb@0, gpu1/3g.40gb@4",
        "b: 1 → 2 replicas, starts on gpu1, gpu2, leaves gpu0",
        "c: 1 → 2 replicas, starts on gpu1, gpu2, leaves gpu0",
        "batches b otherwise: eager → timeout, waits at most 20 ms, at most 8 a batch",
        "routes otherwise: a to small up to size 64, large (75 %), small (25 %); b, c to large → a, b, c to\n    large",
    ]


def test_shares_and_moves_between_instances_are_differences() -> None:
    def on(instance: Instance) -> Plan:
        return Plan((HeldGpu("gpu0"),), (SubCluster("x", (instance,), ("a",), (EAGER,)),), (Route("a", "x"),))

    found = difference(on(WHOLE[0]), on(replace(WHOLE[0], gpu_percent=40.0)))
    assert found == Difference(shares={"gpu0": (100.0, 40.0)})
    assert list(difference_lines(found)) == ["gives gpu0 another share: 100 → 40 % of the GPU"]
    moved = difference(on(WHOLE[0]), on(WHOLE[1]))
    assert list(difference_lines(moved)) == ["a: starts on gpu1, leaves gpu0"]


def test_a_service_that_comes_and_one_that_goes() -> None:
    def of(service: str) -> Plan:
        return Plan((HeldGpu("gpu0"),), (SubCluster("x", (WHOLE[0],), (service,), (EAGER,)),), (Route(service, "x"),))

    assert list(difference_lines(difference(of("a"), of("b")))) == [
        "a: 1 → 0 replicas, leaves gpu0",
        "b: 0 → 1 replica, starts on gpu0",
        "routes otherwise: a to x → b to x",
    ]


# What became of commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counted", "in_force", "said"),
    [
        ({("done", False): 3}, True, "done, 3 commands"),
        ({("done", False): 1}, False, "done, 1 command"),
        (
            {("done", False): 1, ("claimed", False): 1, ("written", False): 2},
            True,
            "being carried out, 1 of 4 commands done",
        ),
        ({("done", False): 1, ("written", False): 2}, False, "given up for a later plan, 1 of 3 commands done"),
        ({("undone", False): 2, ("failed", False): 1, ("done", True): 2}, True, "failed and undone"),
        ({("failed", False): 1}, False, "failed and undone"),
        ({("undone", False): 1, ("failed", False): 1, ("written", True): 1}, False, "failed, being undone"),
        ({("failed", False): 1, ("failed", True): 1}, False, "failed, and undoing it failed too"),
    ],
)
def test_outcomes(counted: dict[tuple[str, bool], int], in_force: bool, said: str) -> None:
    assert outcome(counted, in_force=in_force) == said
    assert is_failed(counted) == said.startswith("failed")


AT = datetime(2026, 11, 25, 12, 0, 0, 250_000, UTC)


def event(
    what: str, *, after_s: float = 0.0, attempt: int = 1, problem: str | None = None, term: int = 4
) -> EventRecord:
    return EventRecord(attempt, term, what, AT + timedelta(seconds=after_s), None, problem)


def command(position: int, state: str, *events: EventRecord, undo: bool = False) -> CommandRecord:
    detail = {"gpu": "gpu2", "reason": "more"}
    return CommandRecord(position, "Acquire", "gpu2", "more", detail, state, 4, "h:1", None, None, undo, events)


STORY = [
    command(0, "done", event("started"), event("busy", after_s=1, problem="in use"),
            event("started", after_s=2, attempt=2), event("done", after_s=2.5)),
    command(1, "failed", event("started", after_s=3), event("failed", after_s=4, problem="no answer")),
    command(2, "claimed", event("started", after_s=3)),
    command(3, "claimed", event("started", after_s=3), event("busy", after_s=4, problem="in use")),
    command(4, "written"),
    command(5, "written", event("left", after_s=9, attempt=0, problem="the controller ended")),
    command(6, "done", event("done", after_s=9, attempt=2, problem="found done after a restart", term=5)),
    command(7, "done", event("started", after_s=9), event("done", after_s=10), undo=True),
]  # fmt: skip


def test_the_journal_tells_the_story() -> None:
    assert list(story_lines(STORY)) == [
        "   0  Acquire gpu2: done in 2.5 s",
        "          2026-11-25 12:00:00.250  started (term 4)",
        "          2026-11-25 12:00:01.250  busy: in use (term 4)",
        "          2026-11-25 12:00:02.250  started, try 2 (term 4)",
        "          2026-11-25 12:00:02.750  done (term 4)",
        "   1  Acquire gpu2: failed in 1 s",
        "          2026-11-25 12:00:03.250  started (term 4)",
        "          2026-11-25 12:00:04.250  failed: no answer (term 4)",
        "   2  Acquire gpu2: under way, by h:1",
        "          2026-11-25 12:00:03.250  started (term 4)",
        "   3  Acquire gpu2: to be tried again",
        "          2026-11-25 12:00:03.250  started (term 4)",
        "          2026-11-25 12:00:04.250  busy: in use (term 4)",
        "   4  Acquire gpu2: not begun yet",
        "   5  Acquire gpu2: handed over, not begun again yet",
        "          2026-11-25 12:00:09.250  left to the next controller: the controller ended (term 4)",
        "   6  Acquire gpu2: done",
        "          2026-11-25 12:00:09.250  done: found done after a restart (term 5)",
        "   7  Acquire gpu2 (takes back what was done): done in 1 s",
        "          2026-11-25 12:00:09.250  started (term 4)",
        "          2026-11-25 12:00:10.250  done (term 4)",
    ]


def test_the_story_as_plain_data() -> None:
    found = story_document(STORY)
    to_json(found)
    assert [c["state"] for c in found] == [c.state for c in STORY]
    assert found[0]["events"][1] == {
        "attempt": 1,
        "term": 4,
        "event": "busy",
        "at": "2026-11-25T12:00:01.250+00:00",
        "seen": None,
        "problem": "in use",
    }
    assert counted_of(STORY)["done", True] == 1
