"""Mistakes of an adapter or a policy end in one line that says who, where, wanted and got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from attrs import field, frozen
from torch import Tensor

from scalekv_core import (
    CacheCodec,
    CacheGeometry,
    CachePlan,
    CacheView,
    ContractError,
    Encoded,
    KVCache,
    ScaleSchedule,
    SessionError,
    TokenMerger,
    TokenSelector,
    ops,
)
from scalekv_core.contracts.encoded import Kind
from scalekv_core.testing.toy import Latest
from tests.plain import Case, FoldIntoNearest, HashScores, Seen, drive, policy_of

SCHEDULE = ScaleSchedule([(1, 1), (2, 3), (3, 4), (4, 4)])
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=2, heads=3, head_dim=8, rows=2)
CAPACITY = np.broadcast_to(np.array([1, 4, 5, 0])[:, None, None], (4, 2, 3))
CASE = Case(CachePlan(SCHEDULE, CAPACITY), GEOMETRY)


def fresh(selector: TokenSelector | None = None, *, check: bool = False, **parts: Any) -> KVCache:
    return KVCache(CASE.plan, policy_of(selector, **parts), check=check)


# -- what the model does wrong ------------------------------------------------------------------------------------


def bad_shapes() -> dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]]:
    return {
        "another row": lambda q, k, v: (q[:1], k[:1], v[:1]),
        "a head less": lambda q, k, v: (q[:, :2], k[:, :2], v[:, :2]),
        "a token less": lambda q, k, v: (q[:, :, 1:], k[:, :, 1:], v[:, :, 1:]),
        "one query": lambda q, k, v: (q[:, :, :1], k, v),
        "keys of fewer heads": lambda q, k, v: (q, k[:, :1], v[:, :1]),
        "values of fewer tokens": lambda q, k, v: (q, k, v[:, :, 1:]),
        "tokens before heads": lambda q, k, v: (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)),
        "another width": lambda q, k, v: (q[..., :4], k[..., :4], v[..., :4]),
        "narrow values": lambda q, k, v: (q, k, v[..., :4]),
        "three axes": lambda q, k, v: (q[0], k[0], v[0]),
        "half keys": lambda q, k, v: (q, k.half(), v),
        "all half": lambda q, k, v: (q.half(), k.half(), v.half()),
    }


@pytest.mark.parametrize("which", [0, 1, 2], ids="qkv")
def test_gradients_are_refused(which: int) -> None:
    """Queries, keys or values that require gradients are refused; without a graph they work."""
    tensors = [x.clone() for x in CASE.maps(0)[0]]
    tensors[which].requires_grad_()
    with pytest.raises(SessionError, match=r"asked for gradients.*generate under torch.inference_mode\(\)"):
        fresh().attend(0, *tensors, softmax_scale=1.0)
    with torch.no_grad():
        fresh().attend(0, *tensors, softmax_scale=1.0)


@pytest.mark.parametrize("fault", bad_shapes())
def test_tensors_of_another_image_are_refused(fault: str) -> None:
    """Rows, heads, width and dtype must not change, and tokens must be those of the map; the error shows all three
    tensors.
    """
    cache = fresh()
    drive(CASE, cache, scales=1)
    q, k, v = CASE.maps(1)[0]

    with pytest.raises(SessionError) as refusal:
        cache.attend(0, *bad_shapes()[fault](q, k, v), softmax_scale=1.0)
    assert str(refusal.value).startswith(
        "layer 0 at scale 1 needs q, k and v of (rows, heads, tokens, width) = (2, 3, 6, 8) in torch.float32; got q ("
    )
    assert 1 == len(str(refusal.value).splitlines())


def test_a_refused_map_can_be_given_again() -> None:
    """A refusal changes nothing, so the image can continue."""
    cache = fresh()
    drive(CASE, cache, scales=1)
    with pytest.raises(SessionError):
        cache.attend(0, *CASE.maps(2)[0], softmax_scale=1.0)

    reference = drive(CASE, fresh())
    out = cache.attend(0, *CASE.maps(1)[0], softmax_scale=CASE.softmax_scale)
    assert torch.equal(reference[1][0], out)


def test_too_many_maps_are_refused() -> None:
    """A map after the last of the schedule is refused."""
    cache = fresh()
    drive(CASE, cache)

    with pytest.raises(
        SessionError, match=r"^layer 1 received a map after the last of its schedule, which has 4; begin a new image$"
    ):
        cache.attend(1, *CASE.maps(3)[1], softmax_scale=1.0)


@pytest.mark.parametrize("layer", [-1, 2, 99])
def test_layers_are_counted_from_0(layer: int) -> None:
    """A negative layer is not the last one."""
    with pytest.raises(SessionError, match=rf"^attention of layer {layer} was called; the plan has layers 0 to 1$"):
        fresh().attend(layer, *CASE.maps(0)[0], softmax_scale=1.0)


# -- what a selector does wrong -----------------------------------------------------------------------------------


@frozen
class Wrong(TokenSelector):
    """Returns an invalid answer."""

    answer: Callable[[CacheView, int], Any]

    def select(self, view: CacheView, keep: int) -> Tensor:
        return self.answer(view, keep)


def right(view: CacheView, keep: int) -> Tensor:
    return ops.all_tokens(view.k, 0, keep)


WRONG_INDICES: dict[str, tuple[Callable[[CacheView, int], Any], str]] = {
    "one more": (
        lambda view, keep: right(view, keep + 1),
        r"returned torch\.int64 of shape \(2, 3, 5\); wanted int64 \(2, 3, 4\)",
    ),
    "one less": (lambda view, keep: right(view, keep - 1), r"shape \(2, 3, 3\)"),
    "one for all rows": (lambda view, keep: right(view, keep)[:1], r"shape \(1, 3, 4\)"),
    "one for all heads": (lambda view, keep: right(view, keep)[:, :1], r"shape \(2, 1, 4\)"),
    "one axis": (lambda view, keep: torch.arange(keep), r"shape \(4,\)"),
    "int32": (lambda view, keep: right(view, keep).int(), r"returned torch\.int32"),
    "a mask": (lambda view, keep: view.positions < keep, r"returned torch\.bool of shape \(2, 3, 7\)"),
    "a list": (lambda view, keep: list(range(keep)), "returned a list; wanted int64"),
    "none": (lambda view, keep: None, "returned a NoneType; wanted int64"),
    "past the end": (
        lambda view, keep: right(view, keep) + view.tokens - keep + 1,
        r"returned an index outside of 0\.\.6",
    ),
    "negative": (lambda view, keep: right(view, keep) - 1, r"returned an index outside of 0\.\.6"),
    "twice the same": (lambda view, keep: right(view, keep) // 2, "returned indices that are not ascending and unique"),
    "descending": (lambda view, keep: right(view, keep).flip(2), "returned indices that are not ascending and unique"),
}


@pytest.mark.parametrize("fault", WRONG_INDICES)
def test_a_selector_that_breaks_its_contract_is_named(fault: str) -> None:
    """Its first answer is checked also without check=True; the error gives class, policy, layer, scale, wanted and got."""
    answer, message = WRONG_INDICES[fault]
    cache = fresh(Wrong(answer))

    with pytest.raises(ContractError, match=message) as refusal:
        drive(CASE, cache)
    assert str(refusal.value).startswith("selector Wrong of policy 'test', layer 0 at scale 1, ")


def test_later_answers_are_checked_on_demand() -> None:
    """With check=True every answer is checked, which waits for the device; without it only the first one."""
    answer = Wrong(lambda view, keep: right(view, keep) if view.layer == 0 else right(view, keep).flip(2))

    drive(CASE, fresh(answer))
    with pytest.raises(ContractError, match=r"layer 1 at scale 1, returned indices that are not ascending and unique"):
        drive(CASE, fresh(answer, check=True))


def test_the_first_answer_of_every_image_is_checked() -> None:
    """A reused cache checks the first answer of the next image too."""
    wrong = [False]
    cache = fresh(Wrong(lambda view, keep: right(view, keep).flip(2) if wrong[0] else right(view, keep)))
    drive(CASE, cache)
    cache.close()
    wrong[0] = True

    with pytest.raises(ContractError, match="not ascending"):
        drive(CASE, cache)


@frozen
class WrongStatistics(HashScores):
    """Returns invalid statistics."""

    statistics: ClassVar[tuple[str, ...]] = ("mass",)
    answer: Callable[[CacheView], Any] = lambda view: {}

    def observe(self, view: CacheView) -> Any:
        return self.answer(view)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda view: {}, "nothing"),
        (lambda view: {"mas": view.positions}, "nothing"),
        (lambda view: {"mass": view.positions[:, :, 1:]}, r"\(2, 3, 0\)"),
        (lambda view: {"mass": view.positions[:1]}, r"\(1, 3, 1\)"),
    ],
    ids=["nothing", "misspelt", "a token less", "one row"],
)
def test_a_statistic_that_is_not_kept_is_named(answer: Callable[[CacheView], Any], got: str) -> None:
    """The error gives the name, the wanted shape and what was returned."""
    with pytest.raises(
        ContractError, match=rf"must return statistic 'mass' of shape \(2, 3, 1\) from observe; got {got}$"
    ):
        drive(CASE, fresh(WrongStatistics(answer=answer)))


# -- what a merger does wrong -------------------------------------------------------------------------------------


@frozen
class WrongMerger(TokenMerger):
    """Returns invalid targets."""

    answer: Callable[[CacheView, Tensor, Tensor], Any]

    def assign(self, view: CacheView, kept: Tensor) -> Any:
        return self.answer(view, kept, FoldIntoNearest().assign(view, kept))


WRONG_TARGETS: dict[str, tuple[Callable[[CacheView, Tensor, Tensor], Any], str]] = {
    "a token less": (
        lambda view, kept, target: target[:, :, 1:],
        r"returned torch\.int64 of shape \(2, 3, 6\); wanted int64 \(2, 3, 7\)",
    ),
    "int32": (lambda view, kept, target: target.int(), r"returned torch\.int32 of shape \(2, 3, 7\)"),
    "none": (lambda view, kept, target: None, "returned a NoneType"),
    "past the end": (
        lambda view, kept, target: target + 1,
        r"returned a target outside of 0\.\.3 \(-1 drops a token\)",
    ),
    "below -1": (lambda view, kept, target: target - 2, r"outside of 0\.\.3 \(-1 drops a token\)"),
    "kept tokens moved": (lambda view, kept, target: 3 - target, "assigned a kept token to another one"),
    "everything dropped": (lambda view, kept, target: target * 0 - 1, "assigned a kept token to another one"),
    "into tokens, not into kept": (lambda view, kept, target: kept.gather(2, target), "merger WrongMerger"),
}


@pytest.mark.parametrize("fault", WRONG_TARGETS)
def test_a_merger_that_breaks_its_contract_is_named(fault: str) -> None:
    """An index past the end would crash a GPU kernel, and a kept token without a count would become NaN."""
    answer, message = WRONG_TARGETS[fault]

    with pytest.raises(ContractError, match=message) as refusal:
        drive(CASE, fresh(merger=WrongMerger(answer)))
    assert "merger WrongMerger" in str(refusal.value)
    assert "layer 0 at scale 1" in str(refusal.value)


@frozen
class WrongWeights(FoldIntoNearest):
    """Returns invalid weights."""

    answer: Callable[[Tensor], Any]

    def weights(self, view: CacheView) -> Any:
        return self.answer(torch.ones(view.positions.shape))


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda ones: ones[:, :, 1:], r"torch\.float32 of shape \(2, 3, 6\)"),
        (lambda ones: ones.double(), r"torch\.float64 of shape \(2, 3, 7\)"),
        (lambda ones: 1.0, "a float"),
    ],
    ids=["a token less", "float64", "a number"],
)
def test_weights_of_another_form_are_named(answer: Callable[[Tensor], Any], got: str) -> None:
    """The error says who, where, got and wanted."""
    wanted = rf"merger WrongWeights, layer 0 at scale 1, returned weights {got}; wanted float32 \(2, 3, 7\)"
    with pytest.raises(ContractError, match=wanted):
        drive(CASE, fresh(merger=WrongWeights(answer)))


# -- what a codec does wrong --------------------------------------------------------------------------------------


@frozen
class Passing(CacheCodec):
    """A careless codec that returns the tensor that it was given if there is nothing to convert."""

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        return Encoded({"x": x.float()})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        out.copy_(stored.tokens["x"])

    def nbytes(
        self, kind: Kind, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return rows * heads * tokens * head_dim * 4


@frozen
class PassingWhole(Passing):
    """A codec that stores what attention read, which is a view of the shared scratch."""

    def keep(self, stored: Encoded | None, current: Tensor, whole: Tensor, index: Tensor | None, kind: Kind) -> Encoded:
        return Encoded({"x": whole if index is None else ops.gather_tokens(whole, index)})


@frozen
class PassingTheEnd(Passing):
    """A codec that stores the last tokens as a view of what attention read."""

    def keep(self, stored: Encoded | None, current: Tensor, whole: Tensor, index: Tensor | None, kind: Kind) -> Encoded:
        return Encoded({"x": whole if index is None else whole[:, :, -index.shape[2] :]})


def test_what_a_codec_cuts_out_of_the_scratch_is_copied() -> None:
    """Views of the scratch are copied, also where it is wider than what is kept."""
    cache = fresh(codec=PassingTheEnd())
    for scale in range(3):
        whole = [x.data_ptr() for x in cache.tensors()]
        for layer, qkv in enumerate(CASE.maps(scale)):
            cache.attend(layer, *qkv, softmax_scale=CASE.softmax_scale)
        assert all(x.untyped_storage().nbytes() == x.nbytes for x in cache.tensors()), whole
        assert cache.resident[scale] == sum(x.nbytes for x in cache.tensors())


@pytest.mark.parametrize("codec", [Passing(), PassingWhole()], ids=["the model's tensor", "the scratch"])
@pytest.mark.parametrize("capacity", [[1, 7, 19, 0], [1, 4, 5, 0], [1, 4, 16, 0]], ids=str)
def test_a_codec_that_copies_nothing_does_no_harm(codec: CacheCodec, capacity: list[int]) -> None:
    """The core copies what is kept out of the model's memory and the scratch; bytes are as planned."""
    plan = CachePlan(SCHEDULE, np.broadcast_to(np.array(capacity)[:, None, None], (4, 2, 3)))
    case = Case(plan, GEOMETRY)
    own = [tuple(x.contiguous() for x in layer) for layer in case.tensors]
    cache = KVCache(plan, policy_of(codec=codec), check=True)
    foreign = {x.untyped_storage().data_ptr() for layer in own for x in layer}
    expected = drive(case, KVCache(plan, policy_of()), own)

    outputs = []
    for scale, maps in enumerate([case.maps(scale, own) for scale in range(4)]):
        copies = [tuple(x.clone() for x in layer) for layer in maps]
        outputs.append([cache.attend(la, *qkv, softmax_scale=case.softmax_scale) for la, qkv in enumerate(copies)])
        [x.zero_() for layer in copies for x in layer]  # what a model may do with its own tensors
        assert cache.resident[scale] == sum(x.nbytes for x in cache.tensors())
        assert not foreign & {x.untyped_storage().data_ptr() for x in cache.tensors()}
    assert all(torch.equal(x, y) for a, b in zip(expected, outputs, strict=True) for x, y in zip(a, b, strict=True))


# -- failing in the middle ----------------------------------------------------------------------------------------


@frozen
class Failing(Passing):
    """Raises when it stores this layer's map."""

    error: type[BaseException] = KeyboardInterrupt
    at: int = 2
    asked: list[Kind] = field(factory=list)  # counts across calls, for the test

    def keep(self, stored: Encoded | None, current: Tensor, whole: Tensor, index: Tensor | None, kind: Kind) -> Encoded:
        self.asked.append(kind)
        if len(self.asked) == self.at:
            raise self.error
        return super().keep(stored, current, whole, index, kind)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, torch.cuda.OutOfMemoryError])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 8])
def test_a_failure_in_the_middle_leaves_nothing(error: type[BaseException], at: int) -> None:
    """After a failure between keys and values everything is dropped, memory is free, and the next image is right."""
    cache = fresh(codec=Failing(error=error, at=at))
    with pytest.raises(error):
        drive(CASE, cache)

    assert (0, 0, False) == (cache.resident_bytes(), cache.scratch_bytes, cache.complete)
    mine, theirs = drive(CASE, cache), drive(CASE, fresh())
    assert all(torch.equal(x, y) for a, b in zip(mine, theirs, strict=True) for x, y in zip(a, b, strict=True))


def test_an_image_that_failed_at_the_very_end_is_not_complete() -> None:
    """An observer that raises at the last map of the last layer leaves the image incomplete."""

    def observer(view: CacheView, kept: Tensor | None) -> None:
        if (view.scale, view.layer) == (3, 1):
            raise RuntimeError("disk full")

    cache = KVCache(CASE.plan, policy_of(), observer=observer)
    with pytest.raises(RuntimeError, match="disk full"):
        drive(CASE, cache)
    assert not cache.complete


def test_latest_and_observer_agree_with_the_toy() -> None:
    """The toy's selector keeps the last tokens here too."""
    seen = Seen()
    drive(CASE, KVCache(CASE.plan, policy_of(Latest()), observer=seen))
    view, kept, place = seen.head(2, 1, 0)

    assert list(range(14, 19)) == view.positions[0, place, kept[0, place]].tolist()
