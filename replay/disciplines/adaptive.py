"""Adaptive batching, ours: rules of deferred and eager batching compete on what has just happened.

Time is cut into steps. At the end of a step in which requests were lost, the rule that was in charge and some of its
rivals serve the step's requests once more, each from the queues and instances as they were when it began. A rival that
would have lost clearly less, on average over its trials, is in charge from then on. Where nothing is lost, nothing is
tried. docs/disciplines.md has the rules, and why they are enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.kernels import adaptive as kernel
from partita.kernels import candidates, columns
from partita.kernels.batches import Batches, empty_batches
from partita.kernels.deferred import room_for, serve
from partita.kernels.splice import cut
from partita.model.load import Arrivals
from partita.ports import Pool, Served
from partita.replay.disciplines.backlog import blank_account, served
from partita.replay.disciplines.deferred import at_work, rules_of, tell

COMPETITORS = (
    (candidates.FRONTRUN, candidates.WINDOW_DROP),
    (candidates.FRONTRUN, candidates.NEED_DROP),
    (candidates.FRONTRUN, candidates.BACKLOG_DROP),
    (candidates.IMMEDIATE, candidates.BACKLOG_DROP),
    (candidates.IMMEDIATE, candidates.WINDOW_DROP),
)
"""When batches start and what is dropped; the first is in charge until another is better."""
RIVALS = 2
"""How many rules are tried beside the one in charge, in turns."""

STEP_NS = 500_000_000
"""Steps are whole multiples of this, and at least two of the longest SLO."""
CALM = 0.002
"""Share of the requests that may be lost in a step before anything is tried."""
WEIGHT = 0.3
"""Weight of the newest trial in what is known of a rule."""
CLEARLY, AT_LEAST = 0.15, 0.002
"""A rival takes over if it loses so much less: as a share of what the rule in charge loses, and of all requests."""
CONFIRMED, LONGEST_PAUSE = 4, 8
"""After so many trials that changed nothing, the next ones are twice as many steps apart, up to so many."""
SURPRISE = 0.01
"""Where more is lost than twice what was known, and this share, trials come at every step again."""


@dataclass(slots=True)
class Ranking:
    """What is known of the rules: how much more each one loses than that in charge, as shares of the requests."""

    leader: int = 0
    own: float = 0.0
    """What the rule in charge loses."""
    worse: list[float] = field(default_factory=lambda: [0.0] * len(COMPETITORS))
    next_rival: int = 1
    unchanged: int = 0
    """Trials since the last change."""
    pause: int = 0
    """Steps until the next trial."""

    def wants_a_trial(self, lost: int, arrived: int) -> bool:
        """Say whether a step in which so many were lost is to be tried; where nothing is, what is known fades.

        One without arrivals says nothing: silences are passed over, and how many steps of them are seen hangs on how
        time is cut.
        """
        if arrived == 0:
            return False
        if self.leader == 0 and lost <= CALM * arrived:
            self.worse = [share * (1.0 - WEIGHT) for share in self.worse]
            self.own *= 1.0 - WEIGHT
            self.unchanged = self.pause = 0
            return False
        if lost > (2.0 * self.own + SURPRISE) * arrived:
            self.unchanged = self.pause = 0
        self.pause -= 1
        return self.pause < 0

    def rival(self) -> int:
        """Return the rival whose turn it is."""
        rival = self.next_rival if self.next_rival != self.leader else (self.next_rival + 1) % len(COMPETITORS)
        self.next_rival = (rival + 1) % len(COMPETITORS)
        return rival

    def learn(self, own: float, rivals: dict[int, float]) -> None:
        """Enter what a trial showed, the shares lost by the rule in charge and by rivals, and put the best in charge.

        That is one that is clearly better, or the first one where it would do as well and little is lost.
        """
        for rule, lost in rivals.items():
            self.worse[rule] += (lost - own - self.worse[rule]) * WEIGHT
        self.own += (own - self.own) * WEIGHT
        self.unchanged += 1
        best = min(range(len(COMPETITORS)), key=lambda rule: (self.worse[rule], rule != self.leader, rule))
        if self.worse[best] < -max(CLEARLY * self.own, AT_LEAST):
            self._follow(best)
        elif self.own <= CALM and self.worse[0] <= AT_LEAST:
            self._follow(0)
        self.pause = min(LONGEST_PAUSE, 2 ** min(self.unchanged // CONFIRMED, 30)) - 1

    def _follow(self, rule: int) -> None:
        ahead = self.worse[rule]
        self.worse = [share - ahead for share in self.worse]
        self.own += ahead
        self.leader, self.unchanged = rule, 0


@dataclass(slots=True, eq=False)
class Step:
    """How all stood when the present step began, and how many requests have been lost since."""

    since_ns: int
    table: NDArray[np.int64]
    free_at_ns: NDArray[np.int64]
    lost: int = 0


@dataclass(slots=True, eq=False)
class AdaptiveState:
    """What lives between advances.

    `kept` are the requests that wait and, while a step goes on, those since it began; `table` the kernel's columns, in
    which row 0 is the first request kept of a service, as in the table of the step; `pool` the last one.
    """

    kept: Arrivals
    table: NDArray[np.int64]
    ranking: Ranking = field(default_factory=Ranking)
    step: Step | None = None
    pool: Pool | None = None
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Follow whichever rule would have lost the fewest requests lately: when to start a batch, and what to drop.

    Parameters: `match`, `order` and `gpu_choice` as for deferred.
    """

    name: str = "adaptive"

    def initial_state(self, services: int) -> AdaptiveState:
        """Return the state of this many services with empty queues."""
        return AdaptiveState(Arrivals.empty(services), columns.new_state(services))

    def advance(
        self, state: AdaptiveState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[AdaptiveState, Served]:
        """Serve until `until_ns`; see `partita.ports.Discipline`."""
        requests = state.kept.followed_by(arrivals)
        step = state.step if state.pool is not None and _alike(state.pool, pool) else None
        for table in (state.table, *([step.table] if step else [])):
            table[:, columns.ROWS] += requests.offsets[:-1, np.newaxis]
        if step is not None:
            tell(step.table, requests, pool)
        heads = state.table[:, columns.HEAD].copy()
        run = _Run(requests, state.table, state.ranking, step, pool, state.at_ns)
        run.until(until_ns)
        first = (run.step.table if run.step else state.table)[:, columns.HEAD].copy()
        for table in (state.table, *([run.step.table] if run.step else [])):
            table[:, columns.ROWS] -= first[:, np.newaxis]
        kept = Arrivals(*cut(requests.ns, requests.offsets, requests.size, first))
        return AdaptiveState(kept, state.table, state.ranking, run.step, pool, until_ns), run.account_from(heads)


class _Run:
    """One advance over one pool."""

    def __init__(
        self,
        requests: Arrivals,
        table: NDArray[np.int64],
        ranking: Ranking,
        step: Step | None,
        pool: Pool,
        at_ns: int,
    ) -> None:
        self.requests, self.ranking, self.step, self.pool, self.at_ns = requests, ranking, step, pool, at_ns
        account, self.log = blank_account(requests)
        self.logged = 0
        self.work, self.instances = at_work(table, requests, account, pool)
        self.queue = room_for(len(table), self.instances)
        any_rule = rules_of(pool, candidates.FRONTRUN)
        self.rules = [any_rule._replace(window=window, drop=drop) for window, drop in COMPETITORS]
        self.again: _Again | None = None
        kernel.look(-1, pool.active, self.instances, self.work, any_rule)

    def until(self, until_ns: int) -> None:
        """Serve step by step."""
        pool, table = self.pool, self.work.state
        longest = int(pool.slo_ns[pool.active].max()) if len(pool.active) else 0
        length = STEP_NS * max(1, -(-2 * longest // STEP_NS))
        while self.at_ns < until_ns:
            if self.at_ns % length == 0:
                quiet_until = min(kernel.next_event(pool.active, self.work), until_ns - 1) // length * length
                self.at_ns = max(self.at_ns, quiet_until)
                kernel.look(self.at_ns, pool.active, self.instances, self.work, self.rules[0])
                self.step = Step(self.at_ns, table.copy(), pool.free_at_ns.copy())
            end = min(until_ns, (self.at_ns // length + 1) * length)
            heads = table[:, columns.HEAD].copy()
            self.logged = serve(
                self.work,
                pool.active,
                self.queue,
                self.instances,
                pool.free_at_ns,
                self.rules[self.ranking.leader],
                self.at_ns,
                end,
                self.log,
                self.logged,
            )
            self.at_ns = end
            if self.step is not None:
                self.step.lost += kernel.lost_since(heads, pool.active, self.work)
                if end % length == 0:
                    self._judge(self.step)
                    self.step = None

    def _judge(self, step: Step) -> None:
        """Try rules on a step that has ended, if there is reason to."""
        came = self.work.state[self.pool.active, columns.TAIL] - step.table[self.pool.active, columns.TAIL]
        if not self.ranking.wants_a_trial(step.lost, int(came.sum())):
            return
        own = self._try(step, self.ranking.leader)
        if own >= 0.0:
            rivals = [self.ranking.rival() for _ in range(RIVALS)]
            self.ranking.learn(own, {rule: self._try(step, rule) for rule in rivals})

    def _try(self, step: Step, rule: int) -> float:
        """Serve a step once more by a rule; return the share of bad requests, below 0 if there are none to judge by.

        Batches take what is known of them: nobody knows what they would have drawn.
        """
        if self.again is None:
            self.again = _Again(np.empty_like(self.work.account), empty_batches(len(self.requests)))
        work = self.work._replace(state=step.table.copy(), account=self.again.account)
        serve(
            work,
            self.pool.active,
            self.queue,
            self.instances._replace(spread=0.0),
            step.free_at_ns.copy(),
            self.rules[rule],
            step.since_ns,
            self.at_ns,
            self.again.log,
            0,
        )
        return kernel.share_lost(step.table[:, columns.HEAD].copy(), self.at_ns, self.pool.active, work)

    def account_from(self, heads: NDArray[np.int64]) -> Served:
        """Return the account of the requests from these rows on: those before were settled in an earlier advance."""
        requests, account = self.requests, self.work.account
        if (heads > requests.offsets[:-1]).any():
            rows = np.arange(len(requests)) >= np.repeat(heads, np.diff(requests.offsets))
            requests, account = Arrivals(*cut(requests.ns, requests.offsets, requests.size, heads)), account[rows]
        return served(requests, account, self.log, self.logged, self.pool)


@dataclass(frozen=True, slots=True)
class _Again:
    """Where trials write."""

    account: NDArray[np.int64]
    log: Batches


def _alike(one: Pool, other: Pool) -> bool:
    """Say whether two pools are the same, whatever their instances are busy with."""
    return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(Pool) if f.name != "free_at_ns")


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if is_dataclass(one) and type(one) is type(other):
        return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return bool(one == other)
