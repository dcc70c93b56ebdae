"""The call that a page stands for, to copy: as a shell command and as Python. Both generate the same image."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from attrs import frozen

from scalekv_core.app.form import Form, read_seed
from scalekv_core.models.sampling import read_strengths

WEIGHTS = "WEIGHTS"
"""Stands for the path of the weights, which a page does not show."""


@frozen(kw_only=True)
class Place:
    """Where the model runs, as the calls say it.

    Attributes:
        device, dtype: by name.
        weights: whether the model's weights were given by a path.
    """

    device: str = "cpu"
    dtype: str = "float32"
    weights: bool = False


def as_shell(form: Form, prompt: str, place: Place) -> str:
    """The shell command.

    >>> print(as_shell(Form(model="toy", policy="full", budget="10 %"), "it's", Place()))
    scalekv generate --model toy --policy full --budget '10 %' --seed 0 -- 'it'"'"'s'
    """
    options = [
        ("--model", form.model),
        ("--policy", form.policy),
        ("--budget", form.budget),
        ("--codec", form.codec),
        ("--seed", str(read_seed(form.seed))),
        ("--guidance", form.guidance),
        ("--aspect", form.aspect),
        ("--size", form.size),
        ("--weights", WEIGHTS if place.weights else ""),
        ("--device", place.device if place.device != "cpu" else ""),
        ("--dtype", place.dtype if place.dtype != "float32" else ""),
    ]
    given = [word for name, value in options if value for word in (name, value)]
    return shlex.join(["scalekv", "generate", *given, "--", prompt])


def as_python(form: Form, prompt: str, place: Place, fps: float | None = None) -> str:
    """The lines of Python; ``fps`` is that of the model's card, None for images."""
    made = [
        ("policy", form.policy),
        ("budget", form.budget),
        ("codec", form.codec),
        ("weights", WEIGHTS if place.weights else ""),
        ("device", place.device if place.device != "cpu" else ""),
        ("dtype", place.dtype if place.dtype != "float32" else ""),
    ]
    called = [
        ("seed", read_seed(form.seed)),
        ("guidance", read_strengths(form.guidance) if form.guidance else ""),
        ("aspect", form.aspect),
        ("size", form.size),
        ("output", "" if fps is None else "tensor"),
    ]
    saved = 'result.images[0].save("compressed.png")'
    if fps is not None:
        saved = f'scalekv_core.save_clip(result.images[0], "compressed.gif", fps={fps:g})'
    return "\n".join(
        [
            "import scalekv_core",
            "",
            f"pipe = scalekv_core.Pipeline.from_pretrained({_arguments(form.model, made)})",
            f"result = pipe({_arguments(prompt, called)})",
            saved,
            "print(result.report)",
        ]
    )


def _arguments(first: str, named: Sequence[tuple[str, object]]) -> str:
    return ", ".join([_quoted(first), *(f"{name}={_quoted(value)}" for name, value in named if value != "")])


def _quoted(value: object) -> str:
    """A Python literal, with the quotes that formatters write."""
    text = repr(value)
    return f'"{text[1:-1]}"' if isinstance(value, str) and text.startswith("'") and '"' not in text else text
