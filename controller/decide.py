"""Decide: which of the appraised plans to have, by the objective's order, and why."""

from __future__ import annotations

from collections.abc import Sequence

from partita.controller.appraise import CERTAINTY
from partita.model.plan import Appraisal, Objective


def choose(standing: Appraisal, others: Sequence[Appraisal], objective: Objective) -> tuple[Appraisal, str]:
    """Return the best plan and the reason; the standing plan unless another is clearly better.

    First come attainment targets: a plan that meets them in rehearsal beats one that does not. If none meets them, one
    that misses less does; where no GPU is added, by more than the objective's margin and the rehearsal's error, since
    two batchings that are as good must not take turns. What is no better in this sense is left aside, and keeps no
    other plan back. Among plans that meet them the cheapest wins, the cost of the change included, if it saves more
    than the margin. Ties go to fewer commands, then to the label.
    """
    allowed = [a for a in others if not a.rejected]
    if not allowed:
        refused = "; ".join(f"{a.label}: {a.rejected}" for a in others)
        return standing, f"no candidate is allowed ({refused})" if refused else "no plugin asks for a change"
    cheapest = min(allowed, key=_order)
    if standing.shortfall > 0:
        clear = max(objective.margin * standing.shortfall, CERTAINTY * standing.attainment_error)
        clearer = [a for a in allowed if _gain(a, standing) > (0.0 if a.gpus > standing.gpus else clear)]
        if not clearer:
            return standing, f"the standing plan {_misses(standing)}, and no candidate does better"
        better = min(clearer, key=lambda a: (round(a.shortfall, 9), *_order(a)))
        verb = "meets every target" if better.shortfall == 0 else f"misses less ({_share(better)} good)"
        return better, f"the standing plan {_misses(standing)}; {better.label} {verb}"
    meeting = [a for a in allowed if a.shortfall == 0]
    if not meeting:
        return standing, f"the standing plan {_meets(standing)}; {cheapest.label} {_misses(cheapest)}"
    best = min(meeting, key=_order)
    saved = standing.cost - (best.cost + best.change_cost)
    if saved > objective.margin * abs(standing.cost):
        return best, f"{best.label} {_meets(best)} and costs {saved:.3g} less an epoch"
    little = "nothing" if saved <= 0 else "too little"
    return standing, f"the standing plan {_meets(standing)}; {best.label} would save {little} ({saved:+.3g})"


def _gain(appraisal: Appraisal, standing: Appraisal) -> float:
    return round(standing.shortfall - appraisal.shortfall, 9)


def _order(appraisal: Appraisal) -> tuple[float, int, str]:
    return (round(appraisal.cost + appraisal.change_cost, 12), appraisal.commands, appraisal.label)


def _meets(appraisal: Appraisal) -> str:
    """Say that a plan meets every target, as far as there was anything to rehearse it on."""
    return "meets every target in rehearsal" if appraisal.worst_service else "has no recent request to be judged by"


def _misses(appraisal: Appraisal) -> str:
    return f"misses {appraisal.worst_service}'s target in rehearsal ({_share(appraisal)} good in all)"


def _share(appraisal: Appraisal) -> str:
    return "an unknown share" if appraisal.attainment is None else f"{appraisal.attainment * 100:.2f} %"
