"""Sweeps that are killed, whole or in part: every result is there in the end, and no finished cell runs again."""

import json
import signal
from pathlib import Path

import psutil
import pytest
from logged_runs import CELLS, build, wait_until_gone, workers_of


def marks(journal: Path, word: str) -> list[int]:
    """List the marks of a journal's entries of a kind, in order."""
    entries = (json.loads(line) for line in journal.read_text().splitlines()[1:])
    return [json.loads(entry[word])["vary"]["discipline.options.mark"] for entry in entries if word in entry]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    house = build(tmp_path)
    with house.started("--workers", "2") as sweep:
        house.wait_for(CELLS // 2, sweep)
        workers = workers_of(sweep)
        sweep.kill()
        sweep.wait()
        wait_until_gone(workers)  # they notice that nobody is left to work for
    finished = set(marks(house.journal, "done"))
    begun_before = len(marks(house.journal, "began"))
    assert CELLS // 2 <= len(finished) < CELLS
    assert not (tmp_path / "out.parquet").exists()

    with house.started("--workers", "2") as sweep:
        _, problems = sweep.communicate()
    assert sweep.returncode == 0, problems
    assert "60 of 60 cells" in problems
    again = marks(house.journal, "began")[begun_before:]
    assert set(again) == set(range(CELLS)) - finished
    assert sorted(marks(house.journal, "done")) == list(range(CELLS))
    runs = house.runs()
    assert all(runs[mark] == 1 for mark in finished)
    assert sum(runs.values()) <= CELLS + 2  # the kill caught at most one run a worker half-way
    table = house.table()
    assert table["discipline.options.mark"].to_list() == list(range(CELLS))
    assert table["problem"].null_count() == CELLS
    assert table["goodput_rps"].n_unique() == 1  # a mark changes nothing: a cell that was resumed is as any other

    before = house.journal.read_bytes()
    with house.started() as sweep:
        sweep.communicate()
    assert sweep.returncode == 0
    assert house.runs() == runs
    assert house.journal.read_bytes() == before


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    house = build(tmp_path)
    with house.started("--workers", "2") as sweep:
        house.wait_for(CELLS // 3, sweep)
        workers_of(sweep)[0].send_signal(signal.SIGKILL)
        _, problems = sweep.communicate()
    assert sweep.returncode == 0, problems
    assert house.table()["problem"].null_count() == CELLS
    runs = house.runs()
    assert set(runs) == set(range(CELLS))
    assert sum(runs.values()) <= CELLS + 2


@pytest.mark.slow
def test_a_cell_that_kills_its_worker_is_given_up(tmp_path: Path) -> None:
    house = build(tmp_path, killer=7, pause_s=0.02)
    with house.started("--workers", "2") as sweep:
        _, problems = sweep.communicate()
    assert sweep.returncode == 1
    assert "Failed: discipline.options.mark=7, seed 1: its worker died 3 times\n" in problems
    assert problems.endswith("Error: 1 of 60 cells failed; the others are in the file.\n")
    assert "Traceback" not in problems
    runs = house.runs()
    assert runs.pop(7) == 3
    assert set(runs) == set(range(CELLS)) - {7}
    assert max(runs.values()) <= 2  # once beside the killer, at most
    table = house.table()
    assert table["problem"].null_count() == CELLS - 1
    assert table.row(7, named=True)["problem"] == "its worker died 3 times"
    assert table.row(7, named=True)["goodput_rps"] is None


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    house = build(tmp_path)
    with house.started("--workers", "2") as sweep:
        house.wait_for(3, sweep)
        family = psutil.Process(sweep.pid).children(recursive=True)
        sweep.send_signal(signal.SIGINT)
        _, problems = sweep.communicate()
    assert sweep.returncode == 130
    assert problems.endswith("Stopped.\n")
    assert f"{house.done()} of {CELLS} cells are kept in out.parquet.journal: the same command goes on.\n" in problems
    assert "Traceback" not in problems
    wait_until_gone(family)
    assert not (tmp_path / "out.parquet").exists()


def test_two_sweeps_do_not_write_one_journal(tmp_path: Path) -> None:
    house = build(tmp_path)
    with house.started("--workers", "1") as first:
        house.wait_for(1, first)
        with house.started("--workers", "1") as second:
            _, problems = second.communicate()
        assert second.returncode == 2
        assert problems == "Error: out.parquet.journal: another sweep is writing it\n"
        assert first.poll() is None


def test_a_changed_scenario_does_not_mix(tmp_path: Path) -> None:
    house = build(tmp_path)
    with house.started("--workers", "2") as sweep:
        house.wait_for(2, sweep)
        sweep.kill()
    scenario = tmp_path / "s.yaml"
    scenario.write_text(scenario.read_text().replace("slo_ms: 50", "slo_ms: 60"))
    with house.started() as sweep:
        _, problems = sweep.communicate()
    assert sweep.returncode == 2
    assert problems.startswith("Error: out.parquet.journal: holds results of another scenario or version ")
    assert "(services.0.slo_ms was 50.0, is 60.0)" in problems
    assert problems.count("\n") == 1
