"""Peak provisioning: hold the GPUs that carry the highest rates ever expected, at all times.

Options: ``peak_rps.<service>``, the highest rate of each service in requests a second (a replay fills them from the
trace's busiest minute, known in advance, which is the strongest form of this policy); ``utilisation``, the share of
the GPUs' time that these rates may fill. Without peaks it holds every GPU there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from partita.errors import ConfigError
from partita.hookspecs import hookimpl
from partita.model.cluster import Gpu
from partita.model.plan import Capacity, OptionValue, Plan, Proposal
from partita.model.service import Service
from partita.model.staggered import Overheads
from partita.plugins.options import complaint
from partita.plugins.sizing import UTILISATION, Slicing, gpus_for, slicing

PEAK = "peak_rps."


@hookimpl
def check_options(services: Sequence[Service], options: Mapping[str, OptionValue]) -> str | None:
    """Say what is wrong with the options."""
    return complaint(lambda: (_utilisation(options), _peaks(services, options)))


@hookimpl
def propose_capacity(
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    standing: Plan,
    overheads: Overheads,
    options: Mapping[str, OptionValue],
    memory: object,
) -> Proposal:
    """Hold the same number of GPUs at every tick, or more once those that are held turn out to give less."""
    peaks = _peaks(services, options)
    if not peaks:
        return Proposal(Capacity(len(inventory), firm=True), f"no peak is given: hold all {len(inventory)} GPUs")
    cut = slicing(standing)
    utilisation = _utilisation(options)
    sized_for = [list(kind) for kind in cut.kinds]
    match memory:
        case {"sized_for": known, "gpus": int(gpus)} if known == sized_for:
            needed = gpus
        case _:
            rates = [peaks.get(s.name, 0.0) for s in services]
            needed = gpus_for(services, rates, cut, overheads, utilisation=utilisation)
            needed = max(needed, _known_of_some(cut, memory))
    size = "1 GPU" if needed == 1 else f"{needed} GPUs"
    wanted = f"the peak of {sum(peaks.values()):,.1f} requests/s needs {size} at {utilisation * 100:.0f} % utilisation"
    limit = f", the cluster has {len(inventory)}" if needed > len(inventory) else ""
    return Proposal(
        Capacity(min(needed, len(inventory)), firm=True),
        wanted + limit,
        memory={"sized_for": sized_for, "gpus": needed},
    )


def _known_of_some(cut: Slicing, memory: object) -> int:
    """Return the number remembered if some of the GPUs are still cut as they were, else 0.

    Where GPUs differ, what they give on average hangs on how many are held: a number that was needed once stays.
    """
    match memory:
        case {"sized_for": [*known], "gpus": int(gpus)}:
            same = {(profile, percent) for profile, percent, _ in known} & {kind[:2] for kind in cut.kinds}
            return gpus if same else 0
    return 0


def _utilisation(options: Mapping[str, OptionValue]) -> float:
    value = options.get("utilisation", UTILISATION)
    if isinstance(value, (bool, str)) or not 0 < value <= 1:
        raise ConfigError(f"{value!r} is not a share above 0 and up to 1", key="utilisation", value=value)
    return float(value)


def _peaks(services: Sequence[Service], options: Mapping[str, OptionValue]) -> dict[str, float]:
    """Read the peak rates; ConfigError for an unknown option or service, or a value that is no rate."""
    names = {s.name for s in services}
    peaks = {}
    for key, value in sorted(options.items()):
        if key == "utilisation":
            continue
        if not key.startswith(PEAK):
            raise ConfigError(f"there is no such option; there are: utilisation, {PEAK}<service>", key=key)
        if key.removeprefix(PEAK) not in names:
            raise ConfigError("no service has this name", key=key, value=value)
        if isinstance(value, (bool, str)) or not isfinite(value) or value < 0:
            raise ConfigError(f"{value!r} is not a rate in requests a second", key=key, value=value)
        peaks[key.removeprefix(PEAK)] = float(value)
    return peaks
