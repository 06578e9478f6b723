"""Where tasks run: on processes of this machine, one a core and each single-threaded.

When a worker dies, the standard pool gives up: every task that ran is lost and no other is taken. This one begins again
with new workers. It cannot know which of the tasks that ran killed its worker, so from then on each of them runs alone;
one that was running when a worker died three times is given up, and the others still finish.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from threading import Thread
from types import TracebackType
from typing import Protocol, Self

from partita.controller.whatif.task import Outcome, Task, run_task

DEATHS_ALLOWED = 3

ONE_THREAD = dict.fromkeys(
    ("MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
)
"""Libraries start a thread a core each unless told otherwise; here every core has a worker already."""

Began = Callable[[Task], None]
"""Told of a task that is handed to a worker."""


class Workers(Protocol):
    """A place where tasks run side by side; used as a context."""

    def submit(self, task: Task) -> None:
        """Take a task."""
        ...

    def finished(self) -> list[tuple[Task, Outcome]]:
        """Wait until some tasks have finished and return them; none if all have been returned."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class LocalWorkers:
    """Processes of this machine."""

    def __init__(self, count: int, *, began: Began = lambda _: None, run: Callable[[Task], Outcome] = run_task) -> None:
        self._count, self._began, self._run = count, began, run
        self._waiting: deque[Task] = deque()
        self._suspects: deque[Task] = deque()
        self._running: dict[Future[Outcome], Task] = {}
        self._deaths: Counter[str] = Counter()
        self._others = set(multiprocessing.active_children())
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if problem is not None:
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
        self._close()

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._waiting.append(task)
        self._fill()

    def finished(self) -> list[tuple[Task, Outcome]]:
        """Wait until some tasks have finished and return them; none if all have been returned."""
        done: list[tuple[Task, Outcome]] = []
        while not done:
            self._fill()
            if not self._running:
                return []
            ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
            broken: list[Task] = []
            for future in ended:
                task = self._running.pop(future)
                match future.exception():
                    case None:
                        done.append((task, future.result()))
                    case BrokenProcessPool():
                        broken.append(task)
                    case problem:
                        done.append((task, Outcome(None, f"{type(problem).__name__}: {problem}")))
            if broken:
                done += self._bury(broken)
        return done

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._count:
            self._start(self._waiting.popleft())
        if self._suspects and not self._running:
            self._start(self._suspects.popleft())

    def _start(self, task: Task) -> None:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._count, mp_context=multiprocessing.get_context("spawn"), initializer=_settle_in
            )
        self._began(task)
        try:
            with _environment(ONE_THREAD), _no_interruption():
                self._running[self._pool.submit(self._run, task)] = task
        except BrokenProcessPool:  # a worker died while it had nothing to do
            self._close()
            self._waiting.appendleft(task)

    def _bury(self, broken: list[Task]) -> list[tuple[Task, Outcome]]:
        """Begin again after a worker died; return the tasks that have been running too often when one did."""
        lost = [*broken, *(task for future, task in self._running.items() if _was_lost(future))]
        done = [(task, future.result()) for future, task in self._running.items() if not _was_lost(future)]
        self._running.clear()
        self._close()
        for task in lost:
            self._deaths[task.name] += 1
            if (deaths := self._deaths[task.name]) >= DEATHS_ALLOWED:
                done.append((task, Outcome(None, f"its worker died {deaths} times")))
            else:
                self._suspects.append(task)
        return done

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _was_lost(future: Future[Outcome]) -> bool:
    """Wait for a task of a broken pool, which ends at once, and say whether it has nothing to show."""
    return future.exception() is not None


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_interruption() -> Iterator[None]:
    """Hold Ctrl-C back while a worker may be started: it inherits that, and so leaves Ctrl-C to the parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _settle_in() -> None:
    """End with the parent even if it is killed: a pool's workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    Thread(target=follow, daemon=True).start()
