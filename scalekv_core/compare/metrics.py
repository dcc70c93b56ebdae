"""How far images generated with a compressed cache are from those of the unmodified model.

Two kinds of figures answer two questions. *Free-running*: the compressed model generates on its own, so one different
token leads to others; images are compared (PSNR, SSIM), and tokens position by position. *Forced*: the compressed model
is given the unmodified model's tokens at every scale and is only asked what it would choose; so every scale is judged
by itself, by agreement and by the Kullback-Leibler divergence of its distributions.

A figure of something that is not a number is not a number: nothing here replaces it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from scalekv_core.errors import InputError
from scalekv_core.models.frames import as_clips
from scalekv_core.models.image_model import Generation

PIECE = 1 << 24
"""Numbers that a divergence is computed over at once (64 MiB of float32)."""

WINDOW, SIGMA = 11, 1.5
"""Width and standard deviation, in pixels, of the Gaussian window of SSIM."""

NAN = "not a number"
_INFINITE = {
    "psnr": "infinite: identical images have no noise",
    "image_psnr": "infinite where images are identical",
    "frame_psnr": "infinite where frames are identical",
    "kl": "infinite: the compressed model excludes a value that the unmodified model may choose",
}


@frozen(kw_only=True)
class Fidelity:
    """The figures of a batch against the unmodified model's.

    Attributes:
        psnr: dB of all images together, that is of their mean squared error; infinite if they are identical.
        ssim: mean structural similarity; None where the images are too small for its window.
        image_psnr, image_ssim: image by image; of a clip the PSNR of all its frames together, and their mean similarity.
        frame_psnr, frame_ssim: of clips, for each the figures frame by frame; None for images.
        agreement: per scale, the share of tokens that are the same when both models generate on their own.
        tokens: per scale, the number of tokens that this is a share of.
        forced_agreement: per scale, the share of choices that are the same, given the unmodified model's tokens.
        kl: per scale, mean divergence (nats per token or bit) from the unmodified distribution, tokens forced.
    """

    psnr: float
    ssim: float | None
    image_psnr: tuple[float, ...]
    image_ssim: tuple[float, ...] | None
    agreement: tuple[float, ...]
    tokens: tuple[int, ...]
    forced_agreement: tuple[float, ...] | None = None
    kl: tuple[float, ...] | None = None
    frame_psnr: tuple[tuple[float, ...], ...] | None = None
    frame_ssim: tuple[tuple[float, ...], ...] | None = None

    @property
    def identical(self) -> bool:
        """Whether all images are bit-identical."""
        return self.psnr == math.inf

    @property
    def not_finite(self) -> dict[str, str]:
        """{figure: why} of all figures that are not finite, so that a missing figure is not taken for a good one."""
        found = {}
        for name, figure in attrs.asdict(self).items():
            values = _flat(figure)
            if any(value is not None and math.isnan(value) for value in values):
                found[name] = f"{NAN}: the model computed something that is not one"
            elif any(value is not None and math.isinf(value) for value in values):
                found[name] = _INFINITE.get(name, "infinite")
        return found

    @property
    def has_nan(self) -> bool:
        """Whether a figure is not a number."""
        return any(reason.startswith(NAN) for reason in self.not_finite.values())

    def over_scales(self, values: Sequence[float]) -> float:
        """The mean of a per-scale figure over all tokens."""
        return sum(value * n for value, n in zip(values, self.tokens, strict=True)) / sum(self.tokens)


def compare(compressed: Generation, unmodified: Generation, forced: Generation | None = None) -> Fidelity:
    """All figures of what a compressed model generated.

    Args:
        compressed: what it generated on its own.
        unmodified: what the unmodified model generated with the same prompts, seeds and sampling.
        forced: what the compressed model generated when given ``unmodified.tokens``; with logits if the divergence is
            wanted (then ``unmodified`` needs them too).

    Raises:
        InputError: the two differ in shape or schedule, or only one of them has logits.
    """
    _check_same(compressed, unmodified)
    error = frame_errors(compressed.images, unmodified.images)
    similar = frame_ssim(compressed.images, unmodified.images)
    image_ssim = None if similar is None else similar.mean(dim=1)
    kl = None
    if forced is not None and forced.logits is not None:
        if unmodified.logits is None:
            raise InputError(
                "a divergence needs the logits of both; the unmodified images were generated without keep_logits"
            )
        kl = divergence(forced.logits, unmodified.logits, unmodified.tokens)
    return Fidelity(
        psnr=float(psnr_of(error.mean())),
        ssim=None if image_ssim is None else float(image_ssim.mean()),
        image_psnr=tuple(psnr_of(error.mean(dim=1)).tolist()),
        image_ssim=None if image_ssim is None else tuple(image_ssim.tolist()),
        agreement=agreement(compressed.tokens, unmodified.tokens),
        tokens=tuple(tokens.numel() for tokens in unmodified.tokens),
        forced_agreement=None if forced is None else agreement(forced.choices, unmodified.tokens),
        kl=kl,
        frame_psnr=_rows(psnr_of(error)) if compressed.is_clip else None,
        frame_ssim=_rows(similar) if compressed.is_clip and similar is not None else None,
    )


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio of each image, or of all frames of each clip, in dB; infinite for identical ones.

    Args:
        images, reference: (B, 3, H, W) or (B, 3, F, H, W) in [0, 1].

    >>> psnr(torch.full((2, 3, 1, 1), 0.5), torch.tensor([0.0, 0.5]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    tensor([6.0206,    inf], dtype=torch.float64)
    """
    return psnr_of(frame_errors(images, reference).mean(dim=1))


def frame_errors(images: Tensor, reference: Tensor) -> Tensor:
    """(B, F) mean squared error of every frame, one frame after the other, since a clip in float64 is large.

    Args:
        images, reference: (B, 3, H, W), F = 1, or (B, 3, F, H, W).
    """
    both = zip(as_clips(images).unbind(dim=2), as_clips(reference).unbind(dim=2), strict=True)
    return torch.stack([(a.double() - b.double()).square().flatten(1).mean(dim=1) for a, b in both], dim=1)


def psnr_of(error: Tensor) -> Tensor:
    """The PSNR, in dB, of mean squared errors of values in [0, 1]."""
    return -10 * error.log10()


def frame_ssim(images: Tensor, reference: Tensor) -> Tensor | None:
    """(B, F) structural similarity of every frame, as `ssim`; None where a side is shorter than its window.

    Args:
        images, reference: (B, 3, H, W), F = 1, or (B, 3, F, H, W).
    """
    both = zip(as_clips(images).unbind(dim=2), as_clips(reference).unbind(dim=2), strict=True)
    found = [ssim(a, b) for a, b in both]
    figures = [one for one in found if one is not None]
    return torch.stack(figures, dim=1) if figures else None


def ssim(images: Tensor, reference: Tensor) -> Tensor | None:
    """(B,) structural similarity of each image (Wang et al. 2004; windows at the border see the image reflected).

    Computed in float64, so that only identical images have exactly 1.

    Args:
        images, reference: (B, 3, H, W) in [0, 1]; None comes back where a side is shorter than the window.

    >>> ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    tensor([1.], dtype=torch.float64)
    """
    if min(images.shape[2:]) < WINDOW:
        return None
    a, b = images.double(), reference.double()
    mean_a, mean_b, aa, bb, ab = map(_window_mean, (a, b, a * a, b * b, a * b))
    variances, covariance = (aa - mean_a**2) + (bb - mean_b**2), ab - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).flatten(1).mean(dim=1)


def _window_mean(x: Tensor) -> Tensor:
    """(B, C, H, W) the Gaussian-weighted mean around every pixel."""
    reach = WINDOW // 2
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = (-((offsets / SIGMA) ** 2) / 2).exp()
    weights = weights / weights.sum()
    planes = F.pad(x, (reach, reach, reach, reach), mode="reflect").flatten(0, 1)[:, None]
    rows = F.conv2d(planes, weights.view(1, 1, -1, 1))
    return F.conv2d(rows, weights.view(1, 1, 1, -1)).view_as(x)


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
    """Per scale, the mean of KL(reference || other) in nats per token (or bit); not a number where logits are not.

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
    """(M, V): one row per distribution, that is per token or per bit."""
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
        impossible = (theirs == -torch.inf) & ~mine.isnan()  # what is never chosen costs nothing
        total += float(terms.masked_fill_(impossible, 0.0).double().sum())
    return 0.0 if total < 0 else total / rows  # rounding can leave a little less than 0; nan is not less


def _flat(figure: object) -> list[float | None]:
    """The numbers of a figure, however it is nested."""
    return [one for part in figure for one in _flat(part)] if isinstance(figure, tuple) else [figure]  # type: ignore[list-item]


def _rows(figures: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in figures.tolist())


def _check_same(compressed: Generation, unmodified: Generation) -> None:
    mine, theirs = (tuple(tuple(t.shape) for t in (g.images, *g.tokens)) for g in (compressed, unmodified))
    if mine != theirs:
        raise InputError(f"fidelity compares images of the same shape and schedule; got {mine[0]} and {theirs[0]}")
