"""Arrivals of a trace drawn ahead, in a process of their own, while another replays those before.

The child sends what it has drawn through a pipe, some spans of time ahead, and waits while the pipe is full. It shares
nothing else with its parent: when either ends, however it ends, the other finds the pipe closed, and nothing is left.
Since a source gives the same requests however the time is cut, they are those that the source itself would give.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from partita.errors import DrawingEnded, PartitaError
from partita.kernels.splice import take_before
from partita.model.load import Arrivals
from partita.ports import TraceReader
from partita.traces.arrivals import DEFAULT_SIZE, ArrivalSource, TraceArrivals
from partita.traces.guard import read_blocks
from partita.traces.read_options import seeded
from partita.traces.services import ServiceMap
from partita.traces.superposition import Later, Superposed, member_seed
from partita.traces.thinning import Thinned, Thinning

ENOUGH = 20_000_000
"""Requests from which a process of their own pays: it takes about as long to start as to draw a tenth of them."""

AT_ONCE = 1 << 18
"""About how many requests are sent together."""
AHEAD = 16
"""How many of these are drawn ahead: more than the ten-minute windows of large traces hold, which are drawn at once."""
PIPE_BYTES = 1 << 20

FIRST_STEP_NS, LEAST_STEP_NS, MOST_STEP_NS = 1_000_000_000, 1_000_000, 3_600_000_000_000

REQUESTS, SIZED, RAISED = 0, 1, 2
_HEADER = struct.Struct("<3q")
"""What follows (requests, all of the default size or not, or an exception), up to which instant, and how many rows."""

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from partita.traces.apart import serve; serve()"


@dataclass(frozen=True, slots=True)
class TracePart:
    """A part of a trace file to be replayed; most fields are those of `TraceArrivals`.

    `thin` are shares of its services to keep, and it begins `later_ns` after the replay.
    """

    reader: TraceReader
    path: Path
    mapping: ServiceMap
    begin_ns: int
    end_ns: int
    bin_s: float | None = None
    speed: float = 1.0
    seed: int = 0
    thin: Mapping[str, float] = field(default_factory=dict)
    later_ns: int = 0

    def seeded(self, seed: int) -> TracePart:
        """Return the same part, drawn from a seed."""
        return replace(self, seed=seed)

    def open(self) -> ArrivalSource:
        """Return its requests, from the first one on; nothing is read before it is asked for."""
        source: ArrivalSource = TraceArrivals(
            read_blocks(seeded(self.reader, self.seed), self.path),
            self.mapping,
            begin_ns=self.begin_ns,
            end_ns=self.end_ns,
            bin_s=self.bin_s,
            speed=self.speed,
            seed=self.seed,
        )
        if self.thin:
            source = Thinned(source, Thinning(self.thin, self.seed))
        return Later(source, self.later_ns) if self.later_ns else source


@dataclass(frozen=True, slots=True)
class TraceParts:
    """Parts of several trace files to be replayed at once."""

    parts: tuple[TracePart, ...]

    @property
    def path(self) -> Path:
        """The first file."""
        return self.parts[0].path

    def seeded(self, seed: int) -> TraceParts:
        """Return the same parts, drawn from a seed, each from one of its own."""
        return TraceParts(tuple(part.seeded(member_seed(seed, at)) for at, part in enumerate(self.parts)))

    def open(self) -> ArrivalSource:
        """Return the requests of all of them."""
        return Superposed([part.open() for part in self.parts])


class DrawnApart:
    """The requests of a part of a trace, drawn in another process; a context manager, which ends the process."""

    def __init__(self, part: TracePart | TraceParts) -> None:
        source = part.open()
        self.services, self.origin_ns, self.span_ns = source.services, source.origin_ns, source.span_ns
        self._part = part
        self._process: subprocess.Popen[bytes] | None = None
        self._drawn: deque[_Drawn] = deque()
        self._until_ns = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is its parent's affair
        )
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            _widen(self._process.stdout)
            with suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(pickle.dumps(self._part))
        except BaseException:  # Ctrl-C too: without __exit__ the process would outlive us
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The other process."""
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait()

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        ns = min(ns, self.span_ns)
        while self._until_ns < ns:
            self._drawn.append(self._receive())
            self._until_ns = self._drawn[-1].until_ns
        found = []
        while self._drawn:
            found.append(self._drawn[0].take(ns))
            if self._drawn[0].until_ns > ns:
                break
            self._drawn.popleft()
        return reduce(Arrivals.followed_by, found, Arrivals.empty(len(self.services)))

    def _receive(self) -> _Drawn:
        """Read what the other process has drawn next."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout
        header = bytearray(_HEADER.size)
        _fill(memoryview(header), pipe, self)
        kind, until_ns, rows = _HEADER.unpack(header)
        if kind == RAISED:
            problem = bytearray(rows)
            _fill(memoryview(problem), pipe, self)
            raise _revived(*pickle.loads(problem))
        offsets, ns = np.empty(len(self.services) + 1, np.int64), np.empty(rows, np.int64)
        size = np.full(0 if kind == SIZED else rows, DEFAULT_SIZE, np.float32)
        if kind == SIZED:
            size = np.empty(rows, np.float32)
        for column in (offsets, ns, size) if kind == SIZED else (offsets, ns):
            _fill(column.data.cast("B") if len(column) else memoryview(b""), pipe, self)
        return _Drawn(Arrivals(ns, offsets, size), offsets[:-1].copy(), until_ns)

    def ending(self) -> DrawingEnded:
        """Say how the process ended that should have gone on."""
        assert self._process is not None
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return DrawingEnded(f"the process that draws its requests {how}", file=str(self._part.path))


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """Requests before an instant, of which each service's have been taken up to a row."""

    arrivals: Arrivals
    taken: NDArray[np.int64]
    until_ns: int

    def take(self, ns: int) -> Arrivals:
        """Return what is left of them before an instant."""
        a = self.arrivals
        if self.until_ns <= ns and np.array_equal(self.taken, a.offsets[:-1]):
            return a
        return Arrivals(*take_before(a.ns, a.offsets, a.size, self.taken, ns))


def _fill(room: memoryview, pipe: BinaryIO | object, drawn: DrawnApart) -> None:
    """Read exactly as much as there is room for; DrawingEnded if the other side has gone."""
    while room:
        read = pipe.readinto(room)  # type: ignore[union-attr]
        if not read:
            raise drawn.ending()
        room = room[read:]


def _widen(pipe: object) -> None:
    """Let a pipe hold more, where the system can: a small one makes the two processes take turns."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[attr-defined]


# The other process ----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Draw the part of a trace that stands on standard input, and send it until the reader has gone."""
    answers = os.dup(1)
    os.dup2(2, 1)
    messages: queue.Queue[list[bytes | memoryview] | None] = queue.Queue(AHEAD)
    sender = Thread(target=_send, args=(messages, answers), daemon=True)
    sender.start()
    try:
        part: TracePart | TraceParts = pickle.loads(sys.stdin.buffer.read())
        _draw(part.open(), messages)
    except Exception as problem:
        body = pickle.dumps(_portable(problem))
        messages.put([_HEADER.pack(RAISED, 0, len(body)), body])
    messages.put(None)
    sender.join()


def _draw(source: ArrivalSource, messages: queue.Queue[list[bytes | memoryview] | None]) -> None:
    """Draw in steps of about AT_ONCE requests."""
    now_ns, step_ns = 0, FIRST_STEP_NS
    while now_ns < source.span_ns:
        now_ns = min(source.span_ns, now_ns + step_ns)
        drawn = source.until(now_ns)
        sized = bool((drawn.size != DEFAULT_SIZE).any())
        columns = (drawn.offsets, drawn.ns, drawn.size) if sized else (drawn.offsets, drawn.ns)
        header = _HEADER.pack(SIZED if sized else REQUESTS, now_ns, len(drawn))
        messages.put([header, *(np.ascontiguousarray(c).data.cast("B") for c in columns if len(c))])
        if len(drawn) < AT_ONCE // 2:
            step_ns = min(2 * step_ns, MOST_STEP_NS)
        elif len(drawn) > AT_ONCE:
            step_ns = max(step_ns // 2, LEAST_STEP_NS)


def _send(messages: queue.Queue[list[bytes | memoryview] | None], to: int) -> None:
    """Write messages as they come; end the process when nobody reads them any more."""
    while (message := messages.get()) is not None:
        try:
            for part in message:
                left = memoryview(part)
                while left:
                    left = left[os.write(to, left) :]
        except OSError:
            os._exit(0)


def _portable(problem: Exception) -> tuple[type[PartitaError] | None, str, dict[str, object]]:
    """Take an error apart; of one that is not Partita's own, all that is known."""
    if isinstance(problem, PartitaError):
        return type(problem), str(problem), dict(vars(problem))
    return None, traceback.format_exc(), {}


def _revived(kind: type[PartitaError] | None, text: str, state: dict[str, object]) -> Exception:
    """Put an error together again."""
    if kind is None:
        return RuntimeError(f"drawing requests in a process of their own failed:\n{text}")
    error = kind.__new__(kind, text)
    vars(error).update(state)
    return error
