"""The plugin that offers the metrics of scalekv."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scalekv_core.compare import further_metrics as further
from scalekv_core.compare import pair_metrics as pairs
from scalekv_core.compare import prompt_metrics as prompts
from scalekv_core.models.metric import Metric
from scalekv_core.plugins.hookspecs import hookimpl


@hookimpl
def scalekv_metrics() -> Mapping[str, Callable[[], Metric]]:
    """Those that need nothing but two generations, then those of other packages."""
    return {
        "psnr": pairs.PSNR,
        "ssim": pairs.SSIM,
        "agreement": pairs.Agreement,
        "forced-kl": pairs.ForcedKL,
        "ms-ssim": further.MultiScaleSSIM,
        "flip": further.FLIP,
        "lpips": further.LPIPS,
        "clip-score": prompts.CLIPScore,
        "pick-score": prompts.PickScore,
        "image-reward": prompts.ImageReward,
        "fid": further.FID,
        "kid": further.KID,
    }
