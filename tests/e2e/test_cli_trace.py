"""`partita trace` from the outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"2023-11-16 18:15:{s:02d}.5,{s},1\n" for s in range(60))


def run(
    *arguments: object, data_dir: Path | None = None, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-c", "from partita.controller.cli import main; main()", "trace"]
    environment = dict(os.environ) if data_dir is None else {**os.environ, "PARTITA_DATA_DIR": str(data_dir)}
    text = [str(a) for a in arguments]
    return subprocess.run([*command, *text], check=False, capture_output=True, text=True, env=environment)


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    return line


def test_in_twice_and_out_again(tmp_path: Path, pg_dsn: str) -> None:
    path, out = tmp_path / "azure.csv", tmp_path / "out.parquet"
    path.write_text(AZURE)
    first = run("import", path, "--service", "chat", "--dsn", pg_dsn)
    assert first.stdout == f"{path}: 60 requests added (format azure-llm, import 1).\n", first.stderr
    again = run("import", path, "--service", "chat", "--dsn", pg_dsn, "--json")
    [found] = json.loads(again.stdout)
    assert (found["added"], found["import"], found["rows"]) == (False, 1, 60)
    assert run("export", out, "--dsn", pg_dsn, "--quiet").stdout == ""
    told = json.loads(run("info", out, "--json").stdout)
    assert (told["format"], told["rows"], list(told["services"])) == ("parquet", 60, ["chat"])


def test_synth_and_info_say_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "made.csv.zst"
    made = run("synth", out, "--services", 2, "--days", 0.01, "--rate", 10, "--seed", 5, "--json")
    rows = json.loads(made.stdout)["rows"]
    told = run("info", out).stdout
    for part in ("csv, requests", f"{rows:,}", "2024-01-01 00:00:", "service-0", "service-1"):
        assert part in told
    counts = tmp_path / "counts.parquet"
    run("synth", counts, "--services", 2, "--days", 0.01, "--rate", 10, "--seed", 5, "--counts")
    assert json.loads(run("info", counts, "--json").stdout)["requests"] == rows


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    path, absent = tmp_path / "azure.csv", tmp_path / "absent.csv"
    path.write_text(AZURE.replace("18:15:15.5,15", "18:15:15.5,many"))
    assert refused(run("info", absent), 2) == f"Error: {absent}: no such file"
    assert "row 17, column ContextTokens: 'many' is not a number" in refused(run("info", path), 2)
    assert "there is no format 'x'; known are parquet" in refused(run("info", path, "--format", "x"), 2)
    assert "tells the width of its bins itself" in refused(run("info", path, "--bin", 5), 2)
    assert "must end in one of .parquet" in refused(run("synth", tmp_path / "x.doc"), 2)
    assert "days: must be above 0" in refused(run("synth", tmp_path / "x.csv", "--days", 0), 2)
    usage = run("import", path, "--map", "nonsense", "--dsn", "postgresql://nobody@localhost:1/x")
    assert usage.returncode == 2
    assert "'nonsense' is not PATTERN=NAME" in usage.stderr


def test_a_database_that_nobody_answers_for(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(AZURE)
    assert "no database answers at" in refused(run("import", path, "--dsn", "postgresql://nobody@localhost:1/x"), 1)


def test_a_full_disk_in_mid_import(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    unshare = ("unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c")
    mount = (*unshare, f'mount -t tmpfs -o size=150m tmpfs "{small}" && exec "$0" "$@"')
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    path = tmp_path / "made.parquet"
    made = run("synth", path, "--days", 1, "--rate", 30, "--burstiness", 0, "--json")
    assert json.loads(made.stdout)["rows"] > 2_000_000
    both = tmp_path / "both.sh"
    partita = f'"{sys.executable}" -c "from partita.controller.cli import main; main()"'
    both.write_text(f'{partita} trace import "{path}"; echo "exit $?"; {partita} trace export "{tmp_path}/out.csv"\n')
    done = subprocess.run(
        [*mount, "/bin/sh", str(both)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PARTITA_DATA_DIR": str(small / "data")},
    )
    assert done.stdout == "exit 1\n", done.stderr
    full, nothing = done.stderr.strip().splitlines()
    assert full.startswith("Error: the database's disk is full, so the import of")
    assert nothing == "Error: nothing was imported yet"
