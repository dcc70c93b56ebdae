"""Studies of any size without generation, for what reads them: pages, tables, benches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from scalekv_core.compare.cells import WHOLE, Cell, Figure, as_png
from scalekv_core.compare.planning import PlannedSetting
from scalekv_core.compare.question import Question, Setting
from scalekv_core.compare.store import UNMODIFIED, Store

POLICIES = ("full", "uniform", "scalekv", "h2o", "snapkv", "fold", "quota", "window")
METRICS = ("psnr", "ssim", "agreement", "forced-kl")
ENVIRONMENT = {
    "versions": {"scalekv": "0.1.0", "torch": "2.13.0"},
    "python": "3.11",
    "device": "cpu (x86_64)",
    "weights": {"var-tiny": "sha256:0123"},
    "profiles": {"var-tiny": None},
}
SCALES = 10


def settings_of(number: int) -> list[Setting]:
    """So many settings of several policies, budgets, codecs and windows."""
    found = []
    for i in range(number):
        policy = POLICIES[i % len(POLICIES)]
        budget = "" if policy == "full" else f"{2 + 3 * (i // len(POLICIES) % 11)}%"
        options = {"window": str(2 + i // (len(POLICIES) * 33))} if number > len(POLICIES) * 33 else {}
        codec = ("", "int8", "int4")[i // (len(POLICIES) * 11) % 3]
        found.append(Setting(model="var-tiny", policy=policy, budget=budget, codec=codec, options=options))
    return found


def synthetic_study(folder: Path, *, settings: int, images: int, pictures: bool = True, nan: int = 0) -> Store:
    """A finished study.

    Args:
        folder: where it goes.
        settings, images: how many of each.
        pictures: whether images have files.
        nan: cells that are not finite, of the last setting.
    """
    question = Question(
        models=("var-tiny",),
        policies=POLICIES,
        budgets=("5%", "10%"),
        prompts={"var-tiny": tuple(f"a prompt with number {i}" for i in range(images))},
        metrics=METRICS,
    )
    store = Store.create(folder, question, ENVIRONMENT, command="scalekv compare --model var-tiny --out my-study")
    store.db.execute("PRAGMA synchronous = OFF")
    asked = question.images("var-tiny")
    rng = np.random.default_rng(0)
    shown = [rng.random((3, 64, 64)) * 0.3 + 0.5 for _ in asked[:24]] if pictures else []
    store.finish(
        UNMODIFIED, "var-tiny", 0, [Cell(prompt=p, seed=s, picture=png, seconds=0.1) for (p, s), png in zip(asked, _pngs(shown, 0, len(asked)), strict=True)]
    )  # fmt: skip
    hard = rng.normal(size=images)
    for i, setting in enumerate(_each_once(settings_of(settings))):
        share = float(setting.budget.rstrip("%") or 100) / 100
        size = int(4_000_000 * share / {"": 1, "int8": 2, "int4": 4}[setting.codec]) + i
        store.add_setting(
            PlannedSetting(setting=setting, footprint=SimpleNamespace(most_planned=size, unmodified=4_000_000))
        )
        lost = 0.4 * math.log(1 / share + 1e-9) * (1 + 0.15 * (i % len(POLICIES))) + 0.3 * (setting.codec == "int4")
        pngs = _pngs(shown, lost * 0.03, len(asked))
        cells = [
            _cell(p, s, png, lost, hard[j], rng, size, failed=i == settings - 1 and j < nan)
            for j, ((p, s), png) in enumerate(zip(asked, pngs, strict=True))
        ]
        store.finish(setting.key, "var-tiny", 0, cells)
    return store


def _each_once(settings: list[Setting]) -> Iterator[Setting]:
    """Different keys for all: equal settings get a seed of their own among their options."""
    seen: dict[str, int] = {}
    for setting in settings:
        seen[setting.key] = again = seen.get(setting.key, -1) + 1
        yield setting if not again else Setting(
            model=setting.model, policy=setting.policy, budget=setting.budget, codec=setting.codec,
            options={**setting.options, "heads": str(again)},
        )  # fmt: skip


def _pngs(shown: list[np.ndarray], noise: float, images: int) -> list[bytes | None]:
    rng = np.random.default_rng(1)
    made: list[bytes | None] = [
        as_png(torch.from_numpy(np.clip(x + noise * rng.normal(size=x.shape), 0, 1))) for x in shown
    ]
    return (made + [None] * images)[:images]


def _cell(
    prompt: str, seed: int, png: bytes | None, lost: float, hard: float, rng: np.random.Generator, size: int, *, failed: bool
) -> Cell:  # fmt: skip
    if failed:
        said = "the queries of layer 3 at scale 2 are not finite (NaN or infinity): the model overflows in float16"
        return Cell(prompt=prompt, seed=seed, failed=said)
    kl = max(0.0, lost * (0.02 + 0.004 * hard) + abs(rng.normal(0, 0.001)) * (lost > 0))
    whole = {
        "psnr": math.inf if lost <= 1e-6 else 40 - 9 * lost + 2 * hard + rng.normal(0, 0.3),
        "ssim": max(0.0, 1 - 0.08 * lost),
        "agreement": max(0.0, 1 - 0.1 * lost + rng.normal(0, 0.005) * (lost > 0)),
        "forced-kl": kl,
    }
    figures = [Figure(metric=name, scale=WHOLE, value=value) for name, value in whole.items()]
    figures += [Figure(metric="forced-kl", scale=k, value=kl * k / SCALES) for k in range(SCALES)]
    seconds = 0.1 * (0.8 + 0.05 * lost + rng.normal(0, 0.01))
    return Cell(
        prompt=prompt, seed=seed, picture=png, figures=figures, seconds=seconds, unmodified_seconds=0.1,
        resident_bytes=size, peak_bytes=int(size * 1.2), selection_share=0.1,
    )  # fmt: skip
