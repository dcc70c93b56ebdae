"""What a cache codec is checked for."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch
from attrs import evolve
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from scalekv_core import ops
from scalekv_core.contracts.encoded import Encoded
from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.testing.cases import CodecCase, ImageCase
from scalekv_core.testing.checks import options, whole
from scalekv_core.testing.common import (
    Blocked,
    all_same,
    check_randomness,
    check_value,
    made_on_few,
    only_if,
    refused,
    rounding,
    same_bits,
)
from scalekv_core.testing.elsewhere import digests, elsewhere
from scalekv_core.testing.manners import in_inference_mode, quietly
from scalekv_core.testing.state import Contents

Make = Callable[[], CacheCodec]
SECONDS = 1.0
"""Processor time within which two maps of a published model are encoded and decoded."""


def encoded(codec: CacheCodec, case: CodecCase, x: Tensor, like: Encoded | None = None) -> Encoded:
    """The codes of x; Blocked if they are of another form, which one check is about."""
    stored = codec.encode(x, case.kind, like=like)
    if not isinstance(stored, Encoded) or not stored.tokens or stored.length != x.shape[2]:
        raise Blocked("codes_belong_to_tokens", f"encode returned {refused(stored)}")
    return stored


def decoded(codec: CacheCodec, case: CodecCase, stored: Encoded, like: Tensor) -> Tensor:
    """What the codes stand for, written where the cache wants it: into a part of a larger buffer, over nan."""
    tokens = stored.length
    buffer = like.new_full((*like.shape[:2], tokens + 3, like.shape[3]), torch.nan)
    codec.decode(stored, case.kind, buffer[:, :, :tokens])
    return buffer


def values(codec: CacheCodec, case: CodecCase, stored: Encoded, like: Tensor) -> Tensor:
    return decoded(codec, case, stored, like)[:, :, : stored.length]


def assert_within_bound(codec: CacheCodec, case: CodecCase, stored: Encoded, x: Tensor) -> None:
    """Decoded numbers are as near to x as the codec says."""
    bound = codec.error_bound(stored, case.kind).float()
    error = (values(codec, case, stored, x).float() - x.float()).abs()
    worst = (error - bound - rounding(x) * (bound > 0)).nan_to_num(torch.inf).max().item()
    assert worst <= 0, (
        f"a decoded number is off by {error.nan_to_num(torch.inf).max().item():.3g}; its error_bound says at most "
        f"{bound.max().item():.3g}"
    )


def chosen(x: Tensor, keep: int, seed: int) -> Tensor:
    """(B, H, keep) ascending indices into the tokens of x, others in every row and head."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(x.shape[:3], generator=generator).argsort(dim=-1)
    return order[..., :keep].sort(dim=-1).values.to(x.device)


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class without tensors: whatever decoding needs is part of the encoded value."""
    check_value(make)


@made_on_few(1, real_sizes=3)
def check_codes_belong_to_tokens(make: Make, case: CodecCase) -> None:
    """``encode`` returns Encoded whose tensors of tokens are all (B, H, N, ...), so that tokens can be gathered."""
    x, _ = case.maps()
    stored = make().encode(x, case.kind)
    assert isinstance(stored, Encoded), f"encode returned {refused(stored)}; wanted Encoded"
    assert stored.tokens, "it stored nothing that belongs to tokens"
    for name, codes in stored.tokens.items():
        assert codes.shape[:3] == x.shape[:3], (
            f"codes {name!r} are {tuple(codes.shape)}; wanted {tuple(x.shape[:3])}, ..."
        )


@made_on_few(1, real_sizes=3)
def check_decodes_within_its_bound(make: Make, case: CodecCase) -> None:
    """Decoded numbers are off by no more than ``error_bound`` says; zero, as it says by default, is bit-equality."""
    for content in (case.content, "zero", "huge"):
        codec, (x, _) = make(), evolve(case, content=content).maps()
        assert_within_bound(codec, case, encoded(codec, case, x), x)


def check_bound_says_something(make: Make, case: CodecCase) -> None:
    """``error_bound`` is smaller than half of the range of the numbers, within which any guess would be."""
    codec, (x, _) = make(), evolve(case, content="ordinary", tokens=max(8, case.tokens)).maps()
    bound = codec.error_bound(encoded(codec, case, x), case.kind).float().mean().item()
    half = (x.float().max() - x.float().min()).item() / 2
    assert bound < half, f"its error_bound is {bound:.3g} on average; all numbers are within {half:.3g} of one"


@made_on_few(2)
def check_decoded_resembles_the_original(make: Make, case: CodecCase) -> None:
    """Decoded numbers explain at least half of the variance of normal ones: another order of tokens or channels does not."""
    codec, (x, _) = make(), evolve(case.with_several(tokens=8, width=4), content="ordinary").maps()
    decoded = values(codec, case, encoded(codec, case, x), x).float()
    centred = x.float() - x.float().mean()
    error = ((decoded - x.float()).square().sum() / centred.square().sum()).item()
    assert error < 0.5, f"the squared error of decoded numbers is {error:.2g} of their variance"


def check_decodes_into_its_place(make: Make, case: CodecCase) -> None:
    """``decode`` writes every number of ``out``, which is part of a larger buffer, and none beside it."""
    codec, (x, _) = make(), case.maps()
    buffer = decoded(codec, case, encoded(codec, case, x), x)
    assert not bool(buffer[:, :, : case.tokens].isnan().any()), "decode leaves a part of out unwritten, or writes nan"
    assert bool(buffer[:, :, case.tokens :].isnan().all()), "decode writes beside out"


def check_later_maps_join(make: Make, case: CodecCase) -> None:
    """A later map, encoded like an earlier one and joined to it, keeps within the bound, and so does the earlier one."""
    codec, (x, y) = make(), case.maps()
    first = encoded(codec, case, x)
    joined = first.join(encoded(codec, case, y, like=first))
    assert_within_bound(codec, case, joined, torch.cat([x, y], dim=2))


def check_gathering_changes_nothing(make: Make, case: CodecCase) -> None:
    """The codes of some tokens decode to what these tokens decoded to before, bit by bit."""
    codec, (x, _) = make(), case.maps()
    stored = encoded(codec, case, x)
    index = chosen(x, 1 + case.seed % case.tokens, case.seed)
    expected = ops.gather_tokens(values(codec, case, stored, x), index)
    actual = values(codec, case, stored.gather(index), x)
    assert same_bits(expected, actual), "a token decodes to something else when others have gone"


def kept_over_scales(codec: CacheCodec, case: CodecCase) -> tuple[Encoded, Tensor]:
    """(stored, originals) after five scales, of each of which some tokens are kept, by way of ``keep`` as the cache does."""
    stored: Encoded | None = None
    originals: Tensor | None = None
    for scale in range(5):
        current = case.maps()[scale % 2] * (1 + scale) if case.content == "ordinary" else case.maps()[scale % 2]
        history = current[:, :, :0] if stored is None else values(codec, case, stored, current)
        whole = torch.cat([history, current], dim=2)
        seen = current if originals is None else torch.cat([originals, current], dim=2)
        index = None if scale == 1 else chosen(whole, max(1, whole.shape[2] * 2 // 3), case.seed + scale)
        stored = codec.keep(stored, current, whole, index, case.kind)
        originals = seen if index is None else ops.gather_tokens(seen, index)
        if not isinstance(stored, Encoded) or stored.length != originals.shape[2]:
            raise Blocked("keeps_what_stays", "keep returned codes of another number of tokens than are kept")
    assert stored is not None
    assert originals is not None
    return stored, originals


def check_keeps_what_stays(make: Make, case: CodecCase) -> None:
    """``keep`` returns the codes of exactly the kept tokens, whether some are evicted or none."""
    codec, (x, y) = make(), case.maps()
    first = codec.keep(None, x, x, None, case.kind)
    whole = torch.cat([values(codec, case, first, x), y], dim=2)
    for index in (chosen(whole, 1 + case.seed % whole.shape[2], case.seed), None):
        stored = codec.keep(first, y, whole, index, case.kind)
        tokens = whole.shape[2] if index is None else index.shape[2]
        assert isinstance(stored, Encoded), f"keep returned {refused(stored)}; wanted Encoded"
        assert stored.length == tokens, f"keep returned {stored.length} tokens; {tokens} are kept"
        originals = torch.cat([x, y], dim=2)
        kept = originals if index is None else ops.gather_tokens(originals, index)
        assert_within_bound(codec, case, stored, kept)


def check_errors_do_not_add_up(make: Make, case: CodecCase) -> None:
    """The error of a kept token does not grow from scale to scale."""
    codec = make()
    stored, originals = kept_over_scales(codec, case)
    assert_within_bound(codec, case, stored, originals)


def check_bytes_are_as_planned(make: Make, case: CodecCase) -> None:
    """``nbytes`` is exactly what is held, after ``encode`` and after scales of ``keep``: plans are made of it."""
    codec, (x, _) = make(), case.maps()
    for stored, maps, how in ((encoded(codec, case, x), 1, "encode"), (kept_over_scales(codec, case)[0], 5, "keep")):
        expected = codec.nbytes(
            case.kind,
            rows=case.rows,
            heads=case.heads,
            tokens=stored.length,
            maps=maps,
            head_dim=case.width,
            dtype=x.dtype,
        )
        actual = sum(tensor.nbytes for tensor in stored.tensors())
        assert expected == actual, f"nbytes says {expected} for {stored.length} tokens; {how} holds {actual}"


def check_owns_its_memory(make: Make, case: CodecCase) -> None:
    """What is stored is no view: it shares no memory with its input, and keeps no larger memory alive."""
    codec, (x, _) = make(), case.maps()
    stored, later = encoded(codec, case, x), kept_over_scales(codec, case)[0]
    for name, tensor in ((name, t) for e in (stored, later) for name, t in (*e.tokens.items(), *e.ranges.items())):
        storage = tensor.untyped_storage()
        assert storage.data_ptr() != x.untyped_storage().data_ptr(), f"{name!r} is a view of what was encoded"
        assert storage.nbytes() == tensor.nbytes, (
            f"{name!r} has {tensor.nbytes} bytes and keeps {storage.nbytes()} alive: it is a view of something larger"
        )


@only_if(lambda codec: codec.dense, "it is not dense")
def check_dense_means_as_it_is(make: Make, case: CodecCase) -> None:
    """A codec with ``dense`` stores the tensor itself, as "x": attention reads it in place, without decoding."""
    stored, (x, _) = make().encode(case.maps()[0], case.kind), case.maps()
    assert list(stored.tokens) == ["x"], f"a dense codec stores 'x'; got {', '.join(stored.tokens)}"
    assert not stored.ranges, "a dense codec has no ranges"
    assert same_bits(x, stored.tokens["x"]), "what is stored is not what was encoded"


def check_rows_are_apart(make: Make, case: CodecCase) -> None:
    """Batched and unbatched rows decode to the same values: an image does not depend on the images beside it."""
    case = case.with_several(rows=2)
    codec, (x, y) = make(), case.maps()
    first = encoded(codec, case, x)
    together = values(codec, case, first.join(encoded(codec, case, y, like=first)), x)
    for row in range(case.rows):
        alone = encoded(codec, case, x[row : row + 1])
        joined = alone.join(encoded(codec, case, y[row : row + 1], like=alone))
        assert same_bits(together[row : row + 1], values(codec, case, joined, x[row : row + 1])), (
            f"row {row} of {case.rows} decodes to something else when it is alone in the batch"
        )


def answer(codec: CacheCodec, case: CodecCase) -> list[Tensor]:
    """All codes of the case's maps, the second encoded like the first, and what both decode to."""
    x, y = case.maps()
    first = encoded(codec, case, x)
    joined = first.join(encoded(codec, case, y, like=first))
    return [*first.tensors(), *joined.tensors(), values(codec, case, joined, x)]


def check_repeats_itself(make: Make, case: CodecCase) -> None:
    """The same numbers get the same codes, from the same and from an equal codec, with and without gradients."""
    codec = make()
    first = answer(codec, case)
    assert all_same(first, answer(codec, case)), "the same map gets other codes the second time"
    assert all_same(first, answer(make(), case)), "an equal codec gives other codes"
    in_inference_mode(lambda: answer(make(), case))


def check_remembers_nothing(make: Make, case: CodecCase) -> None:
    """Codes do not depend on what was encoded before: other images, batches and dtypes change nothing."""
    codec = make()
    untouched = Contents.of(codec)
    others = (
        evolve(case, seed=case.seed + 1),
        evolve(case, seed=case.seed + 1, rows=case.rows + 1, tokens=case.later, later=case.tokens),
        evolve(case, kind="value" if case.kind == "key" else "key", dtype="bfloat16", width=2 * case.width),
    )
    try:
        first = answer(codec, case)
        for other in others:
            untouched.restore()
            answer(codec, other)
            assert all_same(first, answer(codec, case)), "after another map the same one gets other codes"
    finally:
        untouched.restore()


@made_on_few(10, real_sizes=1)
def check_keeps_nothing(make: Make, case: CodecCase) -> None:
    """No tensor of an image stays in the codec, its class or its module: originals beside the codes save nothing."""
    codec = make()
    untouched = Contents.of(codec)
    try:
        for seed in (0, 1):
            kept_over_scales(codec, evolve(case, seed=case.seed + seed))
        before = Contents.of(codec)
        kept_over_scales(codec, evolve(case, seed=case.seed + 2))
        changed = before.changes(Contents.of(codec))
        assert not changed, f"every image changes what {changed[0]} holds"
        x = case.maps()[0].clone()
        stored, storage = encoded(codec, case, x), StorageWeakRef(x.untyped_storage())
        del x
        gc.collect()
        assert storage.expired(), f"beside {stored.length} encoded tokens the original is kept in memory"
    finally:
        untouched.restore()


@made_on_few(4, real_sizes=0)
def check_images_do_not_mix(make: Make, case: ImageCase) -> None:
    """Two images that are generated alternately are what they are one after the other."""
    whole.images_do_not_mix(lambda: whole.policy_around(make()), case)


@made_on_few(10, real_sizes=0)
def check_nothing_is_hoarded(make: Make, case: ImageCase) -> None:
    """While an image is generated, nothing but the codes stays in memory: originals beside them save nothing."""
    whole.nothing_is_hoarded(lambda: whole.policy_around(make()), case)


def check_ignores_global_randomness(make: Make, case: CodecCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""
    check_randomness(lambda: answer(make(), case))


def check_leaves_its_input_alone(make: Make, case: CodecCase) -> None:
    """The model's keys and values, codes that are decoded or joined, and indices are not written to."""
    codec, (x, y) = make(), case.maps()
    stored = encoded(codec, case, x)
    history = values(codec, case, stored, x)
    joint = torch.cat([history, y], dim=2)
    index = chosen(joint, 1 + case.seed % joint.shape[2], case.seed)
    given = {"the map": x, "the next map": y, "history and map": joint, "the index of kept tokens": index}
    untouched = {name: tensor.clone() for name, tensor in given.items()}
    codes = [tensor.clone() for tensor in stored.tensors()]
    encoded(codec, case, y, like=stored)
    codec.error_bound(stored, case.kind)
    assert all_same(codes, list(stored.tensors())), "encode, decode or error_bound writes to codes"
    codec.keep(stored, y, joint, index, case.kind)
    codec.keep(None, x, x, None, case.kind)
    for name, tensor in given.items():
        assert same_bits(untouched[name], tensor), f"it writes to {name}"


@made_on_few(10, real_sizes=0)
def check_is_quiet(make: Make, case: CodecCase) -> None:
    """It prints nothing, warns of nothing, and leaves the settings of torch and of the process alone."""
    quietly(lambda: answer(make(), case))


def check_is_quick(make: Make) -> None:
    """At the size of a published model a map is encoded and decoded within a second."""
    codec, case = make(), CodecCase(tokens=169, later=256, rows=2, heads=16, width=64)
    answer(codec, case)
    start = time.thread_time()
    answer(codec, case)
    taken = time.thread_time() - start
    assert taken <= SECONDS, f"it takes {taken:.1f} s for {case.tokens + case.later} tokens; at most {SECONDS:g} s"


def check_another_process_agrees(make: Make) -> None:
    """The same seed gives the same image tomorrow: hashes of texts, ids and the clock are others in every process."""
    cases = [
        CodecCase(tokens=5, later=7, heads=2, width=4, seed=1),
        CodecCase(tokens=40, later=9, rows=2, width=64, kind="value", dtype="bfloat16", seed=2),
    ]
    assert digests(answer, make, cases) == elsewhere(answer, make, cases), (
        "another process stores something else: it depends on the hash of a text, on an id or on the clock"
    )


@made_on_few(3)
def check_options_work(make: Make, case: CodecCase) -> None:
    """With every option set to other values that it accepts, numbers are decoded within the bound and bytes are as planned."""
    case = evolve(case, width=64)

    def both(other: Make) -> None:
        check_decodes_within_its_bound(other, case)
        check_bytes_are_as_planned(other, case)

    options.each_option(make, both)
