"""Mooncake's traces, LiteLLM's spend logs, OpenAI-style logs and tables with other names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from partita.errors import ConfigError, TraceError
from partita.ports import Counts, Rows, TraceInfo, TraceReader
from partita.traces import detect
from partita.traces.blocks import join_counts, join_rows
from partita.traces.column_map import ColumnMap
from partita.traces.litellm import SpendLogsReader
from partita.traces.mooncake import MooncakeReader
from partita.traces.read_options import ReadOptions, with_options
from partita.traces.request_log import RequestLogReader
from partita.traces.services import ServiceMap
from partita.traces.summary import open_arrivals, summarise
from partita.traces.table import ParquetReader, TableCsvReader

SECOND, MS = 1_000_000_000, 1_000_000
START = 1_700_000_000


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def rows_of(reader: TraceReader, path: Path) -> Rows:
    return join_rows([block for block in reader.blocks(path) if isinstance(block, Rows)])


def refused(reader: TraceReader, path: Path) -> TraceError:
    with pytest.raises(TraceError) as caught:
        for _ in reader.blocks(path):
            pass
    assert "\n" not in str(caught.value)
    assert caught.value.file == str(path)
    return caught.value


# Mooncake -------------------------------------------------------------------------------------------------------------


def mooncake(path: Path, at_ms: list[int]) -> Path:
    records = ({"timestamp": t, "input_length": 100 + n, "output_length": n} for n, t in enumerate(at_ms))
    return lines(path, *records)


def test_mooncake_requests_are_spread_over_the_steps_of_their_grid(tmp_path: Path) -> None:
    at_ms = [0] * 40 + [3000] * 30 + [9000] * 50
    path = mooncake(tmp_path / "trace.jsonl", at_ms)
    reader = detect(path)
    assert isinstance(reader, MooncakeReader)
    assert reader.info(path) == TraceInfo("mooncake", "requests", grid_s=3.0)
    found = rows_of(reader, path)
    assert (found.at_ns // (3000 * MS) * 3000).tolist() == at_ms
    assert (np.diff(found.at_ns) >= 0).all()
    # 120 requests at 0, 3000 and 9000 ms would have three distinct instants; spread ones differ.
    assert np.unique(found.at_ns).size == 120
    assert found.size.tolist() == [100 + n for n in range(120)]
    assert found.output_size.tolist() == list(range(120))
    assert set(found.service.tolist()) == {"*"}


def test_mooncake_steps_are_drawn_from_the_seed_and_not_from_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mooncake(tmp_path / "trace.jsonl", [0] * 40 + [3000] * 30 + [9000] * 50)
    whole = rows_of(MooncakeReader(grid_s=3.0, seed=4), path).at_ns
    for at_once in (1, 7, 40):
        monkeypatch.setattr("partita.traces.json_blocks.LINES_AT_ONCE", at_once)
        assert (rows_of(MooncakeReader(grid_s=3.0, seed=4), path).at_ns == whole).all()
    assert (rows_of(MooncakeReader(grid_s=3.0, seed=5), path).at_ns != whole).any()
    later = mooncake(tmp_path / "later.jsonl", [3000] * 30 + [9000] * 50)
    assert (rows_of(MooncakeReader(grid_s=3.0, seed=4), later).at_ns == whole[40:]).all()


def test_mooncake_laws_by_name(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "trace.jsonl", [0, 0, 4000])
    assert rows_of(MooncakeReader(spread="none"), path).at_ns.tolist() == [0, 0, 4000 * MS]
    # Equal gaps, half a gap before the first: at a quarter and three quarters of 4 s, and amid the next 4 s.
    assert (rows_of(MooncakeReader(spread="even"), path).at_ns // MS).tolist() == [1000, 3000, 6000]


def test_a_poisson_spread_favours_no_part_of_the_step(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "trace.jsonl", [0] * 4000 + [1000] * 4000)
    inside = rows_of(MooncakeReader(seed=1), path).at_ns % SECOND
    tenths = np.bincount(inside // (SECOND // 10), minlength=10)
    # 8,000 uniform instants: 800 a tenth, standard deviation sqrt(8000 * 0.1 * 0.9) = 27; five of them.
    assert np.abs(tenths - 800).max() < 135


def test_the_seed_of_a_replay_draws_the_steps_and_loses_no_request(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "trace.jsonl", [0] * 40 + [3000] * 30 + [9000] * 50)
    drawn = []
    for seed in range(6):
        arrivals, summary = open_arrivals(detect(path), path, ServiceMap(), seed=seed)
        assert (summary.begin_ns, summary.end_ns) == (0, 12 * SECOND)
        drawn.append(arrivals.until(arrivals.span_ns).ns)
        assert drawn[-1].size == 120
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        ('{"timestamp": 2000, "input_length": 5}', None, "output_length is missing (found: timestamp, input_length)"),
        ('{"timestamp": 2000, "input_length": 5.5, "output_length": 1}', "input_length", "5.5 is not a whole number"),
        ('{"timestamp": 2000, "input_length": true, "output_length": 1}', "input_length", "True is not a whole number"),
        ('{"timestamp": 2000, "input_length": -1, "output_length": 1}', "input_length", "-1 is not between 0"),
        ('{"timestamp": "2", "input_length": 1, "output_length": 1}', "timestamp", "'2' is not a whole number"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1}', "timestamp", "0 is earlier than the row before"),
        ('{"timestamp": 2000, "input', None, "is not JSON"),
        ("[1, 2]", None, "is not a JSON object"),
    ],
)
def test_broken_mooncake(tmp_path: Path, line: str, column: str | None, said: str) -> None:
    path = mooncake(tmp_path / "trace.jsonl", [0, 1000])
    path.write_text(path.read_text() + line + "\n")
    error = refused(MooncakeReader(), path)
    assert (error.row, error.column) == (3, column)
    assert said in str(error)


def test_a_timestamp_off_the_grid_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partita.traces.json_blocks.LINES_AT_ONCE", 3)
    path = mooncake(tmp_path / "trace.jsonl", [0, 3000, 6000, 9000, 9500])
    error = refused(MooncakeReader(), path)
    assert (error.row, error.column) == (5, "timestamp")
    assert "9500 is not on the grid of the file's beginning, 3000 ms; give --grid" in str(error)
    assert rows_of(MooncakeReader(grid_s=0.5), path).at_ns.size == 5


@pytest.mark.skipif("PARTITA_REFERENCE_DIR" not in os.environ, reason="PARTITA_REFERENCE_DIR is not set")
def test_the_published_mooncake_trace() -> None:
    folder = Path(os.environ["PARTITA_REFERENCE_DIR"]) / "traces" / "mooncake_fast25"
    path = folder / "synthetic_trace.jsonl.gz"
    found, summary = rows_of(detect(path), path), summarise(detect(path), path)
    assert summary.requests.tolist() == [3993]
    assert (found.at_ns[-1] // MS, summary.end_ns // MS) == (1_022_025, 1_022_026)
    # Medians and largest sizes as the collection's page gives them.
    assert (np.median(found.size), found.size.max()) == (11_587, 191_378)
    assert (np.median(found.output_size), found.output_size.max()) == (69, 893)


# OpenAI-style ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "at_s", "service", "size", "output"),
    [
        ({"created": START, "model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 2}}, START, "m", 5, 2),
        ({"timestamp": START + 0.25, "model": "m", "prompt_tokens": 5}, START + 0.25, "m", 5, None),
        ({"timestamp": START * 1000 + 250, "model": "m"}, START + 0.25, "m", None, None),
        ({"arrival_time": "2023-11-14T22:13:20.5Z", "model": "m", "input_tokens": 7}, START + 0.5, "m", 7, None),
        ({"arrival_time": START, "created": 1, "num_prompt_tokens": 7, "num_generation_tokens": 1}, START, "*", 7, 1),
        (
            {"id": "b", "response": {"status_code": 200, "body": {"created": START, "model": "m", "usage": {}}}},
            START,
            "m",
            None,
            None,
        ),
    ],
)
def test_what_is_understood_of_a_request_log(
    tmp_path: Path, record: dict[str, Any], at_s: float, service: str, size: float | None, output: float | None
) -> None:
    path = lines(tmp_path / "log.jsonl", record)
    reader = detect(path)
    assert isinstance(reader, RequestLogReader)
    found = rows_of(reader, path)
    assert found.at_ns.tolist() == [round(at_s * 1000) * MS]
    assert found.service.tolist() == [service]
    for value, wanted in ((found.size[0], size), (found.output_size[0], output)):
        assert value == wanted or (np.isnan(value) and wanted is None)


def test_a_log_written_when_requests_end_is_put_into_the_order_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    begun = np.sort(rng.integers(0, 6 * 3600, 3000))
    ended = begun + rng.integers(1, 3000, begun.size)
    written = begun[np.argsort(ended, kind="stable")]
    assert (np.diff(written) < 0).any()
    records = ({"created": int(START + at), "model": "m", "input_tokens": n} for n, at in enumerate(written.tolist()))
    path = lines(tmp_path / "log.jsonl", *records)
    whole = rows_of(RequestLogReader(), path)
    assert (whole.at_ns // SECOND - START).tolist() == begun.tolist()
    assert (whole.at_ns // SECOND - START).tolist() == written[whole.size.astype(int)].tolist()
    monkeypatch.setattr("partita.traces.json_blocks.LINES_AT_ONCE", 17)
    cut = [block for block in RequestLogReader().blocks(path) if isinstance(block, Rows)]
    assert join_rows(cut).size.tolist() == whole.size.tolist()
    # What is held back began within the last hour: 3,000 requests in 6 h are about 500 an hour.
    assert max(block.at_ns.size for block in cut) < 800


@pytest.mark.parametrize(
    ("record", "column", "said"),
    [
        ({"model": "m", "id": 7}, None, "none of arrival_time, arrival, "),
        ({"created": "soon", "model": "m"}, "created", "'soon' is not a time"),
        ({"created": True, "model": "m"}, "created", "True is not a time"),
        ({"created": 1e30, "model": "m"}, "created", "1e+30 is not a time"),
        ({"created": START, "model": 7}, "model", "7 is not a name"),
        ({"created": START, "usage": {"prompt_tokens": "x"}}, "usage.prompt_tokens", "'x' is not a number of tokens"),
        ({"created": START, "usage": {"prompt_tokens": -1}}, "usage.prompt_tokens", "-1 is not a number of tokens"),
        ({"created": START - 3601, "model": "m"}, "created", "is more than 1 h earlier than a row before it"),
    ],
)
def test_broken_request_logs(tmp_path: Path, record: dict[str, Any], column: str | None, said: str) -> None:
    path = lines(tmp_path / "log.jsonl", {"created": START, "model": "m"}, record)
    error = refused(RequestLogReader(), path)
    assert (error.row, error.column) == (2, column)
    assert said in str(error)


def test_json_of_another_kind_is_not_recognised(tmp_path: Path) -> None:
    for record in ({"name": "Ada"}, {"created": 5}, {"model": "m"}):
        with pytest.raises(TraceError, match="its format is not known"):
            detect(lines(tmp_path / "other.jsonl", record))


# LiteLLM --------------------------------------------------------------------------------------------------------------

SPEND = """request_id,call_type,prompt_tokens,completion_tokens,startTime,endTime,model,model_group,cache_hit,status,x
a,acompletion,10,1,2024-05-01 10:00:00.250,2024-05-01 10:00:03,azure/gpt,chat,None,success,"{""k"": ""a, b""}"
b,acompletion,20,2,2024-05-01 09:59:59.000,2024-05-01 10:00:04,azure/gpt,,False,success,{}
c,acompletion,30,0,2024-05-01 10:00:02+00,2024-05-01 10:00:05,azure/gpt,chat,True,success,{}
d,acompletion,40,0,2024-05-01 10:00:03,2024-05-01 10:00:05,azure/gpt,chat,,failure,{}
e,acompletion,,,2024-05-01 10:00:04,2024-05-01 10:00:05,,,,failure,{}
"""


def spend(path: Path, text: str = SPEND) -> Path:
    path.write_text(text)
    return path


def test_litellm_spend_logs_from_csv(tmp_path: Path) -> None:
    path = spend(tmp_path / "spend.csv")
    reader = detect(path)
    assert isinstance(reader, SpendLogsReader)
    found = rows_of(reader, path)
    # In the order of startTime; c came out of the cache and e was refused before it had a model.
    assert found.size.tolist() == [20, 10, 40]
    assert found.output_size.tolist() == [2, 1, 0]
    assert found.service.tolist() == ["azure/gpt", "chat", "chat"]
    # 1714557599 is 2024-05-01 09:59:59 UTC.
    assert (found.at_ns // MS).tolist() == [1714557599_000, 1714557600_250, 1714557603_000]
    assert rows_of(SpendLogsReader(service_by="model"), path).service.tolist() == ["azure/gpt"] * 3
    assert rows_of(SpendLogsReader(status="success"), path).size.tolist() == [20, 10]


@pytest.mark.parametrize(
    ("old", "new", "row", "column", "said"),
    [
        ("2024-05-01 09:59:59.000", "yesterday", 3, "startTime", "'yesterday' is not a time"),
        (",20,2,", ",many,2,", 3, "prompt_tokens", "'many' is not a number"),
        ("2024-05-01 10:00:03,2", "2024-05-01 08:00:03,2", 5, "startTime", "is more than 1 h earlier than a row"),
        ("completion_tokens", "other", 1, None, "the column completion_tokens is missing"),
    ],
)
def test_broken_spend_logs(tmp_path: Path, old: str, new: str, row: int, column: str | None, said: str) -> None:
    error = refused(SpendLogsReader(), spend(tmp_path / "spend.csv", SPEND.replace(old, new)))
    assert (error.row, error.column) == (row, column)
    assert said in str(error)


# Tables with other names ----------------------------------------------------------------------------------------------

FOREIGN = "id,when,model,tokens_in,ts\n1,1700000000.5,a,3,x\n2,1700000001,b,,x\n"


def test_a_foreign_csv_by_a_map_of_columns(tmp_path: Path) -> None:
    path = spend(tmp_path / "foreign.csv", FOREIGN)
    found = rows_of(TableCsvReader(ColumnMap.parse("ts=when,service=model,size=tokens_in")), path)
    assert found.at_ns.tolist() == [START * SECOND + 500 * MS, (START + 1) * SECOND]
    assert found.service.tolist() == ["a", "b"]
    assert found.size[0] == 3
    assert np.isnan(found.size[1])
    assert rows_of(TableCsvReader(ColumnMap.parse("ts=when")), path).service.tolist() == ["*", "*"]


@pytest.mark.parametrize(
    ("unit", "value", "ns"),
    [
        ("s", "1700000000", START * SECOND),
        ("ms", "1700000000123", START * SECOND + 123 * MS),
        ("us", "1700000000123456", START * SECOND + 123_456_000),
        ("ns", "1700000000123456789", START * SECOND + 123_456_789),
        ("ms", "1700000000123.5", START * SECOND + 123 * MS + 500_000),
    ],
)
def test_units_of_instants(tmp_path: Path, unit: str, value: str, ns: int) -> None:
    path = spend(tmp_path / "foreign.csv", f"t\n{value}\n{value}\n")
    assert rows_of(TableCsvReader(ColumnMap.parse(f"ts=t:{unit}")), path).at_ns.tolist() == [ns, ns]
    table = tmp_path / "foreign.parquet"
    pl.DataFrame({"t": [float(value) if "." in value else int(value)]}).write_parquet(table)
    assert rows_of(ParquetReader(ColumnMap.parse(f"ts=t:{unit}")), table).at_ns.tolist() == [ns]


def test_foreign_counts_take_their_width_from_bin(tmp_path: Path) -> None:
    path = spend(tmp_path / "foreign.csv", "hour,app,hits\n0,a,3\n3600,a,\n7200,a,5\n")
    reader = with_options(
        TableCsvReader(), path, ReadOptions(bin_s=3600.0, columns=ColumnMap.parse("ts=hour,service=app,count=hits"))
    )
    assert reader.info(path) == TraceInfo("csv", "counts", 3600.0)
    found = join_counts([block for block in reader.blocks(path) if isinstance(block, Counts)])
    assert (found.at_ns // SECOND).tolist() == [0, 7200]
    assert found.count.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("columns", "row", "column", "said"),
    [
        ("ts=when,service=name", 1, None, "the column name is missing (found: id, when, model, tokens_in, ts)"),
        ("ts=when,count=tokens_in", None, None, "counts need the width of their bins"),
        ("ts=model", 2, "model", "'a' is not a time"),
        ("ts=model:ms", 2, "model", "'a' is not a number"),
        ("ts=when,size=model", 2, "model", "'a' is not a number"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, columns: str, row: int | None, column: str | None, said: str) -> None:
    path = spend(tmp_path / "foreign.csv", FOREIGN)
    error = refused(TableCsvReader(ColumnMap.parse(columns)), path)
    assert (error.row, error.column) == (row, column)
    assert said in str(error)


def test_a_foreign_parquet_column_of_numbers_needs_a_unit(tmp_path: Path) -> None:
    path = tmp_path / "foreign.parquet"
    pl.DataFrame({"t": [1, 2]}).write_parquet(path)
    error = refused(ParquetReader(ColumnMap.parse("ts=t")), path)
    assert error.column == "t"
    assert "must be a timestamp, not Int64" in str(error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("service=a", "ts is missing"),
        ("ts", "'ts' is not OURS=THEIRS"),
        ("ts=", "'ts=' is not OURS=THEIRS"),
        ("ts=a,tokens=b", "'tokens' is none of our columns: ts, service, size"),
        ("ts=a,ts=b", "ts is given twice"),
    ],
)
def test_maps_of_columns_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ColumnMap.parse(text)
    assert str(caught.value).startswith("--columns: ")
    assert said in str(caught.value)


def test_an_option_goes_only_to_a_reader_that_takes_it(tmp_path: Path) -> None:
    path = spend(tmp_path / "spend.csv")
    with pytest.raises(ConfigError, match=r"--grid: the format litellm of .* does not take this option"):
        with_options(SpendLogsReader(), path, ReadOptions(grid_s=1.0))
    with pytest.raises(ConfigError, match="tells the width of its bins itself"):
        with_options(TableCsvReader(), path, ReadOptions(bin_s=1.0))
    assert with_options(MooncakeReader(), path, ReadOptions(spread="even")) == MooncakeReader(spread="even")
