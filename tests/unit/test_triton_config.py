"""Batching and Triton's model configuration, both ways: what was set is read back, and nothing else is touched."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import product

import pytest

from partita.errors import Failed, Unsupported
from partita.executors.triton.batching import (
    Config,
    check_change,
    difference,
    knobs_of,
    next_config,
    noted_term,
    only_instances_differ,
    read_batching,
)
from partita.model.cluster import Batching

# As Triton 2.51.0 shows a model that it has loaded from a file with max_batch_size 8 and a delay of 20 ms.
SHOWN = """{"name":"a","platform":"","backend":"python","runtime":"","version_policy":{"latest":{"num_versions":1}},
"max_batch_size":8,"input":[{"name":"INPUT","data_type":"TYPE_FP32","format":"FORMAT_NONE","dims":[1],
"is_shape_tensor":false,"allow_ragged_batch":false,"optional":false,"is_non_linear_format_io":false}],
"output":[{"name":"BATCH","data_type":"TYPE_INT32","dims":[1],"label_filename":"","is_shape_tensor":false,
"is_non_linear_format_io":false}],"batch_input":[],"batch_output":[],"optimization":{"priority":"PRIORITY_DEFAULT",
"input_pinned_memory":{"enable":true},"output_pinned_memory":{"enable":true},"gather_kernel_buffer_threshold":0,
"eager_batching":false},"dynamic_batching":{"preferred_batch_size":[8],"max_queue_delay_microseconds":20000,
"preserve_ordering":false,"priority_levels":0,"default_priority_level":0,"priority_queue_policy":{}},
"instance_group":[{"name":"a_0","kind":"KIND_CPU","count":1,"gpus":[],"secondary_devices":[],"profile":[],
"passive":false,"host_policy":""}],"default_model_filename":"model.py","cc_model_filenames":{},"metric_tags":{},
"parameters":{"alpha_ms":{"string_value":"1"}},"model_warmup":[]}"""

OPTIONS = (
    (),
    (("instances", 1),),
    (("instances", 2),),
    (("instances", 2.0),),
    (("queue_policy", "none"), ("queue_timeout_ms", 30.0)),
    (("queue_policy", "reject"), ("queue_timeout_ms", 50)),
    (("gpu_choice", "earliest"), ("instances", 2), ("queue_policy", "reject"), ("turnaround_ms", 0.5)),
)
WISHES = [
    Batching(discipline, timeout_s, max_batch, options)
    for discipline, timeout_s, max_batch, options in product(
        ("timeout", "triton"), (0.0, 0.0012345678, 0.02), (None, 1, 8, 16), OPTIONS
    )
]


def shown() -> Config:
    config: Config = json.loads(SHOWN)
    return config


def batched(batching: Batching, *, term: int = 1) -> Config:
    return next_config(shown(), batching, term=term, slo_s=0.1)


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_what_was_set_is_read_back_the_same(wish: Batching) -> None:
    assert read_batching(batched(wish), slo_s=0.1) == wish


def test_every_batching_can_follow_every_other() -> None:
    config = shown()
    for step in range(1, len(WISHES), 37):
        for n in range(len(WISHES)):
            wish = WISHES[n * step % len(WISHES)]
            config = next_config(config, wish, term=1, slo_s=0.1)
            assert read_batching(config, slo_s=0.1) == wish
            # None means the file's largest batch, whatever was set in between.
            assert config["max_batch_size"] == (wish.max_batch or 8)
            assert next_config(config, wish, term=2, slo_s=0.1) is config


def test_a_batching_sets_these_fields_and_no_others() -> None:
    options = (("instances", 3), ("queue_policy", "reject"), ("queue_timeout_ms", 50.0))
    before, after = shown(), batched(Batching("triton", 0.0075, 16, options), term=4)
    expected = deepcopy(before)
    expected["max_batch_size"] = 16
    expected["instance_group"][0]["count"] = 3
    expected["dynamic_batching"] |= {
        "max_queue_delay_microseconds": 7500,
        "preferred_batch_size": [16],  # what the server fills in itself; another would delay batches below it
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": 50000,
            "allow_timeout_override": False,
            "max_queue_size": 0,
        },
    }
    own = {key: after["parameters"].pop(key)["string_value"] for key in list(after["parameters"]) if "partita" in key}
    assert after == expected
    assert (own["partita_discipline"], own["partita_term"], own["partita_file_max"]) == ("triton", "4", "8")
    assert before == shown()


def test_a_queue_limit_is_taken_off_again() -> None:
    limited = batched(Batching("timeout", 0.01, 8, (("queue_policy", "reject"),)))
    assert limited["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == 100_000  # the SLO
    free = next_config(limited, Batching("timeout", 0.01, 8), term=1)
    assert free["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == 0


def test_another_slo_is_another_configuration() -> None:
    wish = Batching("timeout", 0.01, 8, (("queue_policy", "reject"),))
    assert read_batching(batched(wish), slo_s=0.2) != wish
    moved = next_config(batched(wish), wish, term=1, slo_s=0.2)
    assert read_batching(moved, slo_s=0.2) == wish


def test_a_file_reads_as_the_timeout_discipline() -> None:
    assert read_batching(shown()) == Batching("timeout", 0.02)


@pytest.mark.parametrize(
    ("key", "change", "options"),
    [
        ("dynamic_batching", {"preferred_batch_size": [4, 8]}, (("preferred_batch_size", "4,8"),)),
        (
            "dynamic_batching",
            {"default_queue_policy": {"timeout_action": "DELAY", "default_timeout_microseconds": 9000}},
            (("queue_policy", "delay"), ("queue_timeout_ms", 9.0)),
        ),
    ],
)
def test_what_no_plan_can_ask_for_is_shown_and_put_right(key: str, change: Config, options: tuple[()]) -> None:
    config = shown()
    config[key] |= change
    assert read_batching(config) == Batching("timeout", 0.02, None, options)
    wish = Batching("timeout", 0.02)
    assert read_batching(next_config(config, wish, term=1)) == wish


def test_a_model_without_a_dynamic_batcher_gets_one() -> None:
    config = shown()
    del config["dynamic_batching"]
    assert read_batching(config).discipline == "none"
    assert read_batching(next_config(config, Batching("timeout"), term=1)) == Batching("timeout")


def test_a_change_by_hand_shows() -> None:
    wish = Batching("triton", 0.01, 16)
    config = batched(wish)
    config["dynamic_batching"]["max_queue_delay_microseconds"] = 777
    assert read_batching(config, slo_s=0.1) == Batching("triton", 0.000777, 16)
    assert read_batching(next_config(config, wish, term=2, slo_s=0.1), slo_s=0.1) == wish


@pytest.mark.parametrize("note", ["", "{", "[]", '{"discipline": 5}', '{"discipline": "deferred"}'])
def test_a_note_that_makes_no_sense_is_passed_over(note: str) -> None:
    config = batched(Batching("timeout", 0.01, 16))
    config["parameters"]["partita_batching"]["string_value"] = note
    assert read_batching(config) == Batching("timeout", 0.01, 16)


def test_only_the_number_of_model_instances_is_changed_alone() -> None:
    before = batched(Batching("timeout", 0.01, 8), term=3)
    more = next_config(before, Batching("timeout", 0.01, 8, (("instances", 2),)), term=4)
    assert only_instances_differ(before, more)
    assert noted_term(more) == 3  # a new one would make the server load the model anew
    other = next_config(before, Batching("timeout", 0.02, 8, (("instances", 2),)), term=4)
    assert not only_instances_differ(before, other)
    assert noted_term(other) == 4


def test_numbers_may_be_text_as_protobuf_writes_long_ones() -> None:
    wish = Batching("timeout", 0.01, 8, (("queue_policy", "reject"), ("queue_timeout_ms", 50.0)))
    config = batched(wish)
    config["dynamic_batching"]["max_queue_delay_microseconds"] = "10000"
    config["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] = "50000"
    assert read_batching(config) == wish


@pytest.mark.parametrize(
    ("batching", "words"),
    [
        (Batching("deferred"), "cannot batch as 'deferred'"),
        (Batching("timeout", -1.0), "not from 0 to a day"),
        (Batching("timeout", float("nan")), "not from 0 to a day"),
        (Batching("timeout", 0.0, 0), "largest batch is 0"),
        (Batching("timeout", options=(("instances", 1.5),)), "1.5, not a whole number"),
        (Batching("timeout", options=(("queue_policy", "drop"),)), "'drop', not none or reject"),
        (Batching("timeout", options=(("queue_policy", "reject"),)), "needs queue_timeout_ms"),
        (Batching("timeout", options=(("queue_policy", "reject"), ("queue_timeout_ms", 0))), "means none"),
        (Batching("timeout", options=(("window", 1),)), "no option window"),
    ],
)
def test_what_triton_cannot_do_is_unsupported(batching: Batching, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        next_config(shown(), batching, term=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_batch_size": 0}, "takes no batches"),
        ({"sequence_batching": {}}, "has sequence_batching"),
        ({"instance_group": [{"count": 1}, {"count": 1}]}, "2 instance groups"),
    ],
)
def test_models_that_cannot_be_batched_otherwise_are_refused(change: Config, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        next_config({**shown(), **change}, Batching("timeout", 0.5), term=1)


@pytest.mark.parametrize("key", ["name", "backend", "input", "output", "optimization"])
def test_a_configuration_that_lacks_a_field_is_not_sent(key: str) -> None:
    after = batched(Batching("timeout", 0.01, 16))
    del after[key]
    with pytest.raises(Failed, match=key):
        check_change(shown(), after)


def test_a_preferred_batch_above_the_largest_is_not_sent() -> None:
    after = batched(Batching("timeout", 0.01, 4))
    after["dynamic_batching"]["preferred_batch_size"] = [8]
    with pytest.raises(Failed, match="a preferred batch of 8 is larger than 4"):
        check_change(shown(), after)


def test_the_first_field_that_did_not_take_is_named() -> None:
    sent = batched(Batching("timeout", 0.01, 16))
    assert difference(sent, {**deepcopy(sent), "added_by_the_server": 1}) is None
    assert difference(sent, json.loads(json.dumps(sent).replace("10000", '"10000"'))) is None
    seen = deepcopy(sent)
    seen["instance_group"][0]["count"] = 5
    assert difference(sent, seen) == "instance_group[0].count is 5 where 1 was sent"
    del seen["dynamic_batching"]
    assert difference(sent, seen) == "dynamic_batching is None"


def test_fields_of_other_batchers_are_kept() -> None:
    config = shown()
    config["dynamic_batching"] |= {"preserve_ordering": True, "default_queue_policy": {"max_queue_size": 100}}
    after = next_config(config, Batching("timeout", 0.01, 16), term=1)["dynamic_batching"]
    assert (after["preserve_ordering"], after["default_queue_policy"]["max_queue_size"]) == (True, 100)
    assert knobs_of({**config, "dynamic_batching": after}).queue_action == ""
