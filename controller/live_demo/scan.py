"""The best static settings: all candidates are replayed with the load known in advance, and the best are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import inf

from partita.controller.live_demo.case import MODELS, Knobs, Overhead, Setting, services
from partita.controller.live_demo.load import Load
from partita.controller.live_demo.predict import Change, replay
from partita.model.cluster import Batching
from partita.model.staggered import Overheads
from partita.replay.score import Score

BATCHES = ((4, 8, 12, 16, 24), (4, 8, 12, 16, 24, 32))
"""Largest batches to try, by service."""
TIMEOUTS_MS, INSTANCES, QUEUE_SHARES = (0.0, 20.0, 60.0), (1, 2), (inf, 0.5)
"""What else is tried, for all services alike; the last are shares of the SLO after which requests are rejected."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A static setting and what replay gives it."""

    setting: Setting
    score: Score


def scan(load: Load, overhead: Overhead, *, told: Callable[[float, float], None] = lambda *_: None) -> list[Candidate]:
    """Replay every candidate and return them, best goodput first, among equals the one with the shorter p99."""
    known, overheads = services(overhead), Overheads(control_s=overhead.lead_ms / 1e3)
    settings, found = list(_settings(overhead)), []
    for n, setting in enumerate(settings):
        score, _ = replay(load, [Change(0.0, setting.plan())], known, overheads)
        found.append(Candidate(setting, score))
        told(n + 1, len(settings))
    return sorted(found, key=lambda c: (-c.score.good, c.score.latency_ms.p99, c.setting.name))


def foremost(found: list[Candidate], count: int) -> list[Candidate]:
    """Return the best candidates that differ from each other in both their largest batches and how long they wait."""
    chosen: list[Candidate] = []
    for candidate in found:
        if len(chosen) < count and not any(_alike(candidate.setting, other.setting) for other in chosen):
            chosen.append(candidate)
    return chosen


def _alike(one: Setting, other: Setting) -> bool:
    pairs = list(zip(one.batching, other.batching, strict=True))
    same_batches = all(a.max_batch == b.max_batch for a, b in pairs)
    return same_batches or all(a.timeout_s == b.timeout_s for a, b in pairs)


def _settings(overhead: Overhead) -> Iterator[Setting]:
    for sizes in product(*BATCHES):
        for timeout_ms, instances, share in product(TIMEOUTS_MS, INSTANCES, QUEUE_SHARES):
            knobs = [
                Knobs(size, timeout_ms, instances, inf if share == inf else round(model.slo_ms * share))
                for size, model in zip(sizes, MODELS, strict=True)
            ]
            yield Setting(_name(knobs), tuple(_noting(k.batching(), overhead) for k in knobs))


def _noting(batching: Batching, overhead: Overhead) -> Batching:
    """Note what replay has to know of this machine beside what the server is set to."""
    options = {**dict(batching.options), "turnaround_ms": overhead.turnaround_ms}
    return Batching(batching.discipline, batching.timeout_s, batching.max_batch, tuple(sorted(options.items())))


def _name(knobs: list[Knobs]) -> str:
    first = knobs[0]
    parts = [f"batches to {'/'.join(str(k.max_batch) for k in knobs)}", f"wait {first.timeout_ms:g} ms"]
    parts += [f"{first.instances} instances"] * (first.instances > 1)
    parts += [f"reject after {'/'.join(f'{k.queue_ms:g}' for k in knobs)} ms"] * (first.queue_ms < inf)
    return ", ".join(parts)
