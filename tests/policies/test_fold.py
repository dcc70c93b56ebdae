"""Folding: the tokens of most weight are kept, and each other one is folded into the kept one with the nearest key."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve, frozen

from scalekv_core import CacheView, ScaleSchedule, compress, load_model, shared_registry
from scalekv_core.compare.metrics import compare
from scalekv_core.contracts.defaults import Drop
from scalekv_policies.fold import Fold, ValueMass, fold
from scalekv_policies.maps import patch_centres

SCHEDULE = ScaleSchedule([(1, 1), (2, 3), (3, 4), (5, 6)])


def test_the_score_is_mass_times_the_length_of_the_value(make_view):
    """The selector computes the equation of its docstring; tokens that stand for others count for them."""
    view = make_view(SCHEDULE, 3, held=9)
    counts = torch.ones(2, 3, 39)
    counts[:, :, :9] = torch.arange(1.0, 10.0)
    view = evolve(view, counts=counts)
    score = ValueMass(queries=4).score(view, 5)

    queries = patch_centres((1, 5, 6), 4, torch.device("cpu"))
    for row, head in ((0, 0), (1, 2)):
        logits = view.q[row, head][queries] @ view.k[row, head].T * view.softmax_scale + counts[row, head].log()
        expected = logits.softmax(dim=1).sum(dim=0) * view.v[row, head].norm(dim=1)
        torch.testing.assert_close(score[row, head], expected)


def test_every_token_goes_where_its_key_points(make_view):
    """Each token is assigned to the kept one with the largest cosine, computed by hand; kept tokens to themselves."""
    view = make_view(SCHEDULE, 3, held=9)
    kept = torch.tensor([0, 3, 7, 20, 38]).expand(2, 3, -1)
    target = Fold().assign(view, kept)

    for row in range(2):
        for head in range(3):
            keys = view.k[row, head]
            for token in range(view.tokens):
                likeness = torch.cosine_similarity(keys[token], keys[kept[row, head]], dim=1)
                assert int(likeness.argmax()) == int(target[row, head, token])


def test_length_of_keys_does_not_matter(make_view):
    """Only the direction of a key counts: one ten times as long goes to the same token, and attracts no more."""
    view = make_view(SCHEDULE, 3, held=9)
    kept = torch.tensor([0, 3, 7, 20, 38]).expand(2, 3, -1)
    longer = evolve(view, k=view.k * torch.linspace(0.1, 10, view.tokens).view(-1, 1))
    assert torch.equal(Fold().assign(view, kept), Fold().assign(longer, kept))


@pytest.mark.parametrize(
    ("channels", "compared"), [(1, [0]), (2, [0, 4]), (3, [0, 3, 6]), (5, [0, 2, 4, 6]), (8, range(8))]
)
def test_some_channels_are_compared(make_view, channels, compared):
    """Query positions are evenly spaced, no more than asked for; the other queries are ignored."""
    view = make_view(SCHEDULE, 3, held=9)
    kept = torch.tensor([0, 3, 7, 20, 38]).expand(2, 3, -1)
    alone = evolve(view, k=view.k[..., list(compared)])
    assert torch.equal(Fold(channels=channels).assign(view, kept), Fold(channels=64).assign(alone, kept))


def test_what_is_looked_at_weighs_more_in_the_means(make_view):
    """The merger's weights are the equation of its docstring, with tokens that stand for others."""
    view = make_view(SCHEDULE, 3, held=9)
    counts = torch.ones(2, 3, 39)
    counts[:, :, :9] = torch.arange(1.0, 10.0)
    for seen, c in ((view, torch.ones(2, 3, 39)), (evolve(view, counts=counts), counts)):
        weights = Fold(patches=4).weights(seen)
        queries = patch_centres((1, 5, 6), 4, torch.device("cpu"))
        for row, head in ((0, 0), (1, 2)):
            logits = view.q[row, head][queries] @ view.k[row, head].T * view.softmax_scale + c[row, head].log()
            expected = (logits.softmax(dim=1).sum(dim=0) * c[row, head]).sqrt()
            torch.testing.assert_close(weights[row, head], expected)


def test_where_nobody_looks_a_mean_exists_all_the_same(make_view):
    """Weights have a minimum, since attention that underflows to zero would leave no mean."""
    view = make_view(SCHEDULE, 3, held=9)
    far = evolve(view, k=view.k * 1e4)
    assert (far.attention_mass() == 0).any()
    assert (Fold().weights(far) > 0).all()


def test_choosing_and_weighing_ask_the_same_queries_once(make_view):
    """The merger reuses the attention that the selector of policy `fold` computes."""
    view = make_view(SCHEDULE, 3, held=9)
    fold().selector.score(view, 5)
    fold().merger.weights(view)
    assert len(view.masses) == 1


@pytest.fixture(scope="module")
def digits():
    """var-tiny and ten digits that it generates unmodified."""
    return ten_digits([0] * 10)


def ten_digits(seeds):
    """The images of the same seeds."""
    model = load_model("var-tiny")
    prompts = [str(digit) for digit in range(10)]
    return model, prompts, seeds, model.generate(prompts, seeds=seeds, keep_logits=True)


def divergence(digits, policy):
    """Nats per token from the unmodified model's distributions, with its tokens forced, at a budget of 10 %."""
    model, prompts, seeds, full = digits
    with compress(model, policy, "10%"):
        forced = model.generate(prompts, seeds=seeds, forced=full.tokens, keep_logits=True)
    figures = compare(forced, full, forced)
    return figures.over_scales(figures.kl)


def test_folding_stays_nearer_than_dropping(digits):
    """On a trained model, folding instead of dropping removes a good part of the divergence, same tokens kept."""
    assert 0.85 * divergence(digits, evolve(fold(), merger=Drop())) > divergence(digits, fold())


def test_folding_helps_whoever_selects(digits):
    """Another policy can use the merger by name: it removes a quarter of the divergence of ``uniform``."""
    folding = shared_registry().policy("uniform", merger="fold")
    assert 0.9 * divergence(digits, "uniform") > divergence(digits, folding)


@pytest.mark.thorough
def test_folding_helps_scalekv():
    """Folding gains a tenth over ninety images; on ten it gains anything from 5 to 18 %."""
    folding = shared_registry().policy("scalekv", merger="fold")
    batches = [ten_digits(range(first, first + 10)) for first in range(100, 1000, 100)]
    without, with_it = (sum(divergence(ten, policy) for ten in batches) for policy in ("scalekv", folding))

    assert 0.9 * without > with_it


def test_weighing_by_attention_stays_nearer_than_by_counts(digits):
    """On a trained model, means of tokens with much and with little attention cause a good part of folding's loss."""
    assert 0.85 * divergence(digits, evolve(fold(), merger=FoldByCounts())) > divergence(digits, fold())


@frozen(kw_only=True)
class FoldByCounts(Fold):
    """As `Fold`, but its means weight each token by its count only."""

    def weights(self, view: CacheView) -> None:
        return None
