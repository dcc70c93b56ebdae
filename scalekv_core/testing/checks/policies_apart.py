"""Checks that an image does not depend on other images, rows, processes or seeds, and that a policy changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.contracts.policy import Policy
from scalekv_core.testing.cases import ImageCase, read_maps
from scalekv_core.testing.checks import whole
from scalekv_core.testing.checks.policies import Make
from scalekv_core.testing.checks.policies_cached import ROUNDING
from scalekv_core.testing.checks.remembering import forgotten, keeps_nothing, remembers_nothing
from scalekv_core.testing.common import (
    NeverApplies,
    NotApplicable,
    all_same,
    check_randomness,
    made_on_few,
)
from scalekv_core.testing.elsewhere import agrees_elsewhere
from scalekv_core.testing.images import Image, Seen
from scalekv_core.testing.manners import quietly


@made_on_few(1, real_sizes=1)
def check_repeats_itself(make: Make, case: ImageCase) -> None:
    """The same image again gives the same outputs, bit by bit, from the same and from an equal policy."""
    policy = make()
    with forgotten(policy):
        image, again = Image.of(policy, case), Image.of(make(), case)
        first = image.generate(image.cache())
        assert all_same(first, image.generate(image.cache())), "the second image with the same tensors is another one"
        assert all_same(first, again.generate(again.cache())), "an equal policy gives another image"


@made_on_few(2)
def check_remembers_nothing(make: Make, case: ImageCase) -> None:
    """An image does not depend on those before: of the same shape, of another schedule and batch, or broken off."""
    policy = make()
    image = Image.of(policy, case)
    others = [partial(_generate_most, other) for other in _others(policy, case)]
    remembers_nothing(policy, lambda: image.generate(image.cache()), others, "another image")


def _generate_most(image: Image) -> None:
    """The image, whole or without its last map."""
    image.generate(image.cache(), scales=len(image.planned.plan.schedule) - image.planned.geometry.rows % 2)


def _others(policy: Policy, case: ImageCase) -> Iterator[Image]:
    """Images of the same shape, and of others where the policy is for all models."""
    yield Image.of(policy, evolve(case, seed=case.seed + 1))
    if not whole.is_for_some(policy):
        other = evolve(case, maps=read_maps("1x1,2x1,1x3"), rows=case.rows + 1, layers=case.layers + 2, budget="100%")
        yield Image.of(policy, other)


@made_on_few(10, real_sizes=0)
def check_keeps_nothing(make: Make, case: ImageCase) -> None:
    """Nothing of an image stays in the policy, its parts, their classes or modules; only what its shape decides may."""
    policy = make()
    case = whole.busy(policy, case)

    def generate(seed: int) -> None:
        image = Image.of(policy, evolve(case, seed=case.seed + seed))
        image.generate(image.cache())

    with forgotten(policy):
        keeps_nothing(policy, generate, "image")


@made_on_few(3)
def check_images_do_not_mix(make: Make, case: ImageCase) -> None:
    """Two images that are generated alternately are what they are one after the other."""
    whole.images_do_not_mix(make, case)


@made_on_few(10)
def check_nothing_is_hoarded(make: Make, case: ImageCase) -> None:
    """While an image is generated, no key or value of an earlier scale stays in memory beside the cache."""
    whole.nothing_is_hoarded(make, case)


def check_an_interrupted_image_leaves_nothing(make: Make, case: ImageCase) -> None:
    """A cache that is closed in the middle holds nothing, and generates the next image as a new one would."""
    image = Image.of(make(), case)
    cache = image.cache()
    image.generate(cache, scales=1 + case.seed % len(case.maps))
    cache.close()
    assert not list(cache.tensors()), "a closed cache still holds tensors"
    assert all_same(image.generate(image.cache()), image.generate(cache)), "the next image is another one"


def check_ignores_global_randomness(make: Make, case: ImageCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""

    def generate() -> list[Tensor]:
        image = Image.of(make(), case)
        return image.generate(image.cache())

    check_randomness(generate)


def check_rows_permute(make: Make, case: ImageCase) -> None:
    """Rows in another order keep the tokens in that order: an image does not depend on its place in the batch."""
    case = case.with_several(rows=3)
    image, order = Image.of(make(), case), torch.arange(case.rows).flip(0)
    assert_rows_agree(image, order, "in another order of the batch")


def check_rows_are_apart(make: Make, case: ImageCase) -> None:
    """A row keeps the same tokens alone and in a batch: an image does not depend on the images beside it."""
    case = case.with_several(rows=2)
    image = Image.of(make(), case)
    for row in range(case.rows):
        assert_rows_agree(image, torch.tensor([row]), "alone in the batch")


def assert_rows_agree(image: Image, rows: Tensor, how: str) -> None:
    """With these rows only the same tokens are kept, and the outputs differ by no more than rounding.

    torch may compute a batch by another kernel, which rounds otherwise. Where that decides which tokens are kept, noise of
    the same size does, too, and nothing is concluded.
    """
    together, apart, some = Seen(), Seen(), image.rows(rows)
    expected = [x[rows] for x in image.generate(image.cache(together))]
    actual = some.generate(some.cache(apart))
    kept = all_same([x[rows] for x in together.kept], apart.kept)
    if not kept and some.is_undecided():
        raise NotApplicable("rounding decides which tokens are kept")
    assert kept, f"of rows {rows.tolist()} other tokens are kept when they are {how}"
    for one, other in zip(expected, actual, strict=True):
        near = torch.allclose(one.float(), other.float(), rtol=ROUNDING[one.dtype], atol=ROUNDING[one.dtype])
        assert near or some.is_undecided(), f"rows {rows.tolist()} are computed otherwise when they are {how}"


def check_leaves_its_input_alone(make: Make, case: ImageCase) -> None:
    """The model's queries, keys and values are not written to."""
    image, untouched = Image.of(make(), case), Image.of(make(), case)
    image.generate(image.cache())
    for mine, theirs in zip(untouched.layers, image.layers, strict=True):
        assert all_same(list(mine), list(theirs)), "it writes to the model's queries, keys or values"


@made_on_few(10)
def check_is_quiet(make: Make, case: ImageCase) -> None:
    """It prints nothing, warns of nothing, and leaves the settings of torch and of the process alone."""
    case = whole.busy(make(), case)
    quietly(lambda: outputs(make(), case))


def outputs(policy: Policy, case: ImageCase) -> list[Tensor]:
    """What attention gives at every scale and layer."""
    image = Image.of(policy, case)
    return image.generate(image.cache())


def check_another_process_agrees(make: Make) -> None:
    """The same seed gives the same image tomorrow: hashes of texts, ids and the clock are others in every process."""
    cases = [ImageCase.parse("maps=1x1,2x3,4x4,5x5 layers=3 heads=2 width=4 budget=50% seed=3")]
    if whole.is_for_some(make()):
        raise NeverApplies("it is for other models")
    agrees_elsewhere(outputs, make, cases, "gives another image")
