"""What a callback gets after each scale, how it stops the image, and that the model is free afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from scalekv_core import Pipeline, Progress, SessionError

PROMPTS = {"toy": "3", "digits": "3", "captions": "a red circle"}


@pytest.fixture(params=["toy", "digits", "captions"])
def pipe_and_prompt(request: pytest.FixtureRequest) -> tuple[Pipeline, str]:
    """A pipeline of each family, with a prompt."""
    name = request.param
    pipe = request.getfixturevalue("toy_pipe")() if name == "toy" else request.getfixturevalue(name)
    return pipe, PROMPTS[name]


def state(pipe: Pipeline) -> list[Any]:
    """Everything of a model that a generation could change."""
    module = pipe.model.module
    return [list(vars(module)), *(dict(vars(part)) for part in module.modules()), pipe.model.aspect, pipe.model.size]


def test_every_scale_is_told_once(pipe_and_prompt: tuple[Pipeline, str]) -> None:
    """Scales are reported in order; the last preview is the image, and previews change no image."""
    pipe, prompt = pipe_and_prompt
    scales, previews = [], []

    def look(progress: Progress) -> None:
        scales.append(progress.scale)
        previews.append(progress.preview)
        assert progress.preview is previews[-1], "it is decoded once"
        assert progress.scales == len(pipe.model.schedule)

    output = pipe(prompt, on_scale=look, output="tensor")

    assert list(range(len(pipe.model.schedule))) == scales
    assert torch.equal(output.images, previews[-1])
    assert all(preview.shape == output.images.shape for preview in previews)
    assert torch.equal(output.images, pipe(prompt, output="tensor").images)


def test_stopping_gives_what_there_is(pipe_and_prompt: tuple[Pipeline, str]) -> None:
    """No further scale is generated; the images are the preview, and the next image is not affected."""
    pipe, prompt = pipe_and_prompt
    expected, before = pipe(prompt, output="tensor").images, state(pipe)
    told: list[Progress] = []

    def stop(progress: Progress) -> None:
        told.append(progress)
        if progress.scale == 1:
            progress.stop()

    stopped = pipe(prompt, on_scale=stop, output="tensor")

    assert (1, None, None, 2) == (stopped.stopped, stopped.report, stopped.generation, len(told))
    assert torch.equal(stopped.images, told[-1].preview)
    assert before == state(pipe)
    assert torch.equal(expected, pipe(prompt, output="tensor").images)


def test_stopping_after_the_last_scale_is_no_stop(toy_pipe: Callable[..., Pipeline]) -> None:
    """The image is complete, and so is its report."""
    output = toy_pipe()("3", on_scale=lambda progress: progress.stop() if progress.scale == 3 else None)

    assert output.stopped is None
    assert output.report is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError], ids=lambda error: error.__name__)
def test_what_a_callback_raises_leaves_the_model_as_it_was(
    pipe_and_prompt: tuple[Pipeline, str], error: type[BaseException]
) -> None:
    """The callback's error is raised as it is in the middle of the image, and the model is free at once."""
    pipe, prompt = pipe_and_prompt
    expected, before = pipe(prompt, output="tensor").images, state(pipe)

    def fail(progress: Progress) -> None:
        if progress.scale == 2:
            raise error("in mid-image")

    with pytest.raises(error, match=r"^in mid-image$"):
        pipe(prompt, on_scale=fail)

    assert before == state(pipe)
    assert torch.equal(expected, pipe(prompt, output="tensor").images)


def test_a_callback_cannot_call_its_own_pipeline(toy_pipe: Callable[..., Pipeline]) -> None:
    """The call is refused in one line instead of waiting forever."""
    pipe = toy_pipe()
    with pytest.raises(SessionError, match="already attached"):
        pipe("3", on_scale=lambda _: pipe("3") and None)
    assert 1 == len(pipe("3").images)
