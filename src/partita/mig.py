"""MIG: GPU models, their profiles and allowed placements; geometries and their rules.

A GPU instance takes `size` slices of the GPU's memory grid from one of a few starts, and some of its compute slices. A
geometry is allowed when no two instances overlap in the grid, the compute slices suffice, no profile exceeds its
maximum, and the media engines are handed out once.

Sources: NVIDIA Multi-Instance GPU User Guide (release 580: profile names, counts, media suffixes); ids, starts, sizes,
memory and SM counts as printed by ``nvidia-smi mig -lgip`` and ``-lgipp`` on each model here; memory of the whole GPU
as the total that ``nvidia-smi`` prints. SM counts of Hopper are not multiples of a slice's: never derive them. Models
whose placements no listing shows are known by name but have no profiles; a device's own answer (NVML) goes before all
of this.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from partita.errors import ConfigError, InvalidGeometry, PlanError

WHOLE = "whole"
"""How a GPU that is not partitioned is written; as a value it is None."""

EMPTY = "empty"
"""How a partitioned GPU without instances is written."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of GPU instance: `size` memory slices at one of `starts`, with its own memory and SMs.

    `id` is what NVML calls the profile's id (not its enum). `double_memory` marks the 1g with two memory slices.
    """

    name: str
    id: int
    compute_slices: int
    max_instances: int
    starts: tuple[int, ...]
    size: int
    memory_gib: float
    sms: int
    double_memory: bool = False

    @property
    def variant(self) -> str:
        """What the name says about media engines and graphics: "", "+me", "+me.all", "-me" or "+gfx"."""
        return self.name.partition("gb")[2]


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A GPU product; without `profiles` it can be used whole only."""

    name: str
    memory_gib: float
    memory_slices: int = 0
    compute_slices: int = 0
    profiles: tuple[Profile, ...] = ()
    aliases: tuple[str, ...] = ()

    def profile(self, name: str) -> Profile | None:
        """Return a profile by name (``+me`` may be spelt ``.me`` as in Kubernetes labels), or None."""
        wanted = re.sub(r"gb\.", "gb+", name.strip().lower())
        return next((p for p in self.profiles if p.name == wanted), None)


def _eight_slices(names: str, memory_gib: Sequence[float], sms: Sequence[int]) -> tuple[Profile, ...]:
    """Give the shapes that A100 and H100 share their names, memory and SMs, in the order 1g, double, 2g, 3g, 4g, 7g."""
    one, double, two, three, four, seven = (
        (name, memory, sm) for name, memory, sm in zip(names.split(), memory_gib, sms, strict=True)
    )
    low, even = tuple(range(7)), (0, 2, 4, 6)
    return (
        Profile(one[0], 19, 1, 7, low, 1, one[1], one[2]),
        Profile(f"{one[0]}+me", 20, 1, 1, low, 1, one[1], one[2]),
        Profile(double[0], 15, 1, 4, even, 2, double[1], double[2], double_memory=True),
        Profile(two[0], 14, 2, 3, (0, 2, 4), 2, two[1], two[2]),
        Profile(three[0], 9, 3, 2, (0, 4), 4, three[1], three[2]),
        Profile(four[0], 5, 4, 1, (0,), 4, four[1], four[2]),
        Profile(seven[0], 0, 7, 1, (0,), 8, seven[1], seven[2]),
    )


_EIGHTY = "1g.10gb 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb"
_H100_GIB = (9.75, 19.62, 19.62, 39.50, 39.50, 79.25)

_A100_40 = _eight_slices(
    "1g.5gb 1g.10gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb",
    (4.75, 9.62, 9.62, 19.50, 19.50, 39.25),
    (14, 14, 28, 42, 56, 98),
)
_A100_80 = _eight_slices(_EIGHTY, (9.50, 19.50, 19.50, 39.25, 39.25, 79.00), (14, 14, 28, 42, 56, 98))
_H100_SXM = _eight_slices(_EIGHTY, _H100_GIB, (16, 26, 32, 60, 64, 132))
_H100_PCIE = _eight_slices(_EIGHTY, _H100_GIB, (14, 14, 30, 46, 62, 114))

_A30 = (
    Profile("1g.6gb", 14, 1, 4, (0, 1, 2, 3), 1, 5.81, 14),
    Profile("1g.6gb+me", 21, 1, 1, (0, 1, 2, 3), 1, 5.81, 14),
    Profile("2g.12gb", 5, 2, 2, (0, 2), 2, 11.69, 28),
    Profile("2g.12gb+me", 6, 2, 1, (0, 2), 2, 11.69, 28),
    Profile("4g.24gb", 0, 4, 1, (0,), 4, 23.44, 56),
)

_RTX_PRO_6000 = (
    Profile("1g.24gb", 14, 1, 4, (0, 3, 6, 9), 3, 23.62, 46),
    Profile("1g.24gb+me", 21, 1, 1, (0, 3, 6, 9), 3, 23.62, 46),
    Profile("1g.24gb+gfx", 47, 1, 4, (0, 3, 6, 9), 3, 23.62, 46),
    Profile("1g.24gb+me.all", 65, 1, 1, (0, 3, 6, 9), 3, 23.62, 46),
    Profile("1g.24gb-me", 67, 1, 4, (0, 3, 6, 9), 3, 23.62, 46),
    Profile("2g.48gb", 5, 2, 2, (0, 6), 6, 47.38, 94),
    Profile("2g.48gb+gfx", 35, 2, 2, (0, 6), 6, 47.38, 94),
    Profile("2g.48gb+me.all", 64, 2, 1, (0, 6), 6, 47.38, 94),
    Profile("2g.48gb-me", 66, 2, 2, (0, 6), 6, 47.38, 94),
    Profile("4g.96gb", 0, 4, 1, (0,), 12, 95.12, 188),
    Profile("4g.96gb+gfx", 32, 4, 1, (0,), 12, 95.12, 188),
)


def _mib(mib: int) -> float:
    return mib / 1024


GPUS = (
    GpuModel("A100-40GB", _mib(40960), 8, 7, _A100_40, ("A100-SXM4-40GB", "A100-PCIE-40GB")),
    GpuModel("A100-80GB", _mib(81920), 8, 7, _A100_80, ("A100-SXM4-80GB", "A100-80GB-PCIe")),
    GpuModel(
        "H100-80GB", _mib(81559), 8, 7, _H100_SXM, ("H100-SXM", "H100-SXM5-80GB", "H100-80GB-SXM", "H100-80GB-HBM3")
    ),
    GpuModel("H100-PCIe-80GB", _mib(81559), 8, 7, _H100_PCIE, ("H100-PCIe", "H100-80GB-PCIe")),
    GpuModel("A30-24GB", _mib(24576), 4, 4, _A30, ("A30",)),
    GpuModel(
        "RTX-PRO-6000",
        _mib(97887),
        12,
        4,
        _RTX_PRO_6000,
        ("RTX-PRO-6000-96GB", "RTX-PRO-6000-Blackwell", "RTX-PRO-6000-Blackwell-Server-Edition"),
    ),
    GpuModel("H100-NVL-94GB", _mib(95830), aliases=("H100-NVL",)),
    GpuModel("GH200-96GB", _mib(97871), aliases=("GH200", "GH200-480GB")),
    GpuModel("H200-141GB", _mib(143771), aliases=("H200",)),
    GpuModel("B200-180GB", _mib(183359), aliases=("B200",)),
    GpuModel("GB200-186GB", _mib(189471), aliases=("GB200",)),
)
"""Every GPU model known by name, those that can be partitioned first."""


def gpu_model(name: str) -> GpuModel:
    """Return a GPU model by name or alias, whatever its case, spaces and dashes; ConfigError if it is unknown."""
    wanted = _squeeze(name)
    known = {_squeeze(spelling): gpu for gpu in GPUS for spelling in (gpu.name, *gpu.aliases)}
    if wanted in known:
        return known[wanted]
    similar = [known[key].name for key in get_close_matches(wanted, sorted(known), n=5, cutoff=0.6)]
    near = list(dict.fromkeys([gpu.name for key, gpu in known.items() if wanted and key.startswith(wanted)] or similar))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"unknown GPU {name!r}{hint} (known: {', '.join(g.name for g in GPUS)})", value=name)


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia")


def _partitionable(gpu: str) -> GpuModel:
    model = gpu_model(gpu)
    if not model.profiles:
        raise PlanError(_unpublished(model))
    return model


def _unpublished(model: GpuModel) -> str:
    return (
        f"{model.name}: NVIDIA publishes no complete list of its MIG placements, so it can be used whole only "
        "until they are read from the device"
    )


# Geometries ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Placed:
    """A profile at a start position of the GPU's memory-slice grid."""

    start: int
    profile: str

    def __str__(self) -> str:
        return f"{self.profile}@{self.start}"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The placed profiles of one GPU, in order of their start."""

    gpu: str
    placements: tuple[Placed, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.placements)) or EMPTY

    def counts(self) -> dict[str, int]:
        """Return how many instances of each profile there are, as mig-parted's ``mig-devices`` wants it."""
        return dict(sorted(Counter(p.profile for p in self.placements).items()))

    def memory_gib(self, profile: str) -> float:
        """Return the memory of an instance of this profile on this GPU model."""
        found = gpu_model(self.gpu).profile(profile)
        if found is None:
            raise InvalidGeometry(f"no profile {profile}", gpu=self.gpu, geometry=str(self))
        return found.memory_gib


def validate(gpu: str, geometry: Geometry) -> str | None:
    """Say what is wrong with a geometry on a GPU model, or None."""
    try:
        model, made_for = gpu_model(gpu), gpu_model(geometry.gpu)
    except ConfigError as unknown:
        return str(unknown)
    if made_for is not model:
        return f"geometry {str(geometry)!r} is made for {made_for.name}, not for {model.name}"
    if not model.profiles:
        return _unpublished(model)
    problem = _problem(model, geometry.placements)
    return f"{model.name}: geometry {str(geometry)!r}: {problem}" if problem else None


def _problem(model: GpuModel, placements: Sequence[Placed]) -> str | None:
    if list(placements) != sorted(placements):
        return "placements are not in order of their start"
    chosen, taken = list[Profile](), dict[int, Placed]()
    for placed in placements:
        profile = model.profile(placed.profile)
        if profile is None:
            return _no_profile(model, placed.profile)
        if profile.name != placed.profile:
            return f"{placed.profile} is written {profile.name}"
        if placed.start not in profile.starts:
            return f"{profile.name} cannot start at {placed.start}, only at {', '.join(map(str, profile.starts))}"
        for memory_slice in range(placed.start, placed.start + profile.size):
            if memory_slice in taken:
                return f"{placed} overlaps {taken[memory_slice]} in memory slice {memory_slice}"
            taken[memory_slice] = placed
        chosen.append(profile)
    return _too_much(model, chosen)


def _no_profile(model: GpuModel, name: str) -> str:
    names = [p.name for p in model.profiles]
    near = get_close_matches(name, names, n=1)
    hint = f", did you mean {near[0]}?" if near else ""
    return f"no profile {name!r}{hint} (known: {', '.join(names)})"


def _too_much(model: GpuModel, chosen: Sequence[Profile]) -> str | None:
    """Say which limit a set of profiles exceeds wherever it is placed, or None."""
    for profile, count in Counter(chosen).items():
        if count > profile.max_instances:
            return f"{count} instances of {profile.name}, at most {profile.max_instances} are allowed"
    used = sum(p.compute_slices for p in chosen)
    if used > model.compute_slices:
        return f"{used} compute slices used, {model.compute_slices} are there"
    variants = [p.variant for p in chosen]
    if variants.count("+me") > 1:
        return "at most one instance may have +me"
    if "+me.all" in variants and variants.count("-me") != len(variants) - 1:
        return "beside an instance with +me.all only -me instances are allowed"
    return None


# Reading ------------------------------------------------------------------------------------------------------------

_PART = re.compile(r"(?:(?P<count>\d{1,9})\s*x\s*)?(?P<profile>[^\s@]+)(?:\s*@\s*(?P<start>\d{1,9}))?", re.ASCII)


def parse(gpu: str, text: str | Mapping[str, int] | None) -> Geometry | None:
    """Read a geometry of a GPU model; None for "whole" or None, a GPU that is not partitioned; `str` writes it back.

    Parts with a start ("3g.40gb@0,1g.10gb@6") stay where they are; counted ones ("7x1g.10gb", or a mapping of profile
    to count) are placed around them, the largest first and each at its highest free start, so that the low starts stay
    open to the large profiles. Raises ConfigError for an unknown GPU, InvalidGeometry for what the GPU does not allow,
    PlanError where its placements are not published.
    """
    if text is None or (isinstance(text, str) and text.strip().lower() == WHOLE):
        gpu_model(gpu)
        return None
    model = _partitionable(gpu)
    shown = text if isinstance(text, str) else ",".join(f"{count}x{name}" for name, count in text.items())
    pinned, free, chosen = list[Placed](), list[Profile](), list[Profile]()
    for name, count, start in _parts(model, text, shown):
        profile = model.profile(name)
        if profile is None:
            raise InvalidGeometry(_no_profile(model, name), gpu=model.name, geometry=shown)
        if count > profile.max_instances:
            problem = f"{count} instances of {profile.name}, at most {profile.max_instances} are allowed"
            raise InvalidGeometry(problem, gpu=model.name, geometry=shown)
        chosen += [profile] * count
        if start is None:
            free += [profile] * count
        else:
            pinned.append(Placed(start, profile.name))
    if wrong := _problem(model, sorted(pinned)) or _too_much(model, chosen):
        raise InvalidGeometry(wrong, gpu=model.name, geometry=shown)
    free.sort(key=lambda p: (-p.size, -p.compute_slices, p.name))
    placed = _place(model, tuple(pinned), tuple(free))
    if placed is None:
        raise InvalidGeometry("its instances do not fit side by side", gpu=model.name, geometry=shown)
    return Geometry(model.name, tuple(sorted(placed)))


def _parts(model: GpuModel, text: str | Mapping[str, int], shown: str) -> Iterator[tuple[str, int, int | None]]:
    """Yield (profile, count, start) of each part."""
    if not isinstance(text, str):
        for name, count in text.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                problem = f"the count of {name} is {count!r}, not a whole number from 0"
                raise InvalidGeometry(problem, gpu=model.name, geometry=shown)
            yield name, count, None
        return
    for part in text.split(",") if text.strip().lower() != EMPTY else ():
        found = _PART.fullmatch(part.strip())
        if found is None or (found["count"] and found["start"]):
            form = "a profile with a start (1g.10gb@6) or with a count (2x1g.10gb)"
            raise InvalidGeometry(f"{part.strip()!r} is not {form}", gpu=model.name, geometry=shown)
        yield found["profile"], int(found["count"] or 1), int(found["start"]) if found["start"] else None


def _place(model: GpuModel, placed: tuple[Placed, ...], rest: tuple[Profile, ...]) -> tuple[Placed, ...] | None:
    """Place the rest around what is placed, or return None; of two alike the later one lies lower."""
    if not rest:
        return placed
    first, taken = rest[0], _taken(model, placed)
    for start in sorted(first.starts, reverse=True):
        if taken.isdisjoint(range(start, start + first.size)):
            found = _place(model, (*placed, Placed(start, first.name)), rest[1:])
            if found is not None:
                return found
    return None


def _taken(model: GpuModel, placements: Sequence[Placed]) -> set[int]:
    """Return the memory slices that placements of known profiles cover."""
    pairs = [(p.start, model.profile(p.profile)) for p in placements]
    return {s for start, profile in pairs if profile is not None for s in range(start, start + profile.size)}


# Counting -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def states(gpu: str, *, double_memory: bool = False, variants: bool = False) -> tuple[Geometry, ...]:
    """List every allowed geometry of a GPU model, the empty one included, in order of their placements.

    double_memory: also use the 1g with two memory slices; variants: also the profiles with a media or graphics suffix.
    Raises PlanError where placements are not published.
    """
    model = _partitionable(gpu)
    options = _options(model, double_memory, variants)
    return tuple(Geometry(model.name, found) for found in sorted(_grow(model, options, (), ())))


@lru_cache(maxsize=64)
def maximal(gpu: str, *, double_memory: bool = False, variants: bool = False) -> tuple[Geometry, ...]:
    """List the allowed geometries to which nothing can be added; arguments as for `states`."""
    model = _partitionable(gpu)
    every = states(gpu, double_memory=double_memory, variants=variants)
    larger = [frozenset(g.placements) for g in every]
    extendable = {rest for full in larger for placed in full for rest in [full - {placed}]}
    return tuple(Geometry(model.name, g.placements) for g in every if frozenset(g.placements) not in extendable)


def _options(model: GpuModel, double_memory: bool, variants: bool) -> tuple[tuple[Placed, Profile], ...]:
    used = [p for p in model.profiles if (double_memory or not p.double_memory) and (variants or not p.variant)]
    return tuple(sorted(((Placed(start, p.name), p) for p in used for start in p.starts), key=lambda option: option[0]))


def _grow(
    model: GpuModel, options: Sequence[tuple[Placed, Profile]], placed: tuple[Placed, ...], chosen: tuple[Profile, ...]
) -> Iterator[tuple[Placed, ...]]:
    """Yield the placements and everything that can be built to the right of them.

    Every rule that a set of instances breaks is broken by all larger sets too, so a branch can be cut at once.
    """
    yield placed
    end = placed[-1].start + chosen[-1].size if placed else 0
    for option, profile in options:
        if option.start >= end and _too_much(model, (*chosen, profile)) is None:
            yield from _grow(model, options, (*placed, option), (*chosen, profile))
