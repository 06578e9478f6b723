"""The local runtime as an executor: commands and state over its HTTP interface."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import aiohttp

from partita.errors import Busy, ExecutionError, Failed, Unsupported
from partita.executors.together import together
from partita.model.cluster import ClusterState
from partita.model.plan import Command, CreateInstance, SetShare, StartReplicas
from partita.model.revive import command_to_plain, from_plain
from partita.ports import Capabilities

_KINDS: dict[str, type[ExecutionError]] = {"busy": Busy, "unsupported": Unsupported, "failed": Failed}
_SIDE_BY_SIDE = (CreateInstance, StartReplicas)


class LocalExecutor:
    """Drives a runtime at `url`; it holds no state of its own, so that any number of them may come and go.

    `apply` returns when everything is done. Instances that are created one after the other are created side by side,
    and so do replicas start. A command that takes longer than `control_s` goes on in the runtime.
    """

    def __init__(
        self, url: str, disciplines: Sequence[str], *, control_s: float = 120.0, observe_s: float = 5.0
    ) -> None:
        self._url = url.rstrip("/")
        self._disciplines = tuple(disciplines)
        self._control = aiohttp.ClientTimeout(total=control_s, connect=observe_s)
        self._observe = aiohttp.ClientTimeout(total=observe_s)

    @property
    def capabilities(self) -> Capabilities:
        """Say what the runtime can do: batch by its disciplines and partition, but not share."""
        return Capabilities(self._disciplines, partition=True, shares=False, kinds=False)

    async def apply(self, commands: Sequence[Command], *, term: int = 0) -> None:
        """Carry out commands, in order; see `partita.ports.Executor`."""
        async with aiohttp.ClientSession(timeout=self._control, connector=_connector()) as session:
            for kind, alike in groupby(commands, key=type):
                if kind in _SIDE_BY_SIDE:
                    await together(self._carry_out(session, c, term) for c in alike)
                else:
                    for command in alike:
                        await self._carry_out(session, command, term)

    async def observe(self) -> ClusterState:
        """Look at the cluster as it is now; Failed if the runtime is away."""
        return (await self._look())[0]

    async def term(self) -> int:
        """Return the latest term that the runtime has seen."""
        return (await self._look())[1]

    async def _look(self) -> tuple[ClusterState, int]:
        try:
            async with (
                aiohttp.ClientSession(timeout=self._observe) as session,
                session.get(f"{self._url}/v1/state") as answer,
            ):
                answer.raise_for_status()
                seen = await answer.json()
                return from_plain(ClusterState, seen["state"]), int(seen["term"])
        except (aiohttp.ClientError, TimeoutError, ValueError, TypeError, KeyError) as problem:
            raise Failed(f"the runtime at {self._url} is away: {_say(problem)}", command=None) from None

    async def _carry_out(self, session: aiohttp.ClientSession, command: Command, term: int) -> None:
        if isinstance(command, SetShare):
            raise Unsupported(f"{command.instance}: the local runtime cannot set a GPU%", command=command)
        body = {"command": command_to_plain(command), "term": term}
        try:
            async with session.post(f"{self._url}/v1/control", json=body) as answer:
                if answer.status == 200:
                    return
                told: dict[str, Any] = await answer.json()
        except TimeoutError:
            await self._doubt(command)
        except (aiohttp.ClientError, ValueError) as problem:
            raise Failed(f"the runtime at {self._url} is away: {_say(problem)}", command=command) from None
        else:
            raise _KINDS.get(told.get("error", ""), Failed)(str(told.get("message", "refused")), command=command)

    async def _doubt(self, command: Command) -> None:
        """Say of a command whose outcome is not known that it is under way, or that the runtime is away."""
        try:
            await self.observe()
        except Failed as away:
            raise Failed(str(away), command=command) from None
        kind, seconds = type(command).__name__, self._control.total
        raise Busy(f"the runtime still works on {kind} after {seconds:g} s", command=command)


def _connector() -> aiohttp.TCPConnector:
    """Return as many connections as there are commands: waiting for a free one would look like a runtime away."""
    return aiohttp.TCPConnector(limit=0)


def _say(problem: BaseException) -> str:
    return str(problem) or type(problem).__name__
