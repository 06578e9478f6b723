"""Disciplines on cases worked by hand, and against results of queueing theory.

Unless a test says otherwise, a batch of b takes L(b) = 1·b + 5 ms, the SLO is 25 ms, and there are no overheads.
Before the first 50 ms are over the rate is unknown, and the target batch is the largest with L(b) ≤ SLO / 2 = 12.5 ms:
b = 7. Deadlines are D = arrival + 25 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from partita.controller.entries import BUILT_IN, OF_SOME, DisciplineEntry
from partita.errors import ConfigError
from partita.model.load import Arrivals
from partita.model.service import LatencyCurve
from partita.ports import Discipline, Pool, Served
from partita.replay.disciplines import DISCIPLINES, Adaptive, Deferred, Eager, Timeout

MS = 1_000_000


@dataclass(frozen=True)
class Case:
    """One pool; times in ms."""

    free_ms: Sequence[float] = (0.0,)
    slo_ms: Sequence[float] = (25.0,)
    max_batch: int = 30
    alpha_ms: float = 1.0
    beta_ms: float = 5.0
    control_ms: float = 0.0
    data_ms: float = 0.0
    response_ms: float = 0.0
    jitter_ms: float = 0.0

    def pool(self, parameters: Mapping[str, str | float]) -> Pool:
        """Make the pool; its instances are numbered 10, 11, …"""
        table = LatencyCurve.linear(self.alpha_ms, self.beta_ms).table_ns(self.max_batch)
        services = len(self.slo_ms)
        return Pool(
            active=np.arange(services),
            slo_ns=_ns(self.slo_ms),
            max_batch=np.full(services, self.max_batch),
            latency_ns=np.tile(table, (services, 1)),
            number=10 + np.arange(len(self.free_ms)),
            free_at_ns=_ns(self.free_ms),
            control_ns=round(self.control_ms * MS),
            data_ns=round(self.data_ms * MS),
            response_ns=round(self.response_ms * MS),
            jitter_ns=round(self.jitter_ms * MS),
            parameters=parameters,
        )


def serve(
    discipline: Discipline,
    *arrivals_ms: Sequence[float] | NDArray[np.float64],
    case: Case = Case(),
    until_ms: float = 1000,
    **parameters: str | float,
) -> Served:
    """Serve arrivals, given by service, until `until_ms`."""
    offsets = np.concatenate(([0], np.cumsum([len(a) for a in arrivals_ms])))
    ns = np.concatenate([_ns(a) for a in arrivals_ms])
    arrivals = Arrivals(ns, offsets, np.zeros(len(ns), np.float32))
    state = discipline.initial_state(len(arrivals_ms))
    _, served = discipline.advance(state, arrivals, case.pool(parameters), round(until_ms * MS))
    return served


def finish_ms(served: Served) -> list[float]:
    """Return when requests were answered; -1 is dropped, 0 still waits."""
    return [float(ns) / MS if ns > 0 else float(ns) for ns in served.finish_ns]


def batches(served: Served) -> list[tuple[int, int, int, float]]:
    """Return instance, service, size and start in ms of the batches."""
    columns = (served.batch_instance, served.batch_service, served.batch_size, served.batch_start_ns / MS)
    return [(int(g), int(s), int(b), float(at)) for g, s, b, at in zip(*columns, strict=True)]


def _ns(ms: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    ns: NDArray[np.int64] = np.rint(np.asarray(ms, float) * MS).astype(np.int64)
    return ns


class TestDeferred:
    """Batches start when one more request would no longer fit."""

    def test_a_lone_request_waits_for_a_second_until_it_no_longer_fits(self) -> None:
        # D = 25, L(2) = 7: from 25 - 7 = 18 on a second one would make it late. 18 + L(1) = 24.
        assert batches(serve(Deferred(), [0])) == [(10, 0, 1, 18)]

    def test_a_request_that_joins_moves_the_start_forward(self) -> None:
        # b = 2: 25 - L(3) = 17; finish 17 + L(2) = 24.
        served = serve(Deferred(), [0, 1])
        assert batches(served) == [(10, 0, 2, 17)]
        assert finish_ms(served) == [24, 24]

    def test_overheads_come_off_the_deadline_and_before_the_start(self) -> None:
        # D = 25 - 2 (response) = 23; frontrun = 23 - .1 (jitter) - L(2) = 7 - .05 (data of the second) = 15.85.
        case = Case(control_ms=0.1, data_ms=0.05, response_ms=2, jitter_ms=0.1)
        assert batches(serve(Deferred(), [0], case=case)) == [(10, 0, 1, 15.85)]

    def test_a_batch_starts_no_earlier_than_plan_and_inputs_can_be_there(self) -> None:
        # SLO 9: frontrun = 9 - L(2) = 2, but control 1 + data 2 come first: start 3, finish 9 = D.
        assert batches(serve(Deferred(), [0], case=Case(slo_ms=[9], control_ms=1, data_ms=2))) == [(10, 0, 1, 3)]

    def test_a_full_batch_waits_for_nobody(self) -> None:
        assert batches(serve(Deferred(), [0, 3], case=Case(max_batch=2))) == [(10, 0, 2, 3)]

    def test_a_batch_may_exceed_its_target_when_more_fit(self) -> None:
        # Target 7, ten are there: D = 25 holds up to b = 10 and beyond; frontrun = 25 - L(11) = 9.
        assert batches(serve(Deferred(), [0] * 10)) == [(10, 0, 10, 9)]

    def test_window_drop_gives_up_the_one_that_holds_a_batch_back(self) -> None:
        # At 12 four wait: frontrun 25 - L(5) = 15, but the instance is busy until 17.5. Just past 25 - L(4) = 16 the
        # batch is three (the first could ride: 16 + L(3) = 24); just past 17 it could not: 17 + L(3) > 25. It is
        # dropped, the others have D = 37: frontrun = 37 - L(4) = 28.
        served = serve(Deferred(), [0, 12, 12, 12], case=Case(free_ms=[17.5]))
        assert finish_ms(served) == [-1, 36, 36, 36]

    def test_timeout_drop_keeps_it_as_long_as_it_fits_alone(self) -> None:
        # The same, but just past 17 the first still fits alone (17 + L(1) = 23), and at 17.5 even with a second:
        # 17.5 + L(2) = 24.5. The other two follow at 37 - L(3) = 29, until 36.
        served = serve(Deferred(), [0, 12, 12, 12], case=Case(free_ms=[17.5]), drop="timeout")
        assert finish_ms(served) == [24.5, 24.5, 36, 36]

    def test_a_hopeless_request_is_dropped_at_the_next_event_of_its_service(self) -> None:
        # No instance: past 25 - L(1) = 19 it fits no batch; nothing happens until the next arrival.
        assert finish_ms(serve(Deferred(), [0], case=Case(free_ms=[]))) == [0]
        assert finish_ms(serve(Deferred(), [0, 100], case=Case(free_ms=[]))) == [-1, 0]

    def test_a_batch_that_ends_at_the_deadline_may_still_run(self) -> None:
        # 25 - L(1) = 19 is the last instant that serves the deadline exactly; 1 ns later none does.
        assert finish_ms(serve(Deferred(), [0], case=Case(free_ms=[19]))) == [25]
        assert finish_ms(serve(Deferred(), [0], case=Case(free_ms=[19.000001]))) == [0]

    @pytest.mark.parametrize(
        ("free_ms", "lowest", "longest_idle"),
        [((8, 0, 4), 10, 11), ((30, 10, 0), 11, 12), ((0, 0, 0), 10, 10), ((18, 18.5, 19), 10, 10)],
    )
    def test_which_instance_is_taken(self, free_ms: Sequence[float], lowest: int, longest_idle: int) -> None:
        # Wanted at 18 (see above); the lowest number among those free by then, or the one free longest.
        case = Case(free_ms=free_ms)
        assert batches(serve(Deferred(), [0], case=case)) == [(lowest, 0, 1, 18)]
        assert batches(serve(Deferred(), [0], case=case, gpu_choice="earliest")) == [(longest_idle, 0, 1, 18)]

    def test_the_target_follows_the_rate(self) -> None:
        # An old request (D = 125) and ten newer ones (D = 130) find an instance that is free at 111. Target 7 (unknown
        # rate): nine ride, the old one first, 111 + L(9) = 125; no instance is left for the other two.
        late = [100, *[105] * 10]
        served = serve(Deferred(), late, case=Case(free_ms=[111]))
        assert finish_ms(served) == [125] * 9 + [0] * 2
        # With 120 arrivals in two bins of 50 ms the rate is 1.2 a ms: n = 1.2·L(b) / b instances in turns, and
        # L(b)·(1 + 1/n) = b + 5 + b / 1.2 ≤ 25 up to b = 10 (23.3; b = 11: 25.2). Just past 110 the old one can no
        # longer ride in a batch of ten (110 + L(10) = 125) and is given up; then frontrun = 130 - L(11) = 114.
        served = serve(Deferred(), [*np.linspace(0, 49, 120), *late], case=Case(free_ms=[111]))
        assert finish_ms(served) == [-1] * 121 + [129] * 10

    def test_the_rate_is_the_mean_of_the_last_five_seconds(self) -> None:
        # The same old request and ten newer ones at 5050 ms. 5010 arrivals in the hundred bins before, one in the bin
        # before those: 1.002 a ms, b + 5 + b / 1.002 ≤ 25 up to b = 10 (24.98), and the old one is given up. At 4990
        # the rate is 0.998 and ten take 25.02: nine ride with it.
        late = [5050, *[5055] * 10]
        for count, expected in ((5010, [-1] + [5079] * 10), (4990, [5075] * 9 + [0] * 2)):
            before = np.linspace(50, 5049.9, count)
            served = serve(Deferred(), [49, *before, *late], case=Case(free_ms=[5061]), until_ms=6000)
            assert finish_ms(served)[-11:] == expected

    def test_a_change_of_the_pool_changes_the_target_at_once(self) -> None:
        # As above until 106; then L(b) = b + 8, and b + 8 + b / 1.2 ≤ 25 up to b = 9 (24.5; b = 10: 26.3). At 108, when
        # the batch was to start, nine can ride with the old one (108 + L(9) = 125), ten could not.
        early, late = np.linspace(0, 49, 120), [100, *[105] * 10]
        discipline, state = Deferred(), Deferred().initial_state(1)
        first, second = Case(free_ms=[107.5]).pool({}), Case(free_ms=[107.5], beta_ms=8).pool({})
        ns = _ns([*early, *late])
        arrivals = Arrivals(ns, np.array([0, len(ns)]), np.zeros(len(ns), np.float32))
        state, _ = discipline.advance(state, arrivals, first, 106 * MS)
        _, served = discipline.advance(state, Arrivals.empty(1), second, 1000 * MS)
        assert finish_ms(served) == [125] * 9 + [0] * 2


class TestOptionsOfDeferred:
    """Other windows, drop rules, matches and orders."""

    @pytest.mark.parametrize(
        ("window", "share", "requests", "start_ms"),
        [
            ("frontrun", 0.1, 1, 18),  # 25 - L(2)
            ("latest", 0.1, 1, 19),  # 25 - L(1)
            ("slo-share", 0.1, 1, 2.5),
            ("slo-share", 0.5, 1, 12.5),
            ("slo-share", 1.0, 1, 19),  # at most the latest start
            ("beta-lambda", 0.1, 1, 0),  # no rate is known, so that waiting seems to bring nobody
            ("queueing-delay", 0.1, 1, 0),  # no batch came before
            ("target-batch", 0.1, 6, 13),  # 25 - L(7); the target is 7
            ("target-batch", 0.1, 7, 0),
            ("credit", 0.1, 6, 13),  # 6 · L(7) / 7 = 10.3 is less than L(6) = 11
            ("credit", 0.1, 7, 0),
        ],
    )
    def test_windows(self, window: str, share: float, requests: int, start_ms: float) -> None:
        served = serve(Deferred(), [0] * requests, window=window, wait_share=share)
        assert batches(served) == [(10, 0, requests, start_ms)]

    def test_queueing_delay_counts_from_the_last_start(self) -> None:
        # The first goes at once. No rate is known: the next goes SLO / 2 later.
        assert batches(serve(Deferred(), [2, 3], window="queueing-delay")) == [(10, 0, 1, 2), (10, 0, 1, 14.5)]
        # 100 in two bins: 1 a ms, and L(b)·(1 + 1/n) = b + 5 + b ≤ 25 up to the target b = 10.
        early = np.linspace(0, 49, 100)
        served = serve(Deferred(), [*early, 100, 101], case=Case(free_ms=[0] * 20), window="queueing-delay")
        assert batches(served)[-1] == (10, 0, 1, 110)  # 100 + 10 / 1

    def test_an_account_lets_a_small_batch_go_after_a_large_one(self) -> None:
        # Ten save 10 · 12 / 7 - 15 = 2.14 ms; five more cost 10 - 5 · 12 / 7 = 1.43, and two 7 - 2 · 12 / 7 = 3.57.
        for more, start_ms in ((5, 30), (2, 47)):  # 47 = 30 + 25 - L(3)
            served = serve(Deferred(), [0] * 10 + [30] * more, window="credit")
            assert batches(served) == [(10, 0, 10, 0), (10, 0, more, start_ms)]

    def test_without_drops_late_requests_go_first(self) -> None:
        # At 30 the first is late. It goes alone; the second has D = 53 and goes at 53 - L(2).
        case = Case(free_ms=[30])
        assert finish_ms(serve(Deferred(), [0, 28], case=case, drop="never")) == [36, 52]
        assert finish_ms(serve(Deferred(), [0, 28], case=case)) == [-1, 52]

    def test_a_service_that_looks_for_itself_tries_again_when_a_request_arrives(self) -> None:
        # No instance is free at 18; one is at 18.5, in time (19), but looks for nobody. At 18.7 the service does.
        case = Case(free_ms=[18.5])
        assert finish_ms(serve(Deferred(), [0], case=case)) == [24.5]
        assert finish_ms(serve(Deferred(), [0], case=case, match="service")) == [0]
        assert finish_ms(serve(Deferred(), [0, 18.7], case=case, match="service")) == [24.7, 42.7]

    def test_an_instance_that_looks_for_itself_is_the_one_free_first(self) -> None:
        case = Case(free_ms=(8, 0, 4))
        assert batches(serve(Deferred(), [0], case=case, match="instance")) == [(11, 0, 1, 18)]

    @pytest.mark.parametrize(
        ("order", "slo_ms", "first"),
        [
            # Eight of service 0 (L = 13) and one of service 1 (L = 6) wait for an instance.
            ("last-start", (31, 30), 0),  # 31 - 13 = 18, 30 - 6 = 24
            ("deadline", (31, 30), 1),
            ("last-start", (60, 30), 1),  # 47, 24
            ("efficiency", (60, 30), 0),  # (8 / 13) / (25 / 30) = 0.74, (1 / 6) / (10 / 15) = 0.25
        ],
    )
    def test_whom_an_instance_takes(self, order: str, slo_ms: Sequence[float], first: int) -> None:
        served = serve(Eager(), [0] * 8, [0], case=Case(free_ms=[10], slo_ms=slo_ms), order=order)
        assert [int(s) for s in served.batch_service] == [first, 1 - first]

    def test_what_came_before_a_pool_took_its_service_up_is_taken_in_at_once(self) -> None:
        pool = Case(slo_ms=[25, 25]).pool({})
        arrivals = Arrivals(_ns([1, 2, 3]), np.array([0, 3, 3]), np.zeros(3, np.float32))
        discipline, state = Eager(), Eager().initial_state(2)
        state, served = discipline.advance(state, arrivals, replace(pool, active=np.array([1])), 10 * MS)
        assert batches(served) == []
        _, served = discipline.advance(state, Arrivals.empty(2), pool, 1000 * MS)
        assert batches(served) == [(10, 0, 3, 10)]


class TestAdaptive:
    """Deferred, until another rule would have lost clearly fewer requests."""

    def test_without_losses_it_defers(self) -> None:
        even = np.arange(0, 3000, 2.5)
        case = Case(free_ms=[0, 0])
        mine, deferred = (serve(d, even, case=case, until_ms=3000) for d in (Adaptive(), Deferred()))
        assert batches(mine) == batches(deferred)
        assert batches(serve(Adaptive(), [0])) == [(10, 0, 1, 18)]

    def test_many_services_on_few_instances_start_at_once(self) -> None:
        """Ten services share eight GPUs: those that defer find no instance."""
        case, loads = Case(free_ms=[0] * 8, slo_ms=[25] * 10), _poisson(10, 0.38, 12_000)
        bad = {d.name: _bad_rate(d, loads, case) for d in (Adaptive(), Deferred(), Eager())}
        assert bad["deferred"] > 5 * bad["eager"]
        assert bad["adaptive"] < 1.2 * bad["eager"] + 0.002

    def test_one_service_on_many_instances_defers(self) -> None:
        """Its own batches free instances for each other, which needs large ones."""
        case, loads = Case(free_ms=[0] * 8), _poisson(1, 5.4, 12_000)
        bad = {d.name: _bad_rate(d, loads, case) for d in (Adaptive(), Deferred(), Eager())}
        assert bad["eager"] > 5 * bad["deferred"]
        assert bad["adaptive"] < 1.2 * bad["deferred"] + 0.002

    def test_a_change_of_the_load_is_followed(self) -> None:
        """After six seconds the ten services fall silent but for one, which takes up all their load and more."""
        many, one = _poisson(10, 0.38, 6_000), _poisson(1, 5.4, 14_000)[0]
        loads = [*many[:9], np.concatenate((many[9], 6_000 + one))]
        case = Case(free_ms=[0] * 8, slo_ms=[25] * 10)
        bad = {d.name: _bad_rate(d, loads, case, since_ms=10_000) for d in (Adaptive(), Eager())}
        assert bad["adaptive"] < 0.3 * bad["eager"]

    def test_what_it_learned_does_not_hang_on_how_often_a_silence_is_looked_at(self) -> None:
        case, pressed = Case(free_ms=[0] * 8, slo_ms=[25] * 10), 3_000
        ns = [_ns(ms) for ms in _poisson(10, 0.38, pressed)]
        arrivals = Arrivals(np.concatenate(ns), np.cumsum([0, *map(len, ns)]), np.zeros(sum(map(len, ns)), np.float32))

        def learned(*ends_ms: int) -> Any:
            pool, state, coming = case.pool({}), Adaptive().initial_state(10), arrivals
            for end_ms in ends_ms:
                state, _ = Adaptive().advance(state, coming, pool, end_ms * MS)
                coming = Arrivals.empty(10)
            return state.ranking

        assert learned(9_000).own > 0, "something is known"
        assert learned(*range(pressed, 9_001, 200)) == learned(9_000)


def _poisson(services: int, per_ms: float, span_ms: float) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(5)
    count = int(1.2 * per_ms * span_ms)
    arrivals = (np.cumsum(rng.exponential(1 / per_ms, count)) for _ in range(services))
    return [ms[ms < span_ms] for ms in arrivals]


def _bad_rate(
    discipline: Discipline, loads: Sequence[NDArray[np.float64]], case: Case, since_ms: float = 4_000
) -> float:
    """Return the share of requests from `since_ms` on that were not answered in time."""
    served = serve(discipline, *loads, case=case, until_ms=max(ms[-1] for ms in loads) + 1_000)
    late = served.finish_ns >= served.arrivals.ns + 25 * MS
    return float(((served.finish_ns <= 0) | late)[served.arrivals.ns >= since_ms * MS].mean())


class TestEager:
    """Batches start as soon as an instance is free."""

    def test_it_starts_at_once_and_again_when_the_instance_is_free(self) -> None:
        served = serve(Eager(), [0, 1, 2])
        assert batches(served) == [(10, 0, 1, 0), (10, 0, 2, 6)]  # L(1) = 6

    def test_pending_services_go_by_their_last_feasible_start(self) -> None:
        # Last starts 40 - 6 and 30 - 6; at equal SLOs the lower number goes first.
        case = Case(free_ms=[10], slo_ms=[40, 30])
        assert batches(serve(Eager(), [0], [0], case=case)) == [(10, 1, 1, 10), (10, 0, 1, 16)]
        case = Case(free_ms=[10], slo_ms=[40, 40])
        assert batches(serve(Eager(), [0], [0], case=case)) == [(10, 0, 1, 10), (10, 1, 1, 16)]


class TestTimeout:
    """Batches go full, or when the oldest request has waited long enough; maximum three here."""

    def test_a_batch_goes_when_it_is_full(self) -> None:
        assert batches(serve(Timeout(), [0, 1, 2], case=Case(max_batch=3), timeout_ms=4.0)) == [(10, 0, 3, 2)]

    def test_a_batch_goes_when_its_oldest_request_is_old_enough(self) -> None:
        assert batches(serve(Timeout(), [0, 1], case=Case(max_batch=3), timeout_ms=4.0)) == [(10, 0, 2, 4)]

    def test_age_runs_while_instances_are_busy(self) -> None:
        case = Case(max_batch=3, free_ms=[20])
        assert batches(serve(Timeout(), [0, 18, 19, 21], case=case, timeout_ms=4.0)) == [(10, 0, 3, 20), (10, 0, 1, 28)]

    def test_without_delay_it_is_first_in_first_out(self) -> None:
        case = Case(max_batch=3)
        assert batches(serve(Timeout(), [0, 1, 2, 3, 4], case=case)) == [(10, 0, 1, 0), (10, 0, 3, 6), (10, 0, 1, 14)]

    def test_overheads_delay_the_start(self) -> None:
        case = Case(max_batch=3, control_ms=1, data_ms=0.5)
        assert batches(serve(Timeout(), [0, 0], case=case)) == [(10, 0, 2, 2)]  # 1 + 2 · 0.5

    def test_nothing_is_dropped_unless_the_queue_policy_rejects(self) -> None:
        # At 30 the first has waited 30 ≥ 25 ms, the second 24.
        case = Case(max_batch=3, free_ms=[30])
        assert finish_ms(serve(Timeout(), [0, 6], case=case)) == [37, 37]
        assert finish_ms(serve(Timeout(), [0, 6], case=case, queue_policy="reject")) == [-1, 36]
        assert finish_ms(serve(Timeout(), [5], case=case, queue_policy="reject")) == [-1]

    def test_the_service_with_the_oldest_request_goes_first(self) -> None:
        case = Case(max_batch=3, free_ms=[10], slo_ms=[25, 25])
        assert batches(serve(Timeout(), [2], [1], case=case)) == [(10, 1, 1, 10), (10, 0, 1, 16)]
        assert batches(serve(Timeout(), [1], [1], case=case)) == [(10, 0, 1, 10), (10, 1, 1, 16)]

    def test_which_instance_is_taken(self) -> None:
        case = Case(free_ms=[8, 0, 4])
        assert batches(serve(Timeout(), [10], case=case)) == [(10, 0, 1, 10)]
        assert batches(serve(Timeout(), [10], case=case, gpu_choice="earliest")) == [(11, 0, 1, 10)]
        assert batches(serve(Timeout(), [2], case=case)) == [(11, 0, 1, 2)]


@pytest.mark.parametrize(
    ("discipline", "key", "value"),
    [
        (Deferred(), "drop", "sometimes"),
        (Deferred(), "window", "frontrunner"),
        (Deferred(), "match", "nobody"),
        (Deferred(), "order", "oldest"),
        (Adaptive(), "order", "oldest"),
        (Eager(), "gpu_choice", "random"),
        (Timeout(), "gpu_choice", "random"),
        (Timeout(), "queue_policy", "delay"),
        (Timeout(), "timeout_ms", "soon"),
        (Timeout(), "timeout_ms", -1.0),
        (Timeout(), "timeout_ms", float("nan")),
    ],
)
def test_a_wrong_parameter_is_named(discipline: Discipline, key: str, value: str | float) -> None:
    wrong: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError, match=f"discipline.{key}: {value!r} is no"):
        serve(discipline, [0], **wrong)


def test_the_built_in_disciplines_are_those_that_scenarios_know() -> None:
    assert sorted(d.name for d in DISCIPLINES) == sorted(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_entry_keeps_what_another_discipline_has_too(name: str) -> None:
    """From deferred to each other one, and what it does not have is refused by name."""
    given = {"drop": "window", "gpu_choice": "earliest"}
    entry = DisciplineEntry.model_validate(given | {"name": "deferred", "max_batch": 4}).renamed(name)
    assert (entry.name, entry.max_batch) == (name, 4)
    for key, value in given.items():
        if name in OF_SOME[key]:
            assert getattr(entry, key) == value
        else:
            with pytest.raises(ValueError, match=f"the discipline {name} has no {key}; deferred, eager, "):
                DisciplineEntry.model_validate({"name": name, key: value})


@pytest.mark.parametrize(
    ("slo_ms", "rate_rps", "batch", "busy", "bad"),
    [
        # SLO 25: 15 requests gather in 14 / 4 = 3.5 ms and run for L(15) = 21.434 ms: 24.9 in all, 16 take 26.3.
        # 4000 / 15 batches a second of 21.434 ms keep 0.7145 of 8 GPUs busy.
        (25.0, 4000, 15.0, 0.7145, 0.0),
        # SLO 100: 8 GPUs run 8 · 77 / L(77) = 616 / 88.518 ms = 6959 requests a second, 0.6 % less than are offered.
        (100.0, 7000, 77.0, 1.0, 0.01),
    ],
)
def test_even_arrivals_reach_the_staggered_goodput(
    slo_ms: float, rate_rps: int, batch: float, busy: float, bad: float
) -> None:
    """On 8 GPUs with 1.082·b + 5.204 ms; the public scheduler was measured at the same batches and bad rates."""
    case = Case(free_ms=[0] * 8, slo_ms=[slo_ms], max_batch=499, alpha_ms=1.082, beta_ms=5.204)
    served = serve(Deferred(), np.arange(1, 30 * rate_rps) * 1000 / rate_rps, case=case, until_ms=30_000)
    counted = (served.arrivals.ns >= 10_000 * MS) & (served.arrivals.ns < 29_000 * MS)
    running = (served.batch_start_ns >= 10_000 * MS) & (served.batch_start_ns < 29_000 * MS)
    assert np.mean(served.finish_ns[counted] < 0) <= bad
    assert served.batch_size[running].mean() == pytest.approx(batch, abs=0.005)
    used = (served.batch_finish_ns - served.batch_start_ns)[running].sum() / (8 * 19_000 * MS)
    assert used == pytest.approx(busy, abs=0.002)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_batches_of_one_wait_as_in_an_m_d_1_queue(load: float) -> None:
    """Pollaczek-Khinchine: with service time T the mean wait is T·ρ / (2·(1 - ρ))."""
    rng = np.random.default_rng(7)
    arrivals = np.cumsum(rng.exponential(1 / load, 400_000))  # T = 1 ms
    case = Case(alpha_ms=0.5, beta_ms=0.5, max_batch=1)
    served = serve(Timeout(), arrivals, case=case, until_ms=2e6)
    wait_ms = (served.start_ns - served.arrivals.ns).mean() / MS
    # 400,000 waits, correlated over about 1 / (1 - ρ)² services: three standard errors are below 4 %.
    assert wait_ms == pytest.approx(load / (2 * (1 - load)), rel=0.04)
