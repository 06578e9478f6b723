"""Audit lines: five fields are always there, and names of events are only ever added."""

from __future__ import annotations

import ast
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from partita.controller.live.audit import EVENTS, Audit

SHIPPED = (
    "clock",
    "command",
    "decision",
    "ended",
    "failed",
    "leading",
    "log",
    "order",
    "reload",
    "resumed",
    "standby",
    "started",
    "stopped",
    "trouble",
    "would",
)
"""What log collectors may rely on. Add to it; never take away."""
ALWAYS = {"event", "at", "cluster", "holder", "term"}
FOLDER = Path(__file__).parents[2]


def told(event: str, details: dict[str, object] | None = None, *, term: int = 4) -> dict[str, object]:
    stream = io.StringIO()
    audit = Audit("inference", "host:1", stream=stream)
    audit.term = term
    audit.tell(event, details)
    line = stream.getvalue()
    assert line.startswith("AUDIT ")
    assert line.count("\n") == 1
    found: dict[str, object] = json.loads(line.removeprefix("AUDIT "))
    return found


def test_no_event_is_ever_renamed_or_removed() -> None:
    assert set(SHIPPED) <= set(EVENTS)
    assert set(EVENTS) == set(SHIPPED), "add new events to this test, to the manual and to EVENTS together"
    assert len(EVENTS) == len(set(EVENTS))


@pytest.mark.parametrize("event", EVENTS)
def test_five_fields_stand_in_every_line(event: str) -> None:
    before = datetime.now(UTC)
    line = told(event)
    assert set(line) == ALWAYS
    assert (line["event"], line["cluster"], line["holder"], line["term"]) == (event, "inference", "host:1", 4)
    at = datetime.fromisoformat(str(line["at"]))
    assert at.tzinfo is not None
    assert (before - at).total_seconds() < 0.001, "told in whole milliseconds"


def test_details_stand_beside_them_in_one_line() -> None:
    line = told("trouble", {"reason": "two\nlines", "gone": float("inf")})
    assert set(line) == ALWAYS | {"reason", "gone"}
    assert (line["reason"], line["gone"]) == ("two\nlines", "inf")


def test_an_event_that_is_not_listed_cannot_be_told() -> None:
    with pytest.raises(AssertionError, match="vanished"):
        told("vanished")


def test_what_the_controller_tells_is_listed() -> None:
    """Every name that the live controller's code gives to `tell` or `_told` is one of the events."""
    named = set()
    for file in sorted((FOLDER / "controller/live").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            first = node.args[0]
            is_told = node.func.attr in ("tell", "_told") and isinstance(first, ast.Constant)
            if is_told and isinstance(first, ast.Constant) and isinstance(first.value, str):
                named.add(first.value)
    assert {"decision", "leading", "started"} <= named
    assert named <= set(EVENTS)


def test_every_event_is_in_the_manual() -> None:
    page = (FOLDER / "docs/run.md").read_text("utf-8")
    for event in EVENTS:
        assert f"| `{event}` |" in page, f"docs/run.md does not name {event}"
