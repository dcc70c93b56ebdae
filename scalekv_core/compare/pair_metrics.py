"""The metrics that come with scalekv: images against images, tokens against tokens, distributions against distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core.compare import metrics
from scalekv_core.errors import InputError
from scalekv_core.models.metric import Pair, PairMetric


@frozen
class PSNR(PairMetric):
    """Peak signal-to-noise ratio against the unmodified image; infinite where the images are identical."""

    unit: ClassVar[str] = "dB"

    def measure(self, pair: Pair) -> Tensor:
        return metrics.psnr(pair.compressed.images, pair.unmodified.images)

    def pool(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The PSNR of all images together, which is that of their mean squared error."""
        with np.errstate(divide="ignore"):  # no error at all is infinite PSNR
            pooled: NDArray[np.float64] = -10 * np.log10(np.power(10, -values / 10).mean(axis=-1))
        return pooled


@frozen
class SSIM(PairMetric):
    """Structural similarity to the unmodified image (Wang et al. 2004), of a clip the mean over its frames; 1 if identical."""

    def measure(self, pair: Pair) -> Tensor:
        found = metrics.frame_ssim(pair.compressed.images, pair.unmodified.images)
        if found is None:
            raise InputError(
                f"metric 'ssim' needs images of at least {metrics.WINDOW} pixels a side; "
                f"model {pair.model!r} generates {tuple(pair.compressed.images.shape[-2:])}"
            )
        return found.mean(dim=1)


@frozen
class Agreement(PairMetric):
    """Share of tokens (or bits) that are the same as in the unmodified image, both models generating on their own."""

    def measure(self, pair: Pair) -> Tensor:
        return self.both(pair)[0]

    def both(self, pair: Pair) -> tuple[Tensor, Tensor]:
        scales = self.by_scale(pair)
        return _over_scales(scales, pair.unmodified.tokens), scales

    def by_scale(self, pair: Pair) -> Tensor:
        both = zip(pair.compressed.tokens, pair.unmodified.tokens, strict=True)
        return torch.stack([(a.to(b.device) == b).flatten(1).double().mean(dim=1) for a, b in both], dim=1)


@frozen
class ForcedKL(PairMetric):
    """Kullback-Leibler divergence from the unmodified distributions, given the unmodified model's tokens."""

    unit: ClassVar[str] = "nats"
    higher_is_better: ClassVar[bool] = False

    def measure(self, pair: Pair) -> Tensor:
        return self.both(pair)[0]

    def both(self, pair: Pair) -> tuple[Tensor, Tensor]:
        scales = self.by_scale(pair)
        return _over_scales(scales, pair.unmodified.tokens), scales

    def by_scale(self, pair: Pair) -> Tensor:
        mine, theirs = pair.forced.logits, pair.unmodified.logits
        if mine is None or theirs is None:
            raise InputError("metric 'forced-kl' needs the logits of both models; generate with keep_logits")
        rows = [
            metrics.divergence(
                [a[i : i + 1] for a in mine], [b[i : i + 1] for b in theirs], [t[i : i + 1] for t in tokens]
            )
            for tokens in [pair.unmodified.tokens]
            for i in range(len(pair.prompts))
        ]
        return torch.tensor(rows, dtype=torch.float64)


def _over_scales(figures: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """(B,) the mean of (B, K) figures over all tokens."""
    weights = torch.tensor([t[0].numel() for t in tokens], dtype=torch.float64)
    return (figures * weights).sum(dim=1) / weights.sum()
