"""Finding plugins: entry points, broken ones, subsets by name; and `partita plugins`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partita.controller.cli import main
from partita.errors import ConfigError
from partita.hookspecs import hookimpl
from partita.plugins.discovery import describe, discover
from partita.plugins.host import PluginHost

GOOD = """
from partita.hookspecs import hookimpl
from partita.model.plan import Capacity, Proposal

@hookimpl
def propose_capacity(inventory):
    return Proposal(Capacity(len(inventory)), "all of them")
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay a distribution out as pip would, on a path of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PARTITA_PLUGINS", raising=False)

    def lay_out(distribution: str, entry: str, module: str, body: str, version: str = "1.2.3") -> None:
        info = tmp_path / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[partita]\n{entry} = {module}\n")
        (tmp_path / f"{module}.py").write_text(body)

    return lay_out


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    main(["plugins", "list", "--json"])
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_built_in_plugins_are_found_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARTITA_PLUGINS", raising=False)
    found = {p.name: p for p in discover().plugins}
    assert {"static", "reactive"} <= set(found)
    assert found["static"].builtin
    assert found["static"].locator == "partita.plugins.static"
    assert tuple(found["static"].hooks) == ("check_options", "propose_capacity")


def test_an_installed_plugin_is_listed_with_version_and_hooks(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("acme-policy", "acme", "acme_listed", GOOD)
    assert listed(capsys)["acme"] == {
        "name": "acme",
        "version": "1.2.3",
        "distribution": "acme-policy",
        "hooks": ["propose_capacity"],
        "status": "ok",
        "problem": "",
    }
    main(["plugins", "list"])
    assert "acme" in capsys.readouterr().out
    main(["plugins", "check", "acme"])
    assert capsys.readouterr().out == "acme: no problems found.\n"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit('not today')", "SystemExit: not today"),
        ("def broken(:", "SyntaxError"),
        ("x = 1", "implements no hook"),
        (GOOD.replace("propose_capacity", "propose_everything"), "unknown hook 'propose_everything'"),
        (GOOD.replace("(inventory)", "(gpus)"), "gpus"),
        (GOOD.replace("y(inventory)", "y(inventory, *, gpus)"), "has no argument gpus; it has: services, inventory"),
        (GOOD.replace("@hookimpl", "@hookimpl(wrapper=True)").replace("return", "yield"), "wrapper"),
        (GOOD.replace("def ", "async def "), "propose_capacity is a coroutine"),
    ],
)
def test_a_broken_plugin_is_named_and_harms_nobody(
    install: Install, capsys: pytest.CaptureFixture[str], body: str, problem: str, request: pytest.FixtureRequest
) -> None:
    number = request.node.callspec.indices["body"]
    install("acme-policy", "acme", f"acme_broken_{number}", body)
    rows = listed(capsys)
    assert rows["acme"]["status"] == "broken"
    assert problem in rows["acme"]["problem"]
    assert rows["static"]["status"] == "ok"
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "check", "acme"])
    assert ended.value.code == 1
    assert problem in capsys.readouterr().out
    with pytest.raises(ConfigError, match="the plugin 'acme' could not be loaded"):
        PluginHost.load().require(["acme"])


def test_a_name_that_is_taken_goes_to_the_built_in_one(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("acme-policy", "static", "acme_static", GOOD)
    main(["plugins", "list", "--json"])
    rows = [row for row in json.loads(capsys.readouterr().out) if row["name"] == "static"]
    assert [(r["distribution"], r["status"]) for r in rows] == [("partita", "ok"), ("acme-policy", "broken")]
    assert rows[1]["problem"] == "its name is taken by the plugin of partita"


def test_arguments_with_defaults_and_any_keywords_are_filled() -> None:
    class Takes:
        @hookimpl
        def propose_capacity(self, services: Any, memory: Any = None, mine: int = 3) -> None: ...

        @hookimpl
        def veto(self, **everything: Any) -> None: ...

    hooks = describe("takes", Takes()).hooks
    assert hooks["propose_capacity"].arguments == ("services", "memory")
    assert hooks["veto"].arguments == ("candidate", "standing", "observation", "options")


def test_the_variable_loads_a_subset_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITA_PLUGINS", " static ,reactive,")
    assert PluginHost.load().names() == ("reactive", "static")
    assert PluginHost.load(["static"]).names() == ("static",)  # an argument beats the variable
    monkeypatch.setenv("PARTITA_PLUGINS", "")
    assert PluginHost.load().names() == ()


def test_an_unknown_name_ends_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARTITA_PLUGINS", "static,nope")
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "list"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: PARTITA_PLUGINS: no plugin is named 'nope'; installed: ")
    assert error.count("\n") == 1
