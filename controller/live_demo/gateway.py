"""The load generator: sends each request at its instant over HTTP, whatever the answers take, and logs all of them.

It plays the gateway as well: every request goes into the request log when it is answered, or when the client has given
up on it. One process on one event loop; how late it sends is measured, and told with the results.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from partita.client import AsyncRequestLog
from partita.controller.live_demo.load import Load

GIVE_UP_S = 0.6
"""After this a client has gone and the request is logged as not answered; what becomes of it is still measured."""
KEPT_OPEN, OPEN_S = 64, 30.0
SWEEP_S = 0.05
_FREE, _GREETING = -1, -2
"""What a connection carries when it carries no request of the load."""

Answer = tuple[int, float, float]
"""Batch, and when it began and ended (unix time, NaN: not told)."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where a server takes requests: its address, the bytes to send for each service, and how answers are read.

    `greeting` is sent on each connection that is opened beforehand; its answer is not looked at.
    """

    url: str
    requests: tuple[bytes, ...]
    read: Callable[[bytes], Answer]
    greeting: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """What became of a load, request by request; times are seconds from its beginning, NaN where there is none.

    `begun` is that beginning as unix time. `answered_s` is when the answer was there, good or not; `status` its HTTP
    status, 0 without one.
    """

    load: Load
    begun: float
    sent_s: NDArray[np.float64]
    answered_s: NDArray[np.float64]
    status: NDArray[np.int64]
    batch: NDArray[np.int64]
    began_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]

    def latency_s(self) -> NDArray[np.float64]:
        """Return the time from sending to the answer, NaN for requests that were not served."""
        return np.where(self.status == 200, self.answered_s - self.sent_s, np.nan)

    def as_sent(self) -> Load:
        """Return the load as it was really sent."""
        order = np.argsort(self.sent_s, kind="stable")
        return Load(self.load.services, self.sent_s[order], self.load.service[order], self.load.span_s)


class _Connection(asyncio.Protocol):
    """One connection that is kept open and carries one request at a time."""

    def __init__(self, done: Callable[[_Connection, int, int, bytes], None]) -> None:
        self._done = done
        self._received = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self.request = _FREE

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def send(self, request: int, data: bytes) -> None:
        assert self._transport is not None
        self.request = request
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        if len(self._received) < end + 4 + length:
            return
        status, body = int(head.split(b" ", 2)[1]), bytes(self._received[end + 4 : end + 4 + length])
        self._received.clear()
        request, self.request = self.request, _FREE
        self._done(self, request, status, body)

    def connection_lost(self, problem: Exception | None) -> None:
        self._transport = None
        request, self.request = self.request, _FREE
        if request >= 0:
            self._done(self, request, 0, b"")

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Gateway:
    """Plays loads at one server, into one request log."""

    def __init__(self, door: Door, slos_s: Sequence[float], log: AsyncRequestLog) -> None:
        self._door, self._slos_s, self._log = door, tuple(slos_s), log
        parts = urlsplit(door.url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[_Connection] = []
        self._connections: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Gateway:
        """Open connections, so that no request waits for that, and wait until the server is done with them."""
        for _ in range(KEPT_OPEN):
            connection = await self._connect()
            if self._door.greeting:
                connection.send(_GREETING, self._door.greeting)
            else:
                self._idle.append(connection)
        async with asyncio.timeout(OPEN_S):
            while len(self._idle) < KEPT_OPEN:
                await asyncio.sleep(SWEEP_S)
        return self

    async def __aexit__(self, *problem: object) -> None:
        """Close all connections."""
        for task in self._opening:
            task.cancel()
        for connection in self._connections:
            connection.close()

    async def play(self, load: Load, *, drain_s: float, told: Callable[[float], None] = lambda _: None) -> Played:
        """Send a load and return what became of it; answers are waited for until `drain_s` after its end."""
        loop = asyncio.get_running_loop()
        count = len(load.at_s)
        self._begin = loop.time() + 0.05
        self._unix = time.time() - loop.time() + self._begin
        sent, answered, began, ended = (np.full(count, np.nan) for _ in range(4))
        status, batch = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._played = Played(load, self._unix, sent, answered, status, batch, began, ended)
        self._logged = np.zeros(count, bool)
        self._unanswered = 0
        self._oldest = self._sent = 0
        sweeping = asyncio.create_task(self._sweep(told))
        try:
            services = load.service.tolist()
            for n, at_s in enumerate(load.at_s.tolist()):
                left = self._begin + at_s - loop.time()
                if left > 0:
                    await asyncio.sleep(left)
                self._send(n, services[n])
            until = self._begin + load.span_s + drain_s
            while (self._unanswered or loop.time() < self._begin + load.span_s) and loop.time() < until:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.0 if not self._unanswered else SWEEP_S)
        finally:
            sweeping.cancel()
        self._give_up(before=np.inf)
        for connection in self._connections:
            if connection.request >= 0:
                connection.close()
        told(load.span_s)
        await asyncio.sleep(0.01)
        return self._played

    def _send(self, n: int, service: int) -> None:
        self._played.sent_s[n] = asyncio.get_running_loop().time() - self._begin
        self._sent = n + 1
        self._unanswered += 1
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.send(n, self._door.requests[service])
                return
        task = asyncio.create_task(self._send_on_new(n, service))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _send_on_new(self, n: int, service: int) -> None:
        try:
            connection = await self._connect()
        except OSError:
            self._settle(n, 0, b"")
            return
        connection.send(n, self._door.requests[service])

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self._answered), self._host, self._port)
        self._connections.append(connection)
        return connection

    def _answered(self, connection: _Connection, n: int, status: int, body: bytes) -> None:
        if connection.usable:
            self._idle.append(connection)
        if n >= 0:
            self._settle(n, status, body)

    def _settle(self, n: int, status: int, body: bytes) -> None:
        played = self._played
        self._unanswered -= 1
        played.answered_s[n] = asyncio.get_running_loop().time() - self._begin
        played.status[n] = status
        if status == 200:
            batch, began, ended = self._door.read(body)
            played.batch[n] = batch
            played.began_s[n], played.ended_s[n] = began - self._unix, ended - self._unix
        if not self._logged[n]:
            self._note(n, played.answered_s[n] - played.sent_s[n] if status == 200 else None)

    def _note(self, n: int, latency_s: float | None) -> None:
        """Log a request."""
        played, self._logged[n] = self._played, True
        service = int(played.load.service[n])
        status = "dropped" if latency_s is None else "good" if latency_s < self._slos_s[service] else "late"
        self._log.record(
            played.load.services[service],
            arrived_s=self._unix + float(played.sent_s[n]),
            latency_s=latency_s,
            batch=int(played.batch[n]) or None,
            status=status,
        )

    async def _sweep(self, told: Callable[[float], None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time() - self._begin
            self._give_up(before=now - GIVE_UP_S)
            told(now)

    def _give_up(self, *, before: float) -> None:
        """Log what was sent before and is not answered; clients have gone by now."""
        while self._oldest < self._sent and self._played.sent_s[self._oldest] <= before:
            if not self._logged[self._oldest]:
                self._note(self._oldest, None)
            self._oldest += 1
