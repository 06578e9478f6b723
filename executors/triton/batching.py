"""Between a service's batching and a Triton model's configuration, both ways; nothing here talks to a server.

A change is always made to the whole configuration, as the server gave it: a configuration with fields missing is
accepted by the server and then fails every client. What a plan says beyond what Triton has a field for, and how it
said it, is noted among the configuration's parameters; the note counts only as long as the other fields agree with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from partita.errors import Failed, Unsupported
from partita.model.cluster import Batching, OptionValue
from partita.model.plain import to_json
from partita.model.revive import from_plain

Config = dict[str, Any]
"""A model configuration as ``/v2/models/NAME/config`` gives it."""

DISCIPLINES = ("timeout", "triton")
"""Both are what Triton's dynamic batcher does; they differ in how replay takes models that share a device."""

UNBATCHED = "none"
"""The discipline of a model that the server forms no batches for; no plan can ask for it."""

DISCIPLINE, TERM, NOTE, FILE_MAX_BATCH = "partita_discipline", "partita_term", "partita_batching", "partita_file_max"
REPLAY_ONLY = ("gpu_choice", "turnaround_ms")
"""Options that say something to replay and nothing to Triton."""
LONGEST_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Knobs:
    """The fields of a configuration that a batching sets.

    `delay_us` is None without a dynamic batcher. `queue_action` is "REJECT" or "DELAY" where requests have a time limit
    in the queue, else empty. `preferred` is empty where it says no more than the largest batch.
    """

    max_batch: int
    delay_us: int | None
    instances: int
    queue_action: str = ""
    queue_timeout_us: int = 0
    preferred: tuple[int, ...] = ()


def knobs_for(batching: Batching, *, file_max_batch: int, slo_s: float | None = None) -> Knobs:
    """Return what a batching sets; Unsupported if Triton cannot do it.

    `file_max_batch` stands in for a largest batch that is not given, `slo_s` for a limit in the queue that is not.
    """
    options = dict(batching.options)
    if batching.discipline not in DISCIPLINES:
        raise _unsupported(f"Triton cannot batch as {batching.discipline!r}, only as {' or '.join(DISCIPLINES)}")
    if unknown := options.keys() - {"instances", "queue_policy", "queue_timeout_ms", *REPLAY_ONLY}:
        raise _unsupported(f"Triton has no option {', '.join(sorted(unknown))}")
    max_batch = file_max_batch if batching.max_batch is None else batching.max_batch
    if max_batch < 1:
        raise _unsupported(f"the largest batch is {max_batch}, which leaves nothing to batch")
    rejects = _queue_policy(options) == "reject"
    return Knobs(
        max_batch,
        _microseconds(batching.timeout_s, "the batch timeout"),
        _instances(options),
        "REJECT" if rejects else "",
        _queue_timeout_us(options, slo_s) if rejects else 0,
    )


def knobs_of(config: Config) -> Knobs:
    """Read the fields that a batching sets off a configuration."""
    max_batch = int(config.get("max_batch_size", 0))
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", ())) or 1
    batcher = config.get("dynamic_batching")
    if batcher is None:
        return Knobs(max_batch, None, instances)
    policy = batcher.get("default_queue_policy") or {}
    limit_us = int(policy.get("default_timeout_microseconds", 0))
    preferred = tuple(int(size) for size in batcher.get("preferred_batch_size", ()))
    return Knobs(
        max_batch,
        int(batcher.get("max_queue_delay_microseconds", 0)),
        instances,
        str(policy.get("timeout_action", "REJECT")) if limit_us else "",
        limit_us,
        () if preferred == (max_batch,) else preferred,
    )


def read_batching(config: Config, *, slo_s: float | None = None) -> Batching:
    """Say how a model with this configuration batches; it equals what was set as long as nobody changed it since."""
    knobs, noted = knobs_of(config), _noted(config)
    if noted is not None:
        try:
            meant = knobs_for(noted, file_max_batch=_file_max_batch(config), slo_s=slo_s)
        except Unsupported:
            meant = None
        if meant == knobs:
            return noted
        if meant is not None and replace(meant, instances=knobs.instances) == knobs:
            return replace(noted, options=_with_instances(noted.options, knobs.instances))
    return _spelled_out(config, knobs)


def next_config(config: Config, batching: Batching, *, term: int, slo_s: float | None = None) -> Config:
    """Return the configuration that makes a model batch like this: the same one if it does so already.

    Where only the number of model instances changes, nothing else is touched, the noted term included, because only
    then does the server change it without loading the model anew. Unsupported if this model cannot do it.
    """
    _check_batches(config)
    knobs = knobs_for(batching, file_max_batch=_file_max_batch(config), slo_s=slo_s)
    if read_batching(config, slo_s=slo_s) == batching:
        return config
    counted = deepcopy(config)
    _set_instances(counted, knobs.instances)
    if knobs_of(counted) == knobs and read_batching(counted, slo_s=slo_s) == batching:
        return counted
    changed = _with_knobs(counted, knobs)
    notes = {DISCIPLINE: batching.discipline, TERM: term, NOTE: to_json(batching)}
    notes[FILE_MAX_BATCH] = _file_max_batch(config)
    changed["parameters"] = {**config.get("parameters", {}), **{k: {"string_value": str(v)} for k, v in notes.items()}}
    return changed


def noted_term(config: Config) -> int:
    """Return the term under which a configuration was set; 0 if none is noted."""
    text = _parameter(config, TERM)
    return int(text) if text is not None and text.isdigit() else 0


def only_instances_differ(before: Config, after: Config) -> bool:
    """Say whether a change is one that the server makes without loading the model anew."""
    return {**before, "instance_group": None} == {**after, "instance_group": None}


def check_change(before: Config, after: Config) -> None:
    """Refuse a configuration that a server would accept and then fail its clients with; Failed says why."""
    for key in ("name", "backend", "platform", "input", "output", "batch_input", "batch_output"):
        if before.get(key) != after.get(key):
            raise Failed(f"the configuration would change {key} of model {before.get('name')}", command=None)
    if not after.get("input") or not after.get("output"):
        raise Failed(f"the configuration of model {before.get('name')} names no inputs or no outputs", command=None)
    if missing := before.keys() - after.keys():
        raise Failed(
            f"the configuration of model {before['name']} would lack {', '.join(sorted(missing))}", command=None
        )
    too_large = [size for size in knobs_of(after).preferred if size > after["max_batch_size"]]
    if too_large:
        raise Failed(f"a preferred batch of {too_large[0]} is larger than {after['max_batch_size']}", command=None)


def difference(sent: object, seen: object, where: str = "") -> str | None:
    """Name the first field of what was sent that the server shows otherwise, None if there is none.

    Fields that the server adds are its own; numbers may come back as text.
    """
    if isinstance(sent, Mapping):
        if not isinstance(seen, Mapping):
            return f"{where} is {seen!r}"
        for key, value in sent.items():
            if found := difference(value, seen.get(key), f"{where}.{key}" if where else str(key)):
                return found
        return None
    if isinstance(sent, list) and isinstance(seen, list) and len(sent) == len(seen):
        pairs = enumerate(zip(sent, seen, strict=True))
        return next((found for n, (a, b) in pairs if (found := difference(a, b, f"{where}[{n}]"))), None)
    if sent == seen or (not isinstance(sent, bool) and sent is not None and str(sent) == str(seen)):
        return None
    return f"{where} is {seen!r} where {sent!r} was sent"


def _check_batches(config: Config) -> None:
    name = config.get("name")
    for key in ("sequence_batching", "ensemble_scheduling"):
        if key in config:
            raise _unsupported(f"model {name} has {key}, which leaves no batching to set")
    if int(config.get("max_batch_size", 0)) < 1:
        raise _unsupported(f"model {name} takes no batches (its max_batch_size is 0)")


def _with_knobs(config: Config, knobs: Knobs) -> Config:
    """Return a configuration with these fields set; the preferred size is what the server would fill in itself."""
    batcher = dict(config.get("dynamic_batching") or {})
    batcher["max_queue_delay_microseconds"] = knobs.delay_us
    batcher["preferred_batch_size"] = [knobs.max_batch]
    if knobs.queue_action or batcher.get("default_queue_policy"):
        policy = {"allow_timeout_override": False, "max_queue_size": 0, **(batcher.get("default_queue_policy") or {})}
        policy |= {"timeout_action": "REJECT", "default_timeout_microseconds": knobs.queue_timeout_us}
        batcher["default_queue_policy"] = policy
    return {**config, "max_batch_size": knobs.max_batch, "dynamic_batching": batcher}


def _set_instances(config: Config, instances: int) -> None:
    groups = config.get("instance_group", [])
    if len(groups) == 1:
        groups[0]["count"] = instances
    elif knobs_of(config).instances != instances:
        text = (
            f"model {config.get('name')} has {len(groups)} instance groups, so that their number cannot be set as one"
        )
        raise _unsupported(text)


def _spelled_out(config: Config, knobs: Knobs) -> Batching:
    """Describe a configuration that nobody noted a batching on, or that was changed since."""
    max_batch = None if knobs.max_batch == _file_max_batch(config) else knobs.max_batch
    if knobs.delay_us is None:
        return Batching(UNBATCHED, 0.0, max_batch)
    options = dict(_with_instances((), knobs.instances))
    if knobs.queue_action:
        options["queue_policy"] = knobs.queue_action.lower()
        options["queue_timeout_ms"] = knobs.queue_timeout_us / 1e3
    if knobs.preferred:
        options["preferred_batch_size"] = ",".join(map(str, knobs.preferred))
    discipline = _parameter(config, DISCIPLINE) or DISCIPLINES[0]
    return Batching(discipline, knobs.delay_us / 1e6, max_batch, tuple(sorted(options.items())))


def _with_instances(
    options: tuple[tuple[str, OptionValue], ...], instances: int
) -> tuple[tuple[str, OptionValue], ...]:
    kept = {k: v for k, v in options if k != "instances"}
    return tuple(sorted((kept if instances == 1 else {**kept, "instances": instances}).items()))


def _noted(config: Config) -> Batching | None:
    text = _parameter(config, NOTE)
    if text is None:
        return None
    try:
        return from_plain(Batching, json.loads(text))
    except (TypeError, ValueError):
        return None  # written by another version, or by hand: what the configuration says is what counts


def _file_max_batch(config: Config) -> int:
    """Return the largest batch of the model's file: noted where we set another one."""
    text = _parameter(config, FILE_MAX_BATCH)
    return int(text) if text is not None and text.isdigit() else int(config.get("max_batch_size", 0))


def _parameter(config: Config, key: str) -> str | None:
    value = config.get("parameters", {}).get(key)
    return None if value is None else str(value.get("string_value", ""))


def _queue_policy(options: Mapping[str, OptionValue]) -> str:
    policy = str(options.get("queue_policy", "none"))
    if policy not in ("none", "reject"):
        raise _unsupported(f"the queue policy is {policy!r}, not none or reject")
    return policy


def _queue_timeout_us(options: Mapping[str, OptionValue], slo_s: float | None) -> int:
    limit_ms = options.get("queue_timeout_ms", None if slo_s is None else slo_s * 1e3)
    if limit_ms is None or isinstance(limit_ms, str | bool):
        raise _unsupported("queue_policy reject needs queue_timeout_ms, or an SLO to take it from")
    limit_us = _microseconds(limit_ms / 1e3, "the time limit in the queue")
    if limit_us == 0:
        raise _unsupported("a time limit of 0 in the queue means none to Triton")
    return limit_us


def _instances(options: Mapping[str, OptionValue]) -> int:
    value = options.get("instances", 1)
    if isinstance(value, str | bool) or value != int(value) or value < 1:
        raise _unsupported(f"the number of model instances is {value!r}, not a whole number from 1 on")
    return int(value)


def _microseconds(seconds: float, what: str) -> int:
    if not isfinite(seconds) or not 0 <= seconds <= LONGEST_S:
        raise _unsupported(f"{what} is {seconds:g} s, not from 0 to a day")
    return round(seconds * 1e6)


def _unsupported(message: str) -> Unsupported:
    return Unsupported(message, command=None)
