"""What a cache codec is checked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.encoded import Encoded
from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.testing.cases import CodecCase
from scalekv_core.testing.checks import options
from scalekv_core.testing.common import (
    Blocked,
    check_value,
    made_on_few,
    only_if,
    refused,
    rounding,
    same_bits,
)

Make = Callable[[], CacheCodec]


def encoded(codec: CacheCodec, case: CodecCase, x: Tensor, like: Encoded | None = None) -> Encoded:
    """The codes of x; Blocked if they are of another form, which one check is about."""
    stored = codec.encode(x, case.kind, like=like)
    if not isinstance(stored, Encoded) or not stored.tokens or stored.length != x.shape[2]:
        raise Blocked("codes_belong_to_tokens", f"encode returned {refused(stored)}")
    return stored


def decoded(codec: CacheCodec, case: CodecCase, stored: Encoded, like: Tensor) -> Tensor:
    """What the codes stand for, written where the cache needs it: into a part of a larger buffer, over nan."""
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


@only_if(lambda codec: codec.dense, "it is not dense")
def check_dense_means_as_it_is(make: Make, case: CodecCase) -> None:
    """A codec with ``dense`` stores the tensor itself, as "x": attention reads it in place, without decoding."""
    stored, (x, _) = make().encode(case.maps()[0], case.kind), case.maps()
    assert list(stored.tokens) == ["x"], f"a dense codec stores 'x'; got {', '.join(stored.tokens)}"
    assert not stored.ranges, "a dense codec has no ranges"
    assert same_bits(x, stored.tokens["x"]), "what is stored is not what was encoded"


@made_on_few(3)
def check_options_work(make: Make, case: CodecCase) -> None:
    """With every option set to other values that it accepts, numbers are decoded within the bound and bytes are as planned."""
    case = evolve(case, width=64)

    def both(other: Make) -> None:
        check_decodes_within_its_bound(other, case)
        check_bytes_are_as_planned(other, case)

    options.each_option(make, both)
