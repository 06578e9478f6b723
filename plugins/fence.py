"""The fence for live use: foreign plugins run in a process of their own, which is killed when it takes too long.

One child serves one plugin and is started at its first call, and again after a kill. Requests and answers are pickles
with their length in front, over the child's standard input and output; the plugin itself finds an empty input, and
what it prints goes to standard error. Only Partita's own values are read back from an answer.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from threading import Event, Timer
from types import TracebackType
from typing import Any, BinaryIO

from partita.plugins.discovery import Plugin, implementations, one_line, resolve
from partita.plugins.host import DirectCaller, PluginFault

START_LIMIT_S = 30.0
"""Longest time for a child to start and import its plugin; it is no part of a call's limit."""

ORPHAN_GRACE_S = 5.0
"""How long after its limit a child whose parent is gone ends by itself."""

_LENGTH = struct.Struct(">Q")
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from partita.plugins.fence import serve; "
    "serve(float(sys.argv[2]))"
)


class FencedCaller:
    """Runs foreign plugins in child processes with a limit of time; built-in ones run directly.

    Close it at the end, or use it in a ``with`` statement; otherwise its children end with this process.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._direct = DirectCaller()
        self._children: dict[str, _Child] = {}

    def call(self, plugin: Plugin, hook: str, arguments: Mapping[str, object]) -> object:
        """Run one hook; a child that is too slow, dies or answers in no known values is a PluginFault."""
        if plugin.builtin:
            return self._direct.call(plugin, hook, arguments)
        child = self._children.pop(plugin.name, None) or _Child(plugin, self.timeout_s)
        try:
            answer = child.ask(hook, dict(arguments))
        except _Raised as problem:
            self._children[plugin.name] = child
            raise PluginFault(str(problem)) from None
        except BaseException:  # Ctrl-C too: what the child is at is not known, so it cannot be asked again
            child.kill()
            raise
        self._children[plugin.name] = child
        return answer

    def close(self) -> None:
        """End all children."""
        while self._children:
            self._children.popitem()[1].kill()

    def __enter__(self) -> FencedCaller:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Raised(Exception):
    """The plugin raised in an orderly way; its child can go on."""


class _Child:
    """One process that serves one plugin."""

    def __init__(self, plugin: Plugin, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(timeout_s + ORPHAN_GRACE_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._exchange(_portable(plugin), START_LIMIT_S, "start")
        except BaseException as problem:
            self.kill()
            if isinstance(problem, _Raised):
                raise PluginFault(f"could not start: {problem}") from None
            raise

    def ask(self, hook: str, arguments: dict[str, object]) -> object:
        """Send one call and wait for its answer."""
        return self._exchange((hook, arguments), self._timeout_s, "answer")

    def kill(self) -> None:
        """End the child and all that it has started."""
        self._kill_group()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait()

    def _exchange(self, message: object, limit_s: float, what: str) -> object:
        """Write a message and read the reply, with the child killed at the limit, which ends both."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        overrun = Event()

        def stop() -> None:
            overrun.set()
            self._kill_group()

        alarm = Timer(limit_s, stop)
        alarm.daemon = True
        alarm.start()
        try:
            _write(self._process.stdin, message)
            reply = _read(self._process.stdout)
        except (OSError, EOFError):
            if overrun.is_set():
                raise PluginFault(f"did not {what} within {limit_s:g} s") from None
            raise PluginFault(f"its process ended before its {what}: {self._ending()}") from None
        except pickle.UnpicklingError as problem:
            raise PluginFault(str(problem)) from None
        except Exception as problem:
            raise PluginFault(f"gave an answer that cannot be read: {one_line(problem)}") from problem
        finally:
            alarm.cancel()
            alarm.join()
        match reply:
            case ("answer", answer):
                return answer
            case ("raised", str(text)):
                raise _Raised(text)
            case _:
                raise PluginFault("gave an answer that cannot be read")

    def _ending(self) -> str:
        """Say how the child ended."""
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0)
            return f"killed by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return "its pipe is closed"

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def serve(orphan_limit_s: float) -> None:
    """Answer calls until the parent closes the pipe: the child's main function.

    A watchdog in C ends the process when a call has not returned for `orphan_limit_s`: a hanging plugin does not
    outlive a parent that was killed.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        plugin: Plugin | None = None
        caller = DirectCaller()
        while True:
            try:
                frame = _read_frame(requests)
            except EOFError:
                return
            limit_s = START_LIMIT_S + ORPHAN_GRACE_S if plugin is None else orphan_limit_s
            faulthandler.dump_traceback_later(limit_s, exit=True, file=nothing.fileno())
            try:
                if plugin is None:
                    plugin = _local(*pickle.loads(frame))
                    reply: tuple[str, object] = ("answer", None)
                else:
                    hook, arguments = pickle.loads(frame)
                    reply = ("answer", caller.call(plugin, hook, arguments))
                    pickle.dumps(reply)
            except PluginFault as problem:
                reply = ("raised", str(problem))
            except Exception as problem:
                reply = ("raised", f"its answer cannot be sent: {one_line(problem)}" if plugin else one_line(problem))
            faulthandler.cancel_dump_traceback_later()
            _write(replies, reply)


def _portable(plugin: Plugin) -> tuple[str, str, bytes]:
    """Name the plugin so that another process can find it: by its locator, else the object itself, pickled."""
    if plugin.locator:
        return plugin.name, plugin.locator, b""
    try:
        return plugin.name, "", pickle.dumps(plugin.subject)
    except Exception as problem:
        raise PluginFault(f"cannot be handed to another process: {one_line(problem)}") from problem


def _local(name: str, locator: str, pickled: bytes) -> Plugin:
    subject = resolve(locator) if locator else pickle.loads(pickled)
    return Plugin(name, subject, implementations(name, subject))


class _OwnValues(pickle.Unpickler):
    """Reads back only Partita's values and numpy's numbers, since loading any other class may run foreign code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class of an answer, or refuse it."""
        ours = module.startswith("partita.model.") or module == "partita.mig"
        if (ours and "." not in name) or (module, name) in {("numpy", "dtype"), ("numpy._core.multiarray", "scalar")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"answered with a {module}.{name}, which is not one of Partita's values")


def _write(pipe: BinaryIO | Any, message: object) -> None:
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(body)))
    pipe.write(body)
    pipe.flush()


def _read(pipe: BinaryIO | Any) -> object:
    return _OwnValues(io.BytesIO(_read_frame(pipe))).load()


def _read_frame(pipe: BinaryIO | Any) -> bytes:
    """Read one pickled message; EOFError where the other side has gone."""
    return _exactly(pipe, _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0])


def _exactly(pipe: BinaryIO | Any, size: int) -> bytes:
    body: bytes = pipe.read(size)
    if len(body) < size:
        raise EOFError
    return body
