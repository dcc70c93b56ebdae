"""The unmodified cache keeps everything, in its dtype and with its clock."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from scalekv_core.cache.clock import Clock
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.memory.meter import StorageTracker


def maps(*tokens: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, n, 8, generator=generator).to(dtype) for n in tokens]


def test_attention_reads_all_that_a_layer_received_and_nothing_of_another() -> None:
    """Each map attends to itself and to every earlier map of its layer, in order."""
    cache, (first, second), other = ConcatCache(), maps(1, 4), maps(5)[0]
    cache.attend(0, first, first, first, softmax_scale=0.5)
    cache.attend(1, other, other, other, softmax_scale=0.5)
    out = cache.attend(0, second, second, second, softmax_scale=0.5)

    both = torch.cat((first, second), dim=2)
    assert torch.equal(F.scaled_dot_product_attention(second, both, both, scale=0.5), out)
    assert torch.equal(both, cache.keys[0])
    assert torch.equal(both, cache.values[0])


def test_keys_are_stored_in_their_own_dtype_and_read_in_that_of_the_queries() -> None:
    """Keys are stored in float32, as in the official Infinity, and count as such whatever attention reads."""
    x = maps(4, dtype=torch.bfloat16)[0]
    plain, wide = ConcatCache(), ConcatCache(key_dtype=torch.float32)
    outs = [cache.attend(0, x, x, x, softmax_scale=1.0) for cache in (plain, wide)]

    assert torch.equal(*outs)
    assert (torch.bfloat16, torch.float32) == (plain.keys[0].dtype, wide.keys[0].dtype)
    assert (2 * x.nbytes, 3 * x.nbytes) == (plain.resident_bytes(), wide.resident_bytes())


def test_the_clock_is_told_scale_and_stage_and_close_forgets() -> None:
    """Every layer counts its own scales; after close the next image starts at scale 0 with nothing stored."""
    ticks = iter(range(100))
    clock = Clock(now=lambda: float(next(ticks)))
    cache, (first, second) = ConcatCache(clock=clock), maps(1, 4)
    for x in (first, second):
        for layer in (0, 1):
            cache.attend(layer, x, x, x, softmax_scale=1.0)

    assert {(scale, stage): 2.0 for scale in (0, 1) for stage in ("read", "attention")} == clock.seconds
    cache.close()
    assert 0 == cache.resident_bytes()
    cache.attend(0, first, first, first, softmax_scale=1.0)
    assert 3.0 == clock.seconds[0, "read"]


def test_keys_of_grouped_heads_may_be_repeated_as_published_code_does() -> None:
    """Attention is the same; what is stored is not repeated, and what attention reads is, for as long as it lasts."""
    (kv, more), q = maps(4, 5), torch.randn(2, 6, 5, 8, generator=torch.Generator().manual_seed(1))
    outs, peaks = [], []
    for repeats in (False, True):
        cache = ConcatCache(repeats=repeats)
        cache.attend(0, kv.repeat(1, 2, 1, 1), kv, kv, softmax_scale=1.0)
        with StorageTracker() as tracker:
            outs.append(cache.attend(0, q, more, more, softmax_scale=1.0))
        peaks.append(tracker.peak)
        assert 2 * (kv.nbytes + more.nbytes) == cache.resident_bytes()
    torch.testing.assert_close(*outs, rtol=0, atol=1e-6)
    assert peaks[1] - peaks[0] > kv.nbytes + more.nbytes
