"""One place that says whether a Triton server can run here, and the servers that tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonserver.rig import MODELS

from partita.errors import ConfigError
from partita.executors.triton.emulated_model import make_repository
from partita.executors.triton.server import VENV_VARIABLE, TritonServer, installation, triton_server

VENV = Path(os.environ.get(VENV_VARIABLE) or Path(__file__).parents[2] / ".venv-triton")


@pytest.fixture(scope="session", autouse=True)
def _can_run() -> None:
    try:
        installation(VENV)
    except ConfigError as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    return make_repository(folder / "models", MODELS, device=folder / "device")


@pytest.fixture(scope="session")
def shared_servers(repository: Path) -> Iterator[tuple[TritonServer, TritonServer]]:
    """Two servers that live as long as the run; a test must leave them without models."""
    with (
        triton_server(repository, venv=VENV, grace_s=0.0) as one,
        triton_server(repository, venv=VENV, grace_s=0.0) as two,
    ):
        yield one, two


@pytest.fixture
def own_server(repository: Path) -> Iterator[TritonServer]:
    """A server to be killed; model b is loaded at each of its starts, from its file."""
    with triton_server(repository, venv=VENV, models=["b"], grace_s=0.0) as server:
        yield server
