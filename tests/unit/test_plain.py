"""Plain data: only what JSON holds, and the same text for the same value."""

import json
from dataclasses import dataclass
from enum import IntEnum
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

from partita.model.cluster import Status
from partita.model.plain import to_json, to_plain
from partita.model.plan import Batching, Route


class Level(IntEnum):
    LOW = 1


@dataclass(frozen=True)
class Slotless:
    b: object
    a: object


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.1, 0.1),
        ("é", "é"),
        ((1, (2,)), [1, [2]]),
        ({"b": 1, "a": {2: None}}, {"a": {"2": None}, "b": 1}),
        (frozenset({"y", "x"}), ["x", "y"]),
        (Status.READY, "ready"),
        (Level.LOW, 1),
        (Path("/a/b"), "/a/b"),
        (np.float64(0.5), 0.5),
        (np.int32(7), 7),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]], np.int16), [[1, 2], [3, 4]]),
        (np.array([0.5, nan]), [0.5, "nan"]),
        (inf, "inf"),
        (-inf, "-inf"),
        (Slotless(1, {"x": (None,)}), {"b": 1, "a": {"x": [None]}}),
        (Route("s", "g"), {"service": "s", "sub_cluster": "g", "up_to_size": "inf", "weight": 1.0}),
        (
            Batching("deferred", options=(("drop", "window"),)),
            {"discipline": "deferred", "timeout_s": 0.0, "max_batch": None, "options": [["drop", "window"]]},
        ),
    ],
)
def test_becomes_plain_and_survives_json(value: object, plain: object) -> None:
    found = to_plain(value)
    assert found == plain
    assert type(found) is type(plain)
    assert json.loads(to_json(value)) == plain


def test_order_of_keys_and_members_does_not_show() -> None:
    assert to_json({"b": {3, 1, 2}, "a": 0}) == to_json({"a": 0, "b": {2, 3, 1}}) == '{"a":0,"b":[1,2,3]}'


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="a object cannot be written as plain data"):
        to_plain({"x": [object()]})
