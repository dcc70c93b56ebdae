"""The tables of ``scalekv generate``, readable on 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from scalekv_core.cli import console
from scalekv_core.cli.figures import decibel, number, percent
from scalekv_core.cli.generating import Generated
from scalekv_core.compare.metrics import Fidelity
from scalekv_core.shapes.geometry import format_bytes, plural

SAME, FORCED, KL = "same tokens", "same, forced", "KL, forced"
LEGEND = (
    "same tokens: both models generate on their own. forced: the compressed model is given the unmodified model's "
    "tokens; how often would it choose the same, and how far are its probabilities from the unmodified ones (KL "
    "divergence in nats per token). For models that generate bits, such as Infinity, all three are per bit."
)
NAN = (
    "nan: the model computed something that is not a number, so that these figures cannot tell how far the images are "
    "from the unmodified ones."
)


def print_memory(generated: Generated) -> None:
    """Planned, resident and peak bytes of one policy beside the unmodified model's."""
    figures = generated.report.as_dict()
    unmodified = figures["unmodified_bytes"]
    console.heading(f"memory of the KV cache ({batch(generated)})")
    made = console.table("", "bytes", "of unmodified", "what it is", text=("", "what it is"))
    for name, count, meaning in (
        ("unmodified", unmodified, "all maps, at the end of the image"),
        ("planned", figures["planned_bytes"], f"{figures['tokens_per_head']:.1f} tokens per head on average"),
        ("resident", figures["resident_bytes"], "maximum between scales"),
        ("peak", figures["peak_bytes"], "maximum at any moment, with temporary buffers"),
    ):
        if count is not None:
            console.row(made, name, format_bytes(count), percent(count / unmodified), meaning)
    console.show(made)


def print_fidelity(generated: Generated) -> None:
    """Image figures in one line, and the figures of every scale in a table."""
    fidelity = generated.fidelity
    if fidelity is None:
        return
    console.heading("fidelity to the unmodified model")
    images = "identical images" if fidelity.identical else f"PSNR {decibel(fidelity.psnr)}"
    console.say(f"{images}, SSIM {number(fidelity.ssim) or 'not defined for images so small'}")
    made = console.table("scale", "map", SAME, FORCED, KL)
    schedule = generated.image.planned.geometry.schedule.without_prefix
    names = names_of_steps(str(schedule).split(" "), [tokens.shape[1] for tokens in generated.generation.tokens])
    for scale, name in enumerate(names):
        forced, kl = (None if v is None else v[scale] for v in (fidelity.forced_agreement, fidelity.kl))
        console.row(made, scale, name, percent(fidelity.agreement[scale]), percent(forced), number(kl))
    console.row(made, "all", "", *_over_scales(fidelity))
    console.show(made)
    _print_legend([fidelity])


def names_of_steps(maps: Sequence[str], lengths: Sequence[int]) -> list[str]:
    """What each step generates: a map, or, where a model passes some maps several times, how many tokens.

    >>> names_of_steps(["1x1", "2x2"], [1, 4]), names_of_steps(["1x1", "2x2"], [1, 4, 4])
    (['1x1', '2x2'], ['1 token', '4 tokens', '4 tokens'])
    """
    return list(maps) if len(maps) == len(lengths) else [plural(length, "token") for length in lengths]


def print_comparison(generated: Sequence[Generated]) -> None:
    """One line per policy: its memory, and how far its images are from the unmodified ones."""
    unmodified = generated[0].image.planned.footprint.unmodified
    console.heading(f"memory of the KV cache ({batch(generated[0])}); unmodified: {format_bytes(unmodified)}")
    made = console.table("policy", "budget", "planned", "resident", "peak", "of unmodified", text=("policy", "budget"))
    for one in generated:
        figures = one.report.as_dict()
        counts = [format_bytes(figures[name]) for name in ("planned_bytes", "resident_bytes", "peak_bytes")]
        console.row(made, one.policy.name, figures["budget"], *counts, percent(share(one)))
    console.show(made)
    if generated[0].fidelity is None:
        return
    console.heading("fidelity to the unmodified model")
    made = console.table("policy", "held", "PSNR", "SSIM", SAME, FORCED, KL, text=("policy",))
    for one in generated:
        if one.fidelity is not None:
            images = (decibel(one.fidelity.psnr), number(one.fidelity.ssim))
            console.row(made, one.policy.name, percent(share(one)), *images, *_over_scales(one.fidelity))
    console.show(made)
    _print_legend([one.fidelity for one in generated if one.fidelity is not None])


def _print_legend(shown: Sequence[Fidelity]) -> None:
    console.say(LEGEND)
    if any(one.has_nan for one in shown):
        console.say(NAN)


def batch(generated: Generated) -> str:
    """What was generated at once."""
    geometry = generated.image.planned.geometry
    dtype = str(geometry.dtype).removeprefix("torch.")
    return f"{geometry.rows} row{'s' * (geometry.rows > 1)}, {dtype}"


def share(generated: Generated) -> float:
    """Resident bytes as a share of what the unmodified model holds."""
    return max(generated.image.resident) / generated.image.planned.footprint.unmodified


def _over_scales(fidelity: Fidelity) -> tuple[str, str, str]:
    same, forced, kl = (overall(fidelity, name) for name in ("agreement", "forced_agreement", "kl"))
    return percent(same), percent(forced), number(kl)


def overall(fidelity: Fidelity, name: str) -> float | None:
    """A figure that is given per scale, over all tokens."""
    values = getattr(fidelity, name)
    return None if values is None else fidelity.over_scales(values)
