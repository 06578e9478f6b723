"""The Triton executor keeps the contract of executors, on two real servers that stand for two GPUs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from contracts.executor_contract import ExecutorContract, Subject
from tritonserver.rig import GPUS, emptied, executor_on

from partita.executors.triton.server import TritonServer


@pytest.mark.slow
class TestTritonExecutor(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _servers(self, shared_servers: tuple[TritonServer, TritonServer], tmp_path: Path) -> None:
        self._endpoints = [server.endpoint for server in shared_servers]
        self._folder = tmp_path

    async def make(self) -> Subject:
        stack = AsyncExitStack()
        await stack.enter_async_context(emptied(*self._endpoints))
        executor = await stack.enter_async_context(executor_on(self._endpoints, self._folder))

        async def settle() -> None:
            await asyncio.sleep(0)  # apply returns when all is done

        return Subject(executor, GPUS, settle, close=stack.aclose)
