"""How a live cluster is, from what its controllers report: gathered once, written for people or programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from partita.controller.planview import is_failed
from partita.controller.wording import because, gpus, moment, of_target, percent, span
from partita.store.connection import Connection
from partita.store.operators import (
    ControllerRecord,
    LeaderRecord,
    QuarantineRecord,
    StandingRecord,
    count_commands,
    list_controllers,
    list_quarantine,
    read_leader,
    read_standing_heading,
)

SILENT_S = 10.0
"""A controller that was not heard of for so long does not run, hangs, or is cut off from the database."""


STATES = ("leading", "standing by", "silent")
"""What a controller may be, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Everything that is known of one role at one instant; controllers are listed latest heard of first.

    `is_undone` says that the decision named by `standing` failed: what is in force is the last good plan before it.
    """

    role: str
    controllers: tuple[ControllerRecord, ...]
    leader: LeaderRecord | None
    standing: StandingRecord | None
    quarantine: tuple[QuarantineRecord, ...]
    is_undone: bool = False

    @property
    def running(self) -> list[ControllerRecord]:
        """Controllers that were heard of lately."""
        return [c for c in self.controllers if c.age_s <= SILENT_S]

    @property
    def leading(self) -> ControllerRecord | None:
        """The controller that leads, as far as it was heard of lately and its term lasts."""
        if self.leader is None or not self.leader.holds:
            return None
        return next((c for c in self.running if c.holder == self.leader.holder), None)

    @property
    def latest(self) -> ControllerRecord | None:
        """The controller whose word counts: the leader, or else the one heard of last that has turned the loop."""
        turned = [c for c in self.controllers if c.status.get("decision")]
        return self.leading or next(iter(turned), next(iter(self.controllers), None))


async def read_status(connection: Connection, role: str) -> ClusterStatus:
    """Gather how a role is."""
    standing = await read_standing_heading(connection, role)
    at = (0, 0) if standing is None else (standing.run, standing.tick)
    counted = await count_commands(connection, role, since=at)
    return ClusterStatus(
        role=role,
        controllers=tuple(await list_controllers(connection, role)),
        leader=await read_leader(connection, role),
        standing=standing,
        quarantine=tuple(await list_quarantine(connection, role)),
        is_undone=is_failed(counted.get(at, {})),
    )


def nobody(found: ClusterStatus) -> str:
    """Say in one sentence that no controller runs."""
    before = " before that" if found.is_undone else ""
    stands = f"{before} of decision {found.standing.tick}, run {found.standing.run}," if found.standing else ""
    keeps = f"; the plan{stands} stays in force as it is" if stands else ""
    last = next(iter(found.controllers), None)
    if last is None:
        return f"no controller of {found.role} is running{keeps}"
    return f"no controller of {found.role} is running: {last.holder} was last heard of {span(last.age_s)} ago{keeps}"


# For programs -------------------------------------------------------------------------------------------------------


def document(found: ClusterStatus) -> dict[str, Any]:
    """Return a status as plain data: the leader's own word under ``status``, the other controllers beside it."""
    latest = found.latest
    leader = found.leader
    return {
        "cluster": found.role,
        "leader": None
        if leader is None
        else {"holder": leader.holder, "term": leader.term, "until": _iso(leader.until), "holds": leader.holds},
        "controllers": [
            {
                "holder": c.holder,
                "state": state(found, c),
                "mode": c.status.get("mode", ""),
                "seen_at": _iso(c.seen_at),
                "silent_s": round(c.age_s, 3),
                "problems": list(c.status.get("problems", ())),
            }
            for c in found.controllers
        ],
        "standing": None
        if found.standing is None
        else {
            "run": found.standing.run,
            "tick": found.standing.tick,
            "at": _iso(found.standing.at),
            "undone": found.is_undone,
        },
        "quarantine": [
            {"subject": q.subject, "reason": q.reason, "strikes": q.strikes, "until": _iso(q.until)}
            for q in found.quarantine
        ],
        "status": None if latest is None else dict(latest.status),
        "problems": list(problems(found)),
    }


def state(found: ClusterStatus, controller: ControllerRecord) -> str:
    """Say what a controller is: leading, standing by, or silent."""
    if controller.age_s > SILENT_S:
        return "silent"
    return "leading" if found.leading is controller else "standing by"


def problems(found: ClusterStatus) -> Iterator[str]:
    """Name everything that is not as it should be."""
    if not found.running:
        yield nobody(found)
    elif found.leading is None:
        yield "nobody leads: the cluster stays as it is until a controller takes over"
    for controller in found.controllers:
        if controller.age_s > SILENT_S:
            yield f"{controller.holder} was not heard of for {span(controller.age_s)}"
    if found.latest is not None:
        yield from found.latest.status.get("problems", ())
    for controller in found.running:
        if controller is not found.latest and (trouble := controller.status.get("trouble")):
            yield f"{controller.holder}: {trouble}"


# For people ---------------------------------------------------------------------------------------------------------

Line = tuple[str, str]
"""Heading and text; a line without heading goes on with the one above."""


def status_lines(found: ClusterStatus) -> Iterator[Line]:
    """Write a status for people."""
    yield "cluster", found.role
    yield from _controllers(found)
    latest = found.latest
    if latest is not None and latest.status.get("decision"):
        yield from _loop(latest.status)
        yield from _services(latest.status)
        yield from _work(latest.status, found)
    if found.standing is not None:
        at = found.standing
        before = "the last good one before that " if found.is_undone else ""
        yield "plan in force", f"{before}of decision {at.tick}, run {at.run}, since {_utc(at.at)}"
    if latest is not None:
        yield from _log(latest.status)
    yield from _headed("problems", list(problems(found)) or ["none"])


def _controllers(found: ClusterStatus) -> Iterator[Line]:
    for controller in sorted(found.controllers, key=lambda c: STATES.index(state(found, c))):
        status = controller.status
        since = f", started {moment(status['started_s'])}" if "started_s" in status else ""
        mode = f"{status['mode']}{since}" if "mode" in status else ""
        match state(found, controller):
            case "leading" if found.leader is not None:
                yield "leads", f"{controller.holder}, term {found.leader.term}, {mode}"
            case "silent":
                yield "silent", f"{controller.holder}, last heard of {span(controller.age_s)} ago"
            case _:
                yield "stands by", f"{controller.holder}, {mode}"


def _loop(status: Mapping[str, Any]) -> Iterator[Line]:
    run = status.get("run")
    last, acted = status["decision"], status.get("acted")
    yield "last decision", _decision(last, run)
    if acted and acted["tick"] != last["tick"]:
        yield "last that acted", _decision(acted, run)
    took = status.get("turn_s", 0.0)
    yield "turns", f"every {span(status.get('near_s', 0.0))}, the last took {span(took)}"
    wanted, held = last["gpus_wanted"], status.get("gpus_held", last["gpus_held"])
    yield "GPUs", f"{gpus(held)} held" + (f", {wanted} wanted" if wanted != held else "")


def _decision(decision: Mapping[str, Any], run: object) -> str:
    act = "acted" if decision["action"] == "act" else "held"
    return f"{decision['tick']} of run {run}, {moment(decision['at_s'])}, {act}: {because(decision)}"


def _services(status: Mapping[str, Any]) -> Iterator[Line]:
    offered, replicas = status.get("offered_rps", {}), status.get("replicas", {})
    lines = []
    for name, wanted in sorted(status.get("attainment_target", {}).items()):
        number = replicas.get(name, 0)
        lines.append(
            f"{name}: {number} replica{'s' if number != 1 else ''}, {offered.get(name, 0.0):,.1f} requests a second, "
            f"{_attained(status, name, wanted)}"
        )
    yield from _headed("services", lines)


def _attained(status: Mapping[str, Any], name: str, wanted: float) -> str:
    answered = status.get("answered", {}).get(name, 0)
    if not answered:
        return f"none answered yet (target {wanted * 100:g} %)"
    share = status.get("good", {}).get(name, 0) / answered
    told = of_target(share, wanted) if share < wanted else f"{percent(share)} (target {wanted * 100:g} %)"
    return f"{told} in time of {answered:,}"


def _work(status: Mapping[str, Any], found: ClusterStatus) -> Iterator[Line]:
    left = status.get("left", 0)
    yield "work left", f"{left} command{'s' if left != 1 else ''}" if left else "none"
    if status.get("failed"):
        yield "last failure", str(status["failed"])
    yield from _headed(
        "left alone",
        [
            f"{subject_text(q.subject)} until {_utc(q.until)}, struck {_times(q.strikes)}: {q.reason}"
            for q in found.quarantine
        ],
    )
    if status.get("paused"):
        yield "paused", f"{status['paused']} (partita resume ends it)"


def subject_text(subject: str) -> str:
    """Write what is left alone: a GPU by its name, a command by its verb and what it acts on."""
    return subject.rpartition(" ")[0] or subject


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _log(status: Mapping[str, Any]) -> Iterator[Line]:
    log = status.get("log")
    if not log:
        return
    if log.get("watermark_s") is None:
        yield "log", "nobody has logged yet"
    else:
        behind = max(0.0, log["now_s"] - log["watermark_s"])
        yield "log", f"complete up to {moment(log['watermark_s'])}, {span(behind)} behind"
    lines = [
        f"{w['name']}: {w['state']}, {w['rows']:,} requests, seen {span(max(0.0, log['now_s'] - w['seen_s']))} before"
        for w in log.get("writers", ())
    ]
    yield from _headed("gateways", lines)


def _headed(heading: str, lines: Sequence[str]) -> Iterator[Line]:
    for number, line in enumerate(lines):
        yield (heading if number == 0 else ""), line


def _utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")
