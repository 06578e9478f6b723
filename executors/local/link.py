"""The runtime's end of a worker process: start it, tell it what to do, hear what it did, notice its death."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from partita.executors.local.settings import Device
from partita.model.plain import to_plain

STOP_S = 5.0
"""How long a worker may take to end by itself once its socket is closed."""


class Link(asyncio.Protocol):
    """A worker process; `on_message` hears what it says, `on_end` that it is gone, once."""

    def __init__(self, on_message: Callable[[Mapping[str, Any]], None], on_end: Callable[[], None]) -> None:
        self._on_message, self._on_end = on_message, on_end
        self._transport: asyncio.WriteTransport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._rest = b""

    async def start(self, device: Device, lock: str | None) -> None:
        """Start the process; its first message says that it is ready."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                settings = {k: v for k, v in to_plain(device).items() if k != "locks"}
                how = (str(theirs.fileno()), json.dumps(settings), json.dumps(lock))
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "partita.executors.local.worker",
                    *how,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)
        except BaseException:  # cancelled half-way, the process and its socket must not stay open either
            ours.close()
            await self.stop()
            raise

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return self._process.pid if self._process else None

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message; one to a worker that is gone is lost, and its end has been or will be heard."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(json.dumps(message).encode() + b"\n")

    async def stop(self) -> None:
        """Let the process end, or end it."""
        if self._transport is not None:
            self._transport.close()
        if self._process is not None and self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), STOP_S)
            except TimeoutError:
                self.kill()
                await self._process.wait()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to the worker."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand on each whole line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_message(json.loads(line))

    def connection_lost(self, problem: Exception | None) -> None:
        """Tell that the worker is gone."""
        self._on_end()
