"""Calibration: what it measures on a model equals a direct computation in float64."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core import AttentionProfile, InputError, Registry, ScaleSchedule, SessionError, calibrate, compress
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.profile import FRACTIONS
from scalekv_core.session.calibration import Calibration
from scalekv_core.testing import toy
from scalekv_core.testing.toy import SCHEDULE, ToyImageModel, ToyModel

TOY = Registry.of(toy)
LABELS = [["1", "2", "3"], ["7"], ["8", "9"]]


@pytest.fixture
def model() -> ToyImageModel:
    return cast(ToyImageModel, toy.ToyCard().load())


class Recorder(ConcatCache):
    """The unmodified cache, which also writes down every query and key."""

    def __init__(self, calls: list[list[tuple[Tensor, Tensor, float]]]) -> None:
        super().__init__()
        self.calls = calls

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float) -> Tensor:
        out = super().attend(layer, q, k, v, softmax_scale=softmax_scale)
        self.calls[layer].append((q, self.keys[layer], softmax_scale))
        return out


def direct(model: ToyImageModel, queries: int, fractions: tuple[float, ...]) -> tuple[NDArray, ...]:
    """Mass [K, L, H, K], top shares [K, L, H, F], entropy and column variance [K, L, H], one query at a time in float64."""
    module = cast(ToyModel, model.module)
    before, images = module.new_cache, []
    module.new_cache = lambda schedule: images.append([[], [], []]) or Recorder(images[-1])  # type: ignore[func-returns-value]
    for labels in LABELS:
        model.generate(labels, seeds=[0] * len(labels))
    module.new_cache = before
    mass, share, seen = np.zeros((4, 3, 4, 4)), np.zeros((4, 3, 4, len(fractions))), np.zeros((4, 3, 4))
    entropy, variance = np.zeros((4, 3, 4)), np.zeros((4, 3, 4))
    for image in images:
        for layer, maps in enumerate(image):
            for scale, (q, k, softmax_scale) in enumerate(maps):
                n = SCHEDULE.tokens[scale]
                step = max(1, math.ceil(n / queries))
                chosen = list(range(n)) if n <= queries else list(range(step // 2, n, step))
                for row in range(q.shape[0]):
                    for head in range(4):
                        of_queries = []
                        for query in chosen:
                            p = (
                                (softmax_scale * k[row, head].double() @ q[row, head, query].double())
                                .softmax(dim=0)
                                .numpy()
                            )
                            seen[scale, layer, head] += 1
                            for position, attention in enumerate(p):
                                mass[scale, layer, head, SCHEDULE.scale_of(position)] += attention
                            share[scale, layer, head] += shares(p[: SCHEDULE.history[scale]], fractions)
                            entropy[scale, layer, head] -= (p * np.log(p)).sum()
                            of_queries.append(p)
                        variance[scale, layer, head] += np.var(of_queries, axis=0).sum() * len(chosen)
    return mass / seen[..., None], share / seen[..., None], entropy / seen, variance / seen


def shares(history: NDArray, fractions: tuple[float, ...]) -> list[float]:
    """The share of the history's attention mass that the strongest ceil(fraction x N) tokens hold."""
    if not len(history):
        return [1.0] * len(fractions)
    strongest = np.sort(history)[::-1]
    counts = [math.ceil(Fraction(str(fraction)) * len(history)) for fraction in fractions]
    return [strongest[:count].sum() / strongest.sum() for count in counts]


def measured(model: ToyImageModel, queries: int = 64, fractions: tuple[float, ...] = FRACTIONS) -> AttentionProfile:
    with calibrate(model, queries=queries, fractions=fractions, registry=TOY) as calibration:
        for labels in LABELS:
            model.generate(labels, seeds=[0] * len(labels))
    return calibration.profile()


@pytest.mark.parametrize("queries", [64, 7, 3, 1])
def test_it_is_the_direct_computation(model: ToyImageModel, queries: int) -> None:
    """Every number agrees, over three batches of different sizes, with all queries of a map and with few of them."""
    fractions = (0.1, 0.34, 0.5, 1.0)
    profile = measured(model, queries, fractions)
    mass, share, entropy, variance = direct(model, queries, fractions)

    np.testing.assert_allclose(profile.mass, mass, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(profile.top_share, share, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(profile.measured("entropy"), entropy, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(profile.measured("column_variance"), variance, rtol=1e-3, atol=1e-6)
    assert np.float32 == profile.mass.dtype == profile.top_share.dtype


def test_attention_adds_up_to_one(model: ToyImageModel) -> None:
    """The mass over source scales sums to 1 at every scale, layer and head; later scales get none; shares grow."""
    profile = measured(model)

    np.testing.assert_allclose(profile.mass.sum(axis=3), 1.0, rtol=1e-5)
    assert not np.triu(profile.mass.transpose(1, 2, 0, 3), k=1).any()
    assert (np.diff(profile.top_share, axis=3) >= -1e-6).all()
    assert (profile.top_share[0] == 1).all()
    assert ("toy", SCHEDULE, FRACTIONS) == (profile.model, profile.schedule, profile.fractions)


def test_a_share_of_few_tokens_is_rounded_up_exactly() -> None:
    """7 % of 100 tokens are 7, although 0.07 x 100 is more than 7 in floating point."""
    calibration = Calibration("m", toy.GEOMETRY, fractions=(0.07, 0.071, 0.000001, 1.0))
    history = torch.full((1, 1, 1, 100), 0.01)

    np.testing.assert_allclose(calibration._shares(history)[0], [0.07, 0.08, 0.01, 1.0], rtol=1e-5)


def test_drawing_is_as_always(model: ToyImageModel) -> None:
    """Measuring changes no image, and the model is the same after it."""
    before = model.generate(["1"], seeds=[0], keep_logits=True)
    new_cache = cast(ToyModel, model.module).new_cache
    with calibrate(model, registry=TOY):
        inside = model.generate(["1"], seeds=[0], keep_logits=True)

    assert before.logits is not None
    assert inside.logits is not None
    assert all(torch.equal(x, y) for x, y in zip(before.logits, inside.logits, strict=True))
    assert new_cache is cast(ToyModel, model.module).new_cache


def test_it_can_be_saved_and_used(model: ToyImageModel, tmp_path: Path) -> None:
    """The profile says how it was made, comes back as it was, and fits the model."""
    with calibrate(model, provenance={"prompts": "1"}, registry=TOY) as calibration:
        model.generate(["1", "2"], seeds=[0, 0])
    profile = calibration.profile()
    profile.save(tmp_path / "p.safetensors")
    again = AttentionProfile.load(tmp_path / "p.safetensors")

    assert np.array_equal(profile.mass, again.mass)
    assert {"prompts": "1", "batches": "1", "queries_per_map": "64"}.items() <= dict(again.provenance).items()
    assert {"date", "torch"} <= set(again.provenance)
    again.check_fits(toy.GEOMETRY, "toy")


def test_an_image_that_was_broken_off_does_no_harm(model: ToyImageModel) -> None:
    """Wherever an image breaks off, the averages are over the queries that were measured, and still sum to 1."""
    module = cast(ToyModel, model.module)
    with calibrate(model, registry=TOY) as calibration, torch.no_grad():
        model.generate(["1", "2"], seeds=[0, 0])
        cache = module.new_cache(SCHEDULE)
        for layer in range(2):  # the third layer never comes
            q, k, v = torch.randn(3, 5, 4, 1, 8)
            cache.attend(layer, q, k, v, softmax_scale=1.0)
    profile = calibration.profile()

    np.testing.assert_allclose(profile.mass.sum(axis=3), 1.0, rtol=1e-5)
    np.testing.assert_allclose(profile.top_share[0], 1.0, rtol=1e-5)
    assert "1" == profile.provenance["batches"]


def test_another_schedule_is_refused(model: ToyImageModel) -> None:
    """A profile has one schedule; another one is refused even if it has as many maps."""
    module = cast(ToyModel, model.module)
    with calibrate(model, registry=TOY) as calibration, torch.no_grad():
        module.draw(torch.tensor([1]))
        module.schedule = ScaleSchedule([(1, 1), (1, 2), (3, 2), (5, 4)])
        with pytest.raises(SessionError, match="calibration of maps 1x1 2x1 2x3 4x5 was given 1x1 1x2 3x2 5x4"):
            module.draw(torch.tensor([1]))
        module.schedule = SCHEDULE
    np.testing.assert_allclose(calibration.profile().mass.sum(axis=3), 1.0, rtol=1e-5)


def test_the_first_whole_image_decides_the_schedule(model: ToyImageModel) -> None:
    """The maps that the adapter named before do not count, and an image that broke off decides nothing."""
    other, module = ScaleSchedule([(1, 1), (1, 2), (3, 2), (5, 4)]), cast(ToyModel, model.module)
    with calibrate(model, registry=TOY) as calibration, torch.no_grad():
        module.new_cache(SCHEDULE).attend(0, *torch.randn(3, 5, 4, 1, 8), softmax_scale=1.0)
        module.schedule = other
        module.draw(torch.tensor([1]))
        module.schedule = SCHEDULE
        with pytest.raises(SessionError, match="calibration of maps 1x1 1x2 3x2 5x4 was given 1x1 2x1 2x3 4x5"):
            module.draw(torch.tensor([1]))
    profile = calibration.profile()

    assert other == profile.schedule
    np.testing.assert_allclose(profile.mass.sum(axis=3), 1.0, rtol=1e-5)


def test_no_image_is_no_profile(model: ToyImageModel) -> None:
    """Without a finished image there is no profile, also if an image was begun."""
    module = cast(ToyModel, model.module)
    with calibrate(model, registry=TOY) as calibration:
        cache = module.new_cache(SCHEDULE)
        cache.attend(0, *torch.randn(3, 1, 4, 1, 8), softmax_scale=1.0)
    with pytest.raises(SessionError, match="calibration has seen no image"):
        calibration.profile()


@pytest.mark.parametrize(
    "arguments",
    [{"queries": 0}, {"queries": -1}, {"fractions": (0.0,)}, {"fractions": (0.1, 1.1)}, {"fractions": (-0.1,)}],
)
def test_what_cannot_be_measured_is_refused(model: ToyImageModel, arguments: dict) -> None:
    """The refusal comes before anything is attached."""
    with (
        pytest.raises(InputError, match=r"calibration (needs queries|measures fractions)"),
        calibrate(model, registry=TOY, **arguments),
    ):
        pass


def test_a_model_is_calibrated_or_compressed(model: ToyImageModel) -> None:
    """Calibration inside a session is refused; one after the other works."""
    with calibrate(model, registry=TOY):
        second = compress(model, "toy-latest", registry=TOY)
        with pytest.raises(SessionError, match="already attached to 'calibration'"):
            second.__enter__()
    with compress(model, "toy-latest", registry=TOY):
        model.generate(["1"], seeds=[0])
        calibration = calibrate(model, registry=TOY)
        with pytest.raises(SessionError, match="already attached to 'toy-latest'"):
            calibration.__enter__()
