"""A runtime as a process of its own, put together as the composition root does it: disciplines and pools from replay.

Called with a file of pickled settings, overheads and the path of a log; the first line of stdout is its URL.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import structlog

from partita.executors.local.daemon import serve
from partita.executors.local.sinks import JsonLines
from partita.replay.disciplines import DISCIPLINES
from partita.replay.pools import PoolMaker


def main(path: str) -> None:
    settings, overheads, log = pickle.loads(Path(path).read_bytes())
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    pools = PoolMaker(settings.services, overheads)
    serve(
        settings,
        {d.name: d for d in DISCIPLINES},
        pools.pool,
        sink=JsonLines(Path(log)),
        on_ready=lambda url: print(url, flush=True),
    )


if __name__ == "__main__":
    main(sys.argv[1])
