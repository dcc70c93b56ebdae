"""From logits to tokens: filters, and sampling that depends on nothing but the image's own seed.

Every image has its own generator on the CPU. So an image does not depend on the device, on its batch, or on which
images are beside it; and the same seed meets the same noise when the cache is compressed (common random numbers), so
that two images differ only by what compression did. The noise is Gumbel's: the token with the largest logit + noise
rarely changes when the logits change little, whereas sampling from the cumulative distribution shifts all later tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scalekv_core.models.requests import Seeds, check_seeds


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits with all that are strictly below the k-th largest set to -inf; ties with the k-th stay; 0 keeps all.

    >>> keep_top_k(torch.tensor([1.0, 3.0, 2.0, 2.0]), k=2)
    tensor([-inf, 3., 2., 2.])
    """
    if k == 0 or k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits with the least likely ones set to -inf, while together they have probability <= 1 - p; 0 keeps all.

    The likeliest always stays.

    >>> keep_top_p(torch.tensor([0.2, 0.5, 0.3]).log(), p=0.6).exp()
    tensor([0.0000, 0.5000, 0.3000])
    """
    if p == 0:
        return logits
    ascending, order = logits.sort(dim=-1)
    drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[..., -1] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), float("-inf"))


def filter_logits(logits: Tensor, *, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Logits (..., V) after top-k and then top-p, what is dropped set to -inf. The input is not changed."""
    return keep_top_p(keep_top_k(logits, top_k), top_p)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Gumbel noise of this shape, float32 on the CPU."""
    exponential = torch.empty(shape).exponential_(generator=generator)
    return -exponential.clamp_min(torch.finfo(torch.float32).tiny).log()


@torch.no_grad()
def choose(logits: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Tokens (B, n) of logits (B, n, V): the likeliest ones, or sampled with one generator per image."""
    if generators is None:
        return logits.argmax(dim=-1)
    rows = zip(logits, generators, strict=True)
    return torch.stack([(row + gumbel_noise(tuple(row.shape), g).to(row.device)).argmax(dim=-1) for row, g in rows])


def image_generators(seeds: Seeds | None, batch: int) -> list[torch.Generator] | None:
    """One generator per image, or None if there are no seeds, which means greedy.

    Raises:
        InputError: not one seed per image, or one is no whole number from 0 to 2**64 - 1.
    """
    if seeds is None:
        return None
    return [torch.Generator().manual_seed(seed) for seed in check_seeds(seeds, batch, who="generate")]
