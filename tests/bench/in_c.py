"""Kernels in plain C for the bench: the same rules as ours (``deferred.c``), and the bare rule (``simple.c``)."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.model.load import Arrivals
from partita.ports import Pool

HERE = Path(__file__).parent


class SameRules:
    """`partita.kernels.deferred.serve` in C, called with the arrays of the compiled one."""

    def __init__(self, folder: Path) -> None:
        self._advance = _built("deferred", folder).advance
        self._advance.restype = ctypes.c_int64

    def __call__(self, w: Any, free_at: Any, r: Any, since: int, until: int, log: Any) -> int:
        """Do what `serve` does."""
        latency = np.ascontiguousarray(w.latency)
        numbers = (r.control_ns, r.data_ns, r.response_ns, r.jitter_ns, since, until)
        logs = (log.instance, log.service, log.size, log.start, log.finish)
        return int(
            self._advance(
                _at(w.ns),
                _at(w.account),
                _at(latency),
                ctypes.c_int64(latency.shape[1]),
                _at(w.state),
                ctypes.c_int64(w.state.shape[0]),
                _at(free_at),
                ctypes.c_int64(len(free_at)),
                *(ctypes.c_int64(n) for n in numbers),
                *(_at(column) for column in logs),
            )
        )


class BareRule:
    """Deferred batching without times outside the instances, meters, targets and a log of batches."""

    def __init__(self, folder: Path) -> None:
        self._serve = _built("simple", folder).serve
        self._serve.restype = ctypes.c_int64

    def __call__(self, arrivals: Arrivals, pool: Pool, finish: NDArray[np.int64]) -> int:
        """Serve all requests; `finish` gets when each is done, -1 if dropped. Return the number of batches."""
        latency, offsets = np.ascontiguousarray(pool.latency_ns), np.ascontiguousarray(arrivals.offsets)
        columns = (arrivals.ns, offsets, pool.slo_ns, pool.max_batch, latency)
        numbers = (latency.shape[1], len(pool.slo_ns), len(pool.number))
        return int(self._serve(*map(_at, columns), *map(ctypes.c_int64, numbers), _at(finish)))


def _built(name: str, folder: Path) -> ctypes.CDLL:
    library = folder / f"{name}.so"
    flags = ("-O3", "-march=native", "-shared", "-fPIC", "-Wall", "-Werror")
    subprocess.run(["gcc", *flags, "-o", str(library), str(HERE / f"{name}.c")], check=True)
    return ctypes.CDLL(str(library))


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
