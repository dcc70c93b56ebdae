"""Metrics of other packages: perceptual ones, and those that need the weights of another network.

Nothing is downloaded. A metric whose package or weights are missing says in one line how to get them, before anything is
generated. Images go to these packages as they are stored, in [0, 1]; of a clip every frame, and its figure is their mean.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from scalekv_core.errors import InputError, missing_extra
from scalekv_core.models.frames import every_frame, mean_by_clip
from scalekv_core.models.image_model import Generation
from scalekv_core.models.metric import Pair, PairMetric, SetMetric
from scalekv_core.shapes.values import whole

EXTRA = "metrics"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
AT_ONCE = 16
"""Images that a network processes at a time."""


def package(name: str, purpose: str, *, provider: str | None = None) -> Any:
    """A package that is imported when it is needed; MissingExtra if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_extra(provider or name.partition(".")[0], EXTRA, purpose) from error


@frozen
class MultiScaleSSIM(PairMetric):
    """Structural similarity over five resolutions (Wang et al. 2003); 1 for identical images."""

    def check_available(self) -> None:
        package("torchmetrics.functional.image", "metric 'ms-ssim'")

    def measure(self, pair: Pair) -> Tensor:
        image = package("torchmetrics.functional.image", "metric 'ms-ssim'")
        least = 11 * 2**4  # five resolutions of an 11-pixel window
        if min(pair.compressed.images.shape[-2:]) < least:
            raise InputError(f"metric 'ms-ssim' needs images of at least {least} pixels a side")
        measure = image.multiscale_structural_similarity_index_measure
        both = _frames(pair.compressed), _frames(pair.unmodified)
        figures = torch.as_tensor(measure(*both, data_range=1.0, reduction="none")).double()
        return mean_by_clip(figures, len(pair.prompts))


@frozen
class FLIP(PairMetric):
    """Difference that a person sees when images alternate (Andersson et al. 2020), mean over pixels; 0 if identical."""

    higher_is_better: ClassVar[bool] = False

    def check_available(self) -> None:
        package("flip_evaluator", "metric 'flip'", provider="flip-evaluator")

    def measure(self, pair: Pair) -> Tensor:
        flip = package("flip_evaluator", "metric 'flip'", provider="flip-evaluator")
        both = zip(_pixels(pair.unmodified), _pixels(pair.compressed), strict=True)
        figures = [flip.evaluate(before, after, "LDR", applyMagma=False)[1] for before, after in both]
        return mean_by_clip(torch.tensor(figures, dtype=torch.float64), len(pair.prompts))


def _frames(generation: Generation) -> Tensor:
    """(B F, 3, H, W) float32: of a clip every frame; an image is a clip of one frame."""
    return every_frame(generation.images).float()


def _pixels(generation: Generation) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    for image in _frames(generation).detach().cpu().clamp(0, 1):
        yield np.ascontiguousarray(image.permute(1, 2, 0).numpy())


@frozen
class LPIPS(PairMetric):
    """Distance of deep features (Zhang et al. 2018)."""

    higher_is_better: ClassVar[bool] = False
    network: str = field(default="alex")

    def check_available(self) -> None:
        package("torchvision", "metric 'lpips'")
        package("torchmetrics.functional.image.lpips", "metric 'lpips'")
        _weights_at_hand(_hub() / {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}[self.network])

    def measure(self, pair: Pair) -> Tensor:
        lpips = package("torchmetrics.functional.image.lpips", "metric 'lpips'")
        measure = lpips.learned_perceptual_image_patch_similarity
        both = zip(_frames(pair.compressed), _frames(pair.unmodified), strict=True)
        figures = [measure(a[None], b[None], net_type=self.network, normalize=True) for a, b in both]
        stacked = torch.stack([torch.as_tensor(figure) for figure in figures]).double()
        return mean_by_clip(stacked, len(pair.prompts))


@frozen
class FID(SetMetric):
    """Fréchet distance between Inception features of both sets (Heusel et al. 2017)."""

    higher_is_better: ClassVar[bool] = False

    def check_available(self) -> None:
        _inception("fid")

    def measure(self, compressed: Iterable[Tensor], unmodified: Iterable[Tensor]) -> float:
        fid = package("torchmetrics.image.fid", "metric 'fid'")
        return _of_sets(fid.FrechetInceptionDistance(normalize=True), compressed, unmodified)


@frozen
class KID(SetMetric):
    """Kernel distance between Inception features of both sets (Bińkowski et al. 2018), mean over subsets."""

    higher_is_better: ClassVar[bool] = False
    subset: int = field(default=50, validator=whole(2))

    def check_available(self) -> None:
        _inception("kid")

    def measure(self, compressed: Iterable[Tensor], unmodified: Iterable[Tensor]) -> float:
        kid = package("torchmetrics.image.kid", "metric 'kid'")
        return _of_sets(kid.KernelInceptionDistance(subset_size=self.subset, normalize=True), compressed, unmodified)


def _inception(metric: str) -> None:
    package("torch_fidelity", f"metric {metric!r}", provider="torch-fidelity")
    _weights_at_hand(_hub() / INCEPTION)


def _hub() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _weights_at_hand(file: Path) -> None:
    if not file.is_file():
        raise InputError(f"its weights are not here; put {file.name} into {file.parent}")


def _of_sets(distance: Any, compressed: Iterable[Tensor], unmodified: Iterable[Tensor]) -> float:
    """The distance of two sets, a few images at a time."""
    for images, real in ((iter(compressed), False), (iter(unmodified), True)):
        while some := list(islice(images, AT_ONCE)):
            distance.update(torch.stack(some), real=real)
    computed = distance.compute()
    return float(computed[0] if isinstance(computed, tuple) else computed)
