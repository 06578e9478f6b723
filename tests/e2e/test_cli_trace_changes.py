"""`partita trace` over foreign formats, with changes on the way, and out to our own formats and in again."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from partita.controller.cli import main
from partita.ports import Counts, Rows
from partita.traces import detect
from partita.traces.blocks import join
from partita.traces.request_log import RequestLogReader
from partita.traces.summary import summarise

MOONCAKE = "".join(
    json.dumps({"timestamp": 3000 * (n // 50), "input_length": 7 * n, "output_length": n}) + "\n" for n in range(500)
)
OPENAI = "".join(
    json.dumps({"created": 1_700_000_000 + n, "model": f"m{n % 3}", "usage": {"prompt_tokens": n}}) + "\n"
    for n in range(300)
)
SERVEGEN = "model,client,t,rate,cv,pat,p1,p2\n" + "".join(
    f"m,{client},{600 * n},{0.01 * (n + client)},1,{law},0.5,1\n"
    for client, law in enumerate(("Gamma", "Weibull", ""))
    for n in range(20)
)
SPEND = "request_id,startTime,endTime,model,model_group,prompt_tokens,completion_tokens\n" + "".join(
    f"{n},2024-05-01 10:00:{n % 60:02d},2024-05-01 10:01:00,gpt,chat,{n},1\n" for n in range(120)
)
FOREIGN = "when,app,tokens\n" + "".join(f"{1_700_000_000_000 + 250 * n},a{n % 2},{n}.5\n" for n in range(400))

FILES: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "mooncake": ("mooncake.jsonl", MOONCAKE, (), "mooncake, requests"),
    "openai": ("log.jsonl.gz", OPENAI, (), "openai, requests"),
    "servegen": ("rates.csv", SERVEGEN, (), "servegen, counts"),
    "litellm": ("spend.csv", SPEND, ("--service-by", "model"), "litellm, requests"),
    "table": ("foreign.csv", FOREIGN, ("--columns", "ts=when:ms,service=app,size=tokens"), "csv, requests"),
}


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: object) -> Done:
    """Run a command in this process: a new one for each would take most of the time."""
    out, err, code = StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(["trace", *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def written(*arguments: object) -> dict[str, Any]:
    done = run("export", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(*arguments: object) -> str:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(params=list(FILES))
def given(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, tuple[str, ...], str]:
    name, text, options, told = FILES[request.param]
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path, options, told


def content(path: Path) -> Any:
    return join(list(detect(path).blocks(path)))


def test_out_and_in_and_out_again_is_the_same(given: tuple[Path, tuple[str, ...], str], tmp_path: Path) -> None:
    path, options, told = given
    first, second, third = (tmp_path / f"out{suffix}" for suffix in (".parquet", ".csv.zst", ".csv"))
    rows = written(first, path, *options)["rows"]
    assert told in run("info", path, *options).stdout
    assert rows == written(second, first)["rows"] == written(third, second)["rows"]
    one, other = content(first), content(third)
    assert type(one) is type(other)
    assert isinstance(one, Counts if "counts" in told else Rows)
    for column in type(one).__slots__:
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


def test_through_the_database_as_well(given: tuple[Path, tuple[str, ...], str], tmp_path: Path, pg_dsn: str) -> None:
    path, options, _ = given
    direct, through = tmp_path / "direct.parquet", tmp_path / "through.parquet"
    written(direct, path, *options, "--map", "*=*")
    for added in (True, False):
        [found] = json.loads(run("import", path, *options, "--map", "*=*", "--dsn", pg_dsn, "--json").stdout)
        assert found["added"] is added
    written(through, "--dsn", pg_dsn)
    one, other = content(direct), content(through)
    # The database keeps microseconds.
    assert (one.at_ns // 1000).tolist() == (other.at_ns // 1000).tolist()
    order, other_order = (np.lexsort((block.service.astype(str), block.at_ns // 1000)) for block in (one, other))
    for column in type(one).__slots__[1:]:
        np.testing.assert_array_equal(getattr(one, column)[order], getattr(other, column)[other_order])


def test_changes_are_another_import_and_the_same_ones_are_not(tmp_path: Path, pg_dsn: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(OPENAI)
    changes: list[tuple[str, ...]] = [
        (),
        ("--thin", "0.5"),
        ("--thin", "0.5", "--seed", "1"),
        ("--thin", "m1=0.5"),
        ("--speed", "2"),
        ("--shift", "+1d"),
    ]
    for added in (True, False):
        for change in changes:
            [found] = json.loads(run("import", path, *change, "--dsn", pg_dsn, "--json").stdout)
            assert found["added"] is added
    fast = json.loads(run("info", path, "--speed", "2", "--shift", "2024-01-01", "--json").stdout)
    # 300 requests, one a second, in half the time from the given date on.
    assert fast["first_ns"] == 1_704_067_200 * 10**9
    assert fast["span_s"] == pytest.approx(149.5, abs=0.01)
    assert fast["requests"] == 300


def test_what_an_import_brought_is_changed_on_its_way_out(tmp_path: Path, pg_dsn: str) -> None:
    path, out = tmp_path / "log.jsonl", tmp_path / "out.parquet"
    path.write_text(OPENAI)
    run("import", path, "--dsn", pg_dsn)
    written(out, "--dsn", pg_dsn, "--map", "m1=x", "--from", "100", "--shift", "2024-01-01")
    found = content(out)
    assert found.size.tolist() == list(range(100, 300, 3))
    assert set(found.service.tolist()) == {"x"}
    assert found.at_ns[0] == 1_704_067_200 * 10**9


def test_several_files_become_one(tmp_path: Path, pg_dsn: str) -> None:
    one, other, out = tmp_path / "log.jsonl", tmp_path / "mooncake.jsonl", tmp_path / "out.parquet"
    one.write_text(OPENAI)
    other.write_text(MOONCAKE)
    told = json.loads(run("info", one, other, "--superpose", "aligned", "--json").stdout)
    assert (told["format"], told["requests"]) == ("openai+mooncake", 800)
    assert told["span_s"] < 301
    assert json.loads(run("info", one, other, "--superpose", "dated", "--json").stdout)["span_s"] > 1.6e9
    assert [each["requests"] for each in json.loads(run("info", one, other, "--json").stdout)] == [300, 500]
    for added in (True, False):
        done = run("import", one, other, "--superpose", "aligned", "--dsn", pg_dsn, "--json")
        [found] = json.loads(done.stdout)
        assert (found["added"], found["rows"]) == (added, 800)
    written(out, one, other, "--superpose", "aligned")
    assert (np.diff(content(out).at_ns) >= 0).all()
    counts = tmp_path / "rates.csv"
    counts.write_text(SERVEGEN)
    assert "only like traces become one (--raw draws" in refused("export", out, one, counts, "--superpose", "aligned")
    requests = json.loads(run("info", counts, "--json").stdout)["requests"]
    assert written(out, one, counts, "--superpose", "aligned", "--raw")["rows"] == 300 + requests


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    path, out = tmp_path / "log.jsonl", tmp_path / "out.csv"
    path.write_text(OPENAI)
    assert "--columns: 'ts' is not OURS=THEIRS" in refused("info", path, "--columns", "ts")
    assert "--grid: the format openai of" in refused("info", path, "--grid", 3)
    assert "'2' is not a share above 0 and up to 1" in refused("info", path, "--thin", 2)
    assert "--shift" in refused("info", path, "--shift", "2d")
    assert "give --superpose aligned or" in refused("export", out, path, path)
    assert "give FILEs or --import" in refused("export", out, path, "--import", 1)
    assert "--table is for databases" in refused("info", path, "--table", "x")
    assert "nothing is left of the trace" in refused("export", out, path, "--service", "x", "--from", "1d")
    assert not out.exists()
    path.write_text(OPENAI + '{"created": 1700000400, "model": 5}\n')
    assert refused("info", path) == f"Error: {path}, row 301, column model: 5 is not a name"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for hours in (4, 40):
        path = tmp_path / f"{hours}.jsonl"
        with path.open("w") as file:
            for n in range(1000 * hours):
                file.write(f'{{"created": {1_700_000_000 + n * 3.6}, "model": "m", "prompt_tokens": {n}}}\n')
        tracemalloc.start()
        assert summarise(RequestLogReader(), path).requests.tolist() == [1000 * hours]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Blocks of 8,192 lines: the shorter file is half of one, the longer one is five of them.
    assert peaks[1] < 4 * peaks[0]


@pytest.mark.skipif("PARTITA_REFERENCE_DIR" not in os.environ, reason="PARTITA_REFERENCE_DIR is not set")
def test_the_reference_traces_go_out_and_in_again(tmp_path: Path) -> None:
    folder = Path(os.environ["PARTITA_REFERENCE_DIR"]) / "traces"
    for name in ("mooncake_fast25/synthetic_trace.jsonl.gz", "azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"):
        out = tmp_path / "out.csv.gz"
        written(out, folder / name)
        one, other = content(folder / name), content(out)
        for column in Rows.__slots__:
            np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    assert written(tmp_path / "day.parquet", folder / "servegen/client_rates_600s.csv.gz", "--to", "1d")["rows"] == (
        pl.read_csv(folder / "servegen/client_rates_600s.csv.gz").filter(pl.col("t") < 86_400).height
    )
