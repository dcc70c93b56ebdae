"""Cases as large as real models, which generated cases never are: VAR, Infinity, and a wide image.

Every check is made on some of them after all small cases have passed, so that what fails is shown by the smallest case
that Hypothesis finds, and by one of these only if no small one shows it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve

from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import Case, CodecCase, GenerationCase, ImageCase, PlanCase, ProfileCase, ViewCase

VAR_256 = ScaleSchedule.square(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
INFINITY_1M = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
WIDE = ScaleSchedule([(1, 1), (1, 2), (2, 3), (3, 5), (4, 7), (6, 9), (8, 13), (10, 16), (13, 20), (16, 26), (18, 30)])
VIDEO = ScaleSchedule([(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 6, 6), (3, 8, 8), (4, 10, 10), (5, 12, 12), (5, 16, 16)])
DEPTHS = {"VAR-d16": (16, 16), "VAR-d30": (30, 30), "Infinity-2B": (32, 16), "Infinity-8B": (40, 32)}
"""{model: (layers, heads)}."""


def views() -> Sequence[ViewCase]:
    """After a scale in the middle, with a history that was evicted from; the last with more than 6000 tokens."""
    return (
        ViewCase(maps=VAR_256, scale=8, held=120, keep=42, rows=2, heads=16, width=64, layer=15, layout="permuted"),
        ViewCase(maps=WIDE, scale=8, held=150, keep=130, rows=3, heads=2, width=64, layer=39, first=7, counts=True),
        ViewCase(
            maps=INFINITY_1M,
            scale=9,
            held=642,
            keep=642,
            heads=2,
            width=128,
            layer=31,
            dtype="bfloat16",
            layout="permuted",
            softmax="none",
        ),
        ViewCase(maps=VIDEO, scale=6, held=300, keep=200, heads=4, width=64, layer=23, first=1, layout="sliced"),
        ViewCase(maps=INFINITY_1M, scale=11, held=4121, keep=642, width=64, layer=5, layout="sliced"),
    )


def profiles() -> Sequence[ProfileCase]:
    """What calibration measures of the published models."""
    (d16, d30, small, large) = DEPTHS.values()
    return (
        ProfileCase(maps=VAR_256, layers=d16[0], heads=d16[1], width=64),
        ProfileCase(maps=INFINITY_1M, layers=small[0], heads=small[1], width=128, dtype="bfloat16", rows=2),
        ProfileCase(maps=WIDE, layers=large[0], heads=large[1], width=128, content="peaked"),
        ProfileCase(maps=VAR_256, layers=d30[0], heads=d30[1], width=64, content="flat"),
    )


def plans() -> Sequence[PlanCase]:
    """Budgets that people give, for the published models."""
    roles = ("drafter,refiner", "any", "near,far,other", "refiner,drafter")
    cases = [
        PlanCase(maps=INFINITY_1M, layers=32, heads=16, width=128, dtype="bfloat16", rows=2, budget="10%", seed=1),
        PlanCase(maps=VAR_256, layers=16, heads=16, width=64, budget="10%", spread="layers", seed=2),
        PlanCase(maps=WIDE, layers=40, heads=32, width=128, budget="35%", spread="one", seed=3),
        PlanCase(maps=VAR_256, layers=30, heads=30, width=64, budget="50%", spread="late", seed=4),
        PlanCase(maps=INFINITY_1M, layers=32, heads=16, width=128, budget="650 tokens", spread="layers", seed=5),
    ]
    return [evolve(case, roles=roles[i % len(roles)]) for i, case in enumerate(cases)]


def images() -> Sequence[ImageCase]:
    """A whole image of VAR's schedule and depth; few heads, since time goes into attention."""
    return (
        ImageCase(maps=VAR_256, layers=16, heads=2, width=64, budget="10%", layout="permuted"),
        ImageCase(maps=WIDE, layers=6, heads=3, width=32, budget="20%", layout="sliced", rows=2),
    )


def codecs() -> Sequence[CodecCase]:
    """A map of Infinity and one of VAR, of the widths of their heads."""
    return (
        CodecCase(tokens=169, later=256, rows=2, heads=4, width=64, layout="permuted"),
        CodecCase(tokens=400, later=576, heads=2, width=128, kind="value", dtype="bfloat16"),
        CodecCase(tokens=100, later=260, heads=3, width=96, dtype="float16", layout="plain"),
    )


MANY: dict[type[Case], Any] = {
    ViewCase: ViewCase(
        maps=VAR_256, scale=4, held=20, keep=18, rows=9, heads=33, width=64, layer=29, layout="permuted"
    ),
    CodecCase: CodecCase(tokens=9, later=16, rows=9, heads=33, width=64, layout="permuted"),
}
"""More rows and heads than any small case has, of few tokens: among the cases of every check."""
POOLS: dict[type[Case], Callable[[], Sequence[Any]]] = {
    ViewCase: views,
    ProfileCase: profiles,
    PlanCase: plans,
    ImageCase: images,
    CodecCase: codecs,
    GenerationCase: tuple,
}
USUALLY = {ViewCase: 2, ProfileCase: 2, PlanCase: 3, ImageCase: 0, CodecCase: 2, GenerationCase: 0}
"""The number of cases of the pool for a check that states none; whole images take seconds."""


def cases_for(check: str, case: type[Case], wanted: int | None, seed: int) -> list[Any]:
    """Some cases of the pool, different ones for each check and seed; the first ones for a check that needs all."""
    pool = POOLS[case]()
    number = min(USUALLY[case] if wanted is None else wanted, len(pool))
    if case is ViewCase and wanted is None:
        pool = pool[:-1]  # the largest takes as long as all others
    start = (zlib.crc32(check.encode()) + seed) % max(1, len(pool))
    chosen = [*pool[start:], *pool[:start]][:number]
    if chosen and case in MANY:
        chosen[-1 if wanted is None else number :] = [MANY[case]]
    return [evolve(one, seed=one.seed + seed) for one in chosen]
