"""What an image of var-tiny is alone and beside another one: ``python tests/bench/batches.py``.

Prints how many tokens differ under policies and codecs, and why: how many codes and nearest tokens of the same keys differ, as they
are computed, from ranges rounded outwards to 10 bits, and in float64. Nothing is asserted: the rounding of a matrix product
depends on the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from scalekv_core import compress, load_model, ops
from scalekv_core.models.image_model import Generation, ImageModel

DIGITS = range(10)
POLICIES, CODECS = ("full", "uniform", "scalekv", "fold"), ("dense", "int8", "int4", "fp8")
LEVELS = {"int8": 255, "int4": 15}


def pair(model: ImageModel, digit: int) -> tuple[Generation, Generation]:
    """The image of a digit alone, and as the first of two."""
    return (
        model.generate([str(digit)], seeds=[digit]),
        model.generate([str(digit), str((digit + 3) % 10)], seeds=[digit, digit + 50]),
    )


def tokens_that_differ(model: ImageModel, policy: str, codec: str) -> tuple[int, int]:
    """(tokens, images) that differ."""
    tokens = images = 0
    for digit in DIGITS:
        with compress(model, policy, "100%" if policy == "full" else "10%", codec=codec):
            alone, beside = pair(model, digit)
        differ = sum(int((a[0] != b[0]).sum()) for a, b in zip(alone.tokens, beside.tokens, strict=True))
        tokens, images = tokens + differ, images + (differ > 0)
    return tokens, images


def keys(model: ImageModel, prompts: Sequence[str], seeds: Sequence[int], forced: list[Tensor] | None) -> list[Tensor]:
    """Keys of the first image in every layer after the last map but one, and values behind them."""
    found: list[Tensor] = []

    def see(view, kept):
        if view.scale == len(model.schedule) - 2:
            found.extend(x[:: len(prompts)].clone() for x in (view.k, view.v))

    with compress(model, "full", observer=see):
        model.generate(prompts, seeds=seeds, forced=forced)
    return found


def codes(x: Tensor, levels: int, *, rounded: bool) -> Tensor:
    """The codes of numbers, with ranges of each channel."""
    low, high = torch.aminmax(x, dim=2, keepdim=True)
    low = outwards(low) if rounded else low
    step = (high - low) / levels
    return ((x - low) / (-outwards(-step) if rounded else step)).round()


def outwards(x: Tensor) -> Tensor:
    """Rounded down to 10 bits."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 1024).floor() / 1024, exponent)


def main() -> None:
    """Prints both tables."""
    torch.set_num_threads(1)
    model = load_model("var-tiny")
    print(f"tokens (images) of {len(DIGITS) * model.schedule.total} ({len(DIGITS)}) that differ, budget 10%:")
    for policy in POLICIES:
        counts = (tokens_that_differ(model, policy, codec) for codec in CODECS)
        print(f"{policy:8}", *(f"{codec} {n} ({i})" for codec, (n, i) in zip(CODECS, counts, strict=True)))
    differ, total = Counter[str](), Counter[str]()
    for digit in DIGITS:
        forced = list(model.generate([str(digit)], seeds=[digit]).tokens)
        alone = keys(model, [str(digit)], [digit], forced)
        beside = keys(model, [str(digit), str((digit + 3) % 10)], [digit, digit + 50], [x.repeat(2, 1) for x in forced])
        for number, (a, b) in enumerate(zip(alone, beside, strict=True)):
            answers = {
                f"{name}{', rounded ranges' * rounded}": [codes(x, levels, rounded=rounded) for x in (a, b)]
                for name, levels in LEVELS.items()
                for rounded in (False, True)
            }
            if number % 2 == 0:
                among = torch.arange(0, a.shape[2], 10).expand(*a.shape[:2], -1).contiguous()
                answers["nearest of a tenth"] = [ops.most_alike(x, among) for x in (a, b)]
                answers["nearest of a tenth, float64"] = [ops.most_alike(x.double(), among) for x in (a, b)]
            differ.update({name: int((p != q).sum()) for name, (p, q) in answers.items()})
            total.update({name: p.numel() for name, (p, _) in answers.items()})
    for name, number in total.items():
        print(f"{name}: {differ[name]} of {number:,} differ")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
