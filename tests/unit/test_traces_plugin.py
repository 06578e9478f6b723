"""The reader shown in docs/traces.md works as a plugin brings it."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from partita.controller import tracefiles
from partita.errors import TraceError
from partita.plugins.host import PluginHost
from partita.traces.summary import summarise

DOCUMENT = Path(__file__).parents[2] / "docs" / "traces.md"


@pytest.fixture
def documented(monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    plugin = ModuleType("documented")
    exec(code, plugin.__dict__)
    host = PluginHost.of({"documented": plugin})
    monkeypatch.setattr(tracefiles.PluginHost, "load", lambda: host)


@pytest.mark.usefixtures("documented")
def test_the_documented_reader_is_found_and_reads(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"at_ms": 1000, "tokens": 5}\n{"at_ms": 1500, "tokens": 7}\n')
    reader = tracefiles.choose_reader(path)
    assert reader.name == "my-json"
    assert summarise(reader, path).requests.tolist() == [2]
    path.write_text('{"at_ms": 1000, "tokens": 5}\n{"at_ms": 1500}\n')
    with pytest.raises(TraceError, match="row 2: is not a request"):
        summarise(reader, path)
    assert tracefiles.known_readers()[0].name == "my-json"
