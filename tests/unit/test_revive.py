"""Plain data read back is the value it was, and what cannot be that value is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import cut

from partita.model.cluster import ClusterState, Instance, InstanceState, Status
from partita.model.plain import to_json, to_plain
from partita.model.plan import (
    Acquire,
    Batching,
    Command,
    CreateInstance,
    DestroyInstance,
    Drain,
    HeldGpu,
    Plan,
    Release,
    Route,
    SetBatching,
    SetRoutes,
    SetShare,
    StartReplicas,
    StopReplicas,
    SubCluster,
)
from partita.model.revive import VERBS, command_from_plain, command_to_plain, from_plain

examples = settings(max_examples=50, deadline=None, database=None)

texts = st.text(max_size=6)
numbers = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.one_of(texts, finite, st.integers(), st.booleans())
batchings = st.builds(
    Batching,
    texts,
    numbers,
    st.none() | st.integers(),
    st.dictionaries(texts, values, max_size=3).map(lambda options: tuple(sorted(options.items()))),
)
instances = st.builds(Instance, texts, texts, numbers, texts, st.integers(0, 7), numbers)
held = st.builds(HeldGpu, texts, st.sampled_from([None, *map(cut, ("7x1g.10gb", "3g.40gb@0,3g.40gb@4"))]))
several = st.lists(texts, max_size=3, unique=True).map(tuple)
batched = st.lists(batchings, max_size=3).map(tuple)
sub_clusters = st.lists(
    st.builds(SubCluster, texts, st.lists(instances, max_size=2).map(tuple), several, batched), max_size=2
).map(tuple)
routes = st.lists(st.builds(Route, texts, texts, numbers, numbers), max_size=3).map(tuple)
plans = st.builds(Plan, st.lists(held, max_size=3).map(tuple), sub_clusters, routes, texts)
states = st.builds(
    InstanceState,
    instances,
    st.sampled_from(Status),
    several,
    several,
    several,
    st.dictionaries(texts, batchings, max_size=2),
)
clusters = st.builds(ClusterState, several, st.lists(states, max_size=2).map(tuple), sub_clusters, routes)
COMMANDS: Mapping[str, st.SearchStrategy[Command]] = {
    "Acquire": st.builds(Acquire, texts, texts),
    "Release": st.builds(Release, texts, texts),
    "CreateInstance": st.builds(CreateInstance, instances, texts),
    "DestroyInstance": st.builds(DestroyInstance, texts, texts),
    "SetShare": st.builds(SetShare, texts, numbers, texts),
    "StartReplicas": st.builds(StartReplicas, texts, several, batched, texts),
    "Drain": st.builds(Drain, texts, several, texts),
    "StopReplicas": st.builds(StopReplicas, texts, several, texts),
    "SetBatching": st.builds(SetBatching, texts, several, batched, texts),
    "SetRoutes": st.builds(SetRoutes, sub_clusters, routes, texts),
}


def through_json(value: object) -> Any:
    return json.loads(to_json(value))


def test_every_command_there_is_has_a_verb_and_is_tried_here() -> None:
    assert COMMANDS.keys() == VERBS.keys()


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_comes_back_from_json(verb: str) -> None:
    @examples
    @given(COMMANDS[verb])
    def comes_back(command: Command) -> None:
        found = command_from_plain(through_json(command_to_plain(command)))
        assert found == command
        assert type(found) is type(command)

    comes_back()


@examples
@given(plans)
def test_a_plan_comes_back_from_json(plan: Plan) -> None:
    found = from_plain(Plan, through_json(plan))
    assert found == plan
    assert to_json(found) == to_json(plan)


@examples
@given(clusters)
def test_a_cluster_comes_back_from_json(cluster: ClusterState) -> None:
    found = from_plain(ClusterState, through_json(cluster))
    assert found == cluster
    assert all(isinstance(state.status, Status) for state in found.instances)


@examples
@given(values)
def test_an_option_keeps_its_type(value: str | float | bool) -> None:
    found = from_plain(Batching, through_json(Batching("x", options=(("key", value),))))
    assert found.options == (("key", value),)
    assert type(found.options[0][1]) is type(value)


def test_what_is_not_said_has_its_default_and_whole_numbers_will_do() -> None:
    read = from_plain(Instance, {"id": "gpu0", "gpu": "gpu0", "memory_gib": 80})
    assert read == Instance("gpu0", "gpu0", 80.0)
    assert type(read.memory_gib) is float
    assert from_plain(Route, {"service": "a", "sub_cluster": "g", "up_to_size": "inf"}).up_to_size == inf
    assert from_plain(Batching, {"discipline": "eager", "max_batch": None}) == Batching("eager")


BATCHING = to_plain(Batching("eager"))
HELD = to_plain(HeldGpu("gpu0", cut("7x1g.10gb")))
STATE = to_plain(InstanceState(Instance("gpu0", "gpu0", 80.0), Status.READY))


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (Route, "a", "'a' is no Route"),
        (Route, {"service": "a"}, "sub_cluster"),
        (Route, {"service": "a", "sub_cluster": "g", "via": 1, "at": 2}, "a Route has no at, via"),
        (Route, {"service": None, "sub_cluster": "g"}, "None is no str"),
        (Route, {"service": "a", "sub_cluster": "g", "weight": True}, "True is no number"),
        (Route, {"service": "a", "sub_cluster": "g", "weight": [1.0]}, r"\[1.0\] is no number"),
        (Route, {"service": "a", "sub_cluster": "g", "weight": "much"}, "'much'"),
        (Instance, {"id": "i", "gpu": "g", "memory_gib": 1.0, "start": 0.5}, "0.5 is no int"),
        (Instance, {"id": "i", "gpu": "g", "memory_gib": 1.0, "start": True}, "True is no int"),
        (Batching, {**BATCHING, "max_batch": "8"}, "'8' is no int"),
        (Batching, {**BATCHING, "options": "drop"}, "'drop' is no sequence"),
        (Batching, {**BATCHING, "options": [["drop"]]}, "zip"),
        (Batching, {**BATCHING, "options": [["drop", None]]}, "None is none of"),
        (HeldGpu, {**HELD, "geometry": {"gpu": "A100-80GB"}}, "placements"),
        (Plan, {"gpus": [HELD], "sub_clusters": {}, "routes": []}, r"\{\} is no sequence"),
        (InstanceState, {**STATE, "status": "asleep"}, "'asleep' is not a valid Status"),
        (InstanceState, {**STATE, "batching": ["a"]}, r"\['a'\] is no mapping"),
    ],
)
def test_what_cannot_be_the_value_is_refused(kind: type[Any], value: object, problem: str) -> None:
    with pytest.raises((TypeError, ValueError), match=problem):
        from_plain(kind, value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"verb": "Repartition", "gpu": "gpu0", "reason": ""}, "no command is called 'Repartition'"),
        ({"gpu": "gpu0", "reason": ""}, "no command is called None"),
        ({"verb": "Acquire", "gpu": "gpu0", "reason": "", "geometry": None}, "an? Acquire has no geometry"),
        ({"verb": "Acquire", "gpu": "gpu0"}, "reason"),
        ({"verb": "Drain", "instance": "gpu0", "services": "ab", "reason": ""}, "'ab' is no sequence"),
    ],
)
def test_what_cannot_be_a_command_is_refused(value: Mapping[str, Any], problem: str) -> None:
    with pytest.raises((TypeError, ValueError), match=problem):
        command_from_plain(value)
