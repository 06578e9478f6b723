"""Moments, times and shares are written alike everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from partita.controller.demonstration import describe_models, describe_pace
from partita.controller.wording import because, gpus, moment, of_target, percent, span
from partita.model.service import LatencyCurve, Service
from partita.ports import TraceInfo
from partita.traces.summary import TraceSummary


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0004, "0.4 ms"),
        (0.852, "852 ms"),
        (1.0, "1 s"),
        (17.71, "17.7 s"),
        (119.9, "2 minutes"),
        (7200.0, "2 hours"),
        (86_399.999, "24 hours"),
        (604_800.0, "7 days"),
    ],
)
def test_a_time_is_written_in_the_unit_that_reads_best(seconds: float, written: str) -> None:
    assert span(seconds) == written


def test_moments_of_a_replay_and_of_a_live_run() -> None:
    assert [moment(s) for s in (0.0, 59.6, 7040.0, 360_000.0)] == ["0:00:00", "0:01:00", "1:57:20", "100:00:00"]
    assert moment(1_700_158_546.0) == "2023-11-16 18:15:46"


def test_one_gpu_is_one() -> None:
    assert [gpus(n) for n in (0, 1, 2, 1000)] == ["0 GPUs", "1 GPU", "2 GPUs", "1,000 GPUs"]


def test_a_share_just_below_its_target_is_not_written_as_the_target() -> None:
    assert percent(0.97634) == "97.63 %"
    assert of_target(0.9838, 0.99) == "98.38 % of 99 %"
    assert of_target(0.989996, 0.99) == "98.9996 % of 99 %"


def test_what_was_chosen_is_named_once() -> None:
    assert because({"chosen": "p: 3 GPUs", "reason": "p: 3 GPUs meets"}) == "p: 3 GPUs meets"
    assert because({"chosen": "p: 3 GPUs", "reason": "standing misses; p: 3 GPUs meets"}).count("3 GPUs") == 1
    assert because({"chosen": "p: 3 GPUs", "reason": "firm"}) == "p: 3 GPUs: firm"


def day() -> TraceSummary:
    requests = np.array([864_000, 86_400])
    rates = requests / 86_400
    info = TraceInfo("test", "requests")
    return TraceSummary(info, ("a", "b"), requests, rates, rates, 0, 86_400 * 10**9, 950_400, 0, 0)


def test_the_demonstration_says_how_fast_it_plays() -> None:
    # 11 requests a second, 12 times as fast.
    assert describe_pace(day(), 12.0) == ("24 hours, played in 2 hours: 12 × as fast, so about 132 requests a second")
    assert describe_pace(day(), 1.0) == "24 hours, played as fast as they were: about 11 requests a second"


def test_the_demonstration_says_within_which_times_its_models_answer() -> None:
    # "detect" has an SLO of 120 ms before it is stretched.
    told = describe_models([Service("detect", 18.0, 0.99, 4.0, (LatencyCurve.linear(300.0, 1800.0),))])
    assert "multiplied by 150 " in told
    assert told.endswith("99 % of its requests within its SLO: detect 18 s")
