"""What a layer classifier promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import LayerClassifier
from scalekv_core.testing.cases import ProfileCase
from scalekv_core.testing.common import NotMade, all_same, check_randomness, check_value, refused

Make = Callable[[], LayerClassifier]


def profile_for(classifier: LayerClassifier, case: ProfileCase) -> AttentionProfile | None:
    """What it is given: a profile only if it says that it needs one."""
    return case.profile() if classifier.needs_profile else None


def labels(classifier: LayerClassifier, case: ProfileCase) -> list[Tensor]:
    """The labels, as a tensor to compare."""
    roles = classifier.classify(profile_for(classifier, case), case.geometry)
    if not isinstance(roles, LayerRoles):
        raise NotMade("see roles_fit_the_model")
    return [torch.from_numpy(roles.labels.copy())]


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class without tensors: one classifier can serve many models at once."""
    check_value(make)


def check_roles_fit_the_model(make: Make, case: ProfileCase) -> None:
    """LayerRoles [K, L, H] for maps of any proportion and number; models that it is not for are named in ``only_for``."""
    classifier = make()
    roles = classifier.classify(profile_for(classifier, case), case.geometry)
    wanted = (len(case.maps), case.layers, case.heads)
    assert isinstance(roles, LayerRoles), f"it returned {refused(roles)}; wanted LayerRoles"
    assert roles.labels.shape == wanted, f"it labelled {roles.labels.shape}; [K, L, H] is {wanted}"


def check_scores_are_numbers(make: Make, case: ProfileCase) -> None:
    """If it reports the measure that decided, that is one finite number for each scale, layer and head."""
    classifier = make()
    roles = classifier.classify(profile_for(classifier, case), case.geometry)
    scores = getattr(roles, "scores", None)
    if scores is None:
        return
    wanted = (len(case.maps), case.layers, case.heads)
    assert scores.shape == wanted, f"its scores are {scores.shape}; [K, L, H] is {wanted}"
    assert bool(np.isfinite(scores).all()), "its scores hold nan or inf"


def check_rows_do_not_matter(make: Make, case: ProfileCase) -> None:
    """Roles are of the model: batch and dtype change nothing."""
    larger = evolve(case, rows=case.rows + 1, dtype="bfloat16" if case.dtype == "float32" else "float32")
    assert all_same(labels(make(), case), labels(make(), larger)), "the roles change with the batch or the dtype"


def check_repeats_itself(make: Make, case: ProfileCase) -> None:
    """The same question gets the same roles, from the same and from an equal classifier."""
    classifier = make()
    first = labels(classifier, case)
    assert all_same(first, labels(classifier, case)), "the second call gives other roles"
    assert all_same(first, labels(make(), case)), "an equal classifier gives other roles"


def check_remembers_nothing(make: Make, case: ProfileCase) -> None:
    """No state survives: other models and profiles in between change nothing."""
    classifier = make()
    first = labels(classifier, case)
    for other in (ProfileCase(), evolve(case, layers=case.layers + 1, seed=case.seed + 1)):
        try:
            labels(classifier, other)
        except Exception:  # what it is not for is another promise's business
            continue
    assert all_same(first, labels(classifier, case)), "after another model or profile it gives other roles"


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
