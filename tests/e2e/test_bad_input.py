"""Whatever is wrong with the input: one sentence on stderr, its exit code, no traceback, nothing half-written."""

from pathlib import Path

import pytest

from partita.controller.cli.main import main

SCENARIO = """\
cluster:
  - {gpu: A100-80GB, count: 2}
services:
  - {name: resnet50, slo_ms: 25, memory_gib: 1.2, latency: {alpha_ms: 1.053, beta_ms: 5.072}}
load:
  arrivals: {process: poisson, rate_rps: 300, duration_s: 2}
  share: {resnet50: 1.0}
policies: []
"""
LAW = "arrivals: {process: poisson, rate_rps: 300, duration_s: 2}\n  share: {resnet50: 1.0}"


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARTITA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("PARTITA_DSN", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """Run a command that must fail; return its exit code and its sentence."""
    with pytest.raises(SystemExit) as caught:
        main(args)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sorted(p.name for p in Path().iterdir() if p.suffix in (".json", ".html") or p.name.startswith(".")) == []
    assert isinstance(caught.value.code, int)
    return caught.value.code, err.removeprefix("Error: ").rstrip()


def replay(capsys: pytest.CaptureFixture[str], text: str | bytes, *options: str) -> tuple[int, str]:
    Path("s.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return refused(capsys, "replay", "s.yaml", "--json", "out.json", "--report", "out.html", *options)


@pytest.mark.parametrize(
    ("good", "bad", "sentence"),
    [
        ("slo_ms", "slo_mss", "s.yaml: services[0].slo_mss: unknown key 'slo_mss': did you mean 'slo_ms'? (line 4)"),
        ("slo_ms: 25", "slo_ms: fast", "s.yaml: services[0].slo_ms: 'fast' should be a valid number (line 4)"),
        ("slo_ms: 25", "slo_ms: -1", "s.yaml: services[0].slo_ms: -1 should be greater than 0 (line 4)"),
        ("slo_ms: 25", "slo_ms: 7", "s.yaml: services[0].slo_ms: 7 can never be met: one request alone takes 6.125 ms"),
        ("A100-80GB", "A200", "s.yaml: cluster[0].gpu: unknown GPU 'A200'"),
        (
            "{resnet50: 1",
            "{resnet: 1",
            "s.yaml: load.share.resnet: there is no service 'resnet': did you mean 'resnet50'?",
        ),
        (LAW, "trace: {file: gone.csv}", "s.yaml: load.trace.file: the trace file 'gone.csv' does not exist (line 6)"),
        (LAW, "trace: {file: empty.csv}", "empty.csv"),
        ("policies: []", "policies: [magic]", "no policy is named 'magic'; there are: "),
        ("policies: []", "discipline: {name: magic}", "magic"),
    ],
)
def test_a_wrong_scenario(capsys: pytest.CaptureFixture[str], good: str, bad: str, sentence: str) -> None:
    Path("empty.csv").touch()
    assert good in SCENARIO
    code, said = replay(capsys, SCENARIO.replace(good, bad))
    assert code == 2
    assert sentence in said


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("replay", "--discipline", ""), "discipline.name: no discipline is named ''; there are: adaptive, "),
        (("replay", "--discipline", "magic"), "discipline.name: no discipline is named 'magic'; there are: adaptive, "),
        (("replay", "--policy", ""), "no policy is named ''; there are: "),
        (("sweep", "--out", "x.parquet", "--vary", ""), "--vary: '' is not written as key=value,value"),
        (("sweep", "--out", "x.parquet", "--vary", "seed="), "--vary: 'seed=' is not written as key=value,value"),
        (("sweep", "--out", "x.parquet", "--vary", "discipline.name=''"), "--vary: discipline.name=: ''"),
        (("sweep", "--out", "x.parquet", "--policy", ""), "no policy is named ''; there are: "),
        (("sweep", "--out", "x.parquet", "--engine", "dask", "--scheduler", ""), "--scheduler: names no address"),
        (("capacity", "--discipline", ""), "discipline.name: no discipline is named ''; there are: adaptive, "),
        (("capacity", "--policy", ""), "no policy is named ''; there are: "),
    ],
)
def test_names_that_are_none(capsys: pytest.CaptureFixture[str], args: tuple[str, ...], sentence: str) -> None:
    Path("s.yaml").write_text(SCENARIO, "utf-8")
    command, *options = args
    code, said = refused(capsys, command, "s.yaml", *options)
    assert code == 2
    assert said.startswith(sentence)
    assert not Path("x.parquet").exists()


@pytest.mark.parametrize(("option", "value"), [("--find", "x"), ("--bad-rate", "2"), ("--by", ""), ("--seeds", "0")])
def test_values_that_an_option_does_not_take(capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    Path("s.yaml").write_text(SCENARIO, "utf-8")
    with pytest.raises(SystemExit) as caught:
        main(("capacity", "s.yaml", option, value))
    said = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2
    assert said.startswith(f"Error: Invalid value for '{option}': ")


def test_no_scenario_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "replay", "gone.yaml", "--json", "out.json")
    assert (code, said) == (2, "gone.yaml: cannot be read: no such file or directory")
    assert replay(capsys, "") == (2, "s.yaml: is empty: it needs cluster, services, load")
    code, said = replay(capsys, bytes(range(255, 100, -1)))
    assert (code, said) == (2, "s.yaml: is not text: byte 0 is not UTF-8")


def test_a_policy_on_the_command_line_that_is_not_installed(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = replay(capsys, SCENARIO, "--policy", "magic")
    assert code == 2
    assert "'magic'" in said


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_nowhere_to_write(capsys: pytest.CaptureFixture[str], option: str) -> None:
    Path("s.yaml").write_text(SCENARIO)
    code, said = refused(capsys, "replay", "s.yaml", option, "nowhere/out.x")
    folder = str(Path("nowhere").resolve())
    assert (code, said) == (2, f"nowhere/out.x: {option}: the folder {folder!r} does not exist")


def test_a_database_that_nobody_answers_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = replay(
        capsys, SCENARIO, "--policy", "static", "--journal", "--dsn", "postgresql://127.0.0.1:9/partita"
    )
    assert code == 1
    assert said.startswith("no database answers at postgresql://127.0.0.1:9/partita: ")
    code, said = refused(capsys, "explain", "--dsn", "postgresql://127.0.0.1:9/partita")
    assert code == 1


def test_a_dsn_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(capsys, SCENARIO, "--policy", "static", "--journal", "--dsn", "mysql://x")[0] == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "result.txt: cannot be read: no such file or directory"),
        ("", "result.txt: is not JSON"),
        ("[]", "result.txt: is not a result of `partita replay --json`"),
        (
            '{"decisions": {"static": []}}',
            "result.txt: the run of static holds no decision; --list shows those there are",
        ),
    ],
)
def test_nothing_to_explain(capsys: pytest.CaptureFixture[str], content: str | None, sentence: str) -> None:
    if content is not None:
        Path("result.txt").write_text(content)
    assert refused(capsys, "explain", "--json-file", "result.txt") == (2, sentence)


def test_a_run_that_is_not_in_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    Path("result.txt").write_text('{"decisions": {"static": []}}')
    code, said = refused(capsys, "explain", "--json-file", "result.txt", "--run", "magic")
    assert (code, said) == (2, "result.txt: --run: holds no run of 'magic'; it has static")


def test_a_demo_of_a_file_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "demo", "--policy", "magic", "--quiet")[0] == 2
