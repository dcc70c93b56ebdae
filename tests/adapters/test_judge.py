"""The metric ``judge`` on the small models that ship: it sees what an image shows, image by image."""

from __future__ import annotations

import pytest
import torch

from scalekv_adapters.judge import Judge
from scalekv_adapters.var.tiny.judge import shows
from scalekv_core import Generation, load_model
from scalekv_core.errors import InputError
from scalekv_core.models.metric import Pair
from scalekv_core.plugins.registry import Registry

ASKED = {
    "var-tiny": ("3", "7", "0"),
    "infinity-tiny": ("a red circle", "two blue squares", "a green circle above a red triangle"),
}
OTHERS = {"var-tiny": ("4", "7", "1"), "infinity-tiny": ("a red square", "two blue squares", "a red circle")}


def pair(model: str, images: torch.Tensor, prompts: tuple[str, ...]) -> Pair:
    made = Generation(images=images, tokens=(), choices=())
    seeds = tuple(range(len(prompts)))
    return Pair(model=model, prompts=prompts, seeds=seeds, unmodified=made, compressed=made, forced=made)


@pytest.mark.parametrize("model", ASKED)
def test_images_are_judged_by_their_own_prompts(model: str) -> None:
    """1 where an image shows what its prompt says, else 0; a batch and its images alone have the same figures."""
    prompts, judge = ASKED[model], Judge()
    images = load_model(model).generate(prompts, seeds=(0, 1, 2)).images
    alone = [judge.measure(pair(model, images[i : i + 1], OTHERS[model][i : i + 1])) for i in range(3)]

    assert [1.0, 1.0, 1.0] == judge.measure(pair(model, images, prompts)).tolist()
    assert [0.0, 1.0, 0.0] == torch.cat(alone).tolist()


def test_it_judges_the_models_that_ship() -> None:
    """And enters by the hook, as the metrics of anybody else do."""
    made = Registry.installed(["scalekv-adapters"]).make("metric", "judge")

    assert set(ASKED) == set(made.models)


def test_images_of_another_size_are_refused() -> None:
    """They are no digits of var-tiny."""
    with pytest.raises(InputError, match=r"the judge reads images of 32 x 32 pixels; got \(64, 32\)"):
        shows(torch.zeros(1, 3, 64, 32), ("3",))
