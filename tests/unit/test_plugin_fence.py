"""The fence: foreign plugins in a child process; hanging, dying and odd ones cost only their own proposal."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from partita.errors import ForecastError, PluginError
from partita.model.load import Load
from partita.model.plan import Capacity, Opinion
from partita.plugins.discovery import Plugin, describe
from partita.plugins.fence import FencedCaller
from partita.plugins.host import HostState, PluginHost
from partita.plugins.kit import example_ticks

TICK = example_ticks()[1]
PATIENT_S = 20.0
"""A limit that no honest call of these tests comes near."""

WriteModule = Callable[[str, str], Any]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    monkeypatch.syspath_prepend(str(tmp_path))
    written: list[str] = []

    def write(name: str, body: str) -> Any:
        head = """
            import os, sys, time
            from partita.hookspecs import hookimpl
            from partita.model.plan import Capacity, Proposal
        """
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(head) + textwrap.dedent(body))
        written.append(name)
        return import_module(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def still_running(pids: list[int]) -> list[int]:
    """Return those that do not end; an orphan that nobody has waited for counts as ended."""
    running = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs([p for p in running if p.status() != psutil.STATUS_ZOMBIE], timeout=10)
    return [p.pid for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def ask(host: PluginHost, state: HostState, tick: int = 0) -> tuple[dict[str, int], dict[str, Opinion], HostState]:
    proposals, opinions, state = host.propose(
        "propose_capacity", tick=tick, state=state, options={}, **TICK.arguments("propose_capacity")
    )
    gpus = {name: p.suggestion.gpus for name, p in proposals if isinstance(p.suggestion, Capacity)}
    return gpus, {o.plugin: o for o in opinions}, state


HONEST = """
    @hookimpl
    def propose_capacity(services, observation, memory):
        print("plugins may print")
        calls = (memory or 0) + 1
        return Proposal(Capacity(calls), f"pid {os.getpid()} sees {observation.load.rate_rps().sum():.0f}/s", calls)
"""


def test_a_fenced_plugin_answers_from_another_process_and_keeps_it(write_module: WriteModule) -> None:
    module = write_module("fenced_honest", HONEST)
    with FencedCaller(PATIENT_S) as caller:
        host, state, pids = PluginHost.of({"honest": module}, caller=caller), HostState(), set()
        for calls in (1, 2, 3):
            gpus, opinions, state = ask(host, state)
            assert gpus == {"honest": calls}, opinions
            pids.add(int(opinions["honest"].reason.split()[1]))
            assert opinions["honest"].reason.endswith(f"sees {TICK.observation.load.rate_rps().sum():.0f}/s")
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_fenced_and_direct_answers_are_the_same(write_module: WriteModule) -> None:
    body = HONEST.replace("pid {os.getpid()} sees", "sees")
    module = write_module("fenced_same", body)
    with FencedCaller(PATIENT_S) as caller:
        assert ask(PluginHost.of({"p": module}, caller=caller), HostState()) == ask(
            PluginHost.of({"p": module}), HostState()
        )


FORECASTS = """
    import numpy as np
    from partita.errors import ForecastError
    from partita.model.load import Forecast

    class Model:
        def __init__(self):
            self.name, self.asked = "counts", 0

        def forecast(self, history, *, steps, levels):
            self.asked += 1
            if steps == 5:
                time.sleep(600)
            if steps == 6:
                raise ValueError("six")
            if steps == 7:
                raise ForecastError("it needs a day")
            rps = np.full((len(history.services), len(levels), steps), history.counts.sum())
            said = f"{os.getpid()} {self.asked}"
            return Forecast(history.services, history.end_s, history.step_s, tuple(levels), rps, said, 60.0, "v2")

    @hookimpl
    def register_forecasters():
        return [Model()]
"""


def test_a_fenced_model_forecasts_in_another_process_and_may_fail_or_hang_there(write_module: WriteModule) -> None:
    module = write_module("fenced_forecasts", FORECASTS)
    history = Load(("a", "b"), 100.0, 10.0, np.array([[1.0, 2.0, np.nan], [3.0, 4.0, 5.0]]))
    history.counts[0, 2] = 0.5
    with FencedCaller(PATIENT_S) as caller:
        model = PluginHost.of({"p": module}, caller=caller).forecaster("counts")
        for asked in (1, 2):
            made = model.forecast(history, steps=2, levels=(0.5, 0.9))
            assert made.rps.tolist() == [[[15.5, 15.5]] * 2] * 2
            assert (made.services, made.made_at_s, made.step_s, made.levels) == (("a", "b"), 130.0, 10.0, (0.5, 0.9))
            assert (made.history_s, made.version) == (60.0, "v2")
            pid, number = made.model.split()
            assert (int(pid) != os.getpid(), int(number)) == (True, asked)  # the model is made once
        with pytest.raises(PluginError, match="plugin p, hook register_forecasters: raised ValueError: six"):
            model.forecast(history, steps=6, levels=(0.5,))
        with pytest.raises(ForecastError, match="it needs a day"):
            model.forecast(history, steps=7, levels=(0.5,))
    with FencedCaller(0.5) as hurried, pytest.raises(PluginError, match=r"did not answer within 0.5 s"):
        PluginHost.of({"p": module}, caller=hurried).forecaster("counts").forecast(history, steps=5, levels=(0.5,))


def test_a_plugin_that_hangs_is_killed_with_what_it_started_and_costs_only_its_proposal(
    write_module: WriteModule, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pids"
    hangs = write_module(
        "fenced_hangs",
        f"""
        import subprocess

        @hookimpl
        def propose_capacity():
            helper = subprocess.Popen(["sleep", "600"])
            with open({str(pid_file)!r}, "a") as f:
                f.write(f"{{os.getpid()}} {{helper.pid}} ")
            while True:
                pass
        """,
    )
    honest = write_module("fenced_beside", HONEST)
    with FencedCaller(0.5) as hurried, FencedCaller(PATIENT_S) as patient:

        class Both:
            def call(self, plugin: Plugin, hook: str, arguments: Any) -> object:
                return (hurried if plugin.name == "hangs" else patient).call(plugin, hook, arguments)

        host, state = PluginHost.of({"hangs": hangs, "honest": honest}, caller=Both()), HostState()
        for tick in range(2):
            gpus, opinions, state = ask(host, state, tick)
            assert gpus == {"honest": tick + 1}
            assert opinions["hangs"].fault == "did not answer within 0.5 s"
    pids = [int(pid) for pid in pid_file.read_text().split()]
    assert pids
    assert still_running(pids) == []


@pytest.mark.parametrize(
    ("name", "body", "fault"),
    [
        ("raises", "raise RuntimeError('boom')", "raised RuntimeError: boom"),
        (
            "nonsense",
            "return Capacity(3)",
            "answered Capacity(gpus=3, alternatives=(), firm=False) instead of a Proposal or None",
        ),
        ("exits", "os._exit(7)", "its process ended before its answer: exit code 7"),
        ("killed", "os.kill(os.getpid(), 9)", "its process ended before its answer: killed by signal SIGKILL"),
        ("unsendable", "return lambda: 0", "its answer cannot be sent: "),
        (
            "foreign",
            "import fractions; return fractions.Fraction(1, 2)",
            "answered with a fractions.Fraction, which is not one of Partita's values",
        ),
    ],
)
def test_every_way_to_fail_is_one_fault_and_the_next_call_works(
    write_module: WriteModule, name: str, body: str, fault: str
) -> None:
    module = write_module(
        f"fenced_{name}",
        f"""
        @hookimpl
        def propose_capacity(options):
            if options:
                return Proposal(Capacity(2), "well")
            {body}
        """,
    )
    arguments = TICK.arguments("propose_capacity")
    with FencedCaller(PATIENT_S) as caller:
        host = PluginHost.of({"odd": module}, caller=caller)
        proposals, opinions, state = host.propose(
            "propose_capacity", tick=0, state=HostState(), options={}, **arguments
        )
        assert proposals == []
        assert opinions[0].fault.startswith(fault)
        proposals, _, _ = host.propose(
            "propose_capacity", tick=1, state=state, options={"odd": {"go": True}}, **arguments
        )
        assert [p.suggestion for _, p in proposals] == [Capacity(2)]


def test_a_module_that_cannot_be_imported_there_is_a_fault(write_module: WriteModule, tmp_path: Path) -> None:
    module = write_module("fenced_gone", HONEST)
    (tmp_path / "fenced_gone.py").unlink()
    with FencedCaller(PATIENT_S) as caller:
        _, opinions, _ = ask(PluginHost.of({"gone": module}, caller=caller), HostState())
    assert opinions["gone"].fault.startswith("could not start: ModuleNotFoundError: No module named 'fenced_gone'")


def test_an_object_goes_to_the_child_by_value_or_is_a_fault(write_module: WriteModule) -> None:
    module = write_module(
        "fenced_object",
        """
        class Wants:
            def __init__(self, gpus):
                self.gpus = gpus

            @hookimpl
            def propose_capacity(self):
                return Proposal(Capacity(self.gpus), "as made")
        """,
    )
    stuck = module.Wants(1)
    stuck.held = open(os.devnull)  # noqa: SIM115
    with FencedCaller(PATIENT_S) as caller, stuck.held:
        gpus, opinions, _ = ask(PluginHost.of({"five": module.Wants(5), "stuck": stuck}, caller=caller), HostState())
    assert gpus == {"five": 5}
    assert opinions["stuck"].fault.startswith("cannot be handed to another process: TypeError")


def test_built_in_plugins_run_in_this_process() -> None:
    from partita.plugins import static

    described = describe("static", static)
    builtin = Plugin("static", static, described.hooks, builtin=True)
    others = set(psutil.Process().children())
    with FencedCaller(PATIENT_S) as caller:
        gpus, _, _ = ask(PluginHost([builtin], caller=caller), HostState())
        assert gpus == {"static": len(TICK.inventory)}
        assert set(psutil.Process().children()) <= others


@pytest.mark.slow
def test_a_hanging_child_ends_though_its_parent_was_killed(write_module: WriteModule, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    write_module(
        "fenced_orphan",
        f"""
        @hookimpl
        def propose_capacity():
            with open({str(pid_file)!r} + ".part", "w") as f:
                f.write(str(os.getpid()))
            os.rename(f.name, {str(pid_file)!r})
            time.sleep(600)
        """,
    )
    program = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import fenced_orphan
        from partita.plugins.discovery import describe
        from partita.plugins.fence import FencedCaller
        FencedCaller(1.0).call(describe("orphan", fenced_orphan), "propose_capacity", {{}})
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)]) as parent:
        while not pid_file.exists():
            assert parent.poll() is None
            time.sleep(0.01)
        child = psutil.Process(int(pid_file.read_text()))
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=30)
    assert alive == [] or child.status() == psutil.STATUS_ZOMBIE
