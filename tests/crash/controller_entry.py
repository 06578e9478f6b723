"""A controller as a process of its own, as `partita run` makes one, but with a term of the caller's choice.

Called with a cluster file and a JSON document: dsn, holder, advisory, data_dir (of an embedded server to be revived),
term_s.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from pathlib import Path

from partita.controller.cluster_file import ClusterFile
from partita.controller.live import controller
from partita.store import embedded
from partita.store.leadership import Leadership


def main(path: Path, told: dict[str, object]) -> None:
    if told.get("term_s"):
        controller.Leadership = partial(Leadership, term_s=told["term_s"])  # type: ignore[misc, assignment]
    data_dir = told.get("data_dir")
    revive = None if data_dir is None else lambda: embedded.ensure_running(Path(str(data_dir)))
    around = controller.Surroundings(
        path, str(told["dsn"]), advisory=bool(told.get("advisory")), holder=str(told["holder"]), revive=revive
    )
    asyncio.run(controller.Controller(ClusterFile.load(path), around).run())


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
