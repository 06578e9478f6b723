"""What an answer may be, hook by hook."""

from __future__ import annotations

from enum import StrEnum
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.mig import Geometry, Placed
from partita.model.plan import Batching, Batchings, Capacity, Geometries, Placement, Proposal, Shares
from partita.plugins.answers import SUGGESTIONS, Nonsense, Scope, check_proposal, check_terms, check_veto, plain
from partita.plugins.kit import example_inventory, example_services

SCOPE = Scope.of(example_services(2), example_inventory(2))
A, B = "service-0", "service-1"


class Colour(StrEnum):
    RED = "red"


def checked(hook: str, suggestion: Any, reason: Any = "because", memory: Any = None) -> Proposal:
    return check_proposal(hook, Proposal(suggestion, reason, memory), SCOPE)


GOOD = [
    ("propose_capacity", Capacity(3, (2, 4)), Capacity(3, (2, 4))),
    ("propose_capacity", Capacity(np.int64(3), [np.int32(2)]), Capacity(3, (2,))),  # type: ignore[arg-type]
    ("propose_geometry", Geometries((("gpu-0", None),)), Geometries((("gpu-0", None),))),
    ("propose_shares", Shares(((A, "whole", 40),)), Shares(((A, "whole", 40.0),))),
    ("propose_batching", Batchings(((B, Batching("eager")),)), Batchings(((B, Batching("eager")),))),
    ("propose_placement", Placement((((A, B), 1),)), Placement((((A, B), 1.0),))),
    ("propose_placement", Placement((((A,), 1.0), ((A, B), 2.0))), Placement((((A,), 1.0), ((A, B), 2.0)))),
]


@pytest.mark.parametrize(("hook", "given", "kept"), GOOD)
def test_good_answers_are_kept_as_plain_values(hook: str, given: Any, kept: Any) -> None:
    suggestion = checked(hook, given).suggestion
    assert suggestion == kept
    assert repr(suggestion) == repr(kept)  # numpy's numbers compare equal but read otherwise


BAD = [
    ("propose_capacity", Capacity(2.0), "gives 2.0 as a number of GPUs, not a whole number"),  # type: ignore[arg-type]
    ("propose_capacity", Capacity(1, (-1,)), "-1 is no number of GPUs"),
    ("propose_capacity", Capacity(1, tuple(range(33))), "has 33 alternatives, 32 are allowed"),
    ("propose_capacity", Capacity(1, 5), "gives 5 as alternatives"),  # type: ignore[arg-type]
    ("propose_capacity", Shares(()), "suggests a Shares; propose_capacity suggests Capacity"),
    ("propose_geometry", Geometries((("gpu-9", None),)), "unknown GPU 'gpu-9'"),
    ("propose_geometry", Geometries((("gpu-0", None), ("gpu-0", None))), "the GPU 'gpu-0' twice"),
    ("propose_geometry", Geometries((("gpu-0", "7x1g.10gb"),)), "gives '7x1g.10gb' as the geometry"),  # type: ignore[arg-type]
    ("propose_geometry", Geometries((("gpu-0",),)), "not a tuple of 2"),  # type: ignore[arg-type]
    ("propose_shares", Shares((("x", "whole", 40.0),)), "unknown service 'x'"),
    ("propose_shares", Shares(((A, "whole", 0.0),)), "0 is no GPU%"),
    ("propose_shares", Shares(((A, "whole", 100.5),)), "100.5 is no GPU%"),
    ("propose_shares", Shares(((A, "whole", nan),)), "nan, not a finite number"),
    ("propose_shares", Shares(((A, "", 5.0),)), "gives '' as a profile"),
    ("propose_batching", Batchings(((A, Batching("")),)), "gives '' as the discipline"),
    ("propose_batching", Batchings(((A, Batching("timeout", -0.1)),)), "-0.1 s, below 0"),
    ("propose_batching", Batchings(((A, Batching("timeout", inf)),)), "inf, not a finite number"),
    ("propose_batching", Batchings(((A, Batching("timeout", 0.1, 0)),)), "the max batch of service-0 is 0"),
    ("propose_batching", Batchings(((A, Batching("x", options=(("k", None),))),)), "option k is None"),  # type: ignore[arg-type]
    ("propose_batching", Batchings((), (((A, Batching("eager")),) * 2,)), "'service-0' twice"),
    ("propose_batching", Batchings((), ((("x", Batching("eager")),),)), "unknown service 'x'"),
    ("propose_batching", Batchings((), ((),) * 33), "33 alternatives, 32 are allowed"),
    ("propose_batching", Batchings((), firm=1), "1 for firm"),  # type: ignore[arg-type]
    ("propose_batching", Batchings(((A, "eager"),)), "gives 'eager' as the batching"),  # type: ignore[arg-type]
    ("propose_placement", Placement((((), 1.0),)), "a group without services"),
    ("propose_placement", Placement((((A, A), 1.0),)), "'service-0' twice"),
    ("propose_placement", Placement((((A,), -1.0),)), "the weight -1"),
    ("propose_placement", Placement((((A,), True),)), "weight is True"),
]


@pytest.mark.parametrize(("hook", "suggestion", "problem"), BAD)
def test_nonsense_is_refused_in_words(hook: str, suggestion: Any, problem: str) -> None:
    with pytest.raises(Nonsense) as refused:
        checked(hook, suggestion)
    assert problem in str(refused.value)


ODD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(4000, 6000).map(lambda digits: -(10**digits)),
        st.floats(),
        st.text(max_size=3),
        st.sampled_from([A, "gpu-0", "whole", np.float32(nan), np.int8(1), 1j, b"x", object(), Batching("x", nan)]),
    ),
    lambda part: st.lists(part, max_size=3) | st.lists(part, max_size=3).map(tuple) | st.sets(st.integers()),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(SUGGESTIONS)), ODD, ODD, ODD)
def test_whatever_is_answered_is_either_kept_or_refused(hook: str, one: Any, other: Any, memory: Any) -> None:
    kind, _ = SUGGESTIONS[hook]
    suggestion = Capacity(one, other) if kind is Capacity else kind(one)
    try:
        kept = checked(hook, suggestion, memory=memory)
    except Nonsense:
        return
    assert checked(hook, kept.suggestion, memory=kept.memory) == kept or "nan" in repr(kept.memory)


def test_every_hook_refuses_the_wrong_type() -> None:
    for hook in SUGGESTIONS:
        answers: list[object] = [3, "three GPUs", Capacity(1), [], object]
        for answer in answers:
            with pytest.raises(Nonsense, match="instead of a Proposal or None"):
                check_proposal(hook, answer, SCOPE)


def test_a_geometry_that_the_gpu_does_not_allow_is_refused() -> None:
    impossible = Geometry("A100-80GB", (Placed(0, "7g.80gb"), Placed(0, "7g.80gb")))
    with pytest.raises(Nonsense, match="GPU gpu-0"):
        checked("propose_geometry", Geometries((("gpu-0", impossible),)))


@pytest.mark.parametrize(("reason", "problem"), [("", "no reason"), (" \n", "no reason"), (None, "not text")])
def test_a_reason_is_needed(reason: Any, problem: str) -> None:
    with pytest.raises(Nonsense, match=problem):
        checked("propose_capacity", Capacity(1), reason)


def test_a_reason_becomes_one_printable_line() -> None:
    assert checked("propose_capacity", Capacity(1), "two\nlines\x00 and\ta bell\a").reason == "two lines and a bell"


def test_memory_is_copied_as_plain_data() -> None:
    memory: dict[Any, Any] = {"rates": [1, 2.5, np.float64(3)], "seen": (True, None), 4: Colour.RED, "n": np.int64(7)}
    kept: Any = plain(memory)
    assert kept == {"rates": [1, 2.5, 3.0], "seen": (True, None), 4: "red", "n": 7}
    assert repr(kept) == "{'rates': [1, 2.5, 3.0], 'seen': (True, None), 4: 'red', 'n': 7}"
    memory["rates"].append(9)
    assert kept["rates"] == [1, 2.5, 3.0]


def endless() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("memory", "problem"),
    [
        (object(), "keeps a object in its memory"),
        ({"a": {1, 2}}, "keeps a set in its memory"),
        ([np.zeros(3)], "keeps a ndarray in its memory"),
        ({None: 1}, "uses None as a key"),
        (endless(), "deeper than 32 levels"),
        ([0] * 100_001, "more than 100000 values"),
    ],
)
def test_memory_that_is_not_plain_data_is_refused(memory: Any, problem: str) -> None:
    with pytest.raises(Nonsense, match=problem):
        checked("propose_capacity", Capacity(1), memory=memory)


def test_vetoes_and_terms() -> None:
    assert check_veto(" not today ") == "not today"
    assert check_terms({"b": 1, "a": np.float32(0.5)}) == {"a": 0.5, "b": 1.0}
    for veto in (True, "", 0):
        with pytest.raises(Nonsense):
            check_veto(veto)
    for terms in ([1], {"a": True}, {"a": nan}, {"a": 2e9}, {"": 1.0}, {1: 1.0}):
        with pytest.raises(Nonsense):
            check_terms(terms)
