"""Geometries: what is enumerated, parsed or refused agrees with the rules, written here a second time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.errors import InvalidGeometry
from partita.mig import Geometry, Placed, gpu_model, maximal, parse, states, validate

GPUS = ("A100-40GB", "A100-80GB", "H100-80GB", "H100-PCIe-80GB", "A30-24GB", "RTX-PRO-6000")


def is_allowed(gpu: str, placements: tuple[Placed, ...]) -> bool:
    """Apply the rules slice by slice, as a plain twin of the product's code."""
    model = gpu_model(gpu)
    profiles = {p.name: p for p in model.profiles}
    slices = Counter(s for p in placements for s in range(p.start, p.start + profiles[p.profile].size))
    counts = Counter(p.profile for p in placements)
    media = [p.profile for p in placements if p.profile.endswith("+me")]
    everything = [p.profile for p in placements if p.profile.endswith("+me.all")]
    without = [p.profile for p in placements if p.profile.endswith("-me")]
    return (
        all(p.start in profiles[p.profile].starts for p in placements)
        and all(n == 1 for n in slices.values())
        and sum(profiles[p.profile].compute_slices for p in placements) <= model.compute_slices
        and all(n <= profiles[name].max_instances for name, n in counts.items())
        and len(media) <= 1
        and (not everything or len(everything) + len(without) == len(placements))
    )


@st.composite
def placements(draw: st.DrawFn) -> tuple[str, tuple[Placed, ...]]:
    gpu = draw(st.sampled_from(GPUS))
    choices = [Placed(s, p.name) for p in gpu_model(gpu).profiles for s in range(gpu_model(gpu).memory_slices)]
    chosen = draw(st.lists(st.sampled_from(choices), max_size=5))
    return gpu, tuple(sorted(chosen))


@given(placements())
def test_validation_agrees_with_its_twin(case: tuple[str, tuple[Placed, ...]]) -> None:
    gpu, placed = case
    assert (validate(gpu, Geometry(gpu, placed)) is None) == is_allowed(gpu, placed)


@given(placements())
def test_what_can_be_read_is_valid_and_round_trips(case: tuple[str, tuple[Placed, ...]]) -> None:
    gpu, placed = case
    text = str(Geometry(gpu, placed))
    if is_allowed(gpu, placed):
        assert parse(gpu, text) == Geometry(gpu, placed)
    else:
        with pytest.raises(InvalidGeometry):
            parse(gpu, text)


@given(st.sampled_from(GPUS), st.data())
def test_counts_find_a_placement_exactly_where_one_exists(gpu: str, data: st.DataObject) -> None:
    names = [p.name for p in gpu_model(gpu).profiles]
    counts = data.draw(st.dictionaries(st.sampled_from(names), st.integers(1, 4), max_size=3))
    possible = {tuple(g.counts().items()) for g in states(gpu, double_memory=True, variants=True)}
    if tuple(sorted(counts.items())) in possible:
        geometry = parse(gpu, counts)
        assert geometry is not None
        assert geometry.counts() == dict(sorted(counts.items()))
        assert validate(gpu, geometry) is None
    else:
        with pytest.raises(InvalidGeometry):
            parse(gpu, counts)


@pytest.mark.parametrize("gpu", GPUS)
def test_every_state_is_allowed_once_and_maximal_means_nothing_fits(gpu: str) -> None:
    every = states(gpu, double_memory=True)
    assert len(set(every)) == len(every)
    assert all(is_allowed(gpu, g.placements) for g in every)
    options = [Placed(s, p.name) for p in gpu_model(gpu).profiles if not p.variant for s in p.starts]
    full = {g for g in every if not any(is_allowed(gpu, tuple(sorted((*g.placements, o)))) for o in options)}
    assert set(maximal(gpu, double_memory=True)) == full
