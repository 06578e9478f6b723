"""The cluster file: what it means, what is wrong with it in one sentence, and a manual that keeps equal to it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniature import BUILT_IN
from pydantic import BaseModel

from partita.controller import cluster_file
from partita.controller.cluster_file import ClusterFile
from partita.controller.entry import Entry
from partita.controller.live.parts import NO_BOOK, assemble, checked
from partita.controller.live.patience import Patience
from partita.controller.live.runtime import pools, serve_runtime
from partita.controller.recorded import file_of
from partita.controller.scenario_file import parse
from partita.controller.state import OnDrift, OnMissing
from partita.errors import ConfigError
from partita.model.cluster import Batching, Instance, SubCluster
from partita.model.plain import to_json

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("cluster-*.yaml"))
FILE = """\
name: inference
cluster:
  - {gpu: A100-80GB, count: 2}
services:
  - {name: embed, slo_ms: 200, memory_gib: 2.0, latency: {points: {1: 6.0, 8: 20.5}}}
executor:
  triton:
    servers: {gpu0: "http://a:8000", gpu1: "http://b:8000"}
"""
TRITON = 'triton:\n    servers: {gpu0: "http://a:8000", gpu1: "http://b:8000"}'
SERVERS = '{gpu0: "http://a:8000", gpu1: "http://b:8000"}'


def read(text: str) -> ClusterFile:
    return parse(ClusterFile, text, name="c.yaml", folder=Path())


# What it means ------------------------------------------------------------------------------------------------------


def test_what_is_left_out_has_its_default() -> None:
    file = read(FILE)
    assert (file.name, file.policy_name(), file.policy_options()) == ("inference", "symphony", {"symphony": {}})
    assert [g.id for g in file.inventory()] == ["gpu0", "gpu1"]
    assert [s.name for s in file.services()] == ["embed"]
    assert file.missing.on_missing() is OnMissing.HOLD
    assert file.changes.on_drift() is OnDrift.REPAIR
    assert file.executor.triton is not None
    assert file.executor.triton.reload == "in_place"
    assert file.watch.listen == "127.0.0.1:9464"


def test_what_is_given_reaches_what_it_is_for() -> None:
    file = read(
        FILE
        + "policy: {name: reactive, options: {utilisation: 0.5}}\n"
        + "missing: {then: floor, floor_gpus: 2, log_s: 90}\n"
        + "changes: {drift: adopt, keep_need: false, room_s: 1, done_s: 2, busy_tries: 3, quarantine_s: 4}\n"
        + "watch: {listen: '[::1]:9000', keep_observations_h: 0}\n"
    )
    assert file.policy_options() == {"reactive": {"utilisation": 0.5}}
    assert (file.missing.on_missing(), file.missing.floor_gpus, file.missing.log_s) == (OnMissing.FLOOR, 2, 90.0)
    assert file.changes.on_drift() is OnDrift.ADOPT
    assert file.changes.patience() == Patience(keep_need=False, room_s=1.0, done_s=2.0, busy_tries=3, quarantine_s=4.0)
    assert file.watch.keep_observations_h == 0.0


def test_a_runtime_plans_with_the_largest_inputs_whatever_the_sizes() -> None:
    """Within 40 ms run 5 of the large ones, 4 b + 20 ms."""
    sized = "{512: {alpha_ms: 2, beta_ms: 10}, 1000: {alpha_ms: 4, beta_ms: 20}}, sizes: exact"
    file = read(FILE.replace("{points: {1: 6.0, 8: 20.5}}", sized).replace("slo_ms: 200", "slo_ms: 40"))
    assert [s.exact_sizes for s in file.services()] == [True]
    group = SubCluster("all", (Instance("gpu0/0", "gpu0", 80.0),), ("embed",), (Batching("deferred"),))
    made = pools(file, BUILT_IN).pool(group, np.arange(1), np.zeros(1, np.int64))
    assert (made.max_batch.tolist(), made.sizes) == ([5], None)


def test_defaults_of_patience_are_those_of_the_hands() -> None:
    """So that tests of the hands test what is run."""
    assert read(FILE).changes.patience() == Patience()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_can_be_run(path: Path) -> None:
    """Loading checks the file; `checked` puts the parts together and asks whether the cluster as given can serve."""
    file = ClusterFile.load(path)
    checked(file)
    read_back = file_of(json.loads(to_json(file.document())))
    assert read_back.document() == file.document(), "as a run's cluster file is read back from the journal"
    assert read_back.services() == file.services()


def test_measured_latencies_survive_the_journal() -> None:
    """JSON has only texts for keys, and a batch size is a number."""
    file = read(FILE)
    assert file_of(json.loads(to_json(file.document()))).services() == file.services()


def test_a_run_of_another_version_is_refused_in_one_sentence() -> None:
    document = {**read(FILE).document(), "colour": "blue"}
    with pytest.raises(ConfigError, match="the run's cluster file is of another version: unknown key 'colour'"):
        file_of(document)


def test_there_are_examples_of_both_executors() -> None:
    given = {name for path in EXAMPLES for name, entry in ClusterFile.load(path).executor if entry is not None}
    assert {"local", "triton"} <= given


# What is wrong with it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad", "sentence"),
    [
        ("name: inference", "nam: inference", "nam: unknown key 'nam': did you mean 'name'? (line 1)"),
        ("name: inference", "name: 3", "name: 3 should be a valid string (line 1)"),
        ("name: embed", "name: 'em*'", "services[0].name: 'em*' is a pattern, which only a trace can fill (line 5)"),
        ("executor:\n  " + TRITON, "policy: x", "executor is missing: through what it is controlled (line 1)"),
        (TRITON, "{}", "executor: none of triton, local and plugin is given: name exactly one of them (line 6)"),
        (
            "executor:\n",
            "executor:\n  local: {}\n",
            "executor: triton and local are given: name exactly one of them (line 6)",
        ),
        (SERVERS, "{}", "executor.triton.servers: {} "),
        (SERVERS, '{gpu0: "http://a:8000"}', "executor.triton.servers: gpu1 has no server (line 8)"),
        (SERVERS, SERVERS.replace("gpu1", "gpu2"), "executor.triton.servers.gpu2: there is no 'gpu2': did you mean "),
        (SERVERS, SERVERS.replace("http://b", "b"), "executor.triton.servers.gpu1: 'b:8000' "),
        (SERVERS, SERVERS + "\n    models: {embd: x}", "executor.triton.models.embd: there is no 'embd': did you mean"),
        (SERVERS, SERVERS + "\n    reload: slowly", "executor.triton.reload: 'slowly' "),
        (SERVERS, SERVERS + "\n    timeout_s: 0", "executor.triton.timeout_s: 0 should be greater than 0 (line 9)"),
        (TRITON, "local: {url: localhost}", "executor.local.url: 'localhost' "),
        (TRITON, "local: {device: gpu}", "executor.local.device: 'gpu' "),
        (TRITON, "local: {locks: {gpu7: /x}}", "executor.local.locks.gpu7: there is no 'gpu7'"),
        (TRITON, "plugin: {}", "executor.plugin: name is missing"),
        ("name: inference", "missing: {then: wait}", "missing.then: 'wait' "),
        ("name: inference", "missing: {floor_gpus: -1}", "missing.floor_gpus: -1 "),
        ("name: inference", "changes: {drift: ignore}", "changes.drift: 'ignore' "),
        ("name: inference", "changes: {busy_tries: 0}", "changes.busy_tries: 0 "),
        ("name: inference", "watch: {listen: here}", "watch.listen: 'here' "),
        ("name: inference", "watch: {listen: 9464}", "watch.listen: 9464 "),
        ("slo_ms: 200", "slo_ms: 6", "services[0].slo_ms: 6 can never be met"),
        ("count: 2", "count: 0", "cluster[0].count: 0 "),
    ],
)
def test_a_mistake_is_one_sentence_with_key_and_line(good: str, bad: str, sentence: str) -> None:
    assert good in FILE
    with pytest.raises(ConfigError) as caught:
        read(FILE.replace(good, bad))
    said = str(caught.value)
    assert said.startswith(f"c.yaml: {sentence}")
    assert re.search(r"\(line \d+\)", said)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("policy: magic\n", "no policy is named 'magic'"),
        ("policy: {name: symphony, options: {magic: 1}}\n", "magic"),
        ("discipline: {name: magic}\n", "no discipline is named 'magic'"),
        ("discipline: {name: deferred}\n", "the executor cannot batch by 'deferred'"),
    ],
)
def test_what_shows_only_when_parts_are_put_together(given: str, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence) as caught:
        checked(read(FILE + given))
    assert getattr(caught.value, "exit_code", None) == 2


def test_a_discipline_that_can_only_be_replayed_is_refused_by_the_local_runtime_and_its_executor() -> None:
    file = read(FILE.replace(TRITON, "local: {}") + "discipline: {name: shepherd}\n")
    sentence = (
        "discipline.name: the discipline shepherd may cut running batches short, which can be replayed but not done"
    )
    with pytest.raises(ConfigError, match=sentence):
        checked(file)
    with pytest.raises(ConfigError, match=sentence):
        serve_runtime(file, host="127.0.0.1", port=0, dsn=None, log_file=None)
    parts = assemble(read(FILE.replace(TRITON, "local: {}")), NO_BOOK)
    parts.close()
    assert set(parts.executor.capabilities.disciplines or ()) >= {"deferred", "timeout"}
    assert "shepherd" not in (parts.executor.capabilities.disciplines or ())


def test_an_executor_that_no_plugin_brings() -> None:
    with pytest.raises(ConfigError, match=r"executor\.plugin\.name: no executor is named 'magic'"):
        checked(read(FILE.replace(TRITON, "plugin: {name: magic}")))


# The manual ---------------------------------------------------------------------------------------------------------

SECTIONS: dict[str, type[BaseModel]] = {
    "Cluster file": ClusterFile,
    "executor": cluster_file.ExecutorEntry,
    "executor.triton": cluster_file.TritonEntry,
    "executor.local": cluster_file.LocalEntry,
    "executor.plugin": cluster_file.PluginEntry,
    "missing": cluster_file.MissingEntry,
    "changes": cluster_file.ChangesEntry,
    "watch": cluster_file.WatchEntry,
}


def _written(section: str) -> dict[str, str]:
    parts = re.split(r"^#{2,3} ", (DOCS / "run.md").read_text("utf-8"), flags=re.MULTILINE)
    part = next(p for p in parts if p.split("\n", 1)[0] == section)
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, flags=re.MULTILINE))


def _real(model: type[BaseModel]) -> dict[str, str]:
    shown = {}
    for name, field in model.model_fields.items():
        default: Any = field.get_default(call_default_factory=True, validated_data={})
        text = "none" if default is None else "see below" if isinstance(default, BaseModel) else str(default)
        shown[field.alias or name] = "required" if field.is_required() else text
    return shown


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_explained_with_its_default(section: str) -> None:
    assert _written(section) == _real(SECTIONS[section])


def test_every_entry_has_a_section() -> None:
    defined = {
        value
        for value in vars(cluster_file).values()
        if isinstance(value, type) and issubclass(value, Entry) and value.__module__ == cluster_file.__name__
    }
    assert defined == set(SECTIONS.values())
