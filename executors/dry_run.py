"""An executor that carries nothing out: it keeps a shadow of the cluster as it would be, and tells what it would do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from partita.errors import Failed
from partita.executors.refusals import refusal
from partita.model.cluster import ClusterState, Gpu
from partita.model.plan import Command
from partita.ports import Capabilities, Executor

REMEMBERED = 10_000
"""Commands that are remembered; a controller may advise for months."""


class DryRun:
    """Stands before an executor and never lets a command through.

    It looks at the real cluster once; from then on it shows what `after` makes of that, as if every command were done
    at once, so that a loop over it goes on as it would. `would` holds the last commands that would have been carried
    out, in order; `told` hears of each. Commands that cannot be are refused as they would be.
    """

    def __init__(
        self,
        inner: Executor,
        after: Callable[[ClusterState, Command], ClusterState],
        inventory: Sequence[Gpu],
        *,
        told: Callable[[Command], None] | None = None,
    ) -> None:
        self._inner, self._after, self._inventory, self._told = inner, after, tuple(inventory), told
        self._shadow: ClusterState | None = None
        self._term = 0
        self.would: deque[Command] = deque(maxlen=REMEMBERED)

    @property
    def capabilities(self) -> Capabilities:
        """Say what the executor behind it can do."""
        return self._inner.capabilities

    async def apply(self, commands: Sequence[Command], *, term: int = 0) -> None:
        """Note commands and apply them to the shadow; see `partita.ports.Executor`."""
        shadow = await self.observe()
        for command in commands:
            if term < self._term:
                raise Failed(f"the command is of term {term}, term {self._term} has begun", command=command)
            if problem := refusal(command, shadow, self._inventory, self.capabilities):
                raise problem
            self._term = term
            self._shadow = shadow = self._after(shadow, command)
            self.would.append(command)
            if self._told is not None:
                self._told(command)

    async def observe(self) -> ClusterState:
        """Show the shadow; the first time, that is the real cluster."""
        if self._shadow is None:
            self._shadow = await self._inner.observe()
        return self._shadow

    async def close(self) -> None:
        """Close the executor behind it, if it has anything to close."""
        close = getattr(self._inner, "close", None)
        if close is not None:
            await close()
