"""A pipeline on a device: images, previews and a stop, and parts that take turns there."""

from __future__ import annotations

import torch

from scalekv_core import Pipeline
from scalekv_core.models.parts import TRANSFORMER

CAPTION = "a red circle"


def test_previews_and_a_stop(device: torch.device) -> None:
    """The preview of the last scale is the image; after a stop the next image is the same as before."""
    pipe, previews = Pipeline.from_pretrained("infinity-tiny", policy="fold", budget="20%", device=device), []
    output = pipe(CAPTION, output="tensor", on_scale=lambda progress: previews.append(progress.preview))

    assert torch.equal(output.images, previews[-1])
    assert device.type == output.images.device.type
    assert pipe(CAPTION, on_scale=lambda progress: progress.stop()).stopped == 0
    assert torch.equal(output.images, pipe(CAPTION, output="tensor").images)


def test_parts_take_turns(gpu: torch.device) -> None:
    """The same image as without, previews included; when it is done only the decoder is on the device."""
    expected = Pipeline.from_pretrained("infinity-tiny", policy="fold", budget="20%", device=gpu)(
        CAPTION, output="tensor"
    )
    pipe = Pipeline.from_pretrained("infinity-tiny", policy="fold", budget="20%", device=gpu)
    pipe.enable_offload()
    output = pipe(CAPTION, output="tensor", on_scale=lambda progress: progress.preview)

    assert torch.equal(expected.images, output.images)
    assert {"cpu"} == {weight.device.type for part in pipe.model.parts[TRANSFORMER] for weight in part.parameters()}
