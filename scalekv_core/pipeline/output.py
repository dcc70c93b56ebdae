"""What a pipeline returns, and the forms in which it gives images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from torch import Tensor

from scalekv_core.compare.pictures import as_images
from scalekv_core.errors import InputError, shortened
from scalekv_core.models.frames import is_clip
from scalekv_core.models.image_model import Generation
from scalekv_core.pipeline.job import Job
from scalekv_core.session.report import Report

FORMS: Mapping[str, Callable[[Tensor], Any]] = {
    "pil": lambda images: (
        [as_images(clip.transpose(0, 1)) for clip in images] if is_clip(images) else as_images(images)
    ),
    "tensor": lambda images: images,
    "numpy": lambda images: images.movedim(1, -1).float().cpu().numpy(),
}
"""{output: what makes it of images (B, 3, H, W), or clips (B, 3, F, H, W), in [0, 1]}."""


@frozen(eq=False, kw_only=True)
class PipelineOutput:
    """What one call of a pipeline generated: B images, one for each prompt and seed.

    Attributes:
        images: as ``output`` said: a list of PIL images, of clips a list of their frames for each; "tensor" is (B, 3, H, W) and
            "numpy" (B, H, W, 3), in [0, 1], with all frames (B, 3, F, H, W) and (B, F, H, W, 3).
        report: planned, resident and peak bytes of the cache; None if the model was unmodified, or was stopped.
        seconds: from the first text token to the decoded images.
        stopped: the scale, from 0, after which the callback stopped; None if the images are complete. Images that were
            stopped are what the scales so far decode to.
        job: prompts and seeds, one per image, and the sampling.
        generation: tokens of every scale; None if stopped.
    """

    images: Any
    report: Report | None
    seconds: float
    stopped: int | None
    job: Job
    generation: Generation | None


def in_form(output: str) -> Callable[[Tensor], Any]:
    """What makes images of this form; InputError if there is none.

    >>> in_form("jpeg")
    Traceback (most recent call last):
    scalekv_core.errors.InputError: output is one of pil, tensor, numpy; got 'jpeg'
    """
    if output not in FORMS:
        raise InputError(f"output is one of {', '.join(FORMS)}; got {shortened(output)}")
    return FORMS[output]
