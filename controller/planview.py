"""A plan in plain words, the difference of two plans, and what became of the commands that carry one out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isinf
from textwrap import fill
from typing import Any

from partita.controller.wording import gpus, span
from partita.mig import Geometry
from partita.model.cluster import Batching, Route, SubCluster
from partita.model.plain import to_plain
from partita.model.plan import Plan
from partita.store.operators import CommandRecord, EventRecord

WIDTH = 100
MOST_NAMED = 8
"""Names written one by one; of more, the last are counted."""

SHOWN_OF_COMMAND = (
    "position",
    "verb",
    "target",
    "reason",
    "detail",
    "state",
    "term",
    "claimed_by",
    "problem",
    "undo",
)
SHOWN_OF_EVENT = ("attempt", "term", "event", "seen", "problem")

Counted = Mapping[tuple[str, bool], int]
"""Commands of one decision, counted by state and by whether they undo."""


# One plan -----------------------------------------------------------------------------------------------------------


def plan_lines(plan: Plan) -> Iterator[str]:
    """Say which GPUs a plan holds and how they are cut, what runs where and how it batches, and where requests go."""
    yield _say(f"Holds {gpus(len(plan.gpus))}" + (": " if plan.gpus else "") + "; ".join(_held(plan)) + ".")
    for group in plan.sub_clusters:
        where = named([i.id for i in group.instances])
        yield _say(f"Sub-cluster {group.name}: {_instances(len(group.instances))} ({where}).")
        for batching, names in _alike(group):
            yield _say(f"{named(names)}: {batching_text(batching)}", indent=4)
    yield _say(f"Routes: {'; '.join(_routes(plan.routes)) or 'none'}.")


def batching_text(batching: Batching) -> str:
    """Write how requests are batched."""
    parts = [batching.discipline]
    if batching.timeout_s:
        parts.append(f"waits at most {span(batching.timeout_s)}")
    if batching.max_batch is not None:
        parts.append(f"at most {batching.max_batch} a batch")
    parts += [f"{name} {value}" for name, value in batching.options]
    return ", ".join(parts)


def geometry_text(geometry: Geometry | None) -> str:
    """Write how a GPU is cut."""
    return "whole" if geometry is None else str(geometry)


def named(names: Sequence[str]) -> str:
    """Name the first few, and count the others."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMED - 1])} and {len(names) - MOST_NAMED + 1} more"


def _held(plan: Plan) -> Iterator[str]:
    by_cut: dict[str, list[str]] = {}
    for held in plan.gpus:
        by_cut.setdefault(geometry_text(held.geometry), []).append(held.gpu)
    for cut, names in by_cut.items():
        yield f"{named(names)} {cut}" if cut == "whole" else f"{named(names)} as {cut}"


def _instances(number: int) -> str:
    return "1 instance" if number == 1 else f"{number:,} instances"


def _alike(group: SubCluster) -> Iterator[tuple[Batching, list[str]]]:
    """Yield services that batch alike together."""
    by_batching: dict[Batching, list[str]] = {}
    for service, batching in zip(group.services, group.batching, strict=True):
        by_batching.setdefault(batching, []).append(service)
    yield from by_batching.items()


def _routes(routes: Iterable[Route]) -> Iterator[str]:
    by_service: dict[str, list[Route]] = {}
    for route in routes:
        by_service.setdefault(route.service, []).append(route)
    by_target: dict[str, list[str]] = {}
    for service, mine in by_service.items():
        by_target.setdefault(", ".join(map(_route, mine)), []).append(service)
    for where, services in by_target.items():
        yield f"{named(services)} to {where}"


def _route(route: Route) -> str:
    size = "" if isinf(route.up_to_size) else f" up to size {route.up_to_size:g}"
    share = "" if route.weight == 1.0 else f" ({route.weight * 100:g} %)"
    return f"{route.sub_cluster}{size}{share}"


# The difference of two ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """What another plan has otherwise; every field is empty where nothing changes.

    `taken` and `given_back` are GPUs; `recut` maps a GPU that both hold to its geometry before and after; `replicas` a
    service to its number of replicas before and after, `started` and `stopped` to the instances it comes to or leaves;
    `batching` a service to how it batches before and after, `shares` an instance to its GPU% before and after.
    """

    taken: tuple[str, ...] = ()
    given_back: tuple[str, ...] = ()
    recut: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    replicas: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    started: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stopped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    batching: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    shares: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    routes: tuple[str, str] | None = None

    def __bool__(self) -> bool:
        """Say whether anything differs."""
        return self != Difference()


def difference(before: Plan, after: Plan) -> Difference:
    """Compare two plans."""
    held, wanted = ({h.gpu: geometry_text(h.geometry) for h in plan.gpus} for plan in (before, after))
    here, there = (_homes(plan) for plan in (before, after))
    old, new = (_batching(plan) for plan in (before, after))
    had, has = ({i.id: i.gpu_percent for g in p.sub_clusters for i in g.instances} for p in (before, after))
    came = {s: tuple(i for i in there[s] if i not in here.get(s, ())) for s in there}
    left = {s: tuple(i for i in here[s] if i not in there.get(s, ())) for s in here}
    routes = tuple("; ".join(_routes(plan.routes)) for plan in (before, after))
    services = sorted({*here, *there})
    numbers = {s: (len(here.get(s, ())), len(there.get(s, ()))) for s in services}
    return Difference(
        taken=tuple(g for g in wanted if g not in held),
        given_back=tuple(g for g in held if g not in wanted),
        recut={g: (held[g], cut) for g, cut in wanted.items() if g in held and held[g] != cut},
        replicas={s: pair for s, pair in numbers.items() if pair[0] != pair[1]},
        started={s: came[s] for s in sorted(came) if came[s]},
        stopped={s: left[s] for s in sorted(left) if left[s]},
        batching={s: (old[s], new[s]) for s in services if s in old and s in new and old[s] != new[s]},
        shares={i: (had[i], has[i]) for i in has if i in had and had[i] != has[i]},
        routes=(routes[0], routes[1]) if routes[0] != routes[1] else None,
    )


def difference_lines(found: Difference) -> Iterator[str]:
    """Write a difference, the largest matters first; one line if there is none."""
    if not found:
        yield "No difference."
    if found.taken:
        yield _say(f"takes {gpus(len(found.taken))}: {named(found.taken)}")
    if found.given_back:
        yield _say(f"gives back {gpus(len(found.given_back))}: {named(found.given_back)}")
    for gpu, (was, cut) in found.recut.items():
        yield _say(f"cuts {gpu} otherwise: {was} → {cut}")
    for service in sorted({*found.started, *found.stopped}):
        yield _say(f"{service}: {', '.join(_moves(found, service))}")
    for service, (was, now) in found.batching.items():
        yield _say(f"batches {service} otherwise: {was} → {now}")
    for instance, (had, has) in found.shares.items():
        yield _say(f"gives {instance} another share: {had:g} → {has:g} % of the GPU")
    if found.routes is not None:
        yield _say(f"routes otherwise: {found.routes[0] or 'none'} → {found.routes[1] or 'none'}")


def _moves(found: Difference, service: str) -> Iterator[str]:
    if service in found.replicas:
        was, now = found.replicas[service]
        yield f"{was} → {now} replica{'s' if now != 1 else ''}"
    if service in found.started:
        yield f"starts on {named(found.started[service])}"
    if service in found.stopped:
        yield f"leaves {named(found.stopped[service])}"


def _homes(plan: Plan) -> dict[str, tuple[str, ...]]:
    homes: dict[str, tuple[str, ...]] = {}
    for replica in plan.replicas():
        homes[replica.service] = (*homes.get(replica.service, ()), replica.instance)
    return homes


def _batching(plan: Plan) -> dict[str, str]:
    ways: dict[str, dict[str, None]] = {}
    for replica in plan.replicas():
        ways.setdefault(replica.service, {})[batching_text(replica.batching)] = None
    return {service: " and ".join(texts) for service, texts in ways.items()}


# What became of commands --------------------------------------------------------------------------------------------


def outcome(counted: Counted, *, in_force: bool) -> str:
    """Say in a few words what became of a decision's commands; `in_force` if its plan is the one that stands."""
    total = sum(number for (_, undo), number in counted.items() if not undo)
    done = counted.get(("done", False), 0)
    if counted.get(("failed", True), 0):
        return "failed, and undoing it failed too"
    if counted.get(("replaced", False), 0):
        return f"gave way to a later plan, {done} of {total} commands done"
    if counted.get(("failed", False), 0) or counted.get(("undone", False), 0):
        undoing = sum(number for (state, undo), number in counted.items() if undo and state != "done")
        return "failed, being undone" if undoing else "failed and undone"
    if done == total:
        return f"done, {total} command{'s' if total != 1 else ''}"
    return f"{'being carried out' if in_force else 'given up for a later plan'}, {done} of {total} commands done"


def is_done(counted: Counted) -> bool:
    """Say whether a plan is carried out as a whole."""
    return all(state == "done" and not undo for state, undo in counted)


def is_failed(counted: Counted) -> bool:
    """Say whether a plan could not be carried out."""
    return any(state in ("failed", "undone") for state, _ in counted)


def counted_of(commands: Iterable[CommandRecord]) -> dict[tuple[str, bool], int]:
    """Count commands by state and by whether they undo."""
    counted: dict[tuple[str, bool], int] = {}
    for command in commands:
        key = (command.state, command.undo)
        counted[key] = counted.get(key, 0) + 1
    return counted


def story_document(commands: Iterable[CommandRecord]) -> list[dict[str, Any]]:
    """Return commands and what happened to them as plain data; instants as ISO texts."""
    return [
        {
            **{name: to_plain(getattr(c, name)) for name in SHOWN_OF_COMMAND},
            "finished_at": None if c.finished_at is None else _iso(c.finished_at),
            "events": [
                {**{name: to_plain(getattr(e, name)) for name in SHOWN_OF_EVENT}, "at": _iso(e.at)} for e in c.events
            ],
        }
        for c in commands
    ]


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def story_lines(commands: Sequence[CommandRecord]) -> Iterator[str]:
    """Tell what happened to each command, in the order in which they were to be done."""
    for command in commands:
        undo = " (takes back what was done)" if command.undo else ""
        yield _say(
            f"{command.position:>4}  {command.verb} {command.target}{undo}: {_state(command)}", indent=0, rest=10
        )
        for event in command.events:
            yield _say(_event(event), indent=10)


def _state(command: CommandRecord) -> str:
    if command.state == "written":
        return "handed over, not begun again yet" if command.events else "not begun yet"
    if command.state == "claimed":
        busy = command.events and command.events[-1].event == "busy"
        return "to be tried again" if busy else f"under way, by {command.claimed_by}"
    took = _took(command.events)
    return command.state + (f" in {span(took)}" if took is not None else "")


def _took(events: Sequence[EventRecord]) -> float | None:
    """Return the seconds from the first start to the end; None for what was never started."""
    began = next((e.at for e in events if e.event == "started"), None)
    ended = next((e.at for e in reversed(events) if e.event in ("done", "failed")), None)
    return None if began is None or ended is None else max(0.0, (ended - began).total_seconds())


def _event(event: EventRecord) -> str:
    tried = f", try {event.attempt}" if event.event == "started" and event.attempt > 1 else ""
    why = f": {event.problem}" if event.problem else ""
    words = {"left": "left to the next controller", "busy": "busy"}.get(event.event, event.event)
    return f"{clock(event.at)}  {words}{tried}{why} (term {event.term})"


def clock(at: datetime) -> str:
    """Write an instant to the millisecond, in UTC."""
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}"


def _say(text: str, *, indent: int = 0, rest: int = 4) -> str:
    first = " " * indent
    return fill(
        text.rstrip(),
        WIDTH,
        initial_indent=first,
        subsequent_indent=first + " " * rest,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
