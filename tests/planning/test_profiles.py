"""Profiles: the one of the image's schedule is used, and a missing one is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from scalekv_core import ProfileError, ScaleSchedule
from scalekv_core.planning.profiles import Profiles
from scalekv_core.testing import toy
from tests.plain import ByProfile, profile_of

OTHER = ScaleSchedule([(1, 1), (1, 3), (3, 3)])


POLICY = evolve(toy.latest(), classifier=ByProfile())


SQUARE, WIDE = profile_of(), profile_of(OTHER)


@pytest.mark.parametrize(
    "given",
    [[SQUARE, WIDE], (WIDE, SQUARE), {"1:1": SQUARE, "2:1": WIDE}, iter([SQUARE, WIDE])],
    ids=lambda x: type(x).__name__,
)
def test_the_profile_of_the_images_schedule_is_taken(given: Any) -> None:
    """Profiles may be a sequence or a mapping, in any order."""
    profiles = Profiles.of(given)

    assert SQUARE is profiles.for_image(POLICY, toy.GEOMETRY, "toy")
    assert WIDE is profiles.for_image(POLICY, evolve(toy.GEOMETRY, schedule=OTHER), "toy")


def test_a_policy_that_needs_no_profile_is_given_none() -> None:
    """Such a policy ignores profiles, also those of another model."""
    foreign = Profiles.of(profile_of(name="another"))

    assert None is foreign.for_image(toy.latest(), toy.GEOMETRY, "toy")
    foreign.check(toy.latest(), toy.GEOMETRY, "toy")


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: Profiles.of([SQUARE, profile_of()]), "^two profiles were measured with maps 1x1 2x1 2x3 4x5; give one of them$"),
        (lambda: Profiles.of(["profile.safetensors"]), r"AttentionProfile\.load reads a file\); got 'profile.safetensors'$"),
        (lambda: Profiles.of(3), "got 3$"),
        (
            lambda: Profiles.of([SQUARE, WIDE]).for_image(POLICY, evolve(toy.GEOMETRY, schedule=ScaleSchedule.square(1, 2)), "toy"),
            "^no profile was measured with maps 1x1 2x2; those given were measured with 1x1 2x1 2x3 4x5 and 1x1 1x3 3x3; make one",
        ),
        (
            lambda: Profiles.of(WIDE).for_image(POLICY, toy.GEOMETRY, "toy"),
            "^the profile was measured with maps 1x1 1x3 3x3, the image has 1x1 2x1 2x3 4x5; make one",
        ),
        (lambda: Profiles.of([]).check(POLICY, toy.GEOMETRY, "toy"), "needs an attention profile of the model; make one"),
        (
            lambda: Profiles.of([SQUARE, profile_of(OTHER, name="x")]).check(POLICY, toy.GEOMETRY, "toy"),
            "^the profile was measured on 'x', the model is 'toy'; make one",
        ),
    ],
    ids=["twice", "a name", "a number", "none of several", "another one", "none at all", "another model"],
)  # fmt: skip
def test_what_does_not_fit_is_named(refused: Callable[[], object], message: str) -> None:
    """A profile that does not fit ends in one line."""
    with pytest.raises(ProfileError, match=message):
        refused()
