"""What a scenario says of latencies by share and size, of tables, variation and failures."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import pytest
from miniature import SECOND, Listed, even

from partita.controller.assembly import delays, failures_of, variation_of
from partita.controller.config import Scenario
from partita.controller.run import run_scenario
from partita.controller.scenario_file import parse_scenario
from partita.errors import ConfigError
from partita.model.service import Bucket, Service
from partita.replay.failures import Failure
from partita.replay.pools import Variation
from partita.replay.sizes import DrawnSizes

TEXT = """\
cluster: [{gpu: A100-80GB, count: 2}]
services:
  - {name: net, slo_ms: 100, latency: LATENCY}
load:
  arrivals: {process: poisson, rate_rps: 200, duration_s: 4}
"""
TABLE = """\
model,gpu_percent,bucket,batch,latency_ms
net,100,128,1,5
net,100,128,8,12
net,100,512,1,9
net,100,512,8,8
net,50,128,1,9
net,50,512,1,17
"""


def scenario(latency: str = "{alpha_ms: 1, beta_ms: 5}", more: str = "", folder: Path = Path()) -> Scenario:
    return parse_scenario(TEXT.replace("LATENCY", latency) + more, name="s.yaml", folder=folder)


def net(latency: str, folder: Path = Path()) -> Service:
    [service] = scenario(latency, folder=folder).services()
    return service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.csv").write_text(TABLE, "utf-8")
    return tmp_path


def test_shares_of_a_profile_have_a_latency_of_their_own() -> None:
    service = net('{whole: {alpha_ms: 1, beta_ms: 5}, "whole@50%": {points: {1: 11, 8: 25}}}')
    [whole], [half] = service.curves, service.finer
    assert (whole.gpu_percent, whole.latency_s(1)) == (100.0, 0.006)
    assert (half.profile, half.gpu_percent, half.latency_s(8)) == ("whole", 50.0, 0.025)
    assert service.curve("whole", 50.0) is half
    assert service.curve("whole", 40.0) is None


def test_latency_by_size_makes_buckets() -> None:
    service = net(
        "{512: {alpha_ms: 4, beta_ms: 6}, 128: {whole: {alpha_ms: 1, beta_ms: 5}, 3g.40gb: {points: {1: 9}}}}"
    )
    assert service.buckets() == (Bucket(0, 128), Bucket(128, 512))
    small, large = service.lanes()
    assert [c.profile for c in small.curves] == ["whole", "3g.40gb"]
    assert [c.latency_s(1) for c in large.curves] == [pytest.approx(0.010)]
    assert service.curve("whole") == large.curve("whole")
    assert service.curve("3g.40gb") is None, "a size is missing there, so nothing may be placed there"


def test_sizes_are_padded_unless_they_are_exact() -> None:
    latency = "{512: {alpha_ms: 4, beta_ms: 6}, 128: {alpha_ms: 1, beta_ms: 5}}"
    assert not net(latency).exact_sizes
    assert not net(f"{latency}, sizes: padded").exact_sizes
    exact = net(f"{latency}, sizes: exact")
    assert exact.exact_sizes
    assert exact.lanes() == (exact,)
    assert exact.by_bucket() == net(latency).lanes()
    assert exact.curve("whole") == net(latency).curve("whole")


def test_a_policy_holds_what_the_mix_of_sizes_needs_not_what_the_largest_would() -> None:
    """Of the small ones 900 a second take 32 ms by 60, of the large ones 100 take 42 ms by 5: 1.3 GPUs.

    If all were large, batches of 10 in 82 ms would keep 8.2 GPUs busy.
    """
    latency = "{128: {alpha_ms: 0.5, beta_ms: 2}, 512: {alpha_ms: 8, beta_ms: 2}}"
    sizes = "  sizes: {net: {100: 0.9, 400: 0.1}}\n"
    text = TEXT.replace("LATENCY", latency).replace("rate_rps: 200, duration_s: 4", "rate_rps: 1000, duration_s: 60")
    sized = parse_scenario(text.replace("count: 2", "count: 12") + sizes, name="s.yaml", folder=Path())
    ran = run_scenario(sized, policy="static", seed=1)
    assert "needs 2 GPUs at 80 %" in ran.decisions[0].reason
    assert ran.decisions[-1].gpus_wanted == 2
    assert ran.score.attainment > 0.99


MIXED = """\
cluster: [{gpu: A100-80GB, count: 1}, {gpu: A100-80GB, geometry: 7x 1g.10gb, count: 1}]
services:
  - {name: quick, slo_ms: 40, latency: {whole: {alpha_ms: 1, beta_ms: 5}, 1g.10gb: {alpha_ms: 6, beta_ms: 40}}}
  - {name: slow, slo_ms: 400, latency: {1g.10gb: {alpha_ms: 6, beta_ms: 40}}}
load:
  arrivals: {process: poisson, rate_rps: 300, duration_s: 60}
  share: {quick: 0.5, slow: 0.5}
"""


@pytest.mark.parametrize("policy", [None, "symphony"])
def test_each_service_of_mixed_instances_runs_where_it_can_be_answered(policy: str | None) -> None:
    """The slices are too slow for one service, and the other was never measured on the whole GPU."""
    run = run_scenario(parse_scenario(MIXED, name="s.yaml", folder=Path()), policy=policy, seed=1)
    assert run.score.worst_attainment > 0.99
    assert run.score.gpus_held_mean == 2.0, "one of each is needed"
    assert not any(o.fault for decision in run.decisions for o in decision.opinions)


def test_a_table_is_found_beside_the_scenario(folder: Path) -> None:
    service = net("{table: tables/t.csv}", folder)
    assert service.buckets() == (Bucket(0, 128), Bucket(128, 512))
    curve = service.curve("whole")
    assert curve is not None
    assert (curve.latency_s(1), curve.latency_s(8)) == pytest.approx((0.009, 0.009))
    assert service.curve("whole", 50.0) is not None
    assert scenario("{table: tables/t.csv}", folder=folder).remarks() == (
        "net on whole up to size 512: batch 8 took 8 ms, less than batch 1: raised to its 9 ms",
    )
    one = net("{table: tables/t.csv}, buckets: [512], max_batch: 4", folder)
    assert one.buckets() == (Bucket(0, 512),)
    [curve] = one.curves
    assert curve.max_batch == 4
    assert curve.latency_s(4) == pytest.approx(0.009)


def test_a_scenario_is_the_same_from_its_own_document(folder: Path) -> None:
    for latency in (
        "{128: {alpha_ms: 1, beta_ms: 5}, 512: {whole: {alpha_ms: 2, beta_ms: 5}}}",
        "{table: tables/t.csv}",
        "{128: {alpha_ms: 1, beta_ms: 5}, 512: {alpha_ms: 2, beta_ms: 5}}, sizes: exact",
    ):
        written = scenario(latency, "failures: [{mtbf_s: 5, mttr_s: 1}]\nvariation: {tail: 1.2}\n", folder)
        for document in (
            written.document(),
            written.model_dump(by_alias=True),
            json.loads(json.dumps(written.document())),
        ):
            again = Scenario.model_validate(document, context={"folder": folder})
            assert again.services() == written.services()
            assert again.document() == written.document()


PROBLEMS = {
    "no file": (
        "{table: tables/x.csv}",
        "services[0].latency.table: FOLDER/tables/x.csv: no such file (line 3)",
    ),
    "no model": (
        "{table: tables/t.csv, model: nat}",
        "services[0].latency: FOLDER/tables/t.csv: model: holds no model 'nat': choose one of net (line 3)",
    ),
    "no bucket": ("{table: tables/t.csv}, buckets: [64]", "net was not measured for the bucket 64; there are 128, 512"),
    "bad format": (
        "{table: tables/t.csv, format: csv}",
        "services[0].latency.format: 'csv' should be 'partita', 'parv",
    ),
    "unknown key": (
        "{table: tables/t.csv, modell: net}",
        "latency.modell: unknown key 'modell': did you mean 'model'?",
    ),
    "buckets alone": (
        "{alpha_ms: 1, beta_ms: 5}, buckets: [128]",
        "services[0].buckets: each bucket needs a latency of its own: give latency by size, or a table",
    ),
    "other buckets": (
        "{128: {alpha_ms: 1, beta_ms: 5}}, buckets: [128, 512]",
        "services[0].buckets: there is no latency for sizes up to 512, only for 128",
    ),
    "twice": (
        "{128: {alpha_ms: 1, beta_ms: 5}}, buckets: [128, 128]",
        "services[0].buckets: an edge is given twice",
    ),
    "a gap": (
        "{128: {3g.40gb: {alpha_ms: 1, beta_ms: 5}}, 512: {alpha_ms: 1, beta_ms: 5}}",
        "services[0].latency: whole has a latency for larger sizes but none up to 128",
    ),
    "only a share": (
        '{"whole@50%": {alpha_ms: 1, beta_ms: 5}}',
        "no latency for the cluster's instances (whole), only for whole@50% (line 3)",
    ),
    "no such way": (
        "{alpha_ms: 1, beta_ms: 5}, sizes: exactly",
        "services[0].sizes: 'exactly' should be 'padded' or 'exact'",
    ),
    "one latency for all": (
        "{alpha_ms: 1, beta_ms: 5}, sizes: exact",
        "services[0].sizes: there is one latency for all sizes: exact sizes need latency by size",
    ),
    "one bucket": (
        "{128: {alpha_ms: 1, beta_ms: 5}}, sizes: exact",
        "services[0].sizes: there is one latency for all sizes: exact sizes need latency by size",
    ),
    "smaller is slower": (
        "{128: {alpha_ms: 1, beta_ms: 5}, 512: {points: {1: 6, 9: 12}}}, sizes: exact",
        "services[0].latency: with exact sizes a batch of 9 on whole cannot take longer for sizes up to 128 (14 ms)"
        " than up to 512 (12 ms) (line 3)",
    ),
    "smaller is not measured": (
        "{128: {points: {1: 2, 4: 6}}, 512: {points: {1: 4, 8: 12}}}, sizes: exact",
        "a batch of 8 on whole cannot take longer for sizes up to 128 (not measured) than up to 512 (12 ms)",
    ),
    "a share of large ones only": (
        "{128: {whole: {alpha_ms: 1, beta_ms: 5}}, 512: {whole: {alpha_ms: 2, beta_ms: 5},"
        ' "whole@50%": {alpha_ms: 4, beta_ms: 9}}}, sizes: exact',
        "services[0].latency: whole@50% has a latency for larger sizes but none up to 128",
    ),
    "no time": ("{alpha_ms: 1, beta_ms: 5}, from_s: 3, until_s: 2", "services[0].until_s: 2 must be after from_s, 3"),
    "a negative size": ("{-1: {alpha_ms: 1, beta_ms: 5}}", "-1 should be greater than 0"),
}


@pytest.mark.parametrize(("latency", "sentence"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_what_is_wrong_with_a_latency_is_said_in_one_sentence(folder: Path, latency: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as problem:
        scenario(latency, folder=folder)
    assert sentence.replace("FOLDER", str(folder)) in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_lane_that_can_never_be_met_is_said() -> None:
    with pytest.raises(ConfigError, match="can never be met: one request alone takes 151 ms"):
        scenario("{128: {alpha_ms: 1, beta_ms: 5}, 512: {alpha_ms: 1, beta_ms: 150}}")


def test_times_by_command() -> None:
    given = delays(scenario(more="overheads: {create_s: 1, destroy_s: 2, drain_s: 3, mps_restart_s: 5}\n"))
    assert (given.creation_s, given.destroy_s, given.drain_s, given.share_s) == (1.0, 2.0, 3.0, 5.0)
    plain = delays(scenario())
    assert (plain.creation_s, plain.destroy_s, plain.drain_s, plain.share_s) == (4.0, 0.0, 0.0, 22.0)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ("{nat: {100: 1.0}}", "load.sizes.nat: there is no service 'nat': did you mean 'net'?"),
        ("{net: {100: 0.5, 200: 0.4}}", "load.sizes.net: the shares must sum to 1, they sum to 0.9"),
        ("{net: {}}", "load.sizes.net: {} Dictionary should have at least 1 item"),
        ("{net: {big: 1.0}}", "should be a valid number"),
    ],
)
def test_what_is_wrong_with_sizes(sizes: str, sentence: str) -> None:
    text = TEXT.replace("LATENCY", "{alpha_ms: 1, beta_ms: 5}") + f"  sizes: {sizes}\n"
    with pytest.raises(ConfigError) as problem:
        parse_scenario(text, name="s.yaml", folder=Path())
    assert sentence in str(problem.value)


def test_sizes_are_drawn_for_their_service_however_the_time_is_cut() -> None:
    """Of 4,000 requests 70 % have size 100: four standard deviations are 116."""

    def sizes(steps: int, seed: int = 1) -> tuple[list[float], list[float]]:
        source = DrawnSizes(Listed(("a", "b"), [even(1000, 4.0)] * 2, 4 * SECOND), {"b": {100: 0.7, 400: 0.3}}, [seed])
        parts = [source.until(4 * SECOND * k // steps) for k in range(1, steps + 1)]
        first = [size for p in parts for size in p.size[: p.offsets[1]].tolist()]
        return first, [size for p in parts for size in p.size[p.offsets[1] :].tolist()]

    own, drawn = sizes(1)
    assert own == [float(n) for n in range(4000)]
    assert set(drawn) == {100.0, 400.0}
    assert abs(drawn.count(100.0) - 2800) < 116
    assert sizes(7) == (own, drawn) != sizes(1, seed=2)


def test_the_example_of_it_all_runs() -> None:
    example = Scenario.load(Path(__file__).parents[2] / "docs" / "examples" / "failing.yaml")
    score = run_scenario(example, policy=None, seed=1).score
    assert score.offered == score.good + score.late + score.dropped
    assert 0.9 < score.attainment < 1.0
    assert score.unplaced == 0


def test_variation_has_the_runs_seed() -> None:
    varied = scenario(more="variation: {tail: 1.1, jitter: 0.05, colocation: 0.3}\n")
    assert variation_of(varied, seed=9) == Variation(1.1, 0.05, 0.3, 9)
    assert variation_of(scenario(), seed=9) == Variation(seed=9)


def test_failures_are_listed_and_drawn() -> None:
    entries = "[{gpu: gpu1, at_s: 1, for_s: 0.5}, {instance: gpu0, at_s: 2, for_s: 1}, {mtbf_s: 5, mttr_s: 1}]"
    failing = scenario(more=f"failures: {entries}\n")
    found = failures_of(failing, span_s=100.0, seed=3)
    assert Failure(10**9, 1_500_000_000, "gpu1") in found
    assert Failure(2 * 10**9, 3 * 10**9, "gpu0", "gpu0") in found
    assert len(found) > 10
    assert found == failures_of(failing, span_s=100.0, seed=3) != failures_of(failing, span_s=100.0, seed=4)
    assert failures_of(scenario(), span_s=100.0, seed=3) == ()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("{gpu: gpu7, at_s: 1, for_s: 1}", "failures[0].gpu: there is no GPU 'gpu7': did you mean 'gpu"),
        ("{at_s: 1, for_s: 1}", "name either a gpu or an instance that fails"),
        ("{gpu: gpu0, instance: gpu0, at_s: 1, for_s: 1}", "name either a gpu or an instance that fails"),
        ("{gpu: gpu0, at_s: 1, for_s: 0}", "failures[0].for_s: 0 should be greater than 0"),
        ("{mtbf_s: 1}", "mttr_s is missing: mean seconds until it is back"),
        ("{mtbf_s: 1, mttr_s: 1}, {mtbf_s: 1, mttr_s: 1}", "failures[1]: there can be one law of failures only"),
    ],
)
def test_what_is_wrong_with_failures(entry: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as problem:
        scenario(more=f"failures: [{entry}]\n")
    assert sentence in str(problem.value)


def test_presence_is_that_of_the_entries() -> None:
    assert scenario().presence_s(["net"]) == ((0.0, inf),)
    assert scenario("{alpha_ms: 1, beta_ms: 5}, from_s: 1, until_s: 2.5").presence_s(["net"]) == ((1.0, 2.5),)


def test_a_run_shows_all_of_it(folder: Path) -> None:
    """Half of a load of 4 s is offered; of two GPUs one fails, and nothing is lost but what ran there."""
    more = "failures: [{gpu: gpu0, at_s: 2, for_s: 0.1}]\noverheads: {model_load_s: 0.1}\n"
    present = scenario("{table: tables/t.csv}, from_s: 1, until_s: 3", more, folder)
    score = run_scenario(present, policy=None, seed=1).score
    assert abs(score.offered - 400) < 4 * 20
    assert score.offered == score.good + score.late + score.dropped
    assert score.attainment > 0.97
    untouched = run_scenario(scenario("{table: tables/t.csv}", folder=folder), policy=None, seed=1).score
    assert (untouched.attainment, untouched.lost) == (1.0, 0)


def test_what_a_failure_takes_is_in_the_score_and_in_what_the_report_shows() -> None:
    """Of the 80 % busy GPU a batch runs when it fails."""
    more = "failures: [{gpu: gpu0, at_s: 2, for_s: 0.1}]\noverheads: {model_load_s: 0.1}\ndiscipline: {name: eager}\n"
    text = TEXT.replace("LATENCY", "{points: {1: 4}}").replace("count: 2", "count: 1")
    failing = parse_scenario(text + more, name="s.yaml", folder=Path())
    run = run_scenario(failing, policy=None, seed=3, record_gpus=True)
    assert run.score.lost == 1
    assert run.score.dropped >= 1
    assert run.occupancy is not None
    [outage] = run.occupancy.outages
    assert (run.occupancy.rows[outage.row], outage.at_s, outage.back_s) == ("gpu0", 2.0, 2.1)


@pytest.mark.parametrize("policy", ["static", "reactive", "symphony"])
def test_a_controller_puts_back_what_failed(policy: str) -> None:
    """A GPU fails at 10 s for 20 s; its instance is ordered again, and in the end nearly all is answered."""
    text = """
cluster: [{gpu: A100-80GB, count: 3}]
services: [{name: net, slo_ms: 100, latency: {alpha_ms: 1, beta_ms: 5}}]
load: {arrivals: {process: poisson, rate_rps: 400, duration_s: 60}}
control: {near_s: 2, epoch_s: 20, rehearse_s: 6}
overheads: {model_load_s: 1}
"""
    failing = "failures: [{gpu: gpu0, at_s: 10, for_s: 20}]\n"
    struck = run_scenario(parse_scenario(text + failing, name="s", folder=Path()), policy=policy, seed=1)
    whole = run_scenario(parse_scenario(text, name="s", folder=Path()), policy=policy, seed=1)
    assert struck.score.offered == whole.score.offered
    assert struck.score.reconfigurations > whole.score.reconfigurations
    last = struck.timeline["good_rps"][-5:] / struck.timeline["offered_rps"][-5:]
    assert last.mean() > 0.99
