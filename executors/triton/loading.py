"""Changing the models of one server: load, change, drain and unload, each looked at afterwards and undone if wrong.

What is done in order: the configuration is read, the wanted fields changed, the whole sent back, the outcome read back
and compared. A load without an answer has an unknown outcome; it is left running, and no second load of that model is
sent before it has ended, whoever sent it. So a load over a model that serves is noted in the book before it is sent;
one of a model that does not needs no note, because the server shows such a model as loading.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, Protocol

from partita.errors import Busy, ExecutionError, Failed, StoreError
from partita.executors.triton.api import Away, Interface, Refused, Rejected, TritonApi, Unreachable
from partita.executors.triton.batching import (
    Config,
    check_change,
    difference,
    next_config,
    noted_term,
    only_instances_differ,
)
from partita.model.cluster import Batching
from partita.ports import OpenLoad

Reload = Literal["in_place", "unload_first"]
"""How a loaded model gets another configuration: by a load over it, which loses no request, or after an unload."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds.

    For any call but a load; for a load; until a load of unknown outcome counts as ended; until an unloaded model is
    gone; until a drained one is idle, which it must have been for `quiet_s` (longer than gateways take to learn of new
    routes); and between two looks.
    """

    call_s: float = 5.0
    load_s: float = 120.0
    load_limit_s: float = 120.0
    unload_s: float = 60.0
    drain_s: float = 30.0
    quiet_s: float = 0.5
    poll_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Wish:
    """How a model shall batch, who says so, its service's SLO, and a request to try it with."""

    batching: Batching
    term: int
    slo_s: float | None = None
    probe: Mapping[str, Any] | None = None


class Loads(Protocol):
    """The loads of one server of which nobody has seen the end, where the next controller finds them."""

    async def find(self, model: str) -> OpenLoad | None:
        """Return a model's load, None if there is none."""
        ...

    async def note(self, model: str, over: str, until_s: float, *, term: int) -> None:
        """Note that a load is about to be sent; Failed if a later term has acted."""
        ...

    async def forget(self, model: str, *, term: int) -> None:
        """Note that a model's load has ended."""
        ...


class Models:
    """The models of one server; one change of a model at a time."""

    def __init__(self, api: TritonApi, loads: Loads, *, patience: Patience, reload: Reload) -> None:
        self._api, self._open, self._patience, self._reload = api, loads, patience, reload
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._sent: dict[str, tuple[float, asyncio.Task[None]]] = {}
        """Model -> its last load, and until when it counts as open."""

    async def start(self, model: str, wish: Wish) -> None:
        """Load a model with the batching wished; one that is loaded is only changed.

        The file's configuration can only be read off a loaded model, so a model loads as its file says first, and
        anew if that is not what is wished; nothing is routed to it yet. If that fails it is unloaded again.
        """
        async with self._locks[model]:
            if (await self._settled_state(model)) == "READY":
                await self._adjust(model, wish)
                return
            await self._load(model, None, self._is_ready, wish.term)
            try:
                await self._adjust(model, wish)
            except ExecutionError:
                if not await self._is_loading(model):
                    await self._unload(model)
                raise

    async def adjust(self, model: str, wish: Wish) -> None:
        """Let a loaded model batch otherwise; nothing is sent if it does so already."""
        async with self._locks[model]:
            if (await self._settled_state(model)) != "READY":
                raise Failed(f"Triton at {self._api.url} has not loaded model {model}", command=None)
            await self._adjust(model, wish)

    async def stop(self, model: str) -> None:
        """Unload a model and wait until it is gone; Busy if it is not by then."""
        async with self._locks[model]:
            await self._check_no_load(model)
            await self._unload(model)

    async def drain(self, model: str) -> None:
        """Wait until a model that is sent nothing new has answered everything; Busy if it has not by then."""
        loop, patience = asyncio.get_running_loop(), self._patience
        begin = quiet_since = loop.time()
        last = await self._api.traffic(model)
        while loop.time() - quiet_since < patience.quiet_s or last.pending:
            if loop.time() - begin > patience.drain_s:
                text = f"model {model} at {self._api.url} still has work after {patience.drain_s:g} s"
                raise Busy(f"{text} ({last.pending:g} requests wait)", command=None)
            await asyncio.sleep(patience.poll_s)
            seen = await self._api.traffic(model)
            if seen != last:
                last, quiet_since = seen, loop.time()

    async def close(self) -> None:
        """Let go of loads that are still waited for; the server goes on with them, and the book knows of them."""
        tasks = [task for _, task in self._sent.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _adjust(self, model: str, wish: Wish) -> None:
        before = await self._api.config(model)
        if noted_term(before) > wish.term:
            text = f"term {noted_term(before)} has set model {model} at {self._api.url}, so term {wish.term} may not"
            raise Failed(text, command=None)
        after = next_config(before, wish.batching, term=wish.term, slo_s=wish.slo_s)
        if after == before:
            return
        await self._check_no_load(model)
        check_change(before, after)
        unloads = self._reload == "unload_first" and not only_instances_differ(before, after)
        interface = await self._api.interface(model)
        if unloads:
            await self._unload(model)
        try:
            await self._load(model, after, lambda name: self._has(name, after), wish.term)
        except Refused as problem:
            if unloads:
                await self._restore(model, before, str(problem), wish.term)
            raise
        if (wrong := await self._wrong(model, after, interface, wish.probe)) is not None:
            await self._restore(model, before, wrong, wish.term)
            raise Failed(f"model {model} at {self._api.url}: {wrong}; its former configuration is back", command=None)

    async def _restore(self, model: str, before: Config, why: str, term: int) -> None:
        try:
            await self._load(model, before, lambda name: self._has(name, before), term)
        except ExecutionError as problem:
            text = f"model {model} at {self._api.url}: {why}; its former configuration could not be put back: {problem}"
            raise Failed(text, command=None) from problem

    async def _wrong(
        self, model: str, sent: Config, interface: Interface, probe: Mapping[str, Any] | None
    ) -> str | None:
        """Say what is not as it should be after a load, None if all is well; Away if that cannot be told."""
        try:
            if found := difference(sent, await self._api.config(model)):
                return f"the configuration did not take: {found}"
            if (seen := await self._api.interface(model)) != interface:
                return f"its inputs and outputs became {seen}"
            if not await self._api.ready(model):
                return "it is not ready"
            return None if probe is None else await self._fault(model, probe)
        except Refused as problem:
            return str(problem)

    async def _fault(self, model: str, probe: Mapping[str, Any]) -> str | None:
        """Say why a model cannot answer a probe; a model that is too busy for one may well be right."""
        try:
            await self._api.infer(model, probe)
        except (Away, Rejected):
            return None
        except Refused as problem:
            return str(problem)
        return None

    async def _load(self, model: str, config: Config | None, took: Callable[[str], Awaitable[bool]], term: int) -> None:
        """Send a load and wait for it; without an answer, `took` says whether it was done all the same."""
        over, until_s = await self._serving(model), time.time() + self._patience.load_limit_s
        if over is not None:
            await self._open.note(model, over, until_s, term=term)
        task = asyncio.create_task(self._api.load(model, config))
        task.add_done_callback(_look_at_outcome)
        self._sent[model] = until_s, task
        await asyncio.wait({task}, timeout=self._patience.load_s)
        problem = task.exception() if task.done() else None
        known = task.done() and _is_answer(problem)
        if not known and not await took(model):
            late = problem or f"it did not answer within {self._patience.load_s:g} s and may still be at it"
            raise Failed(f"the load of model {model} at {self._api.url} has no known outcome: {late}", command=None)
        if over is not None:
            with suppress(ExecutionError, StoreError):  # a note that is left says no more than it may
                await self._open.forget(model, term=term)
        if known:
            return task.result()
        task.cancel()
        return None

    async def _check_no_load(self, model: str) -> None:
        if await self._is_loading(model):
            raise Busy(f"an earlier load of model {model} at {self._api.url} has not ended", command=None)

    async def _is_loading(self, model: str) -> bool:
        """Say whether a load may still be under way: nobody has seen its answer, and the model is as it was before."""
        load = await self._open.find(model)
        if load is None or time.time() >= load.until_s or self._has_answer(model, load.until_s):
            return False
        return await self._serving(model) == load.over

    def _has_answer(self, model: str, until_s: float) -> bool:
        """Say whether a load was ours, and has been answered since nobody waits for it any more."""
        sent_until_s, task = self._sent.get(model, (0.0, None))
        if task is None or sent_until_s != until_s or not task.done() or task.cancelled():
            return False
        return _is_answer(task.exception())

    async def _serving(self, model: str) -> str | None:
        """Return a digest of the configuration that a model serves with, None if it does not serve."""
        try:
            config = await self._api.config(model)
        except Refused:
            return None
        return sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]

    async def _is_ready(self, model: str) -> bool:
        try:
            return await self._api.ready(model)
        except Away:
            return False

    async def _has(self, model: str, config: Config) -> bool:
        try:
            return difference(config, await self._api.config(model)) is None and await self._api.ready(model)
        except Failed:
            return False

    async def _unload(self, model: str) -> None:
        await self._api.unload(model)
        await self._poll(model, lambda state: state in ("", "UNAVAILABLE"), self._patience.unload_s, "unloading")

    async def _settled_state(self, model: str) -> str:
        """Return a model's state once it is neither on its way in nor out."""
        states = await self._api.states()
        if model not in states:
            raise Failed(f"Triton at {self._api.url} has no model {model} in its repository", command=None)
        moving = ("LOADING", "UNLOADING")
        return await self._poll(model, lambda state: state not in moving, self._patience.load_s, "on its way")

    async def _poll(self, model: str, done: Callable[[str], bool], limit_s: float, doing: str) -> str:
        loop = asyncio.get_running_loop()
        until = loop.time() + limit_s
        while not done(state := (await self._api.states()).get(model, "")):
            if loop.time() > until:
                text = f"model {model} at {self._api.url} is still {doing} ({state}) after {limit_s:g} s"
                raise Busy(text, command=None)
            await asyncio.sleep(self._patience.poll_s)
        return state


def _look_at_outcome(task: asyncio.Task[None]) -> None:
    """Take the outcome of a load that nobody may wait for any more, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()


def _is_answer(problem: BaseException | None) -> bool:
    """Say whether a load that ended like this goes on no more."""
    return not isinstance(problem, Away) or isinstance(problem, Unreachable)
