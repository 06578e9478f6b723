"""One decision in plain words, from the record that the journal and a result's JSON hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from textwrap import fill
from typing import Any

from partita.controller.wording import because, gpus, moment, percent
from partita.model.plan import SetRoutes, target

Record = Mapping[str, Any]
"""A decision as `results.decision_document` writes it and as the journal is read back."""

WIDTH = 100
MOST_TARGETS = 4
"""Targets named one by one; of more, the last are counted."""
STATES = {
    "done": "done",
    "claimed": "under way",
    "written": "not begun yet",
    "failed": "failed",
    "undone": "undone",
}
"""How the states of commands read, in the order in which they are told."""
ROUTES = target(SetRoutes((), (), ""))


def explain(decision: Record, *, run: str) -> str:
    """Say what was measured, expected, suggested, weighed, chosen and commanded."""
    return "\n".join(_lines(decision, run))


def list_decisions(decisions: Iterable[Record]) -> Iterator[str]:
    """Yield one line a decision."""
    for d in decisions:
        held, wanted = d["gpus_held"], gpus(d["gpus_wanted"])
        change = f"{held} → {wanted}" if held != d["gpus_wanted"] else wanted
        yield f"{d['tick']:>7}  {moment(d['at_s']):>12}  {d['action']:<4}  {change:>14}  {because(d)}"


def default_decision(decisions: Sequence[Record]) -> Record | None:
    """Return the last decision that acted, or the last at all."""
    candidates = [d for d in decisions if d["action"] == "act"] or decisions
    return candidates[-1] if candidates else None


def _lines(d: Record, run: str) -> Iterator[str]:
    yield f"Decision {d['tick']} of {run}, at {moment(d['at_s'])}: {_outcome(d)}"
    yield _say("Why", f"{d['reason']}.")
    yield _say("Measured", f"{d['offered_rps']:,.1f} requests a second, {gpus(d['gpus_held'])} held.")
    if _is_weighed(d):
        yield _say("Expected", _forecast(d["forecast_rps"]))
        yield _say("Suggested", "nothing: no plugin had an opinion." if not d["opinions"] else "")
        yield from (f"    {_opinion(opinion)}" for opinion in d["opinions"])
        yield _say("Rehearsed", "nothing: there was no candidate." if not d["candidates"] else "")
        yield from (f"  {'›' if c['label'] == d['chosen'] else ' '} {_candidate(c)}" for c in d["candidates"])
    else:
        yield _say("Weighed", "nothing: this was settled before any forecast, and no plugin was asked.")
    given = [command for command in d["commands"] if not command.get("undo")]
    yield _say("Commanded", "nothing." if not given else "")
    yield from _commands(given)
    yield from _carried_out(d["commands"])
    if not _is_weighed(d):
        return
    yield _say("Weighed by", _objective(d["objective"]))


def _is_weighed(d: Record) -> bool:
    """Say whether plans were compared: not where an order, work under way or a missing signal settles a turn before."""
    return bool(d["opinions"] or d["candidates"] or d["forecast_rps"])


def _outcome(d: Record) -> str:
    held, wanted = d["gpus_held"], d["gpus_wanted"]
    if d["action"] != "act":
        return f"nothing {'to do' if _is_weighed(d) else 'was done'}, {gpus(held)} kept."
    change = f"from {held} to {gpus(wanted)}" if held != wanted else f"{gpus(held)} kept, used otherwise"
    return f"acted, {change} ({d['chosen']})."


def _opinion(opinion: Record) -> str:
    hook = opinion["hook"].removeprefix("propose_").replace("_", " ")
    if opinion["fault"]:
        return f"{opinion['plugin']} on {hook} lost its say: {opinion['fault']}"
    return f"{opinion['plugin']} on {hook}: {opinion['reason']}"


def _candidate(c: Record) -> str:
    if c["rejected"]:
        return f"{c['label']}: refused, {c['rejected']}"
    size = gpus(c["gpus"])
    size = "" if size in c["label"] else f"{size}, "
    worst = f"; worst {c['worst_service']}" if c["worst_service"] else ""
    if c["attainment"] is None:
        found = "not rehearsed"
    else:
        found = f"{percent(c['attainment'])} in time (± {c['attainment_error'] * 100:.2f}{worst})"
    text = f"{c['label']}: {size}{found}, costs {c['cost']:.3f}"
    if c["change_cost"] or c["commands"]:
        text += f" + {c['change_cost']:.3f} for the change in {_commands_counted(c['commands'])}"
    terms = ", ".join(f"{name} {value:+.3f}" for name, value in sorted(c["terms"].items()))
    return f"{text}; {terms}" if terms else text


def _commands_counted(number: int) -> str:
    return "1 command" if number == 1 else f"{number} commands"


def _commands(commands: Sequence[Record]) -> Iterator[str]:
    """Name the commands that share a reason together, and the reason once."""
    for reason, alike in groupby(commands, key=lambda command: str(command["reason"])):
        targets: dict[str, list[str]] = {}
        for command in alike:
            targets.setdefault(command["verb"], []).append(command["target"])
        acts = "; ".join(_acts(list(verbs), at) for at, verbs in groupby(targets, key=targets.__getitem__))
        yield fill(f"{acts}: {reason}", WIDTH, initial_indent="    ", subsequent_indent="        ")


def _carried_out(commands: Sequence[Record]) -> Iterator[str]:
    """Say what became of commands, where that is known: of a live run's."""
    if not any("events" in command for command in commands):
        return
    states = Counter(command["state"] for command in commands if not command["undo"])
    undoing = Counter(command["state"] for command in commands if command["undo"])
    told = [f"{states[state]} {words}" for state, words in STATES.items() if states[state]]
    if undoing:
        told.append(f"{undoing['done']} of {undoing.total()} that take it back done")
    yield _say("Carried out", f"{', '.join(told)}.")
    for command in commands:
        if command["state"] == "failed" or (command["problem"] and command["state"] in ("written", "claimed")):
            yield _indented(f"{command['verb']} {command['target']}: {command['problem'] or 'failed'}")


def _indented(text: str) -> str:
    return fill(text, WIDTH, initial_indent="    ", subsequent_indent="        ", break_long_words=False)


def _acts(verbs: Sequence[str], targets: Sequence[str]) -> str:
    """Name verbs that have the same targets, and the first few of these; that routes are set needs no target."""
    acts = " and ".join(filter(None, (", ".join(verbs[:-1]), verbs[-1])))
    named = [name for name in targets if name != ROUTES]
    if len(named) > MOST_TARGETS:
        named = [", ".join(named[: MOST_TARGETS - 1]) + f" and {len(named) - MOST_TARGETS + 1} more"]
    return f"{acts} {', '.join(named)}".rstrip()


def _objective(objective: Record) -> str:
    return (
        f"attainment first, then cost over {objective['period_s']:g} s, then fewer commands; "
        f"a change must save {objective['margin'] * 100:g} %."
    )


def _say(heading: str, text: str) -> str:
    return fill(f"{heading}: {text}".rstrip(), WIDTH, subsequent_indent="    ", break_long_words=False)


def _forecast(rps: float | str) -> str:
    """Write the near forecast; where there was none, its record holds a text."""
    return "nothing, there was no forecast yet." if isinstance(rps, str) else f"{rps:,.1f} requests a second."
