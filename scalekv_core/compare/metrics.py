"""How far a picture that was drawn with a compressed cache is from the one that the unmodified model draws.

Two kinds of figures, which answer two questions. *Free-running*: the compressed model draws on its own, so that one
other token leads to others; images are compared (PSNR, SSIM), and tokens place by place. *Forced*: the compressed model
is given the unmodified model's tokens at every scale and is only asked what it would choose; so every scale is judged
by itself, by agreement and by the Kullback-Leibler divergence of its distributions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core.errors import InputError
from scalekv_core.models.image_model import Generation

PIECE = 1 << 24
"""Numbers that a divergence is computed over at once (64 MiB of float32)."""


@frozen(kw_only=True)
class Fidelity:
    """The figures of a batch against the unmodified model's.

    Attributes:
        psnr: dB of all images together, that is of their mean squared error; infinite if they are identical.
        ssim: mean structural similarity; None where the images are too small for its window.
        image_psnr, image_ssim: image by image.
        agreement: per scale, the share of tokens that are the same when both draw on their own.
        tokens: per scale, the number of tokens that this is a share of.
        forced_agreement: per scale, the share of choices that are the same when it was given the other's tokens.
        kl: per scale, mean divergence (nats a token or bit) of its distribution from the unmodified one, tokens forced.
    """

    psnr: float
    ssim: float | None
    image_psnr: tuple[float, ...]
    image_ssim: tuple[float, ...] | None
    agreement: tuple[float, ...]
    tokens: tuple[int, ...]
    forced_agreement: tuple[float, ...] | None = None
    kl: tuple[float, ...] | None = None

    @property
    def identical(self) -> bool:
        """Whether all images are bit-identical."""
        return self.psnr == float("inf")

    def over_scales(self, values: Sequence[float]) -> float:
        """The mean of a figure that is given per scale, over all tokens."""
        return sum(value * n for value, n in zip(values, self.tokens, strict=True)) / sum(self.tokens)


def compare(drawn: Generation, reference: Generation, forced: Generation | None = None) -> Fidelity:
    """All figures of what a compressed model drew.

    Args:
        drawn: what it drew on its own.
        reference: what the unmodified model drew, same prompts, seeds and sampling.
        forced: what it drew when given ``reference.tokens``; with logits if the divergence is wanted (then
            ``reference`` needs them too).

    Raises:
        InputError: the two are not of the same images, or only one of them has logits.
    """
    _check_same(drawn, reference)
    image_ssim = ssim(drawn.images, reference.images)
    kl = None
    if forced is not None and forced.logits is not None:
        if reference.logits is None:
            raise InputError("a divergence needs the logits of both; the reference was drawn without keep_logits")
        kl = divergence(forced.logits, reference.logits, reference.tokens)
    return Fidelity(
        psnr=float(psnr(drawn.images[None].flatten(1), reference.images[None].flatten(1))),
        ssim=None if image_ssim is None else float(image_ssim.mean()),
        image_psnr=tuple(psnr(drawn.images, reference.images).tolist()),
        image_ssim=None if image_ssim is None else tuple(image_ssim.tolist()),
        agreement=agreement(drawn.tokens, reference.tokens),
        tokens=tuple(tokens.numel() for tokens in reference.tokens),
        forced_agreement=None if forced is None else agreement(forced.choices, reference.tokens),
        kl=kl,
    )


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio of each image in dB; infinite for identical ones.

    Args:
        images, reference: (B, ...) in [0, 1].

    >>> psnr(torch.tensor([[0.5], [1.0]]), torch.tensor([[0.0], [1.0]]))
    tensor([6.0206,    inf], dtype=torch.float64)
    """
    error = (images.double() - reference.double()).square().flatten(1).mean(dim=1)
    return -10 * error.log10()


def ssim(images: Tensor, reference: Tensor) -> Tensor | None:
    """(B,) structural similarity of each image (Wang et al. 2004: Gaussian window of 11, sigma 1.5).

    Args:
        images, reference: (B, 3, H, W) in [0, 1]; None comes back where a side is shorter than the window.
    """
    if min(images.shape[2:]) < 11:
        return None
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import

    value = structural_similarity_index_measure(
        images.float(), reference.float(), data_range=1.0, reduction="none", return_full_image=False
    )
    assert isinstance(value, Tensor)
    return value.reshape(-1)


def agreement(tokens: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[float, ...]:
    """Per scale, the share of tokens (or bits) that are the same.

    >>> agreement([torch.tensor([[1, 2]])], [torch.tensor([[1, 3]])])
    (0.5,)
    """
    return tuple(
        float((mine.to(theirs.device) == theirs).double().mean())
        for mine, theirs in zip(tokens, reference, strict=True)
    )


def divergence(logits: Sequence[Tensor], reference: Sequence[Tensor], tokens: Sequence[Tensor]) -> tuple[float, ...]:
    """Per scale, the mean of KL(reference || other) in nats a token (or bit).

    Args:
        logits, reference: per scale (B, n, V).
        tokens: per scale (B, n), or (B, n, bits) where V holds the bits' own logits side by side.

    >>> same = [torch.tensor([[[0.0, 1.0]]])]
    >>> divergence(same, same, [torch.tensor([[1]])])
    (0.0,)
    """
    return tuple(
        _divergence(_own_axis(mine, token), _own_axis(theirs, token))
        for mine, theirs, token in zip(logits, reference, tokens, strict=True)
    )


def _own_axis(logits: Tensor, tokens: Tensor) -> Tensor:
    """(M, V) one distribution a row: one per token, or one per bit."""
    if tokens.dim() == 3 and logits.dim() == 3:
        logits = logits.unflatten(-1, (tokens.shape[-1], -1))
    return logits.flatten(0, -2)


def _divergence(logits: Tensor, reference: Tensor) -> float:
    rows, values = reference.shape
    step = max(1, PIECE // values)
    total = 0.0
    for start in range(0, rows, step):
        theirs = reference[start : start + step].float().log_softmax(dim=-1)
        mine = logits[start : start + step].to(theirs.device).float().log_softmax(dim=-1)
        terms = theirs.exp() * (theirs - mine)
        total += float(
            terms.masked_fill_(theirs == -torch.inf, 0.0).double().sum()
        )  # what cannot be drawn costs nothing
    return max(0.0, total / rows)  # rounding


def _check_same(drawn: Generation, reference: Generation) -> None:
    mine, theirs = (tuple(tuple(t.shape) for t in (g.images, *g.tokens)) for g in (drawn, reference))
    if mine != theirs:
        raise InputError(f"fidelity compares images of the same shape and schedule; got {mine[0]} and {theirs[0]}")
