"""docs/plugins.md keeps up with the hooks."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from partita.plugins import reactive, symphony, tuner
from partita.plugins.alarm import LIMIT_S
from partita.plugins.discovery import specification
from partita.plugins.host import BENCH_TICKS, BENCH_TICKS_CAP, HOOKS
from partita.plugins.sizing import UTILISATION

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "plugins.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_the_reference_has_exactly_the_hooks_there_are() -> None:
    assert sorted(SECTIONS) == sorted(HOOKS)
    assert len(HOOKS) == 12


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_shown_with_its_arguments(hook: str) -> None:
    assert f"`{hook}({', '.join(specification(hook))})` → " in SECTIONS[hook]
    assert len(SECTIONS[hook].strip().splitlines()) > 2


def test_arguments_are_explained_where_they_first_occur() -> None:
    for argument in specification("propose_capacity"):
        assert f"\n- `{argument}`: " in SECTIONS["propose_capacity"]


def test_numbers_are_those_of_the_code() -> None:
    assert f"benched for {BENCH_TICKS} ticks" in TEXT
    assert f"up to {BENCH_TICKS_CAP} ticks" in TEXT
    assert f"`utilisation` ({UTILISATION})" in TEXT
    for policy, plugin in (("reactive", reactive), ("symphony", symphony), ("tuner", tuner)):
        [paragraph] = re.findall(rf"^`{policy}` .*?(?=\n\n|\Z)", TEXT, re.MULTILINE | re.DOTALL)
        for field in fields(plugin.Settings):
            assert re.search(rf"`{field.name}` \({field.default:g}[,)]", paragraph), field.name
    assert f"`--plugin-timeout` ({LIMIT_S:g} s unless set)" in TEXT


@pytest.mark.parametrize("language", ["python", "toml"])
def test_the_readmes_plugin_is_the_guides(language: str) -> None:
    block = re.compile(rf"```{language}\n(.*?)```", re.DOTALL)
    [shown], guide = block.findall((ROOT / "README.md").read_text()), block.search(TEXT)
    assert guide is not None
    assert shown == guide[1]
