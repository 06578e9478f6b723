"""Servers that are killed, started again or away: what is seen of them, and how the loop puts things right."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from tritonserver.conftest import VENV
from tritonserver.rig import ONE, OTHER, WHOLE, emptied, executor_on, holding, plan_of, state_of

from partita.controller.commands import commands_for
from partita.errors import ConfigError, Failed
from partita.executors.triton.server import TritonServer, installation
from partita.model.cluster import Status
from partita.model.plan import SetBatching, StartReplicas

SERVICES = {"a": "model-a", "b": "b"}
"""The server loads model b by itself at each start, model-a it does not."""


@pytest.mark.slow
def test_a_killed_server_comes_back_as_its_files_say_and_is_set_again(own_server: TritonServer, tmp_path: Path) -> None:
    plan = plan_of(WHOLE[:1], {"a": ONE, "b": OTHER})

    async def played() -> None:
        async with executor_on([own_server.endpoint], tmp_path, models=SERVICES) as executor:
            await executor.apply(commands_for(plan, await executor.observe()))
            assert commands_for(plan, await executor.observe()) == ()
            own_server.kill()
            with pytest.raises(Failed, match="no Triton server answers"):
                await executor.observe()
            own_server.start()
            state = await state_of(executor, WHOLE[0])
            assert state.loaded == ("b",)
            assert state.batching["b"] != OTHER
            commands = commands_for(plan, await executor.observe())
            assert [(type(c), getattr(c, "services", None)) for c in commands] == [
                (StartReplicas, ("a",)),
                (SetBatching, ("b",)),
            ]
            await executor.apply(commands)
            assert commands_for(plan, await executor.observe()) == ()

    asyncio.run(played())


@pytest.mark.slow
def test_one_server_of_two_that_is_away_is_waited_for(
    own_server: TritonServer, shared_servers: tuple[TritonServer, TritonServer], tmp_path: Path
) -> None:
    plan = plan_of(WHOLE, {"a": ONE})
    other = shared_servers[0].endpoint

    async def played() -> None:
        async with emptied(other), executor_on([other, own_server.endpoint], tmp_path, models=SERVICES) as executor:
            await executor.apply(commands_for(plan, await executor.observe()))
            own_server.kill()
            away = await state_of(executor, WHOLE[1])
            assert (away.status, away.loaded, away.loading) == (Status.LOADING, (), ("a",))
            assert away.problem.startswith(f"Triton at {own_server.endpoint.url}")
            assert "cannot be reached" in away.problem
            there = await state_of(executor, WHOLE[0])
            assert (there.loaded, there.problem) == (("a",), "")
            assert commands_for(plan, await executor.observe()) == ()
            with pytest.raises(Failed, match="cannot be reached"):
                await executor.apply([SetBatching(WHOLE[1].id, ("a",), (OTHER,), "")])
            own_server.start()
            await executor.apply(commands_for(plan, await executor.observe()))
            assert (await state_of(executor, WHOLE[1])).loaded[:1] == ("a",)
            assert await executor.versions() == {"gpu-0": "2.51.0", "gpu-1": "2.51.0"}

    asyncio.run(played())


def test_a_server_that_dies_during_a_load_leaves_a_failed_command(own_server: TritonServer, tmp_path: Path) -> None:
    async def played() -> None:
        async with executor_on([own_server.endpoint], tmp_path, models=SERVICES) as executor:
            await executor.apply(holding(WHOLE[0]))
            starting = asyncio.create_task(executor.apply([StartReplicas(WHOLE[0].id, ("a",), (ONE,), "")]))
            while "loading: model-a" not in own_server.log.read_text():
                await asyncio.sleep(0.005)
            own_server.kill()
            with pytest.raises(Failed):
                await starting

    asyncio.run(played())


@pytest.mark.slow
def test_a_server_leaves_no_process_and_no_shared_memory(own_server: TritonServer) -> None:
    pid = own_server.pid
    assert pid is not None
    own_server.stop()
    assert own_server.pid is None
    assert not Path(f"/proc/{pid}").exists()
    assert not [p for p in Path("/dev/shm").glob("partita_*") if p.name.startswith(own_server.shared_memory)]


def test_a_server_goes_with_the_process_that_started_it_and_not_with_the_thread(
    repository: Path, tmp_path: Path
) -> None:
    """The starter is killed on the spot, so nothing of its own can clean up."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(repository), str(VENV)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert starter.stdout is not None
        keeper, url, shared = starter.stdout.readline().split()
        left = [psutil.Process(int(keeper)), *psutil.Process(int(keeper)).children(recursive=True)]
        assert len(left) >= 3  # the keeper, the server, the model's stub
        assert list(Path("/dev/shm").glob(f"{shared}*"))
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5.0) as answer:
            assert answer.status == 200  # although the thread has ended
    finally:
        starter.kill()
        starter.communicate()
    gone, alive = psutil.wait_procs(left, timeout=20.0)
    for process in alive:
        process.kill()
    assert (len(gone), alive) == (len(left), [])
    assert not list(Path("/dev/shm").glob(f"{shared}*"))


STARTER = """
import pathlib, sys, tempfile, threading, time
from partita.executors.triton.server import TritonServer, installation

repository, venv = map(pathlib.Path, sys.argv[1:])
server = TritonServer(repository, pathlib.Path.cwd(), found=installation(venv), models=["b"])
thread = threading.Thread(target=server.start)
thread.start()
thread.join()
print(server.pid, server.endpoint.url, server.shared_memory, flush=True)
time.sleep(60)
"""


def test_a_server_whose_keeper_is_killed_ends_too(own_server: TritonServer) -> None:
    pid = own_server.pid
    assert pid is not None
    (server,) = psutil.Process(pid).children()
    psutil.Process(pid).kill()
    gone, _ = psutil.wait_procs([server], timeout=20.0)
    assert gone == [server]


def test_an_environment_without_triton_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        installation(tmp_path)
    assert installation(VENV).stub.exists()
