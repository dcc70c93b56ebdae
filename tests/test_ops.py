"""The tensor functions against loops that anybody can check."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalekv_core import ops
from scalekv_core.memory.meter import StorageTracker
from scalekv_core.ops.folding import _sorted_bins

sizes = st.integers(1, 5)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(sizes, sizes, st.integers(1, 12), st.data())
def test_top_tokens_are_the_best_in_order(rows: int, heads: int, tokens: int, data: st.DataObject) -> None:
    """Unique, ascending, and no token left out scores higher than one that is in; ties included."""
    keep = data.draw(st.integers(0, tokens))
    scores = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=tokens, max_size=tokens)))
    scores = scores.float().expand(rows, heads, tokens)
    kept = ops.top_tokens(scores, keep)

    assert (rows, heads, keep) == tuple(kept.shape)
    for index, score in zip(kept.flatten(0, 1).tolist(), scores.flatten(0, 1).tolist(), strict=True):
        assert sorted(set(index)) == index
        assert sorted(score, reverse=True)[:keep] == sorted((score[i] for i in index), reverse=True)


def test_infinite_scores_are_kept() -> None:
    """+inf is above everything; -inf below."""
    scores = torch.tensor([[[3.0, -math.inf, math.inf, 1.0]]])

    assert [[[0, 2]]] == ops.top_tokens(scores, 2).tolist()
    assert [[[0, 2, 3]]] == ops.top_tokens(scores, 3).tolist()


@given(sizes, sizes, sizes, st.sampled_from([(), (3,), (2, 3)]), st.booleans(), st.data())
def test_gathered_tokens_are_the_tokens(
    rows: int, heads: int, tokens: int, rest: tuple[int, ...], transposed: bool, data: st.DataObject
) -> None:
    """The same as indexing by hand, for any trailing sizes and for tensors that lie in memory otherwise."""
    keep = data.draw(st.integers(0, tokens))
    x = random(rows, tokens, heads, *rest).transpose(1, 2) if transposed else random(rows, heads, tokens, *rest)
    index = torch.rand(rows, heads, tokens, generator=torch.Generator().manual_seed(keep)).argsort(dim=2)[:, :, :keep]
    gathered = ops.gather_tokens(x, index)

    assert (rows, heads, keep, *rest) == tuple(gathered.shape)
    for row in range(rows):
        for head in range(heads):
            assert torch.equal(x[row, head][index[row, head]], gathered[row, head])


def test_gathered_tokens_have_memory_of_their_own() -> None:
    """Nothing of the larger storage stays alive, also where all tokens are kept or the index was expanded."""
    x = random(2, 3, 100, 8)[:, :, :50]
    for index in (torch.arange(50).expand(2, 3, 50), torch.tensor([7]).expand(2, 3, 1)):
        for source in (x, x.contiguous(), x[..., 0]):
            gathered = ops.gather_tokens(source, index)
            assert gathered.nbytes == gathered.untyped_storage().nbytes()
            assert source.untyped_storage().data_ptr() != gathered.untyped_storage().data_ptr()


def test_tight_copies_only_what_is_loose() -> None:
    """A tensor that fills its storage is passed through; views, and expanded tensors, are copied."""
    x = random(4, 6)

    assert x is ops.tight(x)
    for loose in (x[:2], x[:, :3], x[:1].expand(4, 6)):
        tight = ops.tight(loose)
        assert torch.equal(loose, tight)
        assert tight.nbytes == tight.untyped_storage().nbytes()


def reference(q: Tensor, k: Tensor, v: Tensor, scale: float, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention and its probabilities in float64."""
    logits = scale * q.double() @ k.double().transpose(2, 3)
    weights = logits.exp() if counts is None else logits.exp() * counts.double().unsqueeze(2)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights @ v.double(), weights


@given(sizes, sizes, sizes, st.integers(1, 20), st.floats(0.05, 2), st.booleans())
def test_attention_is_softmax(rows: int, heads: int, queries: int, tokens: int, scale: float, counted: bool) -> None:
    """With counts a token of count c weighs as c tokens."""
    q, k, v = (
        random(rows, heads, queries, 8),
        random(rows, heads, tokens, 8, seed=1),
        random(rows, heads, tokens, 8, seed=2),
    )
    counts = random(rows, heads, tokens, seed=3).abs() * 5 + 1 if counted else None
    expected, weights = reference(q, k, v, scale, counts)

    torch.testing.assert_close(
        ops.attend(q, k, v, softmax_scale=scale, counts=counts).double(), expected, rtol=1e-4, atol=1e-5
    )
    mass = ops.attention_mass(q, k, softmax_scale=scale, counts=counts)
    assert torch.float32 == mass.dtype
    torch.testing.assert_close(mass.double(), weights.sum(dim=2), rtol=1e-4, atol=1e-5)


@given(st.integers(1, 2000), st.booleans())
def test_chunks_do_not_change_the_mass(chunk_bytes: int, counted: bool) -> None:
    """Whatever the chunk, also one smaller than a single query, the mass is the same to rounding."""
    q, k = random(2, 3, 7, 4), random(2, 3, 11, 4, seed=1)
    counts = random(2, 3, 11, seed=2).abs() + 1 if counted else None
    whole = ops.attention_mass(q, k, softmax_scale=0.5, counts=counts)

    chunked = ops.attention_mass(q, k, softmax_scale=0.5, counts=counts, chunk_bytes=chunk_bytes)
    torch.testing.assert_close(chunked, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_take_no_more_than_they_may(dtype: torch.dtype) -> None:
    """Float32 keys, logits and their softmax: a few chunks at a time, never an n x N matrix."""
    q, k = random(4, 4, 300, 16).to(dtype), random(4, 4, 500, 16, seed=1).to(dtype)
    with StorageTracker() as tracker:
        mass = ops.attention_mass(q, k, softmax_scale=0.5, chunk_bytes=2**16)

    assert tracker.peak <= mass.nbytes + 4 * 2**16
    assert 4 * 4 * 300 * 500 * 4 > 100 * 2**16


@given(st.integers(1, 20_000))
def test_no_row_depends_on_the_batch(chunk_bytes: int) -> None:
    """The sums of a row are the same bits alone and among others: how queries are chunked does not depend on rows."""
    q, k = random(3, 2, 9, 4), random(3, 2, 13, 4, seed=1)
    together = ops.attention_mass(q, k, softmax_scale=0.5, chunk_bytes=chunk_bytes)
    alone = [
        ops.attention_mass(q[r : r + 1], k[r : r + 1], softmax_scale=0.5, chunk_bytes=chunk_bytes) for r in range(3)
    ]

    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("largest", [4.0, 50.0, 100.0])
def test_the_mass_is_that_of_the_attention(dtype: torch.dtype, largest: float) -> None:
    """To a thousandth, also for the large logits of models with normalised keys, where rounded ones are off by a third."""
    q = F.normalize(random(1, 4, 64, 64), dim=-1)
    k = F.normalize(random(1, 4, 300, 64, seed=1) + random(1, 4, 1, 64, seed=2) / 2, dim=-1)
    q, k = (q * largest).to(dtype), k.to(dtype)
    _, weights = reference(q, k, k, 1.0)

    for mass in (ops.attention_mass(q, k, softmax_scale=1.0), ops.attention_probabilities(q, k, 1.0).sum(dim=2)):
        torch.testing.assert_close(mass.double(), weights.sum(dim=2), rtol=1e-3, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_mass_is_float32(dtype: torch.dtype) -> None:
    """The statistic does not lose what a half cannot hold: every query adds up to 1."""
    q, k = random(1, 2, 300, 8).to(dtype), random(1, 2, 50, 8, seed=1).to(dtype)
    mass = ops.attention_mass(q, k, softmax_scale=1.0)

    assert torch.float32 == mass.dtype
    torch.testing.assert_close(mass.sum(dim=-1), torch.full((1, 2), 300.0), rtol=1e-5, atol=0)


@given(sizes, sizes, st.integers(2, 12), st.integers(1, 3), st.sampled_from([None, 1, 64, 200, 1000]), st.data())
def test_the_most_alike_has_the_largest_cosine(
    rows: int, heads: int, tokens: int, every: int, chunk_bytes: int | None, data: st.DataObject
) -> None:
    """By hand, however the work is divided into chunks."""
    x, keep = random(rows, heads, tokens, 5), data.draw(st.integers(1, tokens - 1))
    among = random(rows, heads, tokens, seed=1).argsort(dim=2)[..., :keep]
    nearest = ops.most_alike(x, among, every=every, chunk_bytes=chunk_bytes)

    mine = x[..., ::every].double()
    theirs = ops.gather_tokens(mine, among)
    cosine = F.cosine_similarity(mine.unsqueeze(3), theirs.unsqueeze(2), dim=-1)
    assert (rows, heads, tokens) == tuple(nearest.shape)
    best = cosine.gather(3, nearest.unsqueeze(3)).squeeze(3)
    torch.testing.assert_close(cosine.amax(dim=3), best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_likeness_takes_no_more_than_it_may(dtype: torch.dtype) -> None:
    """A chunk's products, and one head's tokens where they are more; never an N x keep matrix, never all heads at once."""
    x = random(2, 30, 400, 8).to(dtype)
    order = random(2, 30, 400, seed=1).argsort(dim=2)
    with StorageTracker() as tracker:
        ops.most_alike(x, order[..., :50], chunk_bytes=4000)

    assert 2 * 30 * 400 * 8 + 5 * 4000 + 2 * 400 * 8 * 4 >= tracker.peak


@given(sizes, sizes, st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**31))
def test_folding_is_a_weighted_mean(rows: int, heads: int, tokens: int, keep: int, seed: int) -> None:
    """Means and counts by hand: what is folded adds up, what is dropped is gone."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, heads, tokens, 3, generator=generator)
    counts = torch.randint(1, 9, (rows, heads, tokens), generator=generator).float()
    weights = torch.rand(rows, heads, tokens, generator=generator) + 1e-6
    target = torch.randint(-1, keep, (rows, heads, tokens), generator=generator)
    means, totals = ops.fold(x, weights, counts, target, keep)

    assert (x.dtype, torch.float32) == (means.dtype, totals.dtype)
    for row in range(rows):
        for head in range(heads):
            for place in range(keep):
                members = target[row, head] == place
                assert counts[row, head][members].sum() == totals[row, head, place]
                if members.any():
                    weight = weights[row, head][members].double()[:, None]
                    mean = (x[row, head][members].double() * weight).sum(dim=0) / weight.sum()
                    torch.testing.assert_close(means[row, head, place].double(), mean, rtol=1e-5, atol=1e-5)


def test_folding_one_token_leaves_it_bit_equal() -> None:
    """A token that nothing is folded into does not change, in any dtype and whatever it weighs."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = random(2, 2, 5, 4).to(dtype)
        target = torch.arange(5).expand(2, 2, 5)
        assert torch.equal(x, ops.fold(x, random(2, 2, 5).exp(), torch.ones(2, 2, 5), target, 5)[0])


@pytest.mark.parametrize("bins", [2**16, 2**16 + 1])
def test_bins_are_sorted_stably_whatever_their_number(bins: int) -> None:
    """With 16 bits to tell them apart and with more."""
    bin_of = torch.randint(0, bins, (5000,), generator=torch.Generator().manual_seed(bins)) // 100 * 100
    bin_of[:2] = torch.tensor([bins - 1, 0])
    mine, theirs = _sorted_bins(bin_of, bins), bin_of.sort(stable=True)

    assert torch.equal(theirs.values, mine[0])
    assert torch.equal(theirs.indices, mine[1])


def test_folded_tokens_have_memory_of_their_own() -> None:
    """The result's storage holds the kept tokens only."""
    ones, target = torch.ones(2, 2, 5), torch.tensor([0, 0, -1, 0, -1]).expand(2, 2, 5)
    for folded in ops.fold(random(2, 2, 5, 4), ones, ones, target, 1):
        assert folded.nbytes == folded.untyped_storage().nbytes()


def test_folding_half_precision_sums_in_float32() -> None:
    """A thousand tokens of 1.001 have the mean 1.001, not the one that float16 adds up to."""
    x = torch.full((1, 1, 1000, 1), 1.001, dtype=torch.float16)
    ones, target = torch.ones(1, 1, 1000), torch.zeros(1, 1, 1000, dtype=torch.int64)
    means, _ = ops.fold(x, ones, ones, target, 1)

    assert x[0, 0, 0, 0] == means[0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_counted_attention_and_folding_keep_the_dtype(dtype: torch.dtype) -> None:
    """Counts are float32; what comes out is what went in."""
    q, k, v = (random(2, 3, n, 8, seed=n).to(dtype) for n in (5, 9, 9))
    counts = torch.ones(2, 3, 9)
    counts[:, :, 4] = 6.0
    out = ops.attend(q, k, v, softmax_scale=0.3, counts=counts)
    assert dtype == out.dtype
    torch.testing.assert_close(
        out.double(), reference(q.float(), k.float(), v.float(), 0.3, counts)[0], rtol=2e-2, atol=2e-2
    )
    assert dtype == ops.fold(k, counts, counts, torch.zeros(2, 3, 9, dtype=torch.int64), 1)[0].dtype
