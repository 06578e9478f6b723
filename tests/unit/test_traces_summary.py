"""What a trace holds, counted in one pass; made-up traces hold what was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.ports import Counts, Rows, TraceInfo
from partita.traces import detect
from partita.traces.blocks import join_counts
from partita.traces.services import ServiceMap
from partita.traces.summary import TraceSummary, open_arrivals, summarise, summarise_blocks
from partita.traces.synth import SynthSpec, synthesise, synthesise_counts

SECOND = 1_000_000_000
DAY_BINS, WEEK_BINS = 1440, 10_080


def requests(*at_s: float, names: str) -> Rows:
    sizes = np.ones(len(at_s), np.float32)
    return Rows((np.array(at_s) * SECOND).astype(np.int64), np.array(list(names), object), sizes, sizes)


def count(*blocks: Rows | Counts, bin_s: float | None = None, mapping: ServiceMap | None = None) -> TraceSummary:
    kind = "requests" if bin_s is None else "counts"
    found = summarise_blocks(blocks, TraceInfo("test", kind, bin_s), mapping or ServiceMap())
    assert found is not None
    return found


def test_requests() -> None:
    # Minutes of "a": 2, then 1 + 2 over the end of a block, then 1; of "b": 1.
    found = count(requests(0, 59.5, 61, names="aaa"), requests(62, 63, 100, 180, names="aaba"))
    assert found.services == ("a", "b")
    assert found.requests.tolist() == [6, 1]
    assert found.peak_minute_rps == pytest.approx([3 / 60, 1 / 60])
    assert (found.begin_ns, found.end_ns) == (0, 180 * SECOND + 1)
    assert found.mean_rps == pytest.approx([6 / 180, 1 / 180])
    assert (found.entries, found.missing_bins, found.dropped) == (7, 0, 0)


def test_the_busiest_minute_is_that_of_all_services_together_by_weight() -> None:
    # Minute 0: a 3, b 1. Minute 1, over the end of a block: a 1, b 2. A request of b weighs one or four.
    blocks = requests(0, 1, 2, 3, 61, names="aaaba"), requests(62, 63, 130, names="bba")
    info = TraceInfo("test", "requests")
    equal = summarise_blocks(blocks, info, ServiceMap())
    heavy = summarise_blocks(blocks, info, ServiceMap(), weigh=lambda name: 4.0 if name == "b" else 1.0)
    assert equal is not None
    assert heavy is not None
    assert equal.busiest_minute_rps == pytest.approx([3 / 60, 1 / 60])
    assert heavy.busiest_minute_rps == pytest.approx([1 / 60, 2 / 60])


def test_several_services_become_one_and_others_are_dropped() -> None:
    found = count(requests(0, 1, 2, 3, names="abca"), mapping=ServiceMap({"a": "x", "b": "x"}))
    assert (found.services, found.requests.tolist(), found.dropped) == (("x",), [3], 1)
    assert found.peak_minute_rps == pytest.approx([3 / 60])


def bins(*rows: tuple[int, str, int]) -> Counts:
    at, names, counts = zip(*rows, strict=True)
    size = len(rows)
    laws = np.full(size, "poisson", object)
    return Counts(np.array(at) * SECOND, np.array(names, object), np.array(counts), laws, np.ones(size))


@pytest.mark.parametrize(("bin_s", "peak"), [(10, 12 / 60), (600, 9 / 600)])
def test_counts(bin_s: int, peak: float) -> None:
    # Five bins of "a" of which one is missing, four of "b" of which two are.
    block = bins(
        (0, "a", 3), (0, "b", 0), (bin_s, "a", 9), (3 * bin_s, "a", 0), (4 * bin_s, "a", 0), (4 * bin_s, "b", 7)
    )
    found = count(block, bin_s=bin_s)
    assert found.requests.tolist() == [12, 7]
    assert found.missing_bins == 1 + 3
    assert found.span_s == 5 * bin_s
    assert found.peak_minute_rps[0] == pytest.approx(peak)


def test_parts(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("minute,n\n" + "".join(f"{60 * k},{k}\n" for k in range(10)))
    reader = detect(path)
    assert summarise(reader, path).requests.tolist() == [45]
    arrivals, found = open_arrivals(reader, path, ServiceMap({"*": "x"}), begin="2m", end="5m")
    assert found.requests.tolist() == [2 + 3 + 4]
    assert (arrivals.services, arrivals.span_ns, arrivals.origin_ns) == (("x",), 180 * SECOND, 120 * SECOND)
    assert len(arrivals.until(arrivals.span_ns)) == 9


def table(spec: SynthSpec, seed: int = 1) -> NDArray[np.int64]:
    """Counts by bin and service."""
    return join_counts(list(synthesise_counts(spec, seed))).count.reshape(spec.bins, spec.services)


def test_a_made_up_trace_has_the_rate_and_the_skew_asked_for() -> None:
    spec = SynthSpec(services=4, days=28, rate_rps=50, skew=1.0, burstiness=20.0)
    found = table(spec).sum(axis=0) / (28 * 86_400)
    # Shares 1, 1/2, 1/3, 1/4 over 25/12. Bursts make a quarter of the requests: a service has about 560 of them, and
    # the standard deviation of their sum is 2 % of the service's mean.
    assert found.sum() == pytest.approx(50, rel=0.05)
    assert found / found.sum() == pytest.approx(np.array([12, 6, 4, 3]) / 25, rel=0.1)


def test_a_made_up_trace_has_days_and_weeks() -> None:
    found = table(SynthSpec(services=1, days=14, rate_rps=100, burstiness=0.0, noise=0.0))[:, 0].astype(float)

    def correlation(lag: int) -> float:
        return float(np.corrcoef(found[:-lag], found[lag:])[0, 1])

    assert correlation(WEEK_BINS) > 0.95
    assert correlation(DAY_BINS) > 0.8
    assert correlation(DAY_BINS // 2) < -0.5
    days = found.reshape(14, DAY_BINS).mean(axis=1)
    # Week 0.3: weekends have 0.7 of the mean, weekdays 1.12.
    assert days[5:7].mean() / days[:5].mean() == pytest.approx(0.7 / 1.12, rel=0.03)


def test_burstiness_brings_bursts() -> None:
    quiet, bursty = (
        table(SynthSpec(services=1, days=7, burstiness=b, day=0.0, week=0.0, noise=0.0))[:, 0] for b in (0.0, 5.0)
    )
    assert quiet.max() / quiet.mean() < 1.1
    assert bursty.max() / bursty.mean() > 3


def test_the_same_seed_makes_the_same_trace() -> None:
    spec = SynthSpec(services=3, days=0.02, rate_rps=20)
    one, same, other = (
        [column.tolist() for b in synthesise(spec, seed) for column in (b.at_ns, b.service, b.size, b.output_size)]
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_requests_of_a_made_up_trace_are_its_counts() -> None:
    spec = SynthSpec(services=3, days=0.02, rate_rps=20)
    found = count(*synthesise(spec, 1))
    made = dict(zip(spec.names, table(spec).sum(axis=0).tolist(), strict=True))
    assert dict(zip(found.services, found.requests.tolist(), strict=True)) == made


@pytest.mark.parametrize("wrong", [{"services": 0}, {"days": -1.0}, {"day": 1.5}, {"skew": -1.0}, {"rate_rps": np.inf}])
def test_what_cannot_be_made_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SynthSpec(**wrong)  # type: ignore[arg-type]
