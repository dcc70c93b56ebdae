"""Options that several commands share, each declared once. Help texts are one sentence, readable on 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import frozen

from scalekv_core.cli import console, defaults

GENERATE, COMPRESS, SAMPLE, RUN = "What to generate", "How to compress", "How to sample", "Where and how to run"


def option(panel: str, *names: str, **how: Any) -> Any:
    """A typer option that is shown in a panel of the help page."""
    return typer.Option(*names, rich_help_panel=panel, **how)


def former(names: str, *, now: str) -> Any:
    """A hidden option under a former name, for one version; its use prints the new name."""

    def tell(value: Any) -> Any:
        if value is not None:
            console.complain(f"{names} is now {now}; the former name goes in the next version")
        return value

    return typer.Option(names, hidden=True, show_default=False, callback=tell)


_POLICY_HELP = "Name of the policy; see [b]scalekv policies[/b]."
_MODEL_HELP = "Name of the image model; see [b]scalekv models[/b]."

Prompts = Annotated[
    list[str] | None,
    typer.Argument(
        help="What to generate, in the model's language. By default the model's example.", show_default=False
    ),
]
Model = Annotated[str, option(GENERATE, "--model", "-m", metavar="NAME", help=_MODEL_HELP)]
ModelOfPrompts = Annotated[
    str | None,
    option(
        GENERATE, "--model", "-m", metavar="NAME",
        help=f"{_MODEL_HELP} [dim]default: the first model with built-in weights that accepts the prompts; "
        f"{defaults.MODEL} without prompts[/dim]",
    ),
]  # fmt: skip
Seeds = Annotated[
    list[int] | None,
    option(GENERATE, "--seed", metavar="N", help="First seed, or one per image (repeat it). [dim]default: 0[/dim]"),
]
Paired = Annotated[
    bool, option(GENERATE, "--paired", help="One seed for each prompt, instead of every seed for every prompt.")
]
Images = Annotated[
    int | None,
    option(
        GENERATE, "--images", "-n", min=1, metavar="N",
        help="Images of each prompt. [dim]default: 1, or one per seed[/dim]",
    ),
]  # fmt: skip
Policies = Annotated[
    list[str] | None,
    option(
        COMPRESS, "--policy", "-p", metavar="NAME",
        help="Name of the policy; repeat it to compare several, or say [b]all[/b]. See [b]scalekv policies[/b]. "
        f"[dim]default: {defaults.POLICY}[/dim]",
    ),
]  # fmt: skip
PolicyName = Annotated[
    str | None,
    option(COMPRESS, "--policy", "-p", metavar="NAME", help=f"{_POLICY_HELP} [dim]default: {defaults.POLICY}[/dim]"),
]
Budget = Annotated[
    str | None,
    option(
        COMPRESS, "--budget", "-b", metavar="SIZE",
        help="Size of the cache: 10% (of the history that the last scale attends to), '10% of all', '650 tokens', 4GiB. "
        "[dim]default: the policy's own[/dim]",
    ),
]  # fmt: skip
Options = Annotated[
    list[str] | None,
    option(
        COMPRESS, "--option", "-o", metavar="NAME=VALUE",
        help="Sets an option of the policy: window=9, or selector.window=9 (repeat it).",
    ),
]  # fmt: skip
Config = Annotated[
    Path | None,
    option(
        COMPRESS, "--config", metavar="FILE.toml",
        help="Reads policy, budget, parts and options from a file. The command line overrides the file.",
    ),
]  # fmt: skip
Profile = Annotated[
    Path | None,
    option(
        COMPRESS, "--profile", metavar="FILE",
        help="Attention profile of the model, as [b]scalekv calibrate[/b] writes it.",
    ),
]  # fmt: skip
Aspect = Annotated[
    str | None,
    option(GENERATE, "--aspect", metavar="W:H", help="Aspect ratio, width to height. [dim]default: the model's[/dim]"),
]
Size = Annotated[
    str | None,
    option(
        GENERATE, "--size", metavar="NAME",
        help="Number of pixels: 0.06M, 0.25M, 0.60M or 1M. [dim]default: the model's[/dim]",
    ),
]  # fmt: skip
Clip = Annotated[
    str | None,
    option(
        RUN, "--clip", metavar="KIND",
        help="How clips are written: gif, mp4 (extra [b]video[/b]) or png, a file for each frame. [dim]default: gif[/dim]",
    ),
]  # fmt: skip
Weights = Annotated[
    Path | None, option(RUN, "--weights", metavar="PATH", help="The model's weights, unless they are built in.")
]
AllowNonfinite = Annotated[
    bool,
    option(RUN, "--allow-nonfinite", help="Accept weights and text features that hold NaN or infinity."),
]
RandomWeights = Annotated[
    bool,
    option(RUN, "--random-weights", help="Generate noise, to measure memory and time without weights."),
]
OutDirectory = Annotated[Path, option(RUN, "--out", metavar="DIR", help="Directory for what is written.")]
Device = Annotated[str, option(RUN, "--device", metavar="NAME", help="cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, option(RUN, "--dtype", metavar="NAME", help="float32, bfloat16 or float16.")]


def _part(name: str) -> Any:
    return option(COMPRESS, f"--{name}", metavar="NAME", help=f"Another {name} for the policy.")


@frozen(kw_only=True)
class Compression:
    """How a policy is changed: its budget, parts, options, and where they come from."""

    budget: Budget = None
    classifier: Annotated[str | None, _part("classifier")] = None
    allocator: Annotated[str | None, _part("allocator")] = None
    selector: Annotated[str | None, _part("selector")] = None
    merger: Annotated[str | None, _part("merger")] = None
    codec: Annotated[str | None, _part("codec")] = None
    option: Options = None
    config: Config = None
    profile: Profile = None


@frozen(kw_only=True)
class SamplingOptions:
    """How tokens are sampled; None and False leave the model's own."""

    guidance: Annotated[
        str | None,
        option(SAMPLE, metavar="X", help="Strength of guidance, or one per scale: 1,1,3,...; 0 switches it off."),
    ] = None
    guidance_at: Annotated[
        str | None,
        option(
            SAMPLE, "--guidance-at", metavar="N,...",
            help="Where guidance is applied, if the model has several places: 0 on the logits, -5 after the fifth block "
            "from the end, or both. [dim]default: 0[/dim]",
        ),
    ] = None  # fmt: skip
    top_k: Annotated[
        int | None, option(SAMPLE, "--top-k", metavar="N", help="Samples from the N likeliest values; 0: from all.")
    ] = None
    top_p: Annotated[
        float | None,
        option(SAMPLE, "--top-p", metavar="X", help="Samples from the values that hold this probability; 0: from all."),
    ] = None
    temperature: Annotated[float | None, option(SAMPLE, metavar="X", help="Divides the logits.")] = None
    greedy: Annotated[bool, option(SAMPLE, "--greedy", help="Takes the likeliest value; seeds have no effect.")] = False


@frozen(kw_only=True)
class Shape:
    """How large the images are; None leaves the model's own."""

    aspect: Aspect = None
    size: Size = None


@frozen(kw_only=True)
class Place:
    """Where the model comes from and runs."""

    weights: Weights = None
    allow_nonfinite: AllowNonfinite = False
    device: Device = "cpu"
    dtype: Dtype = "float32"
