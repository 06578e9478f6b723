"""Read-only views of what plugins are shown, so that none can change what the next one, or the loop, sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from partita.model.cluster import InstanceState
from partita.model.load import Arrivals, Forecast, Load, Observation


def guarded_arguments(arguments: Mapping[str, object]) -> dict[str, object]:
    """Guard the arguments of a hook; its memory is a copy of its own, which it may change."""
    return {name: value if name == "memory" else guarded(value) for name, value in arguments.items()}


def guarded(value: Any) -> Any:
    """Return `value` so that writing into its arrays, lists and dicts fails; nothing is copied but the frame."""
    match value:
        case Observation():
            return replace(
                value,
                load=guarded(value.load),
                outcomes=guarded(value.outcomes),
                recent=guarded(value.recent),
                cluster=replace(value.cluster, instances=tuple(map(guarded, value.cluster.instances))),
                missing=guarded(value.missing),
                work=replace(value.work, quarantine=guarded(value.work.quarantine)),
            )
        case InstanceState():
            return replace(value, batching=guarded(value.batching))
        case Load():
            return replace(value, counts=_frozen(value.counts))
        case Forecast():
            return replace(value, rps=_frozen(value.rps))
        case Arrivals():
            return Arrivals(_frozen(value.ns), _frozen(value.offsets), _frozen(value.size))
        case Mapping():
            return MappingProxyType(value)
        case list():
            return tuple(value)
        case _:
            return value


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.setflags(write=False)
    return view
