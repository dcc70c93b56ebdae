"""FLIP, of the package that its authors maintain."""

from __future__ import annotations

import pytest
import torch

from scalekv_core.compare.further_metrics import FLIP
from scalekv_core.models.image_model import Generation
from scalekv_core.models.metric import Pair

pytest.importorskip("flip_evaluator", reason="extra 'metrics'")


def pair(compressed: torch.Tensor, unmodified: torch.Tensor) -> Pair:
    mine, theirs = (Generation(images=images, tokens=(), choices=()) for images in (compressed, unmodified))
    names, seeds = ("a",) * len(compressed), tuple(range(len(compressed)))
    return Pair(model="any", prompts=names, seeds=seeds, unmodified=theirs, compressed=mine, forced=mine)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Three images of 32 x 40 pixels."""
    return torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(0))


def test_identical_images_do_not_differ(images: torch.Tensor) -> None:
    """And each image has a figure of its own."""
    assert [0.0, 0.0, 0.0] == FLIP().measure(pair(images, images)).tolist()


def test_black_differs_from_white_entirely() -> None:
    """The paper's largest error."""
    (figure,) = FLIP().measure(pair(torch.zeros(1, 3, 32, 40), torch.ones(1, 3, 32, 40))).tolist()

    assert 1 == pytest.approx(figure, abs=0.05)


def test_more_noise_is_a_larger_difference(images: torch.Tensor) -> None:
    """Image by image."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    some, more = (FLIP().measure(pair((images + s * noise).clamp(0, 1), images)) for s in (0.05, 0.3))

    assert (0 < some).all()
    assert (some < more).all()


def test_a_clip_has_the_mean_of_its_frames(images: torch.Tensor) -> None:
    """Frames (B, 3, F, H, W) are measured one by one."""
    other = images.flip(0)
    frames = FLIP().measure(pair(images, other))
    clips = [x.transpose(0, 1)[None] for x in (images, other)]

    torch.testing.assert_close(frames.mean(), FLIP().measure(pair(*clips))[0])
