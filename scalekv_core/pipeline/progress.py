"""Images while they are generated: what a callback sees after each scale, and how it stops."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from attrs import define, field
from torch import Tensor

from scalekv_core.models.steps import OnScale, ScaleStep


@define(eq=False, kw_only=True, slots=False)
class Progress:
    """What a callback is told after a scale.

    Attributes:
        scale: which one, from 0.
        scales: how many the images have.
    """

    scale: int
    scales: int
    _decode: Callable[[], Any]
    _stopping: bool = field(default=False, init=False)

    @cached_property
    def preview(self) -> Any:
        """The images of the scales so far, in the form that the call asked for; decoded when it is read."""
        return self._decode()

    def stop(self) -> None:
        """Generates no further scale. The images are what the scales so far decode to."""
        self._stopping = True


class Stopped(Exception):
    """Leaves the loop of a model whose callback stopped it; never leaves the pipeline."""

    def __init__(self, scale: int, images: Tensor) -> None:
        super().__init__(scale)
        self.scale, self.images = scale, images


def telling(
    callback: Callable[[Progress], None], form: Callable[[Tensor], Any], goes_on: Callable[[], None]
) -> OnScale:
    """What a model calls after each scale, so that the callback is told.

    Args:
        callback: of the user; what it raises ends the generation.
        form: makes a preview of images (B, 3, H, W).
        goes_on: is called before the model generates the next scale.

    Raises:
        Stopped: the callback has stopped before the last scale.
    """

    def tell(step: ScaleStep) -> None:
        progress = Progress(scale=step.scale, scales=step.scales, decode=lambda: form(step.decode()))
        callback(progress)
        if step.scale == step.scales - 1:
            return
        if progress._stopping:
            raise Stopped(step.scale, step.decode())
        goes_on()

    return tell
