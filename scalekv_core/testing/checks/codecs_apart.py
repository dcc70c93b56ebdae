"""Checks that codes do not depend on other rows, images, processes or seeds, and that a codec changes nothing else."""

from __future__ import annotations

import gc
import time
from functools import partial

import torch
from attrs import evolve
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.testing.cases import CodecCase, ImageCase
from scalekv_core.testing.checks import whole
from scalekv_core.testing.checks.codecs import Make, chosen, encoded, kept_over_scales, values
from scalekv_core.testing.checks.remembering import forgotten, keeps_nothing, remembers_nothing, repeats
from scalekv_core.testing.checks.whole import reached_from
from scalekv_core.testing.common import (
    all_same,
    check_randomness,
    made_on_few,
    refused,
    same_bits,
)
from scalekv_core.testing.elsewhere import agrees_elsewhere
from scalekv_core.testing.manners import in_inference_mode, quietly


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
    for codes in (stored, later):
        listed = {tensor.untyped_storage().data_ptr() for tensor in codes.tensors()}
        beside = [one for one in reached_from(codes, codec) if one.untyped_storage().data_ptr() not in listed]
        assert not beside, f"beside its codes it holds {refused(beside[0])}, which is not among its bytes"


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
    repeats(make, lambda codec: answer(codec, case), "other codes")
    in_inference_mode(lambda: answer(make(), case))


def check_remembers_nothing(make: Make, case: CodecCase) -> None:
    """Codes do not depend on what was encoded before: other images, batches and dtypes change nothing."""
    codec = make()
    others = (
        evolve(case, seed=case.seed + 1),
        evolve(case, seed=case.seed + 1, rows=case.rows + 1, tokens=case.later, later=case.tokens),
        evolve(case, kind="value" if case.kind == "key" else "key", dtype="bfloat16", width=2 * case.width),
    )
    asks = [partial(answer, codec, other) for other in others]
    remembers_nothing(codec, lambda: answer(codec, case), asks, "other codes")


@made_on_few(10, real_sizes=1)
def check_keeps_nothing(make: Make, case: CodecCase) -> None:
    """No tensor of an image stays in the codec, its class or its module: originals beside the codes save nothing."""
    codec = make()
    with forgotten(codec):
        keeps_nothing(codec, lambda seed: kept_over_scales(codec, evolve(case, seed=case.seed + seed)), "image")
        x = case.maps()[0].clone()
        stored, storage = encoded(codec, case, x), StorageWeakRef(x.untyped_storage())
        del x
        gc.collect()
        assert storage.expired(), f"beside {stored.length} encoded tokens the original is kept in memory"


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
    agrees_elsewhere(answer, make, cases, "stores something else")


SECONDS = 1.0
"""Processor time within which two maps of a published model are encoded and decoded."""
