"""Series by service and size bucket, and what is told of sizes and of burstiness beside the rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from partita.controller.load_character import in_windows, trimmed, window_s
from partita.controller.load_detail import Detail, edges_in, parse_buckets
from partita.errors import ConfigError
from partita.model.load import Load
from partita.model.size_counts import SizeCounts, gathered, size_quantile
from partita.ports import Counts, Rows
from partita.traces.buckets import Buckets, BySize, completed, owner, size_counts
from partita.traces.series import Series, roll_up
from partita.traces.services import ServiceMap

NAN = np.nan


def rows(*requests: tuple[float, str, float]) -> Rows:
    at = np.array([round(s * 1e9) for s, _, _ in requests], np.int64)
    names = np.array([name for _, name, _ in requests], object)
    sizes = np.array([size for _, _, size in requests], np.float32)
    return Rows(at, names, sizes, np.full(len(at), NAN, np.float32))


def counts(*bins: tuple[float, str, int]) -> Counts:
    at = np.array([round(s * 1e9) for s, _, _ in bins], np.int64)
    names, number = np.array([name for _, name, _ in bins], object), np.array([n for _, _, n in bins], np.int64)
    return Counts(at, names, number, np.full(len(at), "poisson", object), np.ones(len(at)))


def test_a_request_falls_up_to_the_first_edge_it_does_not_exceed() -> None:
    by_size = BySize(Buckets((128.0, 512.0)))
    block = rows((0, "chat", 1), (1, "chat", 128), (2, "chat", 128.5), (3, "chat", 513), (4, "chat", NAN))
    assert by_size.rows(block).service.tolist() == [
        "chat:up-to-128",
        "chat:up-to-128",
        "chat:up-to-512",
        "chat:over-512",
        "chat:unknown-size",
    ]
    assert owner("chat:over-512") == owner("chat:unknown-size") == "chat"
    assert owner("a:b") == "a:b"


@pytest.mark.parametrize("step_s", [1.0, 10.0, 60.0, 600.0, 3600.0])
def test_buckets_add_up_to_their_service(step_s: float) -> None:
    rng = np.random.default_rng(7)
    at = np.sort(rng.uniform(0, 4 * 3600, 5000))
    size = np.where(rng.random(5000) < 0.1, NAN, rng.lognormal(5, 2, 5000)).astype(np.float32)
    name = rng.choice(np.array(["a", "b", "c"], object), 5000)
    block = Rows((at * 1e9).astype(np.int64), name, size, np.full(5000, NAN, np.float32))
    by_size = BySize(Buckets((100.0, 1000.0), {"b": (20.0,), "c": ()}))
    split = roll_up([by_size.rows(block)], step_s, mapping=by_size.mapping, begin_s=0.0)
    whole = roll_up([block], step_s, begin_s=0.0).load
    for n, service in enumerate(whole.services):
        parts = [
            row for name, row in zip(split.load.services, split.load.counts, strict=True) if owner(name) == service
        ]
        assert len(parts) == {"a": 4, "b": 3, "c": 1}[service]
        np.testing.assert_array_equal(np.sum(parts, axis=0), whole.counts[n])


def test_a_bucket_that_nothing_fell_into_is_zero_and_a_gap_is_not() -> None:
    by_size = BySize(Buckets((10.0, 100.0)))
    found = roll_up(
        [by_size.rows(rows((0, "a", 5), (25, "a", 500)))], 10.0, mapping=by_size.mapping, begin_s=0, watermark_s=40,
        gaps=[(30, 35)],
    )  # fmt: skip
    assert found.load.services == ("a:up-to-10", "a:up-to-100", "a:over-100")
    np.testing.assert_array_equal(found.load.counts, [[1, 0, 0, NAN], [0, 0, 0, NAN], [0, 0, 1, NAN]])


def test_what_only_counts_tell_of_is_of_unknown_size() -> None:
    buckets = Buckets((10.0,))
    whole = Series(Load(("a",), 0.0, 10.0, np.array([[3.0, NAN, 2.0]])), 34.0, np.array([2.0]), 4.0, 1, {"a": 4})
    split = Series(
        Load(("a:up-to-10", "a:over-10"), 0.0, 10.0, np.array([[1.0, 0, 0], [0, 0, 2.0]])),
        34.0,
        np.array([1.0, 0]),
        4.0,
    )
    found = completed(split, whole, buckets)
    assert found.load.services == ("a:up-to-10", "a:over-10", "a:unknown-size")
    np.testing.assert_array_equal(found.load.counts, [[1, NAN, 0], [0, NAN, 2], [2, NAN, 0]])
    assert found.rest.tolist() == [1.0, 0.0, 1.0]
    assert (found.beyond, found.late["a:over-10"]) == (1, 4)


def test_counts_by_size_are_put_together_by_service() -> None:
    by_size = BySize(Buckets((10.0, 100.0)))
    block = by_size.rows(rows((0, "b", 5), (1, "a", 50), (2, "a", NAN), (12, "b", 5000)))
    load = roll_up([block], 10.0, mapping=by_size.mapping, begin_s=0, watermark_s=20).load
    found = size_counts(load, by_size.buckets, by_size.services)
    assert found.services == ("b", "a")
    assert found.counts.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]]
    assert found.unknown.tolist() == [[0, 0], [1, 0]]


def test_quantiles_lie_between_edges() -> None:
    shares = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert size_quantile(shares, (10.0, 1000.0), 0.25)[0] == pytest.approx(5.0)  # half way from 0 to 10
    assert size_quantile(shares, (10.0, 1000.0), 0.75)[0] == pytest.approx(100.0)  # half way by logarithm
    assert np.isnan(size_quantile(shares, (10.0, 1000.0), 0.5)[1])
    assert size_quantile(shares, (10.0, 1000.0), 0.5)[2] == 1000.0  # above the last edge only the edge is known
    assert gathered(shares, (10.0, 1000.0), (10.0,)).tolist() == [[0.5, 0.5], [0, 0], [0, 1]]


def test_windows_and_edges() -> None:
    sizes = SizeCounts(("a",), 60.0, 60.0, (1.0, 2.0, 4.0), np.ones((1, 4, 4)) * [0, 0, 1, 0], np.ones((1, 4)))
    found = in_windows(sizes, 120.0)  # 60 is no multiple of 120: the first whole window begins at 120
    assert (found.start_s, found.counts[0, :, 2].tolist(), found.unknown.tolist()) == (120.0, [2.0], [[2.0]])
    assert trimmed(found).edges == (4.0,)
    assert window_s(10.0, 3500.0) == 120.0
    assert window_s(10.0, 10 * 86_400.0) == 3600.0
    assert window_s(600.0, 10 * 86_400.0) == 21_600.0
    assert window_s(10.0, 100.0) is None


def test_edges_from_the_command_line_and_from_files(tmp_path: Path) -> None:
    assert parse_buckets("128, 512,2048").edges == (128.0, 512.0, 2048.0)
    for wrong in ("512,128", "0,5", "-1", "nan", "", "128,128", "no-such-file"):
        with pytest.raises(ConfigError):
            parse_buckets(wrong)
    path = tmp_path / "s.yaml"
    path.write_text(
        "services:\n  - {name: chat, slo_ms: 100, latency: {512: {alpha_ms: 1, beta_ms: 5}, "
        "128: {alpha_ms: 0.5, beta_ms: 5}}}\n"
        "cluster: [{gpu: A100-80GB}]\nload: {kind: poisson, rate_rps: 10}\nduration_s: 10\n"
    )
    told = edges_in({"services": [{"name": "chat", "buckets": [], "latency": {"512": {}, "128": {}}}, {"name": "b"}]})
    assert told.own == {"chat": (128.0, 512.0)}
    assert (told.of("chat"), told.of("b"), edges_in({})) == ((128.0, 512.0), (), Buckets())


def test_detail_is_taken_while_blocks_pass_by() -> None:
    detail = Detail()
    block = rows(*((float(s), "a", 100.0 if s < 60 else 300.0) for s in range(180)))
    assert list(detail.through([block], None)) == [block]
    detail.finish(begin_s=0.0)
    assert detail.fine is not None
    assert detail.fine.counts[0, :5].tolist() == [10.0] * 5
    assert detail.sizes is not None
    np.testing.assert_allclose(detail.sizes.counts.sum(axis=2)[0, :2], [60, 60])
    bare = Detail()
    list(bare.through([counts((0, "a", 5), (60, "a", 6), (120, "a", 7))], 60.0))
    bare.finish()
    assert bare.sizes is None
    assert bare.fine is not None
    assert bare.fine.step_s == 60.0
    with pytest.raises(ConfigError, match="counts tell no input sizes"):
        list(Detail(Buckets((5.0,))).through([counts((0, "a", 5))], 60.0))


def test_a_map_of_nothing_names_nothing() -> None:
    empty = rows()
    assert BySize(Buckets((1.0,))).rows(empty).service.size == 0
    assert size_counts(Load((), 0.0, 1.0, np.zeros((0, 3))), Buckets((1.0,)), ()).counts.shape == (0, 3, 2)
    assert ServiceMap().services == ()
