"""What is asked of ComfyUI itself: its progress bar with previews, and whether the stop button was pressed."""

from __future__ import annotations

import importlib
from typing import Any

PREVIEW_SIDE = 512
"""Pixels; ComfyUI makes larger previews smaller."""


class Watch:
    """Is called after every scale. Outside of ComfyUI it does nothing."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, progress: Any) -> None:
        """Shows the first image of the scales so far; of a clip its last frame.

        Raises:
            InterruptProcessingException: the stop button was pressed; ComfyUI expects it.
        """
        try:
            utils, management = (importlib.import_module(f"comfy.{name}") for name in ("utils", "model_management"))
        except ImportError:
            return
        management.throw_exception_if_processing_interrupted()
        self._bar = self._bar or utils.ProgressBar(progress.scales)
        self._bar.update_absolute(progress.scale + 1, progress.scales, ("JPEG", self._preview(progress), PREVIEW_SIDE))

    def _preview(self, progress: Any) -> Any:
        from PIL import Image

        frames = progress.preview[0]
        image = frames if frames.ndim == 3 else frames[-1]
        return Image.fromarray((image.clip(0, 1) * 255).round().astype("uint8"))
