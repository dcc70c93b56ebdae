"""A pipeline generates what the model generates in a session, in any form, and refuses bad input in one line."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scalekv_core import (
    BudgetError,
    CheckpointError,
    InputError,
    Pipeline,
    PipelineOutput,
    Registry,
    ScaleKVError,
    UnknownName,
    compress,
    load_model,
    save_clip,
)
from scalekv_core.memory import free
from scalekv_core.testing import toy
from scalekv_core.testing.toy import ToyImageModel

CAPTION = "a red circle left of a blue square"


def images_of(output: PipelineOutput) -> Tensor:
    assert isinstance(output.images, Tensor)
    return output.images


# -- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, "fold"])
def test_it_generates_what_the_model_generates(policy: str | None) -> None:
    """The images are bit-identical to those of `load_model`, unmodified and in a session."""
    model, pipe = load_model("var-tiny"), Pipeline.from_pretrained("var-tiny", policy=policy)
    if policy is None:
        expected = model.generate(["3", "7"], seeds=[4, 4])
    else:
        with compress(model, policy) as session:
            expected = model.generate(["3", "7"], seeds=[4, 4])

    output = pipe(["3", "7"], seed=4, output="tensor")

    assert torch.equal(expected.images, images_of(output))
    assert output.generation is not None
    assert all(torch.equal(x, y) for x, y in zip(expected.tokens, output.generation.tokens, strict=True))
    assert (output.report is None) == (policy is None)
    assert output.report is None or session.report().as_dict() == output.report.as_dict()


def test_images_come_in_three_forms(digits: Pipeline) -> None:
    """PIL, (B, 3, H, W) for torch and (B, H, W, 3) for numpy have the same pixels."""
    pil, tensor, numpy = (digits("3", seed=1, output=output).images for output in ("pil", "tensor", "numpy"))

    assert (1, 3, 32, 32) == tuple(tensor.shape)
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), numpy[0])
    assert np.array_equal((numpy[0] * 255).round().astype(np.uint8), np.asarray(pil[0]))


def test_every_prompt_has_every_seed(digits: Pipeline) -> None:
    """Images are in the order of the prompts; one seed counts up, several are used as they are."""
    counted, listed = digits(["3", "7"], seed=5, num_images_per_prompt=2), digits(["3", "7"], seed=[9, 2])

    assert (("3", "3", "7", "7"), (5, 6, 5, 6)) == (counted.job.prompts, counted.job.seeds)
    assert (9, 2, 9, 2) == listed.job.seeds
    assert 4 == len(counted.images) == len(listed.images)


def test_generators_take_the_place_of_seeds(digits: Pipeline) -> None:
    """One generator for all images, or one for each, gives each image a seed of its own; results are reproducible."""

    def generators(number: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(number)]

    alone = digits(["3", "7"], generators=torch.Generator().manual_seed(0), output="tensor")
    again = digits(["3", "7"], generators=torch.Generator().manual_seed(0), output="tensor")
    each = digits("3", generators=generators(2), num_images_per_prompt=2)

    assert torch.equal(images_of(alone), images_of(again))
    assert len(set(alone.job.seeds)) == 2 == len(set(each.job.seeds))


def test_sampling_can_be_changed_for_one_call(captions: Pipeline) -> None:
    """The next call samples with the model's defaults again."""
    before = captions.card.sampling
    weak = captions(CAPTION, guidance=1.5, temperature=0.9)

    assert (1.5, 0.9) == (weak.job.sampling.guidance, weak.job.sampling.temperature)
    assert before == captions(CAPTION).job.sampling


def test_the_shape_is_that_of_one_call(captions: Pipeline) -> None:
    """The next image has the model's own shape again, also after one that failed."""
    assert (60, 80) == captions(CAPTION, aspect="3:4").images[0].size
    with pytest.raises(InputError, match="unknown word 'colourless'"):
        captions("colourless green ideas", aspect="4:3")
    assert (64, 64) == captions(CAPTION).images[0].size


def test_a_pipeline_has_a_shape_of_its_own(captions: Pipeline) -> None:
    """The pipeline plans for its shape before the model is loaded, and a call may give another shape."""
    pipe = Pipeline.from_pretrained("infinity-tiny", policy="fold", aspect="4:3")

    assert (80, 60) == pipe(CAPTION).images[0].size
    assert (60, 80) == pipe(CAPTION, aspect="3:4").images[0].size
    assert (80, 60) == pipe(CAPTION).images[0].size
    with pytest.raises(
        InputError, match=r"^model 'infinity-tiny' generates no such images: there is no aspect ratio '9:1'"
    ):
        Pipeline.from_pretrained("infinity-tiny", aspect="9:1")


def test_a_negative_prompt_leads_elsewhere(captions: Pipeline) -> None:
    """A negative prompt changes the image; with an empty one the image is the same every time."""
    plain, empty, against = (
        captions(CAPTION, negative_prompt=negative, output="tensor") for negative in ("", "", "a yellow triangle")
    )

    assert torch.equal(images_of(plain), images_of(empty))
    assert not torch.equal(images_of(plain), images_of(against))


# -- policies -----------------------------------------------------------------------------------------------------


def test_another_policy_of_the_same_model(toy_pipe: Callable[..., Pipeline]) -> None:
    """The second pipeline shares the loaded model, and each keeps its own policy and budget."""
    pipe = toy_pipe(budget="60%")
    other, unmodified = pipe.with_policy("toy-latest", budget="40%"), pipe.with_policy(None)

    assert pipe.model is other.model is unmodified.model
    held = [one("3").report.as_dict()["resident_bytes"] for one in (pipe, other)]
    assert held[1] < held[0]
    assert unmodified("3").report is None


def test_threads_take_turns(digits: Pipeline) -> None:
    """Two policies that are called at once give the images that each gives alone."""
    pipes = [digits, digits.with_policy("uniform", budget="20%"), digits.with_policy(None)] * 2
    alone = [images_of(pipe("5", seed=i, output="tensor")) for i, pipe in enumerate(pipes)]
    with ThreadPoolExecutor(len(pipes)) as threads:
        waiting = [threads.submit(pipe, "5", seed=i, output="tensor") for i, pipe in enumerate(pipes)]
        together = [images_of(one.result()) for one in waiting]

    assert all(torch.equal(x, y) for x, y in zip(alone, together, strict=True))


# -- refusals -----------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"output": "jpeg"}, "^output is one of pil, tensor, numpy; got 'jpeg'$"),
    ({"guidance": -1}, "^sampling needs guidance at least 0 "),
    ({"topk": 3}, "^sampling has no 'topk'; it has guidance, top_k, "),
    ({"seed": -1}, "^model 'var-tiny' needs seeds that are whole numbers from 0 "),
    ({"seed": [1, 2], "num_images_per_prompt": 3}, "^3 images of each prompt need one seed "),
    ({"num_images_per_prompt": 0}, "^model 'var-tiny' generates at least 1 image of each prompt; got 0$"),
    ({"generators": [0, 1]}, "^model 'var-tiny' needs one seed per image: 1 images, got 2 seeds$"),
    ({"aspect": "16:9"}, "^model 'var-tiny' generates no such images: there is no aspect ratio '16:9'"),
    ({"size": "1M"}, "^model 'var-tiny' generates no such images: there is only one size"),
    (
        {"negative_prompt": "4"},
        "^model 'var-tiny' generates class labels, which have no negative prompt; leave it out$",
    ),
    ({"prompt": "x" * 10_000}, r"^model 'var-tiny' generates class labels.*\(10000 characters\)$"),
    ({"prompt": []}, "^model 'var-tiny' needs at least one prompt; got none$"),
    ({"prompt": 3}, "^model 'var-tiny' needs a list of prompts, one per image; got 3$"),
]


@pytest.mark.parametrize(
    ("how", "message"), REFUSED, ids=[next(iter(how)) + str(i) for i, (how, _) in enumerate(REFUSED)]
)
def test_a_call_that_cannot_be_done_is_one_line(digits: Pipeline, how: dict[str, Any], message: str) -> None:
    """The call generates nothing, and the next call works."""
    with pytest.raises(InputError, match=message) as refused:
        digits(**{"prompt": "3", **how})

    assert 1 == len(str(refused.value).splitlines())
    assert 1 == len(digits("3").images)


@pytest.mark.parametrize(
    "how", [{"seed": 1.9}, {"seed": float("nan")}, {"seed": "0"}, {"seed": [1.9]}, {"num_images_per_prompt": "2"}]
)
def test_numbers_of_a_wrong_type_are_one_line(digits: Pipeline, how: dict[str, Any]) -> None:
    """Not an error of Python's."""
    with pytest.raises(InputError, match=r"^model 'var-tiny' (needs seeds|generates at least 1 image)"):
        digits("3", **how)


@pytest.mark.parametrize(
    "prompt", ["a red circle " * 770, "a red circle left of " * 500 + "a blue square", "x" * 10_000]
)
def test_a_prompt_of_ten_thousand_characters_is_one_short_line(captions: Pipeline, prompt: str) -> None:
    """The message is short also where every word of the prompt is known."""
    assert len(prompt) >= 10_000
    with pytest.raises(InputError, match=r"^caption .*\(1.* characters\)") as refused:
        captions(prompt)
    assert 1 == len(str(refused.value).splitlines())
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"model": "var-tinny"}, UnknownName, "no model is called 'var-tinny'; did you mean 'var-tiny'"),
        ({"policy": "fould"}, UnknownName, "no policy is called 'fould'; did you mean 'fold'"),
        ({"budget": "0.1%"}, BudgetError, "budget 0.1% of history is too small for policy 'scalekv'"),
        ({"device": "meta"}, InputError, "device 'meta' holds no numbers"),
        ({"dtype": "int3"}, UnknownName, "no dtype is called 'int3'"),
        ({"weights": "here"}, InputError, "model 'var-tiny' ships with its weights"),
        ({"policy": None, "codec": "int8"}, InputError, "the unmodified model has no policy to change; leave out codec"),
        ({"model": "var-d16", "weights": "nowhere"}, CheckpointError, "model 'var-d16' lacks nowhere"),
    ],
    ids=["model", "policy", "budget", "device", "dtype", "weights", "no policy", "missing weights"],
)  # fmt: skip
def test_what_cannot_be_loaded_is_one_line(how: dict[str, Any], error: type[ScaleKVError], message: str) -> None:
    """The refusal comes before anything is loaded."""
    with pytest.raises(error, match=f"^{message}"):
        Pipeline.from_pretrained(**{"model": "var-tiny", **how})


@pytest.mark.parametrize("policy", ["fold", None])
def test_a_batch_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, digits: Pipeline, policy: Any) -> None:
    """The call refuses with what the batch needs and what to do; a batch that fits is generated."""
    pipe = digits.with_policy(policy, budget=None if policy is None else "10%")
    monkeypatch.setattr(free, "memory_for_process", lambda _: 20 * 2**20)
    with pytest.raises(InputError, match=r"needs .* MiB .* and 20\.0 MiB are free; "):
        pipe("3", num_images_per_prompt=64)


def test_clips_come_in_every_form(tmp_path: Path) -> None:
    """Lists of frames, (B, 3, F, H, W), (B, F, H, W, 3), and previews of the same shape; one of them is a file."""
    pipe = Pipeline.from_pretrained("toy-video", policy="toy-latest", budget="60%", registry=Registry.of(toy))
    previews: list[Any] = []
    tensor = pipe(["3", "5"], output="tensor", on_scale=lambda progress: previews.append(progress.preview)).images
    assert (2, 3, 2, 24, 32) == tensor.shape == previews[0].shape
    assert torch.equal(tensor, previews[-1])
    frames = pipe(["3", "5"]).images
    assert [2, 2] == [len(clip) for clip in frames]
    arrays = pipe(["3", "5"], output="numpy").images
    for clip in range(2):
        for frame in range(2):
            wanted = (tensor[clip, :, frame].permute(1, 2, 0) * 255).round().byte().numpy()
            assert (wanted == np.asarray(frames[clip][frame])).all()
            assert (wanted == (arrays[clip, frame] * 255).round().astype("uint8")).all()
    assert [tmp_path / "clip.gif"] == save_clip(tensor[0], tmp_path / "clip.gif", fps=pipe.card.fps)


def test_a_model_that_tells_nothing_of_its_scales(
    toy_pipe: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin's model without `on_scale` generates, but refuses a callback."""
    own = ToyImageModel.generate

    def generate(self: Any, prompts: Any, *, seeds: Any, sampling: Any = None) -> Any:
        return own(self, prompts, seeds=seeds, sampling=sampling)

    monkeypatch.setattr(ToyImageModel, "generate", generate)
    pipe = toy_pipe()

    assert 1 == len(pipe("3").images)
    with pytest.raises(InputError, match=r"^model 'toy' has no on_scale; leave it out$"):
        pipe("3", on_scale=print)


@pytest.mark.parametrize("model", [3, None, True, ["var-tiny"]])
def test_a_model_is_named_by_a_text(model: Any) -> None:
    """What is no text is no name of a model, for a pipeline as for a model alone."""
    for load in (Pipeline.from_pretrained, load_model):
        with pytest.raises(InputError, match="a model is named by a text"):
            load(model)


@pytest.mark.parametrize("images", [True, False, 0, -1, 1.5, "2"])
@pytest.mark.parametrize("how", [{}, {"generators": [5]}])
def test_a_number_of_images_is_a_whole_number(images: Any, how: dict[str, Any]) -> None:
    """A truth value is no number, with seeds and with generators."""
    pipe = Pipeline.from_pretrained("var-tiny", policy=None)
    with pytest.raises(InputError, match="generates at least 1 image of each prompt; got"):
        pipe("3", num_images_per_prompt=images, **how)
