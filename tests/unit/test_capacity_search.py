"""The searches, on bad rates that are known: what they find, and how little they measure for it."""

from collections.abc import Callable

import pytest

from partita.replay.capacity import AT_MOST_BEYOND, GRID, FewestGpus, Found, HighestRate, Question, Reading

Curve = Callable[[float], float]


def play(question: Question, bad: Curve, requests: int = 100_000) -> tuple[Found, list[float]]:
    """Measure until the search is over, scanning if its readings contradict each other."""
    readings: dict[float, Reading] = {}
    while True:
        wanted = question.wanted(readings)
        assert not set(wanted) & set(readings)
        if not wanted:
            found = question.conclude(readings)
            if found.contradiction is None or question.scan:
                assert question.remaining(readings) == 0
                return found, list(readings)
            question = question.scanned()
            continue
        assert question.remaining(readings) > 0
        readings |= {level: Reading(bad(level), requests) for level in wanted}


def knee(at: float) -> Curve:
    """Bad rates that reach 1 % at a rate and rise from there."""
    return lambda rate: min(1.0, 0.01 * (rate / at) ** 8)


@pytest.mark.parametrize("capacity", [30.0, 260.0, 513.0, 740.0, 999.0, 1400.0])
def test_the_highest_rate_is_closed_in_on(capacity: float) -> None:
    found, measured = play(HighestRate(0.01, 1000.0, 0.005), knee(capacity))
    assert found.contradiction is None
    assert found.level is not None
    assert found.missed is not None
    assert found.level <= capacity < found.missed
    assert found.missed - found.level <= 0.005 * found.missed
    assert len(measured) <= 4 + 11  # the opening, and halving a bracket of at most the whole range to 0.5 %


def test_nothing_meets_the_limit() -> None:
    found, measured = play(HighestRate(0.01, 1000.0), lambda rate: 0.5)
    assert found == Found(None, min(measured), None)
    assert min(measured) < 1.0


def test_everything_meets_the_limit() -> None:
    found, measured = play(HighestRate(0.01, 1000.0), lambda rate: 0.0)
    assert found.missed is None
    assert found.level == max(measured) == pytest.approx(1000.0 * 1.25**AT_MOST_BEYOND)


def islands(rate: float) -> float:
    """Good up to 400, bad from there to 700, good again up to 880: as packing whole GPUs gives it."""
    return 0.0 if rate <= 400 or 700 <= rate <= 880 else 0.05


def test_an_island_beyond_a_gap_is_found_by_the_scan() -> None:
    found, measured = play(HighestRate(0.01, 1000.0, 0.005), islands)
    assert found.contradiction is not None
    assert 400 < found.contradiction[0] < 700 <= found.contradiction[1] <= 880
    assert found.level is not None
    assert 880 * 0.995 <= found.level <= 880
    assert len(measured) >= GRID


def test_a_known_scan_takes_no_bisection_first() -> None:
    question = HighestRate(0.01, 1000.0, scan=True)
    assert question.wanted({}) == tuple(pytest.approx(1000.0 * k / GRID) for k in range(1, GRID + 1))
    found, _ = play(question, islands)
    assert found.level == pytest.approx(880, rel=0.005)


def test_a_fall_that_chance_explains_is_no_contradiction() -> None:
    noisy = HighestRate(0.01, 1000.0)
    readings = {250.0: Reading(0.0, 500), 500.0: Reading(0.06, 500), 750.0: Reading(0.04, 500)}
    # 6 % against 4 % of 500: the difference has a standard deviation of 1.4 points.
    assert noisy.conclude(readings).contradiction is None
    many = {rate: Reading(reading.bad_rate, 100_000) for rate, reading in readings.items()}
    assert noisy.conclude(many).contradiction == (500.0, 750.0)


@pytest.mark.parametrize(
    ("easier", "harder", "contradict"),
    [(0.030, 0.022, False), (0.030, 0.018, True), (0.0102, 0.0098, True), (0.0098, 0.0001, False)],
)
def test_a_fall_counts_if_it_is_wide_or_crosses_the_limit(easier: float, harder: float, contradict: bool) -> None:
    readings = {250.0: Reading(easier, 10**7), 500.0: Reading(harder, 10**7)}
    found = HighestRate(0.01, 1000.0).conclude(readings)
    assert found.contradiction == ((250.0, 500.0) if contradict else None)


def test_a_curve_is_measured_beside_the_search() -> None:
    plain, few = play(HighestRate(0.01, 1000.0), knee(600))
    found, measured = play(HighestRate(0.01, 1000.0, curve=10), knee(600))
    assert set(measured) >= {100.0 * k for k in range(1, 11)}
    assert found.level == pytest.approx(plain.level, rel=0.005)
    assert len(measured) > len(few)


@pytest.mark.parametrize(("guess", "enough"), [(4, 4), (4, 5), (4, 9), (4, 3), (4, 1), (1, 1), (1, 12), (7, 16)])
def test_the_fewest_gpus(guess: int, enough: int) -> None:
    found, measured = play(FewestGpus(0.01, guess, 16), lambda gpus: 0.0 if gpus >= enough else 0.3 / gpus)
    assert found.level == enough
    assert found.contradiction is None
    assert enough == 1 or enough - 1 in measured
    assert all(1 <= gpus <= 16 for gpus in measured)
    assert len(measured) <= 8


@pytest.mark.parametrize(("guess", "enough"), [(1, 700), (700, 3)])
def test_a_guess_far_off_costs_few_measurements(guess: int, enough: int) -> None:
    found, measured = play(FewestGpus(0.01, guess, 1000), lambda gpus: 0.0 if gpus >= enough else 0.015)
    assert found.level == enough
    assert len(measured) <= 22  # steps double out to it, and halve back: ten each


def test_a_scan_says_how_much_it_will_measure() -> None:
    assert FewestGpus(0.01, 5, 40, scan=True).remaining({}) == GRID
    assert FewestGpus(0.01, 5, 10, scan=True).remaining({}) == 6


def test_too_few_gpus_at_most() -> None:
    found, measured = play(FewestGpus(0.01, 4, 6), lambda gpus: 0.2)
    assert found.level is None
    assert max(measured) == 6


def test_gpus_that_fare_worse_with_one_more_are_scanned() -> None:
    # 5 are enough, 6 and 7 are not, 8 and more are: a guess of 6 would stop at 8.
    found, measured = play(FewestGpus(0.01, 6, 40, scan=True), lambda gpus: 0.05 if gpus in (6, 7) else 0.0)
    assert found.level == 8
    found, measured = play(FewestGpus(0.01, 5, 40, scan=True), lambda gpus: 0.05 if gpus in (1, 2, 3, 4, 6, 7) else 0.0)
    assert found.level == 5
    assert found.contradiction == (7.0, 5.0)
    assert set(range(5, 5 + GRID)) <= set(map(int, measured))
