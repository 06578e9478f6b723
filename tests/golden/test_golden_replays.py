"""Small replays whose scores are kept: any change of a number must be meant.

After a change that is meant, renew the kept scores and read their difference before committing it::

    PARTITA_RENEW_GOLDEN=1 python -m pytest tests/golden
    git diff tests/golden
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from partita.controller.config import Scenario
from partita.controller.run import run_scenario
from partita.model.plain import to_plain

HERE = Path(__file__).parent
RENEW = os.environ.get("PARTITA_RENEW_GOLDEN") == "1"
LAST_DIGITS = 1e-9
"""Relative difference that other libraries' arithmetic may make."""


def replay(name: str) -> dict[str, Any]:
    """Return the scores of a scenario, and what acted, by policy."""
    scenario = Scenario.load(HERE / f"{name}.yaml")
    result = {}
    policies: list[str | None] = [*scenario.policy_options()]
    for policy in policies or [None]:
        run = run_scenario(scenario, policy=policy, seed=scenario.seed)
        acted = [f"{d.at_s:g} s: {d.gpus_held} to {d.gpus_wanted} GPUs" for d in run.decisions if d.commands]
        result[policy or "fixed"] = {"score": to_plain(run.score), "acted": acted}
    return result


def differences(kept: Any, found: Any, at: str = "") -> list[str]:
    """List, a line each, where two documents differ by more than the last digits."""
    if isinstance(kept, dict) and isinstance(found, dict):
        return [
            line
            for key in sorted({*kept, *found})
            for line in differences(kept.get(key, "nothing"), found.get(key, "nothing"), f"{at}.{key}".lstrip("."))
        ]
    if isinstance(kept, list) and isinstance(found, list):
        longest = range(max(len(kept), len(found)))
        pairs = [(kept[n] if n < len(kept) else "-", found[n] if n < len(found) else "-") for n in longest]
        return [line for n, pair in enumerate(pairs) for line in differences(*pair, f"{at}[{n}]")]
    if isinstance(kept, float) and isinstance(found, float) and found == pytest.approx(kept, rel=LAST_DIGITS):
        return []
    return [] if kept == found else [f"{at}: kept {kept}, now {found}"]


@pytest.mark.parametrize("name", ["measured", "controlled"])
def test_scores_are_those_kept(name: str) -> None:
    found, path = replay(name), HERE / f"{name}.json"
    if RENEW:
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    changed = differences(json.loads(path.read_text("utf-8")), found)
    assert not changed, f"{name}: {len(changed)} values changed\n" + "\n".join(changed)


def test_a_difference_is_told_by_its_place() -> None:
    kept = {"a": {"b": [1, 2.0], "c": "x"}, "d": 1}
    assert differences(kept, {"a": {"b": [1, 2.0 + 1e-12], "c": "x"}, "d": 1}) == []
    assert differences(kept, {"a": {"b": [1, 2.1, 3], "c": "y"}}) == [
        "a.b[1]: kept 2.0, now 2.1",
        "a.b[2]: kept -, now 3",
        "a.c: kept x, now y",
        "d: kept 1, now nothing",
    ]
