"""Hypothesis strategies for everything that a test of a strategy needs, smallest first: failures shrink to a 1 x 1 map.

``schedules()``, ``geometries()``, ``budgets()``, ``roles()``, ``profiles()`` and ``views()`` give values;
``view_cases()`` and its like give the cases that the checks take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import Map, ScaleSchedule
from scalekv_core.testing.cases import (
    CONTENTS,
    AnyCase,
    Case,
    CodecCase,
    DrawCase,
    ImageCase,
    PlanCase,
    ProfileCase,
    ViewCase,
)
from scalekv_core.testing.contents import DTYPES

Homes = Sequence[tuple[CacheGeometry, str]]
"""(geometry, budget) of the models that a strategy is only for; empty if it is for all."""


def dtypes() -> st.SearchStrategy[str]:
    """Names of the dtypes that attention is computed in."""
    return st.sampled_from(list(DTYPES))


def content_kinds() -> st.SearchStrategy[str]:
    """Kinds of queries, keys and values: ordinary, nearly tied, equal, repeated, huge, denormal, zero."""
    return st.sampled_from(CONTENTS)


def seeds() -> st.SearchStrategy[int]:
    """Seeds of whatever is random in a case."""
    return st.integers(0, 9999)


@st.composite
def schedules(
    draw: st.DrawFn, *, least_maps: int = 1, most_maps: int = 6, most_side: int = 7, most_tokens: int = 120
) -> ScaleSchedule:
    """Any number of maps, of any proportion and order of size, some of several frames; never more tokens than said."""
    one = st.tuples(st.sampled_from([1, 1, 1, 2, 3]), st.integers(1, most_side), st.integers(1, most_side))
    maps: list[Map] = []
    for sizes in draw(st.lists(one, min_size=least_maps, max_size=most_maps)):
        spare = most_tokens - sum(t * h * w for t, h, w in maps)
        t, h, w = sizes
        if t * h * w <= spare:
            maps.append(sizes)
        elif len(maps) < least_maps:
            maps.append((1, 1, 1))
    return ScaleSchedule(maps)


def budgets(*, most_tokens: int = 60) -> st.SearchStrategy[str]:
    """Budgets as text, in all units; the whole history often, and some that are too much or too little."""
    return st.one_of(
        st.just("100%"),
        st.integers(1, 100).map(lambda n: f"{n}%"),
        st.integers(1, most_tokens).map(lambda n: f"{n} tokens"),
        st.integers(1, 100).map(lambda n: f"{n}% of all"),
        st.integers(64, 20_000).map(lambda n: f"{n}B"),
    )


@st.composite
def _built(draw: st.DrawFn, /, cls: type[AnyCase], **fields: st.SearchStrategy[Any]) -> AnyCase:
    """A case of these fields. Unlike ``st.builds`` it is printed as its own line, from which it can be made again."""
    return cls(**{name: draw(strategy) for name, strategy in fields.items()})


def _shape(*, layers: int, heads: int, rows: int) -> dict[str, st.SearchStrategy[Any]]:
    return {
        "layers": st.integers(1, layers),
        "heads": st.integers(1, heads),
        "width": st.sampled_from([1, 2, 4, 8]),
        "rows": st.integers(1, rows),
        "dtype": dtypes(),
        "seed": seeds(),
    }


def profile_cases(homes: Homes = ()) -> st.SearchStrategy[ProfileCase]:
    """Models and what calibration measured of them."""
    content = st.sampled_from(["ordinary", "flat", "peaked"])
    if homes:
        return st.sampled_from([_at_home(geometry) for geometry, _ in homes]).flatmap(
            lambda home: _built(ProfileCase, **_just(home), content=content, seed=seeds())
        )
    return _built(ProfileCase, maps=schedules(), content=content, **_shape(layers=4, heads=4, rows=3))


def plan_cases(homes: Homes = ()) -> st.SearchStrategy[PlanCase]:
    """Models with roles and budgets."""
    roles = st.sampled_from(["any", "refiner,drafter", "drafter,refiner", "near,far,other"])
    if homes:
        return st.sampled_from([(_at_home(geometry), budget) for geometry, budget in homes]).flatmap(
            lambda home: _built(PlanCase, **_just(home[0]), budget=st.just(home[1]), roles=roles, seed=seeds())
        )
    return _built(PlanCase, maps=schedules(), roles=roles, budget=budgets(), **_shape(layers=4, heads=4, rows=3))


def image_cases(homes: Homes = ()) -> st.SearchStrategy[ImageCase]:
    """Models with a budget and one image."""
    if homes:
        return st.sampled_from([(_at_home(geometry), budget) for geometry, budget in homes]).flatmap(
            lambda home: _built(ImageCase, **_just(home[0]), budget=st.just(home[1]), seed=seeds())
        )
    maps = schedules(least_maps=2, most_maps=5, most_tokens=80)
    shape = _shape(layers=2, heads=3, rows=2) | {"width": st.sampled_from([2, 4, 8])}  # see ImageCase
    return _built(ImageCase, maps=maps, budget=budgets(most_tokens=40), content=content_kinds(), **shape)


def _at_home(geometry: CacheGeometry) -> dict[str, Any]:
    return {
        "maps": geometry.schedule,
        "layers": geometry.layers,
        "heads": geometry.heads,
        "width": geometry.head_dim,
    }


def _just(values: dict[str, Any]) -> dict[str, st.SearchStrategy[Any]]:
    return {name: st.just(value) for name, value in values.items()}


@st.composite
def view_cases(draw: st.DrawFn, homes: Homes = (), *, device: str = "cpu") -> ViewCase:
    """What a selector or merger sees, with at least one token more than may stay; histories thinned in any measure."""
    maps = draw(schedules().filter(lambda maps: maps.total > 1))
    scale = draw(st.integers(0, len(maps) - 1).filter(lambda k: maps.seen[k] > 1))
    held = draw(st.integers(max(0, 2 - maps.tokens[scale]), maps.history[scale]))
    return ViewCase(
        maps=maps,
        scale=scale,
        held=held,
        keep=draw(st.integers(1, held + maps.tokens[scale] - 1)),
        rows=draw(st.integers(1, 3)),
        heads=draw(st.integers(1, 3)),
        width=draw(st.sampled_from([1, 2, 4, 8])),
        layer=draw(st.integers(0, 3)),
        dtype=draw(dtypes()),
        content=draw(content_kinds()),
        counts=draw(st.booleans()),
        seed=draw(seeds()),
        device=device,
    )


def codec_cases(homes: Homes = ()) -> st.SearchStrategy[CodecCase]:
    """Keys or values of two maps."""
    small = st.integers(1, 3)
    return _built(
        CodecCase,
        tokens=st.integers(1, 30),
        later=st.integers(1, 30),
        rows=small,
        heads=small,
        width=st.integers(1, 9),
        kind=st.sampled_from(["key", "value"]),
        dtype=dtypes(),
        content=content_kinds(),
        seed=seeds(),
    )


def draw_cases(homes: Homes = ()) -> st.SearchStrategy[DrawCase]:
    """How a model is made to draw, and where it is interrupted."""
    budget = st.sampled_from(["50%", "100%", "20%"])
    return _built(DrawCase, rows=st.integers(1, 2), seed=seeds(), stop=st.integers(0, 99), budget=budget)


CASES: dict[type[Case], Callable[[Homes], st.SearchStrategy[Any]]] = {
    ViewCase: view_cases,
    ProfileCase: profile_cases,
    PlanCase: plan_cases,
    ImageCase: image_cases,
    CodecCase: codec_cases,
    DrawCase: draw_cases,
}
"""{type of case: the strategy that gives such cases}."""


def geometries() -> st.SearchStrategy[CacheGeometry]:
    """Small models of any shape, schedule, batch and dtype."""
    return plan_cases().map(lambda case: case.geometry)


def roles() -> st.SearchStrategy[LayerRoles]:
    """Roles of layers and heads, of one, two or three kinds."""
    return plan_cases().map(lambda case: case.layer_roles())


def profiles() -> st.SearchStrategy[AttentionProfile]:
    """What calibration might have measured: ordinary, flat or peaked attention."""
    return profile_cases().map(lambda case: case.profile())


def views(statistics: tuple[str, ...] = ()) -> st.SearchStrategy[CacheView]:
    """What a selector or merger sees, with running statistics of these names."""
    return view_cases().map(lambda case: case.view(statistics))
