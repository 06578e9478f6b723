"""The local executor keeps the contract of executors, with a runtime and its workers as processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contracts.executor_contract import ExecutorContract, Subject
from local.harness import Running, running, settings
from miniature import cut


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _runtime(self, tmp_path: Path) -> Iterator[None]:
        with running(tmp_path, settings()) as runtime:
            self._running: Running = runtime
            yield

    def make(self) -> Subject:
        async def settle() -> None:
            """Everything is done when `apply` returns."""

        return Subject(self._running.executor, settings().inventory, settle, cut("3g.40gb@0,3g.40gb@4"))
