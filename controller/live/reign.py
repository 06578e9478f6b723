"""One controller's time as leader: from taking up what stands, turn by turn, to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import floor

import numpy as np

from partita.controller.history import History
from partita.controller.live.audit import Audit
from partita.controller.live.clock import Ended, LiveClock
from partita.controller.live.hands import LiveHands
from partita.controller.live.parts import Parts
from partita.controller.live.status import Status, log_problems
from partita.controller.loop import FAR_STEPS_KEPT, NEAR_STEPS_KEPT
from partita.controller.recording import encode, recorded
from partita.controller.standing import wishes_of
from partita.controller.state import State, Turn
from partita.controller.trial import SCORES_KEPT, Trial, restored_trial
from partita.controller.turn import Watch, step_aside
from partita.controller.turn import run as turn_until
from partita.errors import NotLeading, PartitaError, StoreError
from partita.forecasting.yardstick import LAST_ARRIVALS
from partita.model.load import Arrivals, Load, Observation, Orders
from partita.model.plan import Plan, feasible
from partita.ports import Forecaster, LogView, Tick
from partita.store.journal import PostgresJournal
from partita.store.leadership import Leadership
from partita.store.line import Line
from partita.store.live_log import LiveLog
from partita.store.operation import Operation, Standing

HEALTH_EVERY = 3
"""Turns between two looks at the health of the log."""
FOREVER_S = 1e18
FORGET_EVERY_S = 600.0
DAY_S = 86_400.0
STATE_EVERY_S = 3600.0
"""How often the loop's state is recorded beside what a turn saw: decisions can be made again from there on."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Connections to the database, one for each kind of work, so that none waits for another."""

    work: Line
    journal: Line
    log: Line


class SteadyLog:
    """The live log for a loop that must turn whether it can be read or not; implements `ports.RequestLog`.

    While the database is away nothing is made up: the view has no new second, and says what is missing.
    """

    def __init__(self, log: LiveLog, clock: LiveClock, status: Status) -> None:
        self._log, self._clock, self._status = log, clock, status
        self._last: LogView | None = None
        self._reads = 0

    async def read(self, since_s: float, window_s: float) -> LogView:
        """Return the load since then, or none with the reason."""
        try:
            await self._clock.synchronise(self._log.now_s)
            view = await self._log.read(since_s, window_s)
            if self._reads % HEALTH_EVERY == 0:
                self._status.log = await self._log.health()
            self._reads += 1
        except NotLeading:
            raise
        except StoreError as problem:
            return self._nothing(since_s, str(problem))
        self._last = view
        return view

    def _nothing(self, since_s: float, problem: str) -> LogView:
        services = tuple(self._status.attainment_target)
        load = Load(services, since_s, 1.0, np.empty((len(services), 0)))
        last = self._last
        if last is None:
            return LogView(since_s, load, {}, Arrivals.empty(len(services)), (since_s, since_s), problem)
        return LogView(last.watermark_s, load, {}, last.recent, last.recent_span_s, problem)


class Reign:
    """Takes up the standing plan, finishes what was begun, and turns the loop until `ended` is set or the term is over.

    It is the loop's journal (`ports.Journal`) and its audience at once. Everything that is written is written under the
    term; NotLeading or StoreError end the reign, and whoever leads next begins where the journal and the world are.
    """

    def __init__(
        self,
        parts: Parts,
        lines: Lines,
        leadership: Leadership,
        *,
        role: str,
        mode: str,
        status: Status,
        audit: Audit,
        ended: asyncio.Event,
    ) -> None:
        self._parts, self._lines, self._leadership = parts, lines, leadership
        self._role, self._mode = role, mode
        self._status, self._audit, self._ended = status, audit, ended
        self._operation = Operation(lines.work, role)
        self._operation.term = leadership.require()
        self._rollback = 0
        self._seen: tuple[int, bytes, bytes | None] | None = None
        self._keep_state_at = self._forget_at = 0.0
        self._turn_began = 0.0
        self._told_of_log: list[str] = []
        self._hands: LiveHands | None = None
        self._journal: PostgresJournal | None = None

    async def run(self) -> None:
        """Reign."""
        file, loop = self._parts.file, self._parts.loop
        log = LiveLog(self._lines.log, [s.name for s in loop.services], lost_writer_s=file.missing.lost_writer_s)
        clock = LiveClock(self._ended, told=lambda jump_s: self._audit.tell("clock", {"jumped_s": jump_s}))
        await clock.synchronise(log.now_s)
        run = await self._operation.begin_run(policy=file.policy_name(), scenario=file.document(), mode=self._mode)
        self._status.run = run
        self._journal = PostgresJournal(self._lines.journal, run, leading=self._operation.term)
        standing = await self._standing()
        state, since_s = await self._first_state(log, clock, standing)
        hands = LiveHands(
            self._parts.executor,
            self._operation,
            run=run,
            leading=self._leading,
            orders=self._orders,
            patience=file.changes.patience(),
            told=self._told,
        )
        self._hands, hands.good = hands, state.good
        if standing is not None and standing.plan == state.standing and self._mode == "active":
            await hands.resume(standing)
        try:
            await turn_until(
                loop,
                state,
                log=SteadyLog(log, clock, self._status),
                hands=hands,
                clock=clock,
                until_s=FOREVER_S,
                since_s=since_s,
                journal=self,
                watch=Watch(turned=self._turned, seen=self._saw),
                step=step_aside,
            )
        except Ended:
            pass
        finally:
            await hands.stop(file.changes.grace_s if self._leads() else 0.0)
            await self.close()

    # Beginning

    async def _standing(self) -> Standing | None:
        """Return what stands for this role; an advisory controller begins with what the active one has in force.

        It only begins with that plan: what is left to do of the active one's decisions is not its business.
        """
        if self._mode == "advisory":
            active = await Operation(self._lines.work, self._parts.file.name).read_standing()
            if active is not None:
                return active
        return await self._operation.read_standing()

    async def _first_state(self, log: LiveLog, clock: LiveClock, standing: Standing | None) -> tuple[State, float]:
        """Return the state to begin with, and up to when its history reaches."""
        loop = self._parts.loop
        begun = loop.begin(0.0)
        near, far, watermark_s = await _histories(log, clock.now_s(), loop.settings.near_s, loop.settings.epoch_s)
        state = replace(
            begun,
            near=near,
            far=far,
            epoch_at_s=watermark_s,
            near_trial=await self._trial("near", loop.near, near.steps),
            far_trial=await self._trial("far", loop.far, far.steps),
        )
        if standing is not None and not feasible(standing.plan, loop.services, loop.inventory, loop.settings.budgets):
            state = replace(
                state,
                standing=standing.plan,
                good=self._still_good(standing.good, standing.plan),
                wishes=wishes_of(standing.plan, state.wishes),
                need=standing.need,
            )
        return recorded(state), watermark_s

    async def _trial(self, horizon: str, model: Forecaster, measured: Load) -> Trial:
        """Return how a model has fared under whoever led before, so that one that was demoted stays so."""
        operations = [self._operation]
        if self._mode == "advisory":
            operations.append(Operation(self._lines.work, self._parts.file.name))
        for operation in operations:
            naive = LAST_ARRIVALS.name
            if scores := await operation.read_scores(horizon, model=model.name, naive=naive, limit=SCORES_KEPT):
                return restored_trial(scores, measured, name=model.name, naive_name=naive)
        return Trial()

    def _still_good(self, good: Plan, otherwise: Plan) -> Plan:
        loop = self._parts.loop
        return otherwise if feasible(good, loop.services, loop.inventory, loop.settings.budgets) else good

    def _leading(self) -> int:
        """Return the number of our term; NotLeading once it is over, even if another one of ours has begun."""
        term = self._leadership.require()
        if term != self._operation.term:
            raise NotLeading(f"the term of this reign is over: {term.holder} has begun term {term.number}")
        return term.number

    def _leads(self) -> bool:
        try:
            self._leading()
        except NotLeading:
            return False
        return True

    # What happens at a turn

    def _saw(self, state: State, observation: Observation) -> None:
        self._turn_began = time.monotonic()
        self._status.saw(observation)
        behind_s = observation.now_s - observation.watermark_s
        if behind_s > self._parts.loop.settings.stale_s and "log" not in observation.missing:
            self._status.missing = {**observation.missing, "log": f"it is {behind_s:.0f} s behind"}
        if "cluster" in observation.missing:
            self._rollback = 0  # it is obeyed once the cluster can be seen
        if self._parts.file.watch.keep_observations_h:
            is_due = time.monotonic() >= self._keep_state_at
            if is_due:
                self._keep_state_at = time.monotonic() + STATE_EVERY_S
            self._seen = (state.tick + 1, encode(observation), encode(state) if is_due else None)

    def _turned(self, turn: Turn) -> None:
        self._status.decided(turn.decision, time.monotonic() - self._turn_began)
        self._audit.decision(self._status.run or 0, turn.decision)
        if (found := log_problems(self._status.log)) != self._told_of_log:
            self._told_of_log = found
            self._audit.tell("log", {"problems": found})

    def _told(self, event: str, details: Mapping[str, object]) -> None:
        self._audit.tell(event, details)
        if event == "command":
            self._status.carried(str(details["verb"]), str(details["did"]))
        if event == "failed":
            self._status.counted.failures += 1

    async def _orders(self) -> Orders:
        orders, self._rollback = await self._operation.read_orders()
        return orders

    async def record(self, tick: Tick) -> None:
        """Write a turn down: what it saw, what it decided, and what stands from now on."""
        assert self._journal is not None
        assert self._hands is not None
        await self._keep(self._journal.run)
        await self._journal.record(tick)
        if tick.standing is not None and not tick.decision.commands:
            self._hands.good = tick.standing  # it stands in the world already
        plan = tick.plan if tick.plan is not None else tick.standing
        if plan is not None and self._hands.good is not None:
            standing = Standing(self._journal.run, tick.decision.tick, plan, self._hands.good, tick.need)
            await self._operation.put_standing(standing)
        if self._rollback:
            await self._operation.take_rollbacks(self._rollback, self._journal.run, tick.decision.tick)
            self._audit.tell("order", {"rollback": self._rollback, "tick": tick.decision.tick})
            self._rollback = 0

    async def _keep(self, run: int) -> None:
        """Keep what the turn saw, and forget what was kept too long."""
        if self._seen is not None:
            seen, self._seen = self._seen, None
            await self._operation.keep_observation(run, *seen)
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_EVERY_S
            watch = self._parts.file.watch
            await self._operation.forget(
                observations_s=watch.keep_observations_h * 3600,
                forecasts_s=watch.keep_forecasts_d * DAY_S,
                scores_s=watch.keep_scores_d * DAY_S,
            )

    async def close(self) -> None:
        """Note the end of the run, if the database is there."""
        if self._journal is not None:
            with suppress(PartitaError):
                await self._journal.close()


async def _histories(log: LiveLog, now_s: float, near_s: float, epoch_s: float) -> tuple[History, History, float]:
    """Read the history at both paces, and up to when it reaches.

    Steps begin at whole multiples of their width, whoever reads them and whenever: forecasts rest on them.
    """
    near_step, far_step = (float(max(1, round(s))) for s in (near_s, epoch_s))
    far = await log.history((now_s // far_step - FAR_STEPS_KEPT) * far_step, far_step)
    near = await log.history((now_s // near_step - NEAR_STEPS_KEPT) * near_step, near_step)
    rest_far, rest_near = await log.history(far.end_s), await log.history(near.end_s)
    if not rest_near.counts.size and not near.counts.size:
        begin_s = float(floor(now_s))
        nothing = [
            History.empty(near.services, start_s=begin_s, step_s=step, keep=keep)
            for step, keep in ((near_step, NEAR_STEPS_KEPT), (far_step, FAR_STEPS_KEPT))
        ]
        return nothing[0], nothing[1], begin_s
    end_s = min(rest_near.end_s, rest_far.end_s)
    return (
        History.begun_with(near, keep=NEAR_STEPS_KEPT).extended(_until(rest_near, end_s)),
        History.begun_with(far, keep=FAR_STEPS_KEPT).extended(_until(rest_far, end_s)),
        end_s,
    )


def _until(load: Load, end_s: float) -> Load:
    """Leave out what is after an instant."""
    return replace(load, counts=load.counts[:, : max(0, round(end_s - load.start_s))])
