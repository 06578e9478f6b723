"""The built-in policies static and reactive, and the sizing they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from partita.errors import ConfigError
from partita.model.cluster import Batching, Instance
from partita.model.load import Outcome
from partita.model.plan import Capacity, OptionValue, Plan, Proposal, SubCluster
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import NO_OVERHEADS
from partita.plugins import reactive, static
from partita.plugins.kit import example_inventory, example_observation, example_plan
from partita.plugins.sizing import UTILISATION, Slicing, gpus_busy, gpus_for, slicing, whole_gpus

ONE = (Service("one", 0.1, 0.99, 1.0, (LatencyCurve("whole", ((1, 0.01),)),)),)
"""A service that runs single requests of 10 ms: 100 requests a second keep exactly one GPU busy."""

INVENTORY = example_inventory(16)


def gpus(proposal: Proposal) -> int:
    assert isinstance(proposal.suggestion, Capacity)
    return proposal.suggestion.gpus


# Sizing -------------------------------------------------------------------------------------------------------------


def test_sizing_divides_the_need_by_the_utilisation_and_rounds_up() -> None:
    assert gpus_busy(ONE, [250.0]) == pytest.approx(2.5)
    assert gpus_for(ONE, [250.0]) == 4  # 2.5 / 0.8 = 3.125
    assert gpus_for(ONE, [250.0], utilisation=1.0) == 3
    assert gpus_for(ONE, [320.0]) == 4  # 3.2 / 0.8 is 4 but for the last digit
    assert gpus_for(ONE, [0.0]) == 1
    assert whole_gpus(4.0 + 1e-12) == 4


def test_sizing_counts_instances_of_the_standing_profile() -> None:
    curves = (LatencyCurve("whole", ((1, 0.01),)), LatencyCurve("3g.40gb", ((1, 0.02),)))
    halves = [Instance(f"g{i}/3g.40gb@{s}", f"g{i}", 40.0, "3g.40gb", s) for i in range(3) for s in (0, 4)]
    whole = Instance("g3", "g3", 80.0)
    cut = slicing(Plan((), (SubCluster("all", (*halves, whole), (), ()),), ()))
    assert cut == Slicing((("3g.40gb", 100.0, 6 / 4), ("whole", 100.0, 1 / 4)))
    assert cut.instances_per_gpu == 7 / 4
    one = replace(ONE[0], curves=curves)
    # 100/s × 20 ms = 2 instances.
    assert gpus_busy((one,), [100.0], Slicing((("3g.40gb", 100.0, 2.0),))) == pytest.approx(1.0)
    # Such a GPU carries 6/4 · 50/s + 1/4 · 100/s = 100/s.
    assert gpus_busy((one,), [100.0], cut) == pytest.approx(1.0)
    assert slicing(Plan((), (), ())) == Slicing((("whole", 100.0, 1.0),))


def test_sizing_counts_only_instances_that_can_serve_a_service() -> None:
    curves = (LatencyCurve("whole", ((1, 0.01),)), LatencyCurve("3g.40gb", ((1, 0.02),)))
    cut = Slicing((("1g.10gb", 100.0, 7.0), ("3g.40gb", 100.0, 1.0), ("whole", 100.0, 0.5)))  # 1g was not measured
    slow, tight = (Service("s", slo_s, 0.99, 1.0, curves) for slo_s in (0.1, 0.015))
    assert gpus_busy((slow,), [100.0], cut) == pytest.approx(1.0)  # 50/s + 0.5 · 100/s
    assert gpus_busy((tight,), [100.0], cut) == pytest.approx(2.0)  # 20 ms miss its SLO
    assert gpus_busy((slow, tight), [50.0, 50.0], cut) == pytest.approx(1.5)
    assert gpus_busy((tight,), [100.0], Slicing((("3g.40gb", 100.0, 1.0),))) == inf


# Static -------------------------------------------------------------------------------------------------------------


def hold(options: Mapping[str, OptionValue], memory: object = None, inventory: Any = INVENTORY) -> Proposal:
    standing = example_plan(ONE, INVENTORY, held=2)
    return static.propose_capacity(ONE, inventory, standing, NO_OVERHEADS, options, memory)


def test_static_holds_the_gpus_of_the_peak() -> None:
    proposal = hold({"peak_rps.one": 400.0})
    assert gpus(proposal) == 5 == whole_gpus(4.0 / UTILISATION)
    assert proposal.reason == "the peak of 400.0 requests/s needs 5 GPUs at 80 % utilisation"
    assert gpus(hold({"peak_rps.one": 400.0, "utilisation": 0.5})) == 8


def test_static_without_peaks_holds_everything() -> None:
    assert hold({}) == Proposal(Capacity(16, firm=True), "no peak is given: hold all 16 GPUs")


def test_static_holds_no_more_than_there_is_and_says_so() -> None:
    proposal = hold({"peak_rps.one": 400.0}, inventory=INVENTORY[:3])
    assert gpus(proposal) == 3
    assert proposal.reason.endswith("needs 5 GPUs at 80 % utilisation, the cluster has 3")


def test_static_remembers_its_size_until_the_gpus_are_cut_otherwise() -> None:
    first = hold({"peak_rps.one": 400.0})
    assert hold({"peak_rps.one": 400.0}, first.memory) == first
    assert gpus(hold({"peak_rps.one": 400.0}, {"sized_for": [["whole", 100.0, 1.0]], "gpus": 7})) == 7
    assert gpus(hold({"peak_rps.one": 400.0}, {"sized_for": [["3g.40gb", 100.0, 2.0]], "gpus": 7})) == 5


def test_static_keeps_its_number_where_gpus_differ() -> None:
    """Which kinds are held, and so what a GPU gives on average, hangs on how many are held."""
    curves = (LatencyCurve.linear(4, 4, profile="1g.10gb"), LatencyCurve.linear(0.5, 1.0))
    service = Service("one", 0.1, 0.99, 1.0, curves)

    def standing(held: int) -> Plan:
        cut = [Instance(f"g{g}/{k}", f"g{g}", 10.0, "1g.10gb", k) for g in range(min(held, 4)) for k in range(7)]
        whole = [Instance(f"g{g}/0", f"g{g}", 80.0) for g in range(4, held)]
        return Plan((), (SubCluster("all", (*cut, *whole), ("one",), (Batching("deferred"),)),), (), "")

    held, memory, seen = 8, None, []
    for _ in range(6):
        options = {"peak_rps.one": 5500.0}
        proposal = static.propose_capacity([service], INVENTORY[:8], standing(held), NO_OVERHEADS, options, memory)
        held, memory = gpus(proposal), proposal.memory
        seen.append(held)
    assert len(set(seen[2:])) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"peak_rps.two": 1.0}, "peak_rps.two: no service has this name"),
        ({"peak_rps.one": -1.0}, "peak_rps.one: -1.0 is not a rate"),
        ({"peak_rps.one": "many"}, "peak_rps.one: 'many' is not a rate"),
        ({"peak_rps.one": 1.0, "utilisation": 0}, "utilisation: 0 is not a share"),
        ({"utilization": 0.5}, "utilization: there is no such option"),
    ],
)
def test_static_refuses_options_that_make_no_sense(options: dict[str, OptionValue], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        hold(options)


# Reactive -----------------------------------------------------------------------------------------------------------


class Scaler:
    """Plays reactive tick by tick, every 10 s; what it proposes is held at the next tick."""

    def __init__(self, held: int, **options: OptionValue) -> None:
        self.held, self.options = held, options
        self.now_s = 1000.0
        self.memory: object = None
        self.reason = ""

    def tick(self, rate_rps: float, **seen: Any) -> int:
        standing = example_plan(ONE, INVENTORY, held=self.held)
        observation = example_observation(ONE, [rate_rps], standing, now_s=self.now_s, **seen)
        proposal = reactive.propose_capacity(
            ONE, INVENTORY, observation, standing, NO_OVERHEADS, self.options, self.memory
        )
        self.now_s, self.memory, self.reason = self.now_s + 10.0, proposal.memory, proposal.reason
        self.held = gpus(proposal)
        return self.held

    def ticks(self, rates_rps: Sequence[float]) -> list[int]:
        return [self.tick(rate) for rate in rates_rps]


@pytest.mark.parametrize(
    ("rate_rps", "expected"),
    [
        (280.0, 4),  # 2.8 / 4 = 0.70, on target
        (307.0, 4),  # 0.7675, within 10 % of the target
        (309.0, 5),  # 0.7725, beyond it: 3.09 / 0.7 = 4.4
        (560.0, 8),  # 5.6 / 0.7 = 8 = double
        (900.0, 8),  # 12.9 are needed: at most double or 4 more
    ],
)
def test_reactive_scales_up_at_once_but_at_most_to_double(rate_rps: float, expected: int) -> None:
    assert Scaler(4).tick(rate_rps) == expected


def test_reactive_may_add_four_where_doubling_adds_less() -> None:
    scaler = Scaler(1)
    assert scaler.ticks([900.0, 900.0, 900.0]) == [5, 10, 13]
    assert scaler.reason == "the load of 30 s keeps 9.00 of 10 GPUs busy (90 %, target 70 %): up to 13"


def test_reactive_is_limited_by_the_cluster() -> None:
    assert Scaler(10).tick(5000.0) == 16


def test_reactive_scales_down_only_to_the_most_needed_of_five_minutes() -> None:
    scaler = Scaler(8)
    held = scaler.ticks([560.0] * 6 + [70.0] * 50)
    # The rate of the last minute falls over 6 ticks after tick 5; 8 are advised last at tick 5, within tolerance, and
    # at tick 6 (5.6·5/6 + 0.7/6 = 4.78 busy) 7. Advice of tick 5 leaves the window of 300 s at tick 35.
    assert held[:35] == [8] * 35
    assert held[35] == 7
    assert held == sorted(held, reverse=True)
    assert held[-1] == 1  # 0.7 / 0.7


def test_reactive_forgets_load_older_than_its_window() -> None:
    scaler = Scaler(4)
    scaler.ticks([300.0] * 10)
    scaler.tick(0.0)
    assert "keeps 2.50 of 4" in scaler.reason  # 5 of 6 ticks at 3.0
    scaler.ticks([0.0] * 5)
    assert "keeps 0.00 of 4" in scaler.reason


def test_reactive_holds_when_the_log_is_stale_but_still_scales_up() -> None:
    scaler = Scaler(4, stabilisation_s=0.0)
    assert scaler.tick(100.0, behind_s=61.0) == 4
    assert scaler.reason.endswith("2 would do, but the log is over 60 s behind: hold 4")
    assert Scaler(4).tick(560.0, behind_s=61.0) == 8
    assert Scaler(4, stabilisation_s=0.0).tick(100.0, behind_s=59.0) == 2


def test_reactive_does_not_read_a_missing_log_as_no_load() -> None:
    scaler = Scaler(4, stabilisation_s=0.0)
    assert scaler.tick(0.0, seconds=0) == 4
    assert scaler.reason == "no load is measured yet: hold 4"
    scaler.ticks([280.0] * 3)
    for behind_s in range(10, 400, 10):
        assert scaler.tick(0.0, seconds=0, behind_s=1.0 + behind_s) == 4
    assert "keeps 2.80 of 4" in scaler.reason


def test_reactive_does_not_scale_down_while_slos_are_missed() -> None:
    scaler = Scaler(4, stabilisation_s=0.0)
    assert scaler.tick(100.0, bad_share=0.05) == 4
    assert scaler.reason.endswith("2 would do, but one answers 95.0 % in time, not 99.0 %: hold 4")
    # 1 % of 1000 is what the target allows, and up to 10 + 3·√(1000·0.01·0.99) = 19.4 may be chance.
    assert Scaler(4, stabilisation_s=0.0).tick(100.0, bad_share=0.019) == 2
    assert Scaler(4, stabilisation_s=0.0).tick(100.0, bad_share=0.020) == 4


def test_reactive_counts_drops_as_missed() -> None:
    standing = example_plan(ONE, INVENTORY, held=4)
    seen = example_observation(ONE, [100.0], standing, now_s=1000.0)
    dropping = replace(seen, outcomes={"one": Outcome(1000, 900, 0, 100)})
    proposal = reactive.propose_capacity(
        ONE, INVENTORY, dropping, standing, NO_OVERHEADS, {"stabilisation_s": 0.0}, None
    )
    assert gpus(proposal) == 4


def test_reactive_never_goes_below_one() -> None:
    scaler = Scaler(2, stabilisation_s=0.0)
    assert scaler.ticks([0.0] * 3) == [1, 1, 1]


def test_reactive_keeps_its_memory_small() -> None:
    scaler = Scaler(4)
    scaler.ticks([280.0] * 100)
    assert isinstance(scaler.memory, dict)
    assert len(scaler.memory["samples"]) == 6
    assert len(scaler.memory["advice"]) == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"goal": 0.5}, "goal: there is no such option; there are: stabilisation_s"),
        ({"target": 0.0}, "target: 0.0 is not a number"),
        ({"target": 1.5}, "target: 1.5 is not a number"),
        ({"window_s": -1}, "window_s: -1 is not a number of at least 0"),
        ({"tolerance": "low"}, "tolerance: 'low' is not a number"),
    ],
)
def test_reactive_refuses_options_that_make_no_sense(options: dict[str, OptionValue], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Scaler(4, **options).tick(100.0)
