"""Trained forecasting models in the database, and the command that trains them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partita.controller.cli.main import main
from partita.controller.forecast_training import kept, read_model
from partita.errors import StoreError
from partita.store.checkpoints import KEPT, Checkpoint, newest_checkpoint, newest_checkpoints, save_checkpoint
from partita.store.connection import Connection, connect

ONE = Checkpoint("global", "a1", 0.0, 86_400.5, 600.0, ("a", "b"), b"\x00state")


def on(dsn: str, work: Callable[[Connection], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with connect(dsn) as connection:
            return await work(connection)

    return asyncio.run(run())


def partita(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["forecast", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_newest_state_of_a_name_comes_back(pg_dsn: str) -> None:
    async def work(connection: Connection) -> None:
        assert await newest_checkpoint(connection, "global") is None
        for n in range(KEPT + 2):
            await save_checkpoint(connection, replace(ONE, version=f"v{n}"))
        await save_checkpoint(connection, replace(ONE, name="other"))
        assert await newest_checkpoint(connection, "global") == replace(ONE, version=f"v{KEPT + 1}")
        assert await connection.fetchval("SELECT count(*) FROM forecast_model WHERE name = 'global'") == KEPT
        found = await newest_checkpoints(connection)
        assert {name: one["version"] for name, one in found.items()} == {"global": f"v{KEPT + 1}", "other": "a1"}
        assert found["global"]["services"] == 2

    on(pg_dsn, work)


def test_a_damaged_state_is_refused(pg_dsn: str) -> None:
    async def work(connection: Connection) -> None:
        await save_checkpoint(connection, ONE)
        await connection.execute("UPDATE forecast_model SET state = 'x'")
        with pytest.raises(StoreError, match="the trained model global in the database is damaged"):
            await newest_checkpoint(connection, "global")

    on(pg_dsn, work)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six and seven days of one series by ten minutes, in the form of counts."""
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("traces")
    step = np.arange(7 * 144)
    counts = rng.poisson(500 * (1.5 + np.sin(2 * np.pi * step / 144)))
    paths = folder / "six.csv", folder / "seven.csv"
    for path, days in zip(paths, (6, 7), strict=True):
        lines = [f"{600 * n},{count}" for n, count in enumerate(counts[: days * 144])]
        path.write_text("\n".join(["t,requests", *lines]))
    return paths


def test_train_keeps_the_state_and_goes_on_from_it(
    pg_dsn: str, traces: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    where = ("--dsn", pg_dsn)
    code, _, err = partita(capsys, "train", "--trace", str(traces[0]), "--incremental", *where)
    assert (code, err) == (2, "Error: --incremental: there is no trained global to go on from: train it first\n")
    code, out, err = partita(capsys, "train", "--trace", str(traces[0]), *where)
    assert code == 0, err
    assert "1 series at 10 minutes" in out
    assert "60 minutes ahead: " in out
    first = asyncio.run(kept(pg_dsn, "global"))
    assert first is not None
    assert (first.until_s, len(first.services)) == (6 * 86_400.0, 1)
    code, out, err = partita(capsys, "train", "--trace", str(traces[1]), "--incremental", *where)
    assert code == 0, err
    second = asyncio.run(kept(pg_dsn, "global"))
    assert second is not None
    assert second.until_s == 7 * 86_400.0
    assert second.version != first.version
    code, out, err = partita(capsys, "train", "--trace", str(traces[1]), "--incremental", *where)
    assert code == 2
    assert "nothing has come since global was trained" in err
    listed = json.loads(partita(capsys, "models", "--json", *where)[1])
    newest = {one["name"]: one["trained"] for one in listed}
    assert newest["global"]["version"] == second.version
    assert newest["smoothing"] is None


def test_train_into_a_file(traces: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "global.npz"
    trace = ("--trace", str(traces[0]), "--step", "1h")
    code, _, err = partita(capsys, "train", *trace, "--incremental", "--out", str(path))
    assert (code, err) == (2, f"Error: {path}: cannot be read: no such file or directory\n")
    assert partita(capsys, "train", *trace, "--out", str(path), "--quiet") == (0, "", "")
    assert read_model(path).step_s == 3600.0
    path.write_text("no state")
    code, _, err = partita(capsys, "train", *trace, "--incremental", "--out", str(path))
    assert (code, err.startswith(f"Error: {path}: this is no trained model")) == (2, True)


def test_what_is_not_trained_is_refused(traces: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = partita(capsys, "train", "--trace", str(traces[0]), "--model", "blend", "--out", "x")
    assert (code, err) == (2, "Error: --model: blend is not trained: it learns from each history anew\n")
