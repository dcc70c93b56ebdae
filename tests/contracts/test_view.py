"""Views of one scale share what was computed for the same tensors."""

from __future__ import annotations

import torch
from attrs import evolve

from scalekv_core import CacheView, ScaleSchedule


def view() -> CacheView:
    schedule = ScaleSchedule.square(1, 2)
    q, k, v = (torch.randn(2, 3, tokens, 8, generator=torch.Generator().manual_seed(tokens)) for tokens in (4, 5, 5))
    positions = torch.arange(5, dtype=torch.int32).expand(2, 3, -1)
    return CacheView(
        q=q, k=k, v=v, positions=positions, schedule=schedule, layer=0, scale=1, heads=(0, 1, 2), softmax_scale=0.5
    )


def test_a_view_with_further_statistics_shares_attention_masses() -> None:
    """After ``observe`` selector and merger share the masses that were computed before."""
    first, some = view(), torch.tensor([0, 2])
    masses = first.attention_mass(), first.attention_mass(some)
    later = evolve(first, statistics={"age": torch.ones(2, 3, 5)})

    assert later.attention_mass() is masses[0]
    assert later.attention_mass(some) is masses[1]
    assert 2 == len(first.masses)


def test_a_view_of_other_keys_or_counts_computes_its_own() -> None:
    first = view()
    mass = first.attention_mass()
    part, counted = first.slice(0, 3), evolve(first, counts=torch.full((2, 3, 5), 2.0).cumsum(2))

    assert (2, 3, 3) == tuple(part.attention_mass().shape)
    assert not torch.equal(mass, counted.attention_mass())
    assert first.attention_mass() is mass
