"""The recent log of a replay against a plain list of everything that ever came."""

from __future__ import annotations

import numpy as np
import pytest

from partita.model.load import Arrivals
from partita.replay.recent import LEAST_ROOM, SECOND_NS, RecentLog

SERVICES = 3
Request = tuple[int, float]


def come(rng: np.random.Generator, since_ns: int, until_ns: int, most: int) -> list[list[Request]]:
    """Draw requests of each service in a span of time, some of them none."""
    found = []
    for _ in range(SERVICES):
        at = np.sort(rng.integers(since_ns, until_ns, rng.integers(0, most) * rng.integers(0, 2)))
        found.append([(int(ns), float(size)) for ns, size in zip(at, rng.integers(1, 99, at.size), strict=True)])
    return found


def columns(requests: list[list[Request]]) -> Arrivals:
    rows = [request for group in requests for request in group]
    offsets = np.cumsum([0, *map(len, requests)]).astype(np.int64)
    return Arrivals(
        np.array([ns for ns, _ in rows], np.int64), offsets, np.array([size for _, size in rows], np.float32)
    )


def listed(arrivals: Arrivals) -> list[list[Request]]:
    bounds = zip(arrivals.offsets[:-1], arrivals.offsets[1:], strict=True)
    return [list(zip(arrivals.ns[a:b].tolist(), arrivals.size[a:b].tolist(), strict=True)) for a, b in bounds]


@pytest.mark.parametrize(("seed", "most"), [(1, 20), (2, 20), (3, LEAST_ROOM)])
def test_it_shows_what_came_and_has_not_been_forgotten(seed: int, most: int) -> None:
    rng, log, now_ns, forgotten_ns = np.random.default_rng(seed), RecentLog(SERVICES), 0, 0
    everything: list[list[Request]] = [[] for _ in range(SERVICES)]
    for _ in range(60):
        until_ns = now_ns + int(rng.integers(1, 3 * SECOND_NS))
        came = come(rng, now_ns, until_ns, most)
        log.add(columns(came), until_ns)
        everything = [old + new for old, new in zip(everything, came, strict=True)]
        now_ns = until_ns
        if rng.random() < 0.4:
            forgotten_ns = max(forgotten_ns, now_ns - int(rng.integers(5, 20)) * SECOND_NS)
            log.forget(forgotten_ns)
        since_ns = int(rng.integers(max(0, forgotten_ns), now_ns + 1))
        end_ns = int(rng.integers(since_ns, now_ns + SECOND_NS))
        wanted = [[r for r in group if since_ns <= r[0] < end_ns] for group in everything]
        assert listed(log.between(since_ns, end_ns)) == wanted
        seconds = int(rng.integers(0, 4))
        counts = [
            [sum(0 <= ns - since_ns - k * SECOND_NS < SECOND_NS for ns, _ in group) for k in range(seconds)]
            for group in everything
        ]
        assert log.per_second(since_ns, seconds).tolist() == counts


def test_a_log_that_is_empty_shows_nothing() -> None:
    log = RecentLog(SERVICES)
    assert listed(log.between(0, SECOND_NS)) == [[], [], []]
    assert log.per_second(0, 2).tolist() == [[0, 0], [0, 0], [0, 0]]
    log.forget(5)
