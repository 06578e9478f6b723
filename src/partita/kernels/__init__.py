"""Compiled inner loops: arrays and scalars in, arrays out; nothing else of Partita is imported here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from numba import config, njit

P = ParamSpec("P")
R = TypeVar("R")


def _keep_compiled_code_with_its_source() -> None:
    """Keep compiled code in a folder named after all the sources here, unless the user has named one for numba.

    Numba compiles a function anew when its own file changes, not when a file that it calls into does: after a change to
    one kernel file, callers in another would go on with the old code.
    """
    settings: Any = config
    if settings.CACHE_DIR:
        return
    here = Path(__file__).parent
    sources = sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))).hexdigest()[:12]
    folder = here / "__pycache__" / f"compiled-{sources}"
    if not folder.exists():
        for old in here.glob("__pycache__/compiled-*"):
            shutil.rmtree(old, ignore_errors=True)
    settings.CACHE_DIR = str(folder)


_keep_compiled_code_with_its_source()

NEVER = 2**62
"""An instant that never comes, in ns (far enough from the end of int64 that sums with it do not wrap)."""

INFEASIBLE_NS = 3_600_000_000_000
"""Latency of a batch that no measurement covers: an hour, so that no deadline is ever met with it."""


def lean(function: Callable[P, R]) -> Callable[P, R]:
    """Compile without reference counts: for helpers that allocate nothing, called once a request or more often.

    Passing arrays from one compiled function to another otherwise costs an atomic increment and decrement for each
    array and call, which made the deferred kernel five times slower (5.7 M against 28 M requests a second; 1 service,
    8 GPUs). Python itself cannot call them: what it would need for that is a fifth of the time that compiling takes.
    """
    return _compiled(function)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile like `lean`, and put the body in place of every call, each of which makes compiling slower.

    For what runs once an event and takes many arrays: handing over a dozen of them costs more than what is done with
    them (deferred batching at 1.2 times the load of 64 GPUs: 5.5 M against 9.3 M requests a second).
    """
    return _compiled(function, forceinline=True)


def entrance(function: Callable[P, R]) -> Callable[P, R]:
    """Compile like `lean` what Python itself calls.

    Each function is compiled again with all that it calls, so one with reference counts around a lean one costs
    seconds. What the kernel needs is therefore allocated by Python.
    """
    compiled: Any = njit(cache=True, error_model="numpy", _nrt=False, no_cfunc_wrapper=True)(function)  # type: ignore[call-overload]
    return compiled


def callable_from_python(function: Callable[P, R]) -> Callable[P, R]:
    """Return a lean function so that Python can call it, as tests do."""

    @njit
    def opened(*arguments: Any) -> Any:
        return function(*arguments)  # type: ignore[call-arg]

    called: Any = opened
    return called


def _compiled(function: Callable[P, R], **more: bool) -> Callable[P, R]:
    compiled: Any = njit(
        cache=True, error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, **more
    )(function)  # type: ignore[call-overload]
    return compiled
