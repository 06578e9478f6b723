"""Who ran on which GPU: added up by interval, and every batch of the busiest interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from miniature import SECOND, gpus

from partita.controller.config import Scenario
from partita.controller.run import run_scenario
from partita.kernels.occupancy import add_spans
from partita.model.load import Arrivals
from partita.model.occupancy import Occupancy, Outage
from partita.ports import Served
from partita.replay.cluster import INSTANCES_A_GPU
from partita.replay.timeline import MOST_BATCHES, MOST_INTERVALS, MOST_ROWS, MOST_ROWS_OF_BATCHES, OccupancyRecorder

GOLDEN = Path(__file__).parents[1] / "golden"
NONE = np.empty(0, np.int64)
Batch = tuple[int, int, int, float, float]
"""Number of the instance, service, size, start and finish in seconds."""


def account(batches: Sequence[Batch]) -> Served:
    """Make an account that holds batches only."""
    table = np.array(batches, np.float64).reshape(-1, 5)
    whole = [table[:, n].astype(np.int64) for n in range(3)]
    times = [np.round(table[:, n] * 1e9).astype(np.int64) for n in (3, 4)]
    return Served(Arrivals.empty(2), NONE, NONE, *whole, *times)


def note(
    recorder: OccupancyRecorder, until_s: float, numbers: Sequence[int], batches: Sequence[Batch], arrived: int = 1
) -> None:
    recorder.note([(np.array(numbers, np.int64), account(batches))], arrived, round(until_s * SECOND))


def at(gpu: int, start: int = 0) -> int:
    return gpu * INSTANCES_A_GPU + start


def worked_example() -> Occupancy:
    """Over 480 s, by intervals of 2 s; gpu1 is ready from 4 s on."""
    recorder = OccupancyRecorder(gpus(2), ("a", "b"), 480.0)
    note(recorder, 4.0, [at(0)], [(at(0), 0, 4, 0.5, 1.5), (at(0), 1, 2, 1.5, 3.0)])
    note(recorder, 8.0, [at(0), at(1)], [(at(1), 0, 1, 4.0, 4.5), (at(0), 1, 8, 7.5, 9.0)], arrived=5)
    return recorder.occupancy()


def test_failures_stand_at_the_row_of_what_they_took() -> None:
    recorder = OccupancyRecorder(gpus(3), ("a", "b"), 480.0)
    note(recorder, 4.0, [at(2), at(0), at(0, 4)], [])
    recorder.note_failure([at(0), at(0, 4)], 2 * SECOND, 9 * SECOND)
    recorder.note_failure([at(2)], 470 * SECOND, 900 * SECOND)
    recorder.note_failure([at(1)], 2 * SECOND, 9 * SECOND)  # never was ready, so it has no row
    recorder.note_failure([at(2)], 480 * SECOND, 900 * SECOND)
    found = recorder.occupancy()
    assert found.rows == ("gpu0@0", "gpu0@4", "gpu2")
    assert found.outages == (Outage(0, 2.0, 9.0), Outage(1, 2.0, 9.0), Outage(2, 470.0, 480.0))


def test_failures_of_gpus_that_share_a_row_stand_there_once() -> None:
    recorder = OccupancyRecorder(gpus(2 * MOST_ROWS), ("a", "b"), 480.0)
    note(recorder, 4.0, [at(0), at(1), at(5)], [])
    for _ in range(2):
        recorder.note_failure([at(0), at(1), at(5)], 2 * SECOND, 9 * SECOND)
    assert recorder.occupancy().outages == (Outage(0, 2.0, 9.0), Outage(1, 2.0, 9.0))


def test_time_is_added_up_by_interval_gpu_and_service() -> None:
    found = worked_example()
    assert (found.rows, found.width_s, found.busy.shape) == (("gpu0", "gpu1"), 2.0, (2, 240))
    # gpu0: a 1 s and b 0.5 s of the first 2 s, b 1 s of the next, then nothing, b 0.5 s; of 8 to 10 s nobody has told
    # when it was ready, but its batch ran on for 1 s.
    assert found.busy[0, :6].tolist() == pytest.approx([0.75, 0.5, 0.0, 0.25, 1.0, np.nan], nan_ok=True)
    assert found.busy[1, :4].tolist() == pytest.approx([np.nan, np.nan, 0.25, 0.0], nan_ok=True)
    assert found.leaders[0, 0].tolist() == [0, 1]
    assert found.shares[0, 0].tolist() == [0.5, 0.25]
    assert found.leaders[0, 1, 0] == 1
    assert found.working[:, :4].tolist() == [[0.5, 0.0, 0.25, 0.0], [0.25, 0.5, 0.0, 0.25]]
    assert found.ready[:4].tolist() == [1.0, 1.0, 2.0, 2.0]


def test_single_batches_are_those_that_ran_in_the_busiest_interval() -> None:
    window = worked_example().batches
    assert window.span_s == (4.0, 8.0)
    assert window.start_s.tolist() == [4.0, 7.5]
    assert window.rows == ("gpu0", "gpu1")
    assert (window.row.tolist(), window.service.tolist(), window.size.tolist()) == ([1, 0], [0, 1], [1, 8])


def test_single_batches_are_shown_on_the_first_instances_that_ran() -> None:
    """Three GPUs share a row of the occupancy, but each has a row of batches of its own."""
    recorder = OccupancyRecorder(gpus(3 * MOST_ROWS), ("a",), 10.0)
    ran = [at(n) for n in range(5, 5 + MOST_ROWS_OF_BATCHES + 9)]
    note(recorder, 10.0, [at(n) for n in range(200)], [(n, 0, 1, 1.0, 2.0) for n in ran[::-1]])
    window = recorder.occupancy().batches
    assert window.rows == tuple(f"gpu{n}" for n in range(5, 5 + MOST_ROWS_OF_BATCHES))
    assert sorted(window.row.tolist()) == list(range(MOST_ROWS_OF_BATCHES))


def test_instances_of_one_gpu_are_told_apart() -> None:
    recorder = OccupancyRecorder(gpus(64), ("a",), 10.0)
    note(recorder, 10.0, [at(3), at(3, 4), at(9)], [(n, 0, 1, 1.0, 2.0) for n in (at(3), at(3, 4), at(9))])
    found = recorder.occupancy()
    assert found.batches.rows == ("gpu3@0", "gpu3@4", "gpu9")
    assert found.rows == ("gpu3", "gpu9")


def test_batches_that_began_before_the_busiest_interval_belong_to_it() -> None:
    recorder = OccupancyRecorder(gpus(2), ("a",), 100.0)
    long_one, at_work, short = (at(0), 0, 9, 3.0, 26.0), (at(1), 0, 2, 19.0, 22.0), (at(1), 0, 1, 11.0, 12.0)
    note(recorder, 10.0, [at(0), at(1)], [long_one])
    note(recorder, 20.0, [at(0), at(1)], [short, at_work])
    note(recorder, 30.0, [at(0), at(1)], [(at(1), 0, 3, 22.0, 23.0)], arrived=9)
    assert recorder.occupancy().batches.size.tolist() == [9, 2, 3]


def test_a_short_interval_between_long_ones_is_not_the_busiest() -> None:
    recorder = OccupancyRecorder(gpus(1), ("a",), 100.0)
    note(recorder, 9.0, [at(0)], [(at(0), 0, 1, 1.0, 2.0)], arrived=9)
    note(recorder, 10.0, [at(0)], [(at(0), 0, 2, 9.0, 10.0)], arrived=5)
    assert recorder.occupancy().batches.span_s == (0.0, 9.0)


def test_no_more_batches_are_kept_than_can_be_drawn() -> None:
    recorder = OccupancyRecorder(gpus(1), ("a",), 10.0)
    ran = [(at(0), 0, 1, n * 0.002, n * 0.002 + 0.001) for n in range(MOST_BATCHES + 50)]
    note(recorder, 10.0, [at(0)], ran[::-1])
    window = recorder.occupancy().batches
    assert window.start_s.tolist() == pytest.approx([start for *_, start, _ in ran[:MOST_BATCHES]])
    assert window.span_s == pytest.approx((0.0, ran[MOST_BATCHES - 1][3]))


def test_a_shorter_last_interval_is_full_if_its_instances_are() -> None:
    recorder = OccupancyRecorder(gpus(1), ("a",), 241.0)
    note(recorder, 241.0, [at(0)], [(at(0), 0, 1, 238.0, 241.0)])
    found = recorder.occupancy()
    assert found.width_s == 2.0
    assert found.ready[-2:].tolist() == [1.0, 1.0]
    assert found.working[0, -2:].tolist() == [1.0, 1.0]


def test_what_runs_past_the_end_is_left_out() -> None:
    recorder = OccupancyRecorder(gpus(1), ("a",), 2.5)
    note(recorder, 2.5, [at(0)], [(at(0), 0, 1, 2.0, 9.0)])
    note(recorder, 9.0, [at(0)], [(at(0), 0, 1, 3.0, 4.0)], arrived=100)
    found = recorder.occupancy()
    assert found.batches.span_s == (0.0, 2.5)
    assert found.working.sum() * found.width_s == pytest.approx(0.5)
    assert found.busy.shape[1] * found.width_s == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("number", "ran", "names"),
    [
        (2, [at(1, 4), at(0), at(1)], ("gpu0", "gpu1@0", "gpu1@4")),
        (64, [at(63), at(7, 4), at(7)], ("gpu7", "gpu63")),
        (2 * MOST_ROWS, [at(255), at(254), at(0)], ("gpu0–gpu1", "gpu254–gpu255")),
    ],
    ids=["a row an instance", "a row a GPU", "a row for two GPUs"],
)
def test_rows_are_instances_gpus_or_several(number: int, ran: list[int], names: tuple[str, ...]) -> None:
    recorder = OccupancyRecorder(gpus(number), ("a",), 10.0)
    note(recorder, 10.0, ran, [(n, 0, 1, 0.0, 5.0) for n in ran])
    found = recorder.occupancy()
    assert found.rows == names
    assert found.busy.max() <= 1.0
    assert found.working.sum() * found.width_s == pytest.approx(5.0 * len(ran))


@pytest.mark.parametrize("span_s", [0.001, 12.0, 3600.0, 86_400.0, 3e7])
def test_there_are_enough_intervals_and_not_too_many(span_s: float) -> None:
    found = OccupancyRecorder(gpus(2), ("a",), span_s).occupancy()
    intervals = len(found.ready)
    assert MOST_INTERVALS / 5 < intervals <= MOST_INTERVALS or found.width_s == 0.001
    assert (intervals - 1) * found.width_s < span_s <= intervals * found.width_s * (1 + 1e-9)


def test_many_services_share_the_room() -> None:
    services = tuple(f"s{n}" for n in range(1000))
    found = OccupancyRecorder(gpus(4 * MOST_ROWS), services, 86_400.0).occupancy()
    assert 24 <= found.working.shape[1] <= 100


def test_spans_are_cut_at_the_edges() -> None:
    totals = np.zeros((1, 3, 2), np.int64)
    rows, columns = np.zeros(3, np.int64), np.array([0, 0, 1])
    add_spans(rows, columns, np.array([-5, 8, 25]), np.array([3, 21, 99]), 10, 27, totals)
    assert totals[0].tolist() == [[3 + 2, 0], [10, 0], [1, 2]]


def test_recording_changes_no_score_and_agrees_with_it() -> None:
    scenario = Scenario.load(GOLDEN / "measured.yaml")
    plain = run_scenario(scenario, policy=None, seed=7)
    run = run_scenario(scenario, policy=None, seed=7, record_gpus=True)
    assert plain.occupancy is None
    assert run.score == plain.score
    found = run.occupancy
    assert found is not None
    assert (found.rows, found.services) == (("gpu0", "gpu1"), ("resnet50", "bert"))
    # Scored are the 10 s after a warm-up of 2 s, on two GPUs that are there all the time.
    counted = round(2.0 / found.width_s)
    assert np.mean(found.busy[:, counted:]) == pytest.approx(run.score.utilisation, rel=1e-6)
    assert set(np.round(found.ready, 9).tolist()) == {2.0}
    window = found.batches
    assert len(window.row) == MOST_BATCHES or window.span_s[1] - window.span_s[0] == pytest.approx(10.0)
    for row in (0, 1):
        begins, ends = window.start_s[window.row == row], window.finish_s[window.row == row]
        assert np.all(ends[:-1] <= begins[1:] + 1e-9)  # one batch at a time


def test_histograms_agree_with_the_score() -> None:
    run = run_scenario(Scenario.load(GOLDEN / "measured.yaml"), policy=None, seed=7)
    answered = run.score.good + run.score.late
    assert run.histograms.latency.sum() == run.histograms.queueing.sum() == answered
    assert run.histograms.batch_size.sum() == run.score.batches
    sizes = np.arange(len(run.histograms.batch_size))
    assert run.histograms.batch_size @ sizes / run.score.batches == run.score.mean_batch
