"""Where tasks run: on the workers of a Dask cluster, which need the same Partita and see the same files.

The scheduler gives a task of a worker that died to another one, and gives up a task whose workers keep dying
(its setting `distributed.scheduler.allowed-failures`). A scheduler that goes away ends the sweep; what has come back
by then is kept.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Self

from partita.controller.results import versions
from partita.controller.whatif.changes import changes
from partita.controller.whatif.task import Outcome, Task, run_task
from partita.controller.whatif.workers import Began
from partita.errors import ConfigError, Failed

PATIENCE_S = 20.0
"""How long a scheduler may take to answer at first."""


class DaskWorkers:
    """Workers of the Dask scheduler at an address like tcp://127.0.0.1:8786."""

    def __init__(self, address: str, *, began: Began = lambda _: None) -> None:
        try:
            import distributed
        except ImportError:
            raise ConfigError("needs the extra: pip install 'partita[dask]'", key="--engine", value="dask") from None
        for name in ("distributed.client", "distributed.core"):  # they write tracebacks of what we say in a sentence
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._address, self._began = address, began
        try:
            self._client: Any = distributed.Client(address, timeout=PATIENCE_S, set_as_default=False)
        except (OSError, ValueError) as problem:
            raise ConfigError(f"no Dask scheduler answers at {address!r} ({problem})", key="--scheduler") from None
        self._ended: Any = distributed.as_completed(loop=self._client.loop)
        self._tasks: dict[str, Task] = {}
        self._futures: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if problem is not None:
            self._client.cancel(list(self._futures.values()), force=True)
        self._client.close(timeout=PATIENCE_S)

    def submit(self, task: Task) -> None:
        """Take a task."""
        future = self._client.submit(run_task, task, pure=False)
        self._tasks[future.key], self._futures[future.key] = task, future
        self._began(task)
        self._ended.add(future)

    def finished(self) -> list[tuple[Task, Outcome]]:
        """Wait until some tasks have finished and return them; none if all have been returned."""
        if not self._tasks:
            return []
        future = next(self._ended)
        task = self._tasks.pop(future.key)
        del self._futures[future.key]
        match future.status:
            case "finished":
                return [(task, _of_ours(future.result()))]
            case "error":
                return [(task, Outcome(None, _told(future.exception())))]
            case _:
                raise Failed(
                    f"the Dask scheduler at {self._address} went away with {len(self._tasks) + 1} tasks to do; "
                    "the same command goes on from what is done",
                    command="sweep",
                )


def _of_ours(outcome: Outcome) -> Outcome:
    """Refuse what a worker with another version of anything that may change a number gave."""
    for name, ours, theirs in changes(versions(), outcome.versions):
        return Outcome(None, f"its worker has {name} {theirs}, and here is {ours}")
    return outcome


def _told(problem: BaseException) -> str:
    if type(problem).__name__ == "KilledWorker":
        return "its worker died too often for the scheduler"
    return f"{type(problem).__name__}: {problem}"
