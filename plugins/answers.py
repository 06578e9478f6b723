"""What plugins may answer: each answer is checked and rebuilt from plain values, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite, nan
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np

from partita.mig import Geometry, validate
from partita.model.cluster import Gpu
from partita.model.plan import (
    Batching,
    Batchings,
    Capacity,
    Geometries,
    OptionValue,
    Placement,
    Proposal,
    Shares,
    Suggestion,
)

GPUS_CAP = 100_000
"""More GPUs than any cluster has: such a number is a mistake, not a wish."""

TERM_CAP = 1e9
ALTERNATIVES_CAP = 32
MEMORY_DEPTH_CAP = 32
MEMORY_VALUES_CAP = 100_000
REASON_CAP = 1_000


class Nonsense(ValueError):
    """An answer that no hook of this kind may give; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The names an answer may use: services, and GPUs with their models."""

    services: Collection[str]
    gpus: Mapping[str, str]

    @classmethod
    def of(cls, services: Sequence[Any], inventory: Sequence[Gpu]) -> Scope:
        """Take the names from the arguments of a hook."""
        return cls(frozenset(s.name for s in services), {g.id: g.model for g in inventory})


def check_proposal(hook: str, answer: object, scope: Scope) -> Proposal:
    """Return the proposal of a hook, rebuilt from plain values; raises Nonsense."""
    if not isinstance(answer, Proposal):
        _refuse(f"answered {_show(answer)} instead of a Proposal or None")
    kind, rebuild = SUGGESTIONS[hook]
    if not isinstance(answer.suggestion, kind):
        _refuse(f"suggests a {type(answer.suggestion).__name__}; {hook} suggests {kind.__name__}")
    return Proposal(rebuild(answer.suggestion, scope), check_reason(answer.reason), plain(answer.memory))


def check_reason(reason: object) -> str:
    """Return a reason as one line of printable text; raises Nonsense where it is missing."""
    if not isinstance(reason, str):
        _refuse(f"gives {_show(reason)} as its reason, not text")
    text = " ".join("".join(c if c.isprintable() else " " for c in reason).split())
    if not text:
        _refuse("gives no reason")
    return text[:REASON_CAP]


def check_veto(answer: object) -> str:
    """Return the reason of a veto; raises Nonsense."""
    if not isinstance(answer, str):
        _refuse(f"answered {_show(answer)} instead of the reason of its veto or None")
    return check_reason(answer)


def check_terms(answer: object) -> dict[str, float]:
    """Return score terms by name, in order of the names; raises Nonsense."""
    if not isinstance(answer, Mapping):
        _refuse(f"answered {_show(answer)} instead of terms by name or None")
    terms = {_text(name, "a term's name"): _number(value, f"term {name}") for name, value in answer.items()}
    for name, value in terms.items():
        if abs(value) > TERM_CAP:
            _refuse(f"term {name} is {value:g}, beyond {TERM_CAP:g}")
    return dict(sorted(terms.items()))


def plain(value: object) -> object:
    """Return a copy of plain data (None, numbers, text, lists, tuples, dicts); raises Nonsense for anything else."""
    left = MEMORY_VALUES_CAP

    def copied(item: object, depth: int) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            _refuse(f"keeps more than {MEMORY_VALUES_CAP} values in its memory")
        if depth > MEMORY_DEPTH_CAP:
            _refuse(f"nests its memory deeper than {MEMORY_DEPTH_CAP} levels")
        match item:
            case None | bool():
                return item
            case int() | float() | str():
                return _bare(item)
            case np.generic() if isinstance(item, (np.number, np.bool_)) and not np.iscomplexobj(item):
                return item.item()
            case list():
                return [copied(part, depth + 1) for part in item]
            case tuple():
                return tuple(copied(part, depth + 1) for part in item)
            case dict():
                return {_key(name): copied(part, depth + 1) for name, part in item.items()}
            case _:
                _refuse(f"keeps a {type(item).__name__} in its memory; it may hold numbers, text, lists and dicts")

    return copied(value, 0)


def _bare(item: float | str) -> object:
    """Strip subclasses (enums, numpy's float64), which other programs cannot read back."""
    return next(base(item) for base in (int, float, str) if isinstance(item, base))


def _key(name: object) -> str | int:
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        _refuse(f"uses {_show(name)} as a key in its memory; keys are text or whole numbers")
    return str(name) if isinstance(name, str) else int(name)


def _capacity(wish: Capacity, _: Scope) -> Capacity:
    alternatives = _items(wish.alternatives, "alternatives")
    if len(alternatives) > ALTERNATIVES_CAP:
        _refuse(f"has {len(alternatives)} alternatives, {ALTERNATIVES_CAP} are allowed")
    if not isinstance(wish.firm, bool):
        _refuse(f"has {_show(wish.firm)} for firm, which is true or false")
    return Capacity(_gpus(wish.gpus), tuple(_gpus(a) for a in alternatives), wish.firm)


def _gpus(value: object) -> int:
    number = _whole(value, "a number of GPUs")
    if not 0 <= number <= GPUS_CAP:
        _refuse(f"{_show(number)} is no number of GPUs: it must be from 0 to {GPUS_CAP}")
    return number


def _geometries(wish: Geometries, scope: Scope) -> Geometries:
    pairs = [(_gpu(gpu, scope), geometry) for gpu, geometry in _rows(wish.by_gpu, 2, "by_gpu")]
    _refuse_twice([gpu for gpu, _ in pairs], "GPU")
    for gpu, geometry in pairs:
        if geometry is None:
            continue
        if not isinstance(geometry, Geometry):
            _refuse(f"gives {_show(geometry)} as the geometry of GPU {gpu}")
        if problem := validate(scope.gpus[gpu], geometry):
            _refuse(f"GPU {gpu}: {problem}")
    return Geometries(tuple(pairs))


def _shares(wish: Shares, scope: Scope) -> Shares:
    rows = [
        (_service(service, scope), _text(profile, "a profile"), _number(percent, f"the GPU% of {service}"))
        for service, profile, percent in _rows(wish.shares, 3, "shares")
    ]
    _refuse_twice([row[:2] for row in rows], "service and profile")
    for service, _, percent in rows:
        if not 0 < percent <= 100:
            _refuse(f"{percent:g} is no GPU% for {service}: it must be above 0 and at most 100")
    return Shares(tuple(rows))


def _batchings(wish: Batchings, scope: Scope) -> Batchings:
    alternatives = _items(wish.alternatives, "alternatives")
    if len(alternatives) > ALTERNATIVES_CAP:
        _refuse(f"has {len(alternatives)} alternatives, {ALTERNATIVES_CAP} are allowed")
    if not isinstance(wish.firm, bool):
        _refuse(f"has {_show(wish.firm)} for firm, which is true or false")
    return Batchings(
        _batched(wish.by_service, "by_service", scope),
        tuple(_batched(rows, "an alternative", scope) for rows in alternatives),
        wish.firm,
    )


def _batched(rows: object, what: str, scope: Scope) -> tuple[tuple[str, Batching], ...]:
    pairs = [
        (_service(service, scope), _batching(batching, str(service))) for service, batching in _rows(rows, 2, what)
    ]
    _refuse_twice([service for service, _ in pairs], "service")
    return tuple(pairs)


def _batching(wish: object, service: str) -> Batching:
    if not isinstance(wish, Batching):
        _refuse(f"gives {_show(wish)} as the batching of {service}")
    timeout_s = _number(wish.timeout_s, f"the batch timeout of {service}")
    if timeout_s < 0:
        _refuse(f"the batch timeout of {service} is {timeout_s:g} s, below 0")
    max_batch = None if wish.max_batch is None else _whole(wish.max_batch, f"the max batch of {service}")
    if max_batch is not None and max_batch < 1:
        _refuse(f"the max batch of {service} is {_show(max_batch)}, below 1")
    options = [(_text(name, "an option's name"), _option(v, name)) for name, v in _rows(wish.options, 2, "options")]
    return Batching(_text(wish.discipline, f"the discipline of {service}"), timeout_s, max_batch, tuple(options))


def _placement(wish: Placement, scope: Scope) -> Placement:
    groups = []
    for members, weight in _rows(wish.groups, 2, "groups"):
        names = tuple(_service(name, scope) for name in _items(members, "a group's services"))
        if not names:
            _refuse("has a group without services")
        _refuse_twice(names, "service of one group")
        share = _number(weight, "a group's weight")
        if share <= 0:
            _refuse(f"gives a group the weight {share:g}; weights are above 0")
        groups.append((names, share))
    return Placement(tuple(groups))


SUGGESTIONS: Mapping[str, tuple[type[Suggestion], Callable[[Any, Scope], Suggestion]]] = {
    "propose_capacity": (Capacity, _capacity),
    "propose_batching": (Batchings, _batchings),
    "propose_shares": (Shares, _shares),
    "propose_geometry": (Geometries, _geometries),
    "propose_placement": (Placement, _placement),
}
"""Each propose hook with the suggestion it makes and what checks that."""


def _service(name: object, scope: Scope) -> str:
    if not isinstance(name, str) or name not in scope.services:
        _refuse(f"names the unknown service {_show(name)}")
    return str(name)


def _gpu(name: object, scope: Scope) -> str:
    if not isinstance(name, str) or name not in scope.gpus:
        _refuse(f"names the unknown GPU {_show(name)}")
    return str(name)


def _whole(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        _refuse(f"gives {_show(value)} as {what}, not a whole number")
    return int(value)


def _number(value: object, what: str) -> float:
    number = nan
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
        with suppress(OverflowError):
            number = float(value)
    if not isfinite(number):
        _refuse(f"{what} is {_show(value)}, not a finite number")
    return number


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        _refuse(f"gives {_show(value)} as {what}")
    return str(value)


def _option(value: object, name: object) -> OptionValue:
    if isinstance(value, (bool, str)):
        return value
    return _whole(value, f"option {name}") if isinstance(value, Integral) else _number(value, f"option {name}")


def _items(values: object, what: str) -> Sequence[Any]:
    if not isinstance(values, (tuple, list)):
        _refuse(f"gives {_show(values)} as {what}, not a tuple")
    return values


def _rows(values: object, width: int, what: str) -> Sequence[Sequence[Any]]:
    rows = _items(values, what)
    for row in rows:
        if not isinstance(row, (tuple, list)) or len(row) != width:
            _refuse(f"has {_show(row)} in {what}, not a tuple of {width}")
    return rows


def _refuse_twice(names: Collection[object], what: str) -> None:
    if twice := [n for n in dict.fromkeys(names) if list(names).count(n) > 1]:
        _refuse(f"names the {what} {_show(twice[0])} twice")


def _show(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # a foreign value may fail at anything, and is being refused already
        text = f"a {type(value).__name__} without a readable form"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(problem: str) -> NoReturn:
    raise Nonsense(problem)
