"""The matrix of crashes over real Triton servers: the next controller finishes, and no request is lost by it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import reduce
from pathlib import Path

import pytest
from crash.change import Change, Point
from crash.house import brought_to
from crash.stage import Death
from crash.triton_stage import GPUS, NAMES, ONE, OTHER, Triton, lightly_loaded, loads
from tritonserver.rig import MODELS, emptied

from partita.controller.commands import after, commands_for
from partita.errors import ConfigError
from partita.executors.triton.emulated_model import make_repository
from partita.executors.triton.server import VENV_VARIABLE, TritonServer, installation, triton_server
from partita.model.cluster import ClusterState

VENV = Path(os.environ.get(VENV_VARIABLE) or Path(__file__).parents[2] / ".venv-triton")
LENGTHS = {"there": 12, "back": 12}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TritonServer]]:
    """Three servers without models."""
    try:
        installation(VENV)
    except ConfigError as problem:
        pytest.skip(str(problem))
    folder = tmp_path_factory.mktemp("triton")
    wanted = [m for m in MODELS if m.name in NAMES.values()]
    repository = make_repository(folder / "models", wanted, device=folder / "device")
    with ExitStack() as stack:
        yield [stack.enter_context(triton_server(repository, venv=VENV, grace_s=0.0)) for _ in GPUS]


async def matrix(dsn: str, folder: Path, servers: Sequence[TritonServer], points: Sequence[Point]) -> dict[str, str]:
    """Play the change on the servers under load; returns what was wrong, by point."""
    made = Triton({g.id: s.endpoint for g, s in zip(GPUS, servers, strict=True)}, folder / "book.json")
    async with emptied(*(s.endpoint for s in servers)), made(dsn) as executor:
        await brought_to(executor, ONE, dsn)
        async with lightly_loaded(made) as replies:
            change = Change(dsn, made, executor, lambda: loads(servers), replies)
            found = await change.play(ONE, OTHER, points)
        return {**found, "load": "; ".join(replies.others)} if replies.others else found


def test_the_change_is_as_long_as_is_said() -> None:
    one = reduce(after, commands_for(ONE, ClusterState()), ClusterState())
    there = commands_for(OTHER, one)
    back = commands_for(ONE, reduce(after, there, one))
    assert (len(there), len(back)) == (LENGTHS["there"], LENGTHS["back"])


@pytest.mark.slow
def test_killed_at_two_points(pg_dsn: str, tmp_path: Path, servers: list[TritonServer]) -> None:
    points: list[Point] = [("there", Death(2, "inside the call"), None), ("back", Death(8, "after the call"), None)]
    assert asyncio.run(matrix(pg_dsn, tmp_path, servers, points)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["before the call", "inside the call", "after the call", "after done"])
def test_killed_at_every_command(where: str, pg_dsn: str, tmp_path: Path, servers: list[TritonServer]) -> None:
    points = [(way, Death(n, where), None) for n in range(12) for way in ("there", "back") if n < LENGTHS[way]]
    assert asyncio.run(matrix(pg_dsn, tmp_path, servers, points)) == {}
