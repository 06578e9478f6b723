"""A runtime as a process of its own that records what its machines really do: started, stopped, loaded, unloaded.

Called as tests/local/entry.py is, and with the path of the record as a second argument.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from partita.executors.local import fleet
from partita.executors.local.machine import Machine
from partita.model.plan import Command

RECORD = Path(sys.argv[2])


def note(act: str, instance: str, service: str = "") -> None:
    with RECORD.open("a", encoding="utf-8") as file:
        file.write(json.dumps([act, instance, service]) + "\n")


class RecordedMachine(Machine):
    """A machine that writes down each act before it is done."""

    async def start(self, *what: Any) -> None:
        note("start", self.instance.id)
        await super().start(*what)

    async def load(self, service: str, command: Command) -> None:
        note("load", self.instance.id, service)
        await super().load(service, command)

    def unload(self, service: str) -> None:
        note("unload", self.instance.id, service)
        super().unload(service)

    async def stop(self) -> None:
        note("stop", self.instance.id)
        await super().stop()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from local.entry import main

    fleet.Machine = RecordedMachine  # type: ignore[misc]
    main(sys.argv[1])
