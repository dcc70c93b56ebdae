"""The tables of ``scalekv generate``, readable on 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scalekv_core.cli import console
from scalekv_core.cli.drawing import Drawn
from scalekv_core.compare.metrics import Fidelity
from scalekv_core.shapes.geometry import format_bytes

SAME, FORCED, KL = "same tokens", "same, forced", "KL, forced"
LEGEND = """\
same tokens: both draw on their own. forced: given the tokens that the
unmodified model drew, what would it choose, and how far are its
probabilities from the unmodified ones (KL, nats per token). Where a model
draws bits, as Infinity does, all three are of bits."""


def print_memory(drawn: Drawn) -> None:
    """Planned, resident and peak bytes of one policy beside what the unmodified model holds."""
    figures = drawn.report.as_dict()
    unmodified = figures["unmodified_bytes"]
    console.heading(f"memory of the KV cache ({batch(drawn)})")
    made = console.table("", "bytes", "of unmodified", "what it is", text=("", "what it is"))
    for name, count, meaning in (
        ("unmodified", unmodified, "every map, at the end of the image"),
        ("planned", figures["planned_bytes"], f"{figures['tokens_per_layer_and_head']:.1f} tokens per layer and head"),
        ("resident", figures["resident_bytes"], "really held between scales, at most"),
        ("peak", figures["peak_bytes"], "at any moment, with all that a cut takes"),
    ):
        if count is not None:
            console.row(made, name, format_bytes(count), f"{count / unmodified:.1%}", meaning)
    console.out.print(made)


def print_fidelity(drawn: Drawn) -> None:
    """Image figures in one line, and the figures of every scale in a table."""
    fidelity = drawn.fidelity
    if fidelity is None:
        return
    console.heading("fidelity to the unmodified model")
    images = "identical images" if fidelity.identical else f"PSNR {decibel(fidelity.psnr)}"
    console.say(f"{images}, SSIM {number(fidelity.ssim) or 'not defined for images so small'}")
    made = console.table("scale", "map", SAME, FORCED, KL)
    for scale, name in enumerate(str(drawn.image.planned.geometry.schedule).split(" ")):
        forced, kl = (None if v is None else v[scale] for v in (fidelity.forced_agreement, fidelity.kl))
        console.row(made, scale, name, percent(fidelity.agreement[scale]), percent(forced), number(kl))
    console.row(made, "all", "", *_over_scales(fidelity))
    console.out.print(made)
    console.say(LEGEND)


def print_comparison(drawn: Sequence[Drawn]) -> None:
    """One line per policy: what it holds, and how far its images are from the unmodified ones."""
    unmodified = drawn[0].image.planned.footprint.unmodified
    console.heading(f"memory of the KV cache ({batch(drawn[0])}); unmodified: {format_bytes(unmodified)}")
    made = console.table("policy", "budget", "planned", "resident", "peak", "of unmodified", text=("policy", "budget"))
    for one in drawn:
        figures = one.report.as_dict()
        counts = [format_bytes(figures[name]) for name in ("planned_bytes", "resident_bytes", "peak_bytes")]
        console.row(made, one.policy.name, figures["budget"], *counts, percent(share(one)))
    console.out.print(made)
    if drawn[0].fidelity is None:
        return
    console.heading("fidelity to the unmodified model")
    made = console.table("policy", "held", "PSNR", "SSIM", SAME, FORCED, KL, text=("policy",))
    for one in drawn:
        if one.fidelity is not None:
            images = (decibel(one.fidelity.psnr), number(one.fidelity.ssim))
            console.row(made, one.policy.name, percent(share(one)), *images, *_over_scales(one.fidelity))
    console.out.print(made)
    console.say(LEGEND)


def batch(drawn: Drawn) -> str:
    """What was drawn at once."""
    geometry = drawn.image.planned.geometry
    dtype = str(geometry.dtype).removeprefix("torch.")
    return f"{geometry.rows} row{'s' * (geometry.rows > 1)}, {dtype}"


def share(drawn: Drawn) -> float:
    """Resident bytes as a share of what the unmodified model holds."""
    return max(drawn.image.resident) / drawn.image.planned.footprint.unmodified


def _over_scales(fidelity: Fidelity) -> tuple[str, str, str]:
    same, forced, kl = (overall(fidelity, name) for name in ("agreement", "forced_agreement", "kl"))
    return percent(same), percent(forced), number(kl)


def overall(fidelity: Fidelity, name: str) -> float | None:
    """A figure that is given per scale, over all tokens."""
    values = getattr(fidelity, name)
    return None if values is None else fidelity.over_scales(values)


def decibel(value: float) -> str:
    """A PSNR as people read it: identical images have no noise to speak of."""
    return "identical" if math.isinf(value) else f"{value:.1f} dB"


def percent(value: float | None, digits: int = 1) -> str:
    """A share; nothing where there is none."""
    return "" if value is None else f"{value:.{digits}%}"


def number(value: float | None) -> str:
    """Three digits; nothing where there is none."""
    return "" if value is None else f"{value:.3f}"
