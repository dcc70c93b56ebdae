"""What a layer classifier is checked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import LayerClassifier
from scalekv_core.testing import real_sizes
from scalekv_core.testing.cases import ProfileCase
from scalekv_core.testing.checks import options
from scalekv_core.testing.checks.remembering import forgotten, keeps_nothing, remembers_nothing, repeats
from scalekv_core.testing.common import (
    Blocked,
    NeverApplies,
    all_same,
    check_randomness,
    check_value,
    made_on_few,
    only_if,
    refused,
)
from scalekv_core.testing.elsewhere import agrees_elsewhere
from scalekv_core.testing.manners import quietly

Make = Callable[[], LayerClassifier]


def profile_for(classifier: LayerClassifier, case: ProfileCase) -> AttentionProfile | None:
    """What it is given: a profile only if it says that it needs one."""
    return case.profile() if classifier.needs_profile else None


def roles_of(classifier: LayerClassifier, case: ProfileCase) -> LayerRoles:
    """The roles; Blocked if they are none."""
    roles = classifier.classify(profile_for(classifier, case), case.geometry)
    if not isinstance(roles, LayerRoles):
        raise Blocked("roles_fit_the_model", f"it returned {refused(roles)}")
    return roles


def labels(classifier: LayerClassifier, case: ProfileCase) -> list[Tensor]:
    """Who plays which role, by the roles' names, as a tensor to compare."""
    roles = roles_of(classifier, case)
    names = sorted(roles.names)
    by_name = np.array([names.index(name) for name in roles.names], dtype=np.int64)
    return [torch.from_numpy(by_name[roles.labels])]


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class without tensors: one classifier can serve many models at once."""
    check_value(make)


@made_on_few(1, real_sizes=4)
def check_roles_fit_the_model(make: Make, case: ProfileCase) -> None:
    """LayerRoles [K, L, H] for maps of any proportion and number; models that it is not for are named in ``only_for``."""
    classifier = make()
    roles = classifier.classify(profile_for(classifier, case), case.geometry)
    assert isinstance(roles, LayerRoles), f"it returned {refused(roles)}; wanted LayerRoles"
    assert roles.labels.shape == case.shape, f"it labelled {roles.labels.shape}; [K, L, H] is {case.shape}"


def check_names_are_distinct(make: Make, case: ProfileCase) -> None:
    """Every role has a name of its own: allocators ask for roles by name."""
    names = roles_of(make(), case).names
    assert all(isinstance(name, str) and name for name in names), f"its roles are {names}; wanted names"
    assert len(set(names)) == len(names), f"two of its roles have one name: {', '.join(names)}"


def check_scores_are_numbers(make: Make, case: ProfileCase) -> None:
    """If it reports the measure that decided, that is one finite number for each scale, layer and head."""
    scores = roles_of(make(), case).scores
    if scores is None:
        return
    assert scores.shape == case.shape, f"its scores are {scores.shape}; [K, L, H] is {case.shape}"
    assert bool(np.isfinite(scores).all()), "its scores hold nan or inf"


@only_if(lambda classifier: classifier.needs_profile, "it needs no profile")
def check_fractions_go_by_value(make: Make, case: ProfileCase) -> None:
    """A profile that lists its fractions in another order, or has more of them, gets the same roles."""
    usual, *others = (evolve(case, fractions=fractions) for fractions in ("usual", "reverse", "more"))
    expected = labels(make(), usual)
    for other in others:
        assert all_same(expected, labels(make(), other)), (
            "the roles change when the same concentrations are listed in another order; ask profile.top_share_at(fraction)"
        )


def check_names_of_models_do_not_matter(make: Make, case: ProfileCase) -> None:
    """Roles follow from what was measured, not from what the model is called."""
    expected = labels(make(), case)
    for name in ("infinity-2b", "var-d30", "x"):
        assert all_same(expected, labels(make(), evolve(case, name=name))), (
            f"the roles change for a model named {name!r}"
        )


def check_rows_do_not_matter(make: Make, case: ProfileCase) -> None:
    """Roles are of the model: batch and dtype change nothing."""
    larger = evolve(case, rows=case.rows + 1, dtype="bfloat16" if case.dtype == "float32" else "float32")
    assert all_same(labels(make(), case), labels(make(), larger)), "the roles change with the batch or the dtype"


def check_repeats_itself(make: Make, case: ProfileCase) -> None:
    """The same question gets the same roles, from the same and from an equal classifier."""
    repeats(make, lambda classifier: labels(classifier, case), "other roles")


def check_remembers_nothing(make: Make, case: ProfileCase) -> None:
    """Roles do not depend on what was asked before: other profiles, of this model or another, change nothing."""
    classifier = make()
    others = (
        evolve(case, seed=case.seed + 1),
        evolve(case, seed=case.seed + 2, content="peaked"),
        evolve(case, layers=case.layers + 1, seed=case.seed + 1),
        ProfileCase(),
    )

    def ask(other: ProfileCase) -> None:
        with contextlib.suppress(Exception):  # what it is not for is another check's business
            labels(classifier, other)

    remembers_nothing(
        classifier, lambda: labels(classifier, case), [partial(ask, one) for one in others], "other roles"
    )


@made_on_few(5, real_sizes=1)
def check_keeps_nothing(make: Make, case: ProfileCase) -> None:
    """Nothing of a profile stays in the classifier, its class or its module; only what the model's shape decides may."""
    classifier = make()
    with forgotten(classifier):
        keeps_nothing(classifier, lambda seed: labels(classifier, evolve(case, seed=case.seed + seed)), "profile")


def check_ignores_global_randomness(make: Make, case: ProfileCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""
    check_randomness(lambda: labels(make(), case))


def check_leaves_its_input_alone(make: Make, case: ProfileCase) -> None:
    """The profile is not written to: the next policy reads it too."""
    classifier = make()
    profile = profile_for(classifier, case)
    classifier.classify(profile, case.geometry)
    if profile is not None:
        untouched = case.profile()
        same = np.array_equal(untouched.mass, profile.mass) and np.array_equal(untouched.top_share, profile.top_share)
        assert same, "it writes to the profile"


@made_on_few(10, real_sizes=1)
def check_is_quiet(make: Make, case: ProfileCase) -> None:
    """It prints nothing, warns of nothing, and leaves the settings of torch, numpy and the process alone."""
    quietly(lambda: labels(make(), case))


def check_another_process_agrees(make: Make) -> None:
    """The same profile gets the same roles tomorrow: hashes of texts, ids and the clock are others in every process."""
    if make().only_for:
        raise NeverApplies("it is for other models")
    agrees_elsewhere(labels, make, real_sizes.profiles()[:2], "gives other roles")


@made_on_few(3)
def check_options_work(make: Make, case: ProfileCase) -> None:
    """With every option set to other values that it accepts, the roles fit the model."""
    options.each_option(make, lambda other: check_roles_fit_the_model(other, case))
