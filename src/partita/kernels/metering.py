"""The rate meter of deferred batching: arrivals in bins of 50 ms, counted when somebody asks.

The rate is the mean over the last hundred complete bins. Requests are counted in one go from where the last count
ended, since most of them ride in batches that ask for no rate.
"""

from __future__ import annotations

from partita.kernels import lean
from partita.kernels.columns import (
    BIN,
    BIN_END,
    BIN_NS,
    BINS,
    FIRST_BIN,
    METER,
    METERED,
    TAIL,
    TARGET,
    TOTAL,
    Work,
)

SLOTS = BINS + 1


@lean
def _turn_to(s: int, present: int, w: Work) -> None:
    """Complete the bins before `present`; the target is stale then, since the sum may have changed."""
    if present - w.state[s, BIN] >= SLOTS:
        for k in range(SLOTS):
            w.state[s, METER + k] = 0
        w.state[s, TOTAL] = 0
    else:
        # Completing a bin adds its count; the slot after it holds the count that falls out.
        for b in range(w.state[s, BIN], present):
            w.state[s, TOTAL] += w.state[s, METER + b % SLOTS] - w.state[s, METER + (b + 1) % SLOTS]
            w.state[s, METER + (b + 1) % SLOTS] = 0
    w.state[s, BIN] = present
    w.state[s, BIN_END] = (present + 1) * BIN_NS
    w.state[s, TARGET] = 0


@lean
def _first_from(w: Work, row: int, tail: int, instant: int) -> int:
    """Return the first row in ``[row, tail)`` that is not before an instant, or `tail`, by strides that double."""
    stride = 1
    while row + stride <= tail and w.ns[row + stride - 1] < instant:
        row += stride
        stride *= 2
    while stride > 0:
        if row + stride <= tail and w.ns[row + stride - 1] < instant:
            row += stride
        stride //= 2
    return row


@lean
def count_arrivals(s: int, w: Work) -> None:
    """Count the arrivals taken in so far."""
    row, tail = w.state[s, METERED], w.state[s, TAIL]
    while row < tail:
        if w.ns[row] >= w.state[s, BIN_END]:
            present = w.ns[row] // BIN_NS
            if w.state[s, FIRST_BIN] < 0:
                w.state[s, FIRST_BIN] = w.state[s, BIN] = present
            _turn_to(s, present, w)
        first = row
        row = _first_from(w, row, tail, w.state[s, BIN_END])
        w.state[s, METER + w.state[s, BIN] % SLOTS] += row - first
    w.state[s, METERED] = row


@lean
def meter_to(s: int, now: int, w: Work) -> None:
    """Count the arrivals taken in so far, and complete the bins that lie before `now`."""
    count_arrivals(s, w)
    if now >= w.state[s, BIN_END] and w.state[s, FIRST_BIN] >= 0:
        _turn_to(s, now // BIN_NS, w)


@lean
def complete_bins(s: int, w: Work) -> int:
    """Return how many bins the sum covers."""
    return min(BINS, w.state[s, BIN] - w.state[s, FIRST_BIN])


@lean
def rate_per_ns(s: int, w: Work) -> float:
    """Return the rate; below zero before the first bin is complete."""
    bins = complete_bins(s, w)
    return w.state[s, TOTAL] / (bins * float(BIN_NS)) if bins > 0 else -1.0
