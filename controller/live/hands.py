"""Carrying a plan out, command by command, so that a crash anywhere leaves nothing that cannot be finished or undone.

Every command is journaled before its executor is called and after, with what was seen of its target both times. What
takes long is started and awaited with the others of its kind. Busy is tried again; what fails is undone together with
what its plan had done before, by going back to the last good plan, and is left alone for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby

from partita.controller.commands import Progress, below_need, commands_for, progress, signature
from partita.controller.live.patience import PATIENT, Patience
from partita.controller.state import Turn
from partita.controller.turn import Sight
from partita.errors import Busy, ExecutionError, Failed, NotLeading, StoreError, Unsupported
from partita.executors.together import together
from partita.model.cluster import ClusterState
from partita.model.load import Orders, Work
from partita.model.plan import (
    Acquire,
    Command,
    CreateInstance,
    DestroyInstance,
    Drain,
    Plan,
    StartReplicas,
    target,
)
from partita.ports import Executor
from partita.store.operation import Entry, Operation, Standing

GPU_COMMANDS = (Acquire, CreateInstance, DestroyInstance, StartReplicas)
"""What fails of these puts the GPU itself in quarantine, not only the command."""


SIDE_BY_SIDE = (CreateInstance, StartReplicas)
"""What takes long, and nothing of it waits for another."""

_UNSEEN = (ExecutionError, OSError, TimeoutError)
"""What a look at a cluster raises that cannot be seen."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is being carried out: a decision's commands, and where to go back to if one of them fails."""

    run: int
    tick: int
    plan: Plan
    good: Plan
    need: Mapping[str, int]
    commands: tuple[tuple[int, Command, int], ...]
    """Position in the journal, command, attempts so far."""


@dataclass(slots=True)
class _At:
    """How far the job is."""

    tick: int = 0
    left: dict[int, Command] = field(default_factory=dict)
    failed: str = ""
    failures: int = 0


class CommandFailed(Exception):
    """One command of a plan could not be carried out."""

    def __init__(self, position: int, command: Command, reason: str) -> None:
        super().__init__(reason)
        self.position, self.command, self.reason = position, command, reason


class _Stopped(Exception):
    """The controller ends, or another plan comes, before the next command."""


class LiveHands:
    """Carries decisions out on a real executor; implements `turn.Hands`.

    `leading` raises NotLeading once our term is over, and returns its number; it is asked before every call of the
    executor. `orders` reads what the operator wants. `told` hears of everything that happens, in words.
    """

    def __init__(
        self,
        executor: Executor,
        ledger: Operation,
        *,
        run: int,
        leading: Callable[[], int],
        orders: Callable[[], Awaitable[Orders]],
        patience: Patience = PATIENT,
        told: Callable[[str, Mapping[str, object]], None] = lambda *_: None,
    ) -> None:
        self._executor, self._ledger, self._run = executor, ledger, run
        self._leading, self._orders, self._told = leading, orders, told
        self._patience = patience
        self._job: asyncio.Task[None] | None = None
        self._at = _At()
        self._cluster = ClusterState()
        self._stopping = self._replaced = False
        self._to_resume: Standing | None = None
        self.good: Plan | None = None
        """The last plan that was seen in place; set before anything is carried out."""

    # What the loop asks

    async def look(self) -> Sight:
        """Look at the cluster; where it cannot be seen, say so beside what was seen last.

        StoreError if a job has stopped half-way because the journal was away, and must be taken up anew; NotLeading if
        it was because our term is over.
        """
        if self._at.left and not self.busy and not self._stopping:
            self._leading()
            raise StoreError("the journal was away while a plan was carried out")
        missing = {}
        quarantine, orders = await self._ledger.quarantined(), await self._orders()
        at, left, good = self._at, tuple(self._at.left.values()), self.good  # before the cluster: what is done is seen
        try:
            self._cluster = await self._observe()
            await self._resume_late(bool(orders.paused), quarantine)
        except _UNSEEN as problem:
            missing["cluster"] = str(problem) or "no answer"
        work = Work(at.tick, left, at.failed, at.failures, quarantine, good)
        return Sight(self._cluster, work, orders, missing)

    async def carry(self, turn: Turn, commands: Sequence[Command]) -> None:
        """Begin to carry out a decision, which is in the journal already; what is under way ends first."""
        assert self.good is not None
        assert turn.plan is not None
        tick, was_busy, self._replaced = turn.decision.tick, self.busy, True
        await self.stop(self._patience.call_s)
        self._stopping = self._replaced = False
        if was_busy:  # what ended meanwhile has changed the world that the commands were made for
            self._at = _At(tick, failures=self._at.failures)
            self._to_resume = Standing(self._run, tick, turn.plan, self.good, turn.need)
            with suppress(*_UNSEEN):
                self._cluster = await self._observe()
                await self._resume_late(False, {})
            return
        numbered = tuple((n, c, 0) for n, c in enumerate(commands))
        self._begin(Job(self._run, tick, turn.plan, self.good, turn.need, numbered))

    def _begin(self, job: Job) -> None:
        """Begin a job in the background; the last replica of what its plan serves is needed in any case."""
        job = replace(job, need={s: max(1, job.need.get(s, 1)) for s in _served(job.plan)})
        left = {position: command for position, command, _ in job.commands}
        self._at = _At(job.tick, left, failures=self._at.failures)
        self._job = asyncio.create_task(self._carry(job), name=f"carry-{job.run}-{job.tick}")

    @property
    def busy(self) -> bool:
        """Say whether a job is under way."""
        return self._job is not None and not self._job.done()

    async def resume(self, standing: Standing) -> None:
        """Take up what a controller before us left of a decision: finish it, as far as the world is not there yet.

        If the world is there, the plan is the good one. Where the decision had failed already, its undoing goes on.
        A cluster that cannot be seen is waited for: it is taken up at the first look that shows it.
        """
        self.good, self._to_resume = standing.good, standing
        try:
            self._cluster = await self._observe()
        except _UNSEEN:
            return
        await self._resume_late(bool((await self._orders()).paused), await self._ledger.quarantined())

    async def _resume_late(self, paused: bool, quarantine: Mapping[str, str]) -> None:
        """Take up what could not be while the cluster was not to be seen."""
        if self._to_resume is not None:
            await self._take_up(self._to_resume, self._cluster, paused, quarantine)
            self._to_resume = None

    async def _take_up(
        self, standing: Standing, cluster: ClusterState, paused: bool, quarantine: Mapping[str, str]
    ) -> None:
        """Begin with what is missing in the world; while paused only with what had been begun, and never with what
        has just failed.
        """
        run, tick, plan, good = standing.run, standing.tick, standing.plan, standing.good
        entries = await self._ledger.read_entries(run, tick)
        undoing = plan == good and any(e.state == "failed" for e in entries)
        still_open = [e for e in entries if e.state in ("written", "claimed")]
        ours = {signature(e.command): e for e in still_open if e.undo == undoing}
        underway = [e.command for e in ours.values() if progress(e.command, cluster) is Progress.UNDERWAY]
        missing = [c for c in commands_for(plan, cluster) if signature(c) not in quarantine]
        wanted = [*underway, *(c for c in missing if not paused or signature(c) in ours)]
        places = [ours.get(signature(c)) for c in wanted]
        added = [c for c, place in zip(wanted, places, strict=True) if place is None]
        first = 1 + max((e.position for e in entries), default=-1)
        await self._ledger.add_commands(run, tick, added, first=first, undo=undoing)
        for entry in still_open:
            if entry not in places:
                await self._close(run, tick, entry, cluster, undoing=undoing)
        numbers = iter(range(first, first + len(added)))
        jobs = tuple(
            (next(numbers), c, 0) if place is None else (place.position, c, place.attempts)
            for c, place in zip(wanted, places, strict=True)
        )
        if jobs:
            self._told("resumed", {"tick": tick, "of_run": run, "commands": len(jobs)})
            self._begin(Job(run, tick, plan, good, standing.need, jobs))
        elif not commands_for(plan, cluster):
            self.good = plan

    async def _close(self, run: int, tick: int, entry: Entry, cluster: ClusterState, *, undoing: bool) -> None:
        """Note of a command that need not be carried out any more that it is done, or will not be."""
        is_done = entry.undo == undoing and progress(entry.command, cluster) is Progress.DONE
        event, why = ("done", "found done") if is_done else ("undone", "not needed any more")
        await self._ledger.tell(
            run,
            tick,
            entry.position,
            attempt=entry.attempts,
            event=event,
            seen=_glimpse(entry.command, cluster),
            problem=f"{why} after a restart",
        )

    async def stop(self, grace_s: float) -> None:
        """Let the command in flight end, hand the rest over, and stop."""
        self._stopping = True
        if self._job is None:
            return
        with suppress(asyncio.TimeoutError, Exception):
            await asyncio.wait_for(asyncio.shield(self._job), grace_s)
        if not self._job.done():
            self._job.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._job

    # Carrying out

    async def _carry(self, job: Job) -> None:
        try:
            if await self._all(job):
                self.good = job.plan
        except CommandFailed as problem:
            await self._give_up(job, problem)
        except NotLeading as problem:
            self._told("stopped", {"tick": job.tick, "reason": str(problem)})
        except StoreError as problem:
            # Nothing is done that cannot be journaled; whoever leads next takes it up from what is there.
            self._told("stopped", {"tick": job.tick, "reason": str(problem)})
        except Exception as problem:  # an executor's fault must not end the controller; the plan counts as failed
            self._fail(f"{type(problem).__name__} while carrying out: {problem}")
            self._told("failed", {"tick": job.tick, "reason": self._at.failed})

    async def _all(self, job: Job) -> bool:
        """Carry out all commands; False if the controller ended before, and the rest was handed over."""
        try:
            await self._in_groups(job)
        except _Stopped:
            await self._hand_over(job)
            return False
        return True

    async def _in_groups(self, job: Job) -> None:
        """Carry out all commands, those of one kind that may go side by side so; _Stopped before the next ones."""
        for kind, group in groupby(job.commands, key=lambda entry: type(entry[1])):
            entries = list(group)
            width = self._patience.side_by_side if issubclass(kind, SIDE_BY_SIDE) else 1
            started = []
            for first in range(0, len(entries), width):
                if self._stopping:
                    raise _Stopped
                some = entries[first : first + width]
                attempts = await together([self._one(job, *entry) for entry in some])
                started += [(*entry[:2], attempt) for entry, attempt in zip(some, attempts, strict=True) if attempt]
            for position, command, attempt in started:
                await self._until_done(job, position, command, attempt)

    async def _hand_over(self, job: Job) -> None:
        """Leave what has not begun to the next controller, or to nobody if another plan takes this one's place."""
        event, why = ("replaced", "another plan came") if self._replaced else ("left", "the controller ended")
        tried = {position: attempts for position, _, attempts in job.commands}
        for position in self._at.left:
            await self._tell(job, position, tried.get(position, 0), event, problem=why)

    async def _one(self, job: Job, position: int, command: Command, attempts: int) -> int:
        """Carry out one command; 0 once it is done, the number of the attempt if that was only started."""
        await self._room_for(job, position, command)
        for attempt in range(attempts + 1, attempts + 1 + self._patience.busy_tries):
            before = await self._seen(position, command)
            if progress(command, before) is Progress.DONE:
                await self._done(job, position, command, attempt, before, "was there already")
                return 0
            await self._tell(job, position, attempt, "started", _glimpse(command, before))
            try:
                term = self._leading()
                async with asyncio.timeout(self._patience.call_s):
                    await self._executor.apply([command], term=term)
            except Busy as problem:
                await self._tell(job, position, attempt, "busy", problem=str(problem))
                await self._rest(min(30.0, self._patience.backoff_s * 2 ** (attempt - attempts - 1)))
                continue
            except StoreError:
                raise
            except (Failed, Unsupported) as problem:
                raise CommandFailed(position, command, str(problem)) from problem
            except (OSError, TimeoutError) as problem:
                raise CommandFailed(position, command, f"no answer: {problem or type(problem).__name__}") from problem
            except Exception as problem:  # a foreign executor's fault is the command's failure, not the controller's
                raise CommandFailed(position, command, f"{type(problem).__name__}: {problem}") from problem
            after = await self._seen(position, command)
            if progress(command, after) is Progress.UNDERWAY:
                return attempt
            # A drained replica looks like one without requests.
            if progress(command, after) is Progress.DONE or isinstance(command, Drain):
                await self._done(job, position, command, attempt, after)
                return 0
            raise CommandFailed(position, command, "the executor said it was done, and it is not to be seen")
        raise CommandFailed(position, command, f"busy at {self._patience.busy_tries} tries")

    async def _rest(self, seconds: float) -> None:
        """Wait before another try; _Stopped if there is to be none."""
        until = asyncio.get_running_loop().time() + seconds
        while (rest := until - asyncio.get_running_loop().time()) > 0:
            if self._stopping:
                raise _Stopped
            await asyncio.sleep(min(rest, self._patience.poll_s))

    async def _room_for(self, job: Job, position: int, command: Command) -> None:
        """Wait until a command would leave enough capacity."""
        if not self._patience.keep_need:
            return
        until = asyncio.get_running_loop().time() + self._patience.room_s
        while short := below_need(command, await self._seen(position, command), job.need):
            if self._stopping:
                raise _Stopped
            if asyncio.get_running_loop().time() > until:
                raise CommandFailed(position, command, short)
            await asyncio.sleep(self._patience.poll_s)

    async def _until_done(self, job: Job, position: int, command: Command, attempt: int) -> None:
        until = asyncio.get_running_loop().time() + self._patience.done_s
        while True:
            seen = await self._seen(position, command)
            if self._stopping:
                raise _Stopped
            match progress(command, seen):
                case Progress.DONE:
                    await self._done(job, position, command, attempt, seen)
                    return
                case Progress.ABSENT:
                    raise CommandFailed(position, command, "it was under way, and is gone")
            if asyncio.get_running_loop().time() > until:
                raise CommandFailed(position, command, f"not done after {self._patience.done_s:g} s")
            await asyncio.sleep(self._patience.poll_s)

    async def _done(
        self, job: Job, position: int, command: Command, attempt: int, seen: ClusterState, problem: str | None = None
    ) -> None:
        await self._tell(job, position, attempt, "done", _glimpse(command, seen), problem)
        self._at.left.pop(position, None)

    # Giving up

    async def _give_up(self, job: Job, failed: CommandFailed) -> None:
        """Undo a plan of which a command failed: back to the last good one, and leave alone what failed."""
        reason = f"{type(failed.command).__name__} {target(failed.command)}: {failed.reason}"
        try:
            await self._note_failure(job, failed)
            await self._ledger.strike(_subjects(failed, reason), self._patience.quarantine_s)
            if self._replaced:  # what comes in this plan's place stands already, and begins from the world as it is
                self._at.left.clear()
                self._told("failed", {"tick": job.tick, "reason": reason})
                return
            await self._ledger.put_standing(Standing(job.run, job.tick, job.good, job.good, job.need))
            undone = await self._undo(job, failed)
        except (StoreError, ExecutionError, OSError, TimeoutError) as problem:
            undone = f"and undoing it was given up: {problem}"
        self._fail(f"{reason}; {undone}")
        self._told("failed", {"tick": job.tick, "reason": self._at.failed})

    async def _note_failure(self, job: Job, failed: CommandFailed) -> None:
        """Journal that a command failed, and that those after it will not be carried out."""
        for entry in await self._ledger.read_entries(job.run, job.tick):
            if entry.position == failed.position:
                await self._tell(job, entry.position, entry.attempts, "failed", problem=failed.reason)
            elif entry.position in self._at.left:
                await self._tell(job, entry.position, entry.attempts, "undone", problem="its plan failed")

    def _fail(self, reason: str) -> None:
        self._at.failed = reason
        self._at.failures += 1
        self._at.left.clear()

    async def _undo(self, job: Job, failed: CommandFailed) -> str:
        """Carry out what leads back to the last good plan; say what that took."""
        back = commands_for(replace(job.good, reason="undo"), await self._observe())
        if not back:
            return "nothing had to be undone"
        if signature(failed.command) in map(signature, back):
            return "there is no earlier plan to go back to"
        first = 1 + max(e.position for e in await self._ledger.read_entries(job.run, job.tick))
        await self._ledger.add_commands(job.run, job.tick, back, first=first, undo=True)
        numbered = tuple((first + n, c, 0) for n, c in enumerate(back))
        undoing = replace(job, plan=job.good, commands=numbered, need=dict.fromkeys(_served(job.good), 1))
        self._at.left = {position: command for position, command, _ in undoing.commands}
        try:
            if not await self._all(undoing):
                return "and undoing it is left to the next controller"
        except CommandFailed as problem:
            await self._note_failure(undoing, problem)
            return f"and undoing it failed at {type(problem.command).__name__} {target(problem.command)}: {problem}"
        return f"{len(back)} command{'s' if len(back) != 1 else ''} undid what was done before"

    # Looking and telling

    async def _observe(self) -> ClusterState:
        """Look at the cluster; Failed whatever an executor raises that cannot see it."""
        try:
            async with asyncio.timeout(self._patience.look_s):
                return await self._executor.observe()
        except (StoreError, *_UNSEEN):
            raise
        except Exception as problem:  # a foreign executor may raise anything
            raise Failed(f"{type(problem).__name__}: {problem}", command=None) from problem

    async def _seen(self, position: int, command: Command) -> ClusterState:
        """Look at the cluster in the middle of a command, patiently: a server may be on its way back."""
        until = asyncio.get_running_loop().time() + self._patience.done_s
        while True:
            try:
                return await self._observe()
            except _UNSEEN as problem:
                if asyncio.get_running_loop().time() > until:
                    raise CommandFailed(position, command, f"the cluster cannot be seen: {problem}") from problem
            self._leading()
            await asyncio.sleep(self._patience.poll_s)

    async def _tell(
        self, job: Job, position: int, attempt: int, event: str, seen: object = None, problem: str | None = None
    ) -> None:
        await self._ledger.tell(job.run, job.tick, position, attempt=attempt, event=event, seen=seen, problem=problem)
        command = next((c for n, c, _ in job.commands if n == position), None)
        verb, at = (type(command).__name__, target(command)) if command is not None else ("", "")
        what = {"tick": job.tick, "position": position, "verb": verb, "target": at, "did": event}
        self._told("command", {**what, "attempt": attempt, "problem": problem or ""})


def _served(plan: Plan) -> set[str]:
    return {service for group in plan.sub_clusters for service in group.services}


def _subjects(failed: CommandFailed, reason: str) -> dict[str, str]:
    """Return what is to be left alone: the command, and the GPU where it may be the GPU's fault."""
    gpu = {target(failed.command).partition("/")[0]: reason} if isinstance(failed.command, GPU_COMMANDS) else {}
    return {signature(failed.command): reason, **gpu}


def _glimpse(command: Command, cluster: ClusterState) -> object:
    """Return what is seen of a command's target."""
    key = target(command)
    return {
        "held": key.partition("/")[0] in cluster.held,
        "instance": cluster.state(key),
        "instances": [s.instance.id for s in cluster.instances if s.instance.gpu == key],
    }
