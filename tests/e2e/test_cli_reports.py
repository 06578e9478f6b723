"""Reports from the command: what they hold, and that asking for one changes no result."""

import json
import re
from pathlib import Path

import pytest

from partita.controller.cli.main import main

SCENARIO = """\
cluster:
  - {gpu: A100-80GB, count: 2}
services:
  - {name: resnet50, slo_ms: 25, memory_gib: 1.2, latency: {alpha_ms: 1.053, beta_ms: 5.072}}
  - {name: bert, slo_ms: 120, memory_gib: 2.5, latency: {alpha_ms: 4, beta_ms: 9}}
load:
  arrivals: {process: poisson, rate_rps: 300, warmup_s: 1, duration_s: 4}
  share: {resnet50: 0.8, bert: 0.2}
"""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("measure.yaml").write_text(SCENARIO)


def drawn(page: str) -> list[str]:
    return re.findall(r'draw\("(\w+)"', page)


def test_a_report_changes_no_result_and_says_how_to_run_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    main(("replay", "measure.yaml", "--quiet", "--json", "plain.json"))
    main(("replay", "measure.yaml", "--quiet", "--json", "with.json", "--report", "out.html"))
    plain, beside = (json.loads(Path(name).read_text("utf-8")) for name in ("plain.json", "with.json"))
    assert {**plain, "timing": 0} == {**beside, "timing": 0}
    page = Path("out.html").read_text("utf-8")
    assert drawn(page) == ["course", "services", "latency", "queue", "batches", "gpus0", "single0"]
    assert "partita replay measure.yaml --json with.json --report out.html --quiet" in page
    found = re.search(r"every default filled in</summary><pre>(.*?)</pre>", page, re.DOTALL)
    assert found
    Path("again.yaml").write_text(found[1].replace("&quot;", '"'))
    main(("replay", "again.yaml", "--quiet", "--json", "again.json"))
    assert json.loads(Path("again.json").read_text("utf-8"))["scores"] == plain["scores"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("find", "figures"), [("rate", ["goodput", "bad"]), ("gpus", ["bad"])])
def test_a_search_for_capacity_has_a_page_of_its_own(find: str, figures: list[str]) -> None:
    options = ("--find", find, "--seeds", "2", "--resolution", "0.2", "--workers", "1", "--quiet")
    main(("capacity", "measure.yaml", *options, "--report", "out.html"))
    page = Path("out.html").read_text("utf-8")
    assert drawn(page) == figures
    assert f"partita capacity measure.yaml --find {find} --seeds 2 --resolution 0.2" in page
    assert "Seeds 1, 2;" in page
