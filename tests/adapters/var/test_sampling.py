"""Filters equal the official ones, and a sample depends on its own seed only."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from scalekv_adapters.sampling import choose, filter_logits, image_generators
from scalekv_core.errors import InputError


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (1, 0.0), (10, 0.0), (10, 0.9), (25, 0.5)])
def test_filtered_logits_are_those_recorded(golden, top_k, top_p):
    """Exactly the same logits survive, unchanged; the input is not touched."""
    want = golden("sampling_filter")
    before = want["logits"].clone()
    assert torch.equal(want[f"filtered_k{top_k}_p{top_p}"], filter_logits(want["logits"], top_k=top_k, top_p=top_p))
    assert torch.equal(before, want["logits"])


def test_ties_at_the_last_kept_value_all_stay(golden):
    """Top-k removes only logits strictly below the k-th largest."""
    want = golden("sampling_filter")
    assert torch.equal(want["tie_filtered_k2"], filter_logits(want["tie_logits"], top_k=2))


def test_no_filter_returns_the_logits(golden):
    """0 and 0 keep all logits, as does a k larger than the vocabulary."""
    logits = golden("sampling_filter")["logits"]
    assert torch.equal(logits, filter_logits(logits))
    assert torch.equal(logits, filter_logits(logits, top_k=1000))


def test_draws_follow_the_probabilities():
    """Over many tokens each value is sampled with its probability, and filtered values never."""
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    tokens = choose(probabilities.log().expand(1, 20_000, 4), image_generators([0], 1))
    assert_close(tokens[0].bincount(minlength=4) / 20_000, probabilities, rtol=0, atol=0.015)


def test_a_draw_does_not_depend_on_its_neighbours():
    """The same seed samples the same tokens, alone or anywhere in a batch."""
    logits = torch.randn(1, 50, 64, generator=torch.Generator().manual_seed(1))
    alone = choose(logits, image_generators([5], 1))
    batch = choose(logits.expand(3, -1, -1), image_generators([9, 5, 5], 3))
    assert torch.equal(alone[0], batch[1])
    assert torch.equal(alone[0], batch[2])
    assert not torch.equal(alone[0], batch[0])


def test_a_small_change_of_the_logits_changes_few_tokens():
    """The noise is shared: logits 0.01 apart give the same token nearly everywhere."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 1000, 64, generator=generator)
    nearby = logits + 0.01 * torch.randn(logits.shape, generator=generator)
    differing = choose(logits, image_generators([5], 1)) != choose(nearby, image_generators([5], 1))
    assert differing.float().mean() < 0.03


def test_without_seeds_the_likeliest_token_is_chosen():
    """Without seeds sampling is greedy."""
    assert choose(torch.tensor([[[0.0, 1.0], [2.0, 1.0]]]), image_generators(None, 1)).tolist() == [[1, 0]]


def test_one_seed_per_image_is_wanted():
    """Too few or too many seeds are refused."""
    with pytest.raises(InputError, match="one seed per image: 2 images, got 3 seeds"):
        image_generators([1, 2, 3], 2)
