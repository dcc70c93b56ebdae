"""The commands that repeat what a page shows: the study of one setting, or one image of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from scalekv_core.compare.prompts import named_sets, prompts_named
from scalekv_core.compare.question import read_policy
from scalekv_core.compare.results import Row


def setting_command(question: Mapping[str, Any], model: str, row: Row) -> str:
    """The study of one setting of one model alone."""
    words = ["scalekv", "compare", "--model", model, "--policy", row.policy]
    words += ["--budget", row.budget] if row.budget else []
    words += ["--codec", row.codec] if row.codec else []
    words += [word for name, value in row.options.items() for word in ("--vary", f"{name}={value}")]
    words += ["--prompts", _prompts(question["prompts"][model])]
    words += [word for seed in question["seeds"] for word in ("--seed", str(seed))]
    words += [word for metric in question["metrics"] for word in ("--metric", metric)]
    words += ["--batch", str(question["batch"])]
    return shlex.join([*words, *_shape(question), *_sampling(question), "--out", "one-setting"])


def image_command(question: Mapping[str, Any], model: str, row: Row, prompt: str, seed: int) -> str:
    """One image of a setting beside the unmodified one, with their difference."""
    name, parts = read_policy(row.policy)
    if row.codec:
        parts["codec"] = row.codec
    words = ["scalekv", "generate", prompt, "--model", model, "--seed", str(seed), "--policy", name]
    words += ["--budget", row.budget] if row.budget else []
    words += [word for part, value in parts.items() for word in (f"--{part}", value)]
    words += [word for option, value in row.options.items() for word in ("--option", f"{option}={value}")]
    return shlex.join([*words, *_shape(question), *_sampling(question)])


def _prompts(prompts: Sequence[str]) -> str:
    """The name of a set of prompts that ships, or of a file that holds these."""
    return next((name for name in named_sets() if list(prompts_named(name)) == list(prompts)), "PROMPTS.txt")


def _shape(question: Mapping[str, Any]) -> list[str]:
    return [word for name in ("aspect", "size", "dtype") if question[name] for word in (f"--{name}", question[name])]


def _sampling(question: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in question["sampling"].items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not False and value is not None:
            words += [option, ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
    return words
