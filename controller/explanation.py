"""One decision in plain words, from the record that the journal and a result's JSON hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

Record = Mapping[str, Any]
"""A decision as `results.decision_document` writes it and as the journal is read back."""

WIDTH = 100


def explain(decision: Record, *, run: str) -> str:
    """Say what was measured, expected, suggested, weighed, chosen and done."""
    return "\n".join(_lines(decision, run))


def list_decisions(decisions: Sequence[Record]) -> Iterator[str]:
    """Yield one line a decision."""
    for d in decisions:
        gpus = f"{d['gpus_held']} → {d['gpus_wanted']}" if d["gpus_held"] != d["gpus_wanted"] else f"{d['gpus_held']}"
        yield f"{d['tick']:>7}  {_at(d['at_s']):>12}  {d['action']:<4}  {gpus:>9} GPUs  {_because(d)}"


def _because(d: Record) -> str:
    return str(d["reason"]) if d["reason"].startswith(d["chosen"]) else f"{d['chosen']}: {d['reason']}"


def default_decision(decisions: Sequence[Record]) -> Record | None:
    """Return the last decision that acted, or the last at all."""
    candidates = [d for d in decisions if d["action"] == "act"] or decisions
    return candidates[-1] if candidates else None


def _lines(d: Record, run: str) -> Iterator[str]:
    yield f"Decision {d['tick']} of {run}, at {_at(d['at_s'])}: {_outcome(d)}"
    yield _say("Why", f"{d['reason']}.")
    yield _say("Measured", f"{d['offered_rps']:,.1f} requests a second, {_gpus(d['gpus_held'])} held.")
    yield _say("Expected", _forecast(d["forecast_rps"]))
    yield _say("Suggested", "nothing: no plugin had an opinion." if not d["opinions"] else "")
    yield from (f"    {_opinion(opinion)}" for opinion in d["opinions"])
    yield _say("Rehearsed", "nothing: there was no candidate." if not d["candidates"] else "")
    yield from (f"  {'›' if c['label'] == d['chosen'] else ' '} {_candidate(c)}" for c in d["candidates"])
    yield _say("Done", "nothing." if not d["commands"] else "")
    yield from (f"    {command['verb']} {command['target']}: {command['reason']}" for command in d["commands"])
    yield _say("Weighed by", _objective(d["objective"]))


def _outcome(d: Record) -> str:
    held, wanted = d["gpus_held"], d["gpus_wanted"]
    if d["action"] != "act":
        return f"nothing to do, {_gpus(held)} kept."
    change = f"from {held} to {_gpus(wanted)}" if held != wanted else f"{_gpus(held)} kept, used otherwise"
    return f"acted, {change} ({d['chosen']})."


def _opinion(opinion: Record) -> str:
    hook = opinion["hook"].removeprefix("propose_").replace("_", " ")
    if opinion["fault"]:
        return f"{opinion['plugin']} on {hook} lost its say: {opinion['fault']}"
    return f"{opinion['plugin']} on {hook}: {opinion['reason']}"


def _candidate(c: Record) -> str:
    if c["rejected"]:
        return f"{c['label']}: refused, {c['rejected']}"
    size = _gpus(c["gpus"])
    size = "" if size in c["label"] else f"{size}, "
    worst = f"; worst {c['worst_service']}" if c["worst_service"] else ""
    text = f"{c['label']}: {size}{c['attainment'] * 100:.2f} % in time"
    text += f" (± {c['attainment_error'] * 100:.2f}{worst}), costs {c['cost']:.3f}"
    if c["change_cost"] or c["commands"]:
        text += f" + {c['change_cost']:.3f} for the change in {c['commands']} commands"
    terms = ", ".join(f"{name} {value:+.3f}" for name, value in sorted(c["terms"].items()))
    return f"{text}; {terms}" if terms else text


def _objective(objective: Record) -> str:
    return (
        f"attainment first, then cost over {objective['period_s']:g} s, then fewer commands; "
        f"a change must save {objective['margin'] * 100:g} %."
    )


def _say(heading: str, text: str) -> str:
    return fill(f"{heading}: {text}".rstrip(), WIDTH, subsequent_indent="    ", break_long_words=False)


def _gpus(number: int) -> str:
    return f"{number} GPU" if number == 1 else f"{number} GPUs"


def _forecast(rps: float | str) -> str:
    """Write the near forecast; where there was none, its record holds a text."""
    return "nothing, there was no forecast yet." if isinstance(rps, str) else f"{rps:,.1f} requests a second."


def _at(seconds: float) -> str:
    """Write a moment of the run; live runs count from 1970 and are shown as dates."""
    if seconds >= 1e8:
        from datetime import UTC, datetime

        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
