"""The worker process of one instance: it holds the models loaded there and runs batches, one after the other.

It is told what to do in lines of JSON on a socket and answers the same way; it ends when the socket does.

| told | answers |
|---|---|
| `do: load`, `service`, `points` | `loaded: service`, or that and `error` |
| `do: unload`, `service` | nothing |
| `do: run`, `service`, `size`, `start_ns` | `ran: service`, and `began_ns` and `ended_ns` or `error` |

Instants are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import ctypes
import json
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from partita.executors.local.devices import Device, device, sleep_until

_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29


def main(fd: int, settings: Mapping[str, Any], lock: str | None) -> None:
    """Serve the socket `fd` until the runtime closes it."""
    _prepare()
    with socket.socket(fileno=fd) as line, suppress(BrokenPipeError):  # nobody is left to be told
        here = device(settings, lock)
        line.sendall(b'{"ready":true}\n')
        with line.makefile("r", encoding="utf-8") as messages:
            for text in messages:
                if answer := _do(here, json.loads(text)):
                    line.sendall(json.dumps(answer).encode() + b"\n")


def _prepare() -> None:
    """Die with the runtime, leave signals of the terminal to it, and sleep to the microsecond.

    The kernel lets a sleep of an ordinary process last 50 µs longer than asked.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _do(here: Device, message: Mapping[str, Any]) -> dict[str, Any] | None:
    """Carry one message out and return the answer to it."""
    service = message["service"]
    match message["do"]:
        case "load":
            try:
                here.load(service, [(int(b), float(s)) for b, s in message["points"]])
            except Exception as fault:  # whatever a model raises is told as the answer; the worker goes on
                return {"loaded": service, "error": f"{type(fault).__name__}: {fault}"}
            return {"loaded": service}
        case "unload":
            here.unload(service)
            return None
        case _:
            sleep_until(message["start_ns"])
            began_ns = time.monotonic_ns()
            try:
                here.run(service, message["size"])
            except Exception as fault:  # the batch is told as failed; the next may run
                return {"ran": service, "error": f"{type(fault).__name__}: {fault}"}
            return {"ran": service, "began_ns": began_ns, "ended_ns": time.monotonic_ns()}


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
