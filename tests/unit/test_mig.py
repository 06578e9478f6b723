"""MIG tables, geometries and their rules, against published listings and counts."""

from __future__ import annotations

import pytest

from partita.errors import ConfigError, InvalidGeometry, PlanError
from partita.mig import GPUS, Geometry, Placed, gpu_model, maximal, parse, states, validate

EIGHT_SLICES = ("A100-40GB", "A100-80GB", "H100-80GB", "H100-PCIe-80GB")
PARTITIONABLE = (*EIGHT_SLICES, "A30-24GB", "RTX-PRO-6000")
WHOLE_ONLY = ("H100-NVL-94GB", "GH200-96GB", "H200-141GB", "B200-180GB", "GB200-186GB")

# start:shape of the nineteen layouts, as NVIDIA's user guide draws them
NINETEEN = """
0:7 | 0:4 4:3 | 0:4 4:2 6:1 | 0:4 4:1 5:1 6:1 | 0:3 4:3 | 0:3 4:2 6:1 | 0:3 4:1 5:1 6:1 | 0:2 2:2 4:3 | 0:2 2:2 4:2 6:1
| 0:2 2:2 4:1 5:1 6:1 | 0:2 2:1 3:1 4:3 | 0:2 2:1 3:1 4:2 6:1 | 0:2 2:1 3:1 4:1 5:1 6:1 | 0:1 1:1 2:2 4:3
| 0:1 1:1 2:2 4:2 6:1 | 0:1 1:1 2:2 4:1 5:1 6:1 | 0:1 1:1 2:1 3:1 4:3 | 0:1 1:1 2:1 3:1 4:2 6:1
| 0:1 1:1 2:1 3:1 4:1 5:1 6:1
"""


@pytest.mark.parametrize(
    ("gpu", "double_memory", "expected"),
    [
        *((gpu, False, (298, 19, 14)) for gpu in EIGHT_SLICES),
        *((gpu, True, (723, 78, 38)) for gpu in EIGHT_SLICES),
        ("A30-24GB", False, (26, 5, 4)),
        ("RTX-PRO-6000", False, (26, 5, 4)),
    ],
)
def test_counts_of_states_maximal_layouts_and_their_multisets(
    gpu: str, double_memory: bool, expected: tuple[int, int, int]
) -> None:
    full = maximal(gpu, double_memory=double_memory)
    multisets = {tuple(g.counts().items()) for g in full}
    assert (len(states(gpu, double_memory=double_memory)), len(full), len(multisets)) == expected


def test_the_nineteen_layouts_are_the_published_ones() -> None:
    published = {tuple(layout.split()) for layout in NINETEEN.replace("\n", " ").split("|")}
    ours = {tuple(f"{p.start}:{p.profile[0]}" for p in g.placements) for g in maximal("A100-80GB")}
    assert ours == published


def test_a_media_engine_is_handed_out_once_in_every_state() -> None:
    for geometry in states("A30-24GB", variants=True):
        assert sum(p.profile.endswith("+me") for p in geometry.placements) <= 1
    assert len(states("A30-24GB", variants=True)) > len(states("A30-24GB"))


# One printed line of `nvidia-smi mig -lgip` each: id, instances, GiB, SMs.
@pytest.mark.parametrize(
    ("gpu", "profile", "printed"),
    [
        ("A100-40GB", "1g.10gb", (15, 4, 9.62, 14)),  # one name, two meanings: here the double-memory 1g ...
        ("A100-80GB", "1g.10gb", (19, 7, 9.5, 14)),  # ... and here the plain one
        ("A100-80GB", "3g.40gb", (9, 2, 39.25, 42)),
        ("H100-80GB", "3g.40gb", (9, 2, 39.5, 60)),  # not 3 x 16 SMs
        ("H100-80GB", "1g.20gb", (15, 4, 19.62, 26)),
        ("H100-PCIe-80GB", "7g.80gb", (0, 1, 79.25, 114)),
        ("A30-24GB", "2g.12gb+me", (6, 1, 11.69, 28)),
        ("RTX-PRO-6000", "2g.48gb+me.all", (64, 1, 47.38, 94)),
    ],
)
def test_profiles_are_as_printed(gpu: str, profile: str, printed: tuple[int, int, float, int]) -> None:
    found = gpu_model(gpu).profile(profile)
    assert found is not None
    assert (found.id, found.max_instances, found.memory_gib, found.sms) == printed


@pytest.mark.parametrize("gpu", PARTITIONABLE)
def test_tables_keep_to_their_own_grid(gpu: str) -> None:
    model = gpu_model(gpu)
    assert len({p.id for p in model.profiles}) == len({p.name for p in model.profiles}) == len(model.profiles)
    for profile in model.profiles:
        assert all(0 <= start <= model.memory_slices - profile.size for start in profile.starts)
        assert profile.memory_gib * model.memory_slices / profile.size <= model.memory_gib + 0.5
        assert profile.max_instances <= len(profile.starts)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("nvidia a100 80gb pcie", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
        ("a30", "A30-24GB"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("NVIDIA H200", "H200-141GB"),
    ],
)
def test_gpus_are_found_as_nvidia_smi_spells_them(spelling: str, name: str) -> None:
    assert gpu_model(spelling).name == name


@pytest.mark.parametrize(("name", "hint"), [("A100", "A100-40GB or A100-80GB"), ("A100-81GB", "A100-80GB")])
def test_an_unknown_gpu_is_named_with_what_may_be_meant(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown GPU '{name}'; did you mean .*{hint}.*known: A100-40GB") as caught:
        gpu_model(name)
    assert caught.value.value == name


def test_every_spelling_means_one_gpu() -> None:
    spellings = [s for gpu in GPUS for s in (gpu.name, *gpu.aliases)]
    assert [gpu_model(s).name for s in spellings] == [gpu.name for gpu in GPUS for _ in (gpu.name, *gpu.aliases)]


@pytest.mark.parametrize("gpu", WHOLE_ONLY)
def test_unpublished_gpus_are_used_whole_only(gpu: str) -> None:
    assert parse(gpu, "whole") is None
    for ask in (lambda: parse(gpu, "7x1g.18gb"), lambda: states(gpu), lambda: maximal(gpu)):
        with pytest.raises(PlanError, match=f"{gpu}: .*read from the device"):
            ask()
    assert "read from the device" in (validate(gpu, Geometry(gpu, ())) or "")


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("3g.40gb@0,2g.20gb@4,1g.10gb@6", "3g.40gb@0,2g.20gb@4,1g.10gb@6"),
        (" 1g.10gb@6 , 3g.40gb@0 ", "3g.40gb@0,1g.10gb@6"),
        ("7x1g.10gb", ",".join(f"1g.10gb@{i}" for i in range(7))),
        ("2x3g.40gb", "3g.40gb@0,3g.40gb@4"),
        ("4G.40GB, 3g.40gb", "4g.40gb@0,3g.40gb@4"),
        # a lone 1g goes to slice 6, which leaves room for a 4g and a 2g; at 0 it would block both 4g and 3g@0
        ("1g.10gb", "1g.10gb@6"),
        # the largest is placed first, each at its highest free start: 3g@4, then 2g@2, then 1g@1
        ("1g.10gb,2g.20gb,3g.40gb", "1g.10gb@1,2g.20gb@2,3g.40gb@4"),
        # nvidia-smi refuses this order when it picks the placements itself; here order does not matter
        ("2x1g.10gb,2g.20gb,3g.40gb", "1g.10gb@0,1g.10gb@1,2g.20gb@2,3g.40gb@4"),
        ("3g.40gb@0,1g.10gb", "3g.40gb@0,1g.10gb@6"),
        ("1g.10gb.me", "1g.10gb+me@6"),  # as Kubernetes spells it
        ("empty", "empty"),
    ],
)
def test_geometries_are_read_and_written_back(text: str, placed: str) -> None:
    geometry = parse("A100-80GB", text)
    assert geometry is not None
    assert str(geometry) == placed
    assert parse("A100-80GB", str(geometry)) == geometry


@pytest.mark.parametrize("whole", [None, "whole", " Whole "])
def test_whole_is_no_geometry(whole: str | None) -> None:
    assert parse("A100-80GB", whole) is None


def test_counts_are_read_as_mig_parted_writes_them() -> None:
    geometry = parse("A100-80GB", {"1g.10gb": 2, "4g.40gb": 1, "2g.20gb": 0})
    assert geometry == Geometry("A100-80GB", (Placed(0, "4g.40gb"), Placed(5, "1g.10gb"), Placed(6, "1g.10gb")))
    assert geometry.counts() == {"1g.10gb": 2, "4g.40gb": 1}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("8x1g.10gb", "8 instances of 1g.10gb, at most 7"),
        ("999999999x1g.10gb", "999999999 instances"),
        ("3g.40gb@2", "cannot start at 2, only at 0, 4"),
        ("1g.10gb@0,3g.40gb@0", "3g.40gb@0 overlaps 1g.10gb@0 in memory slice 0"),
        ("2x3g.40gb,1g.10gb", "do not fit side by side"),
        ("2x3g.40gb,2g.20gb", "8 compute slices used, 7 are there"),
        ("4g.40gb@0,2x2g.20gb", "8 compute slices used, 7 are there"),
        ("3g.40g", "no profile '3g.40g', did you mean 3g.40gb"),
        ("1g.5gb", "no profile '1g.5gb'"),  # an A100-40GB name
        ("2x1g.10gb@3", "'2x1g.10gb@3' is not a profile with a start"),
        ("", "'' is not a profile"),
        ("3g.40gb@0,,1g.10gb@6", "'' is not a profile"),
        ("3g.40gb@-1", "no profile|is not a profile"),
        ({"1g.10gb": -1}, "the count of 1g.10gb is -1"),
        ({"1g.10gb": True}, "the count of 1g.10gb is True"),
    ],
)
def test_what_the_gpu_does_not_allow_is_named(text: str | dict[str, int], problem: str) -> None:
    with pytest.raises(InvalidGeometry, match=problem) as caught:
        parse("A100-80GB", text)
    assert caught.value.gpu == "A100-80GB"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("gpu", "text", "problem"),
    [
        ("A30", "1g.6gb+me,2g.12gb+me", "at most one instance may have"),
        ("RTX-PRO-6000", "1g.24gb+me.all,1g.24gb", "only -me instances are allowed"),
    ],
)
def test_media_engines_are_not_handed_out_twice(gpu: str, text: str, problem: str) -> None:
    with pytest.raises(InvalidGeometry, match=problem):
        parse(gpu, text)


def test_beside_all_media_engines_there_may_be_instances_without() -> None:
    assert parse("RTX-PRO-6000", "1g.24gb+me.all,2x1g.24gb-me") is not None


@pytest.mark.parametrize(
    ("geometry", "problem"),
    [
        (Geometry("A100-80GB", (Placed(0, "3g.40gb"), Placed(4, "3g.40gb"))), None),
        (Geometry("A100-SXM4-80GB", (Placed(0, "7g.80gb"),)), None),
        (Geometry("H100-80GB", (Placed(0, "7g.80gb"),)), "is made for H100-80GB, not for A100-80GB"),
        (Geometry("A100-80GB", (Placed(4, "3g.40gb"), Placed(0, "3g.40gb"))), "not in order of their start"),
        (Geometry("A100-80GB", (Placed(0, "4g.40gb"), Placed(2, "2g.20gb"))), "overlaps"),
        (Geometry("A100-80GB", (Placed(0, "9g.90gb"),)), "no profile"),
        (Geometry("A100-80GB", (Placed(0, "3G.40GB"),)), "is written 3g.40gb"),
        (Geometry("V100", ()), "unknown GPU 'V100'"),
    ],
)
def test_validation_says_what_is_wrong(geometry: Geometry, problem: str | None) -> None:
    found = validate("A100-80GB", geometry)
    assert found is None if problem is None else problem in (found or "")


def test_memory_of_an_instance_depends_on_the_gpu() -> None:
    assert Geometry("A100-80GB", ()).memory_gib("1g.10gb") == 9.5
    assert Geometry("H100-80GB", ()).memory_gib("1g.10gb") == 9.75
    with pytest.raises(InvalidGeometry, match="no profile 1g"):
        Geometry("A100-80GB", ()).memory_gib("1g.5gb")
