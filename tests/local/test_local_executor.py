"""The local executor keeps the contract of executors, with a runtime and its workers as processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from contracts.executor_contract import ExecutorContract, Subject
from local.harness import Lender, Running, settings
from miniature import cut


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    with closing(Lender(tmp_path_factory.mktemp("contract"), settings())) as known:
        yield known


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _runtime(self, lender: Lender) -> Iterator[None]:
        with lender.lend() as runtime:
            self._running: Running = runtime
            yield

    @pytest.mark.slow
    def test_from_each_plan_to_each_other(self) -> None:
        super().test_from_each_plan_to_each_other()

    def make(self) -> Subject:
        async def settle() -> None:
            """Everything is done when `apply` returns."""

        return Subject(self._running.executor, settings().inventory, settle, cut("3g.40gb@0,3g.40gb@4"))
