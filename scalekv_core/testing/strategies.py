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
from scalekv_core.contracts.strategies import TokenSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import Map, ScaleSchedule
from scalekv_core.testing.cases import (
    CONTENTS,
    DTYPES,
    LAYOUTS,
    Case,
    CodecCase,
    GenerationCase,
    ImageCase,
    PlanCase,
    ProfileCase,
    ViewCase,
)
from scalekv_core.testing.cases.base import AnyCase
from scalekv_core.testing.cases.models import SPREADS
from scalekv_core.testing.cases.views import SOFTMAX

OnlyFor = Sequence[tuple[CacheGeometry, str]]
"""(geometry, budget) of the models that a strategy is only for; empty if it is for all."""
ROLES = ("any", "refiner,drafter", "drafter,refiner", "near,far,other")


def dtypes() -> st.SearchStrategy[str]:
    """Names of the dtypes that attention is computed in."""
    return st.sampled_from(list(DTYPES))


def content_kinds() -> st.SearchStrategy[str]:
    """Kinds of queries, keys and values: ordinary, nearly tied, equal, repeated, huge, denormal, zero."""
    return st.sampled_from(CONTENTS)


def layouts() -> st.SearchStrategy[str]:
    """How queries, keys and values lie in memory."""
    return st.sampled_from(LAYOUTS)


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


def profile_cases(only_for: OnlyFor = ()) -> st.SearchStrategy[ProfileCase]:
    """Models and what calibration measured of them."""
    fields = {
        "content": st.sampled_from(["ordinary", "flat", "peaked"]),
        "fractions": st.sampled_from(["usual", "reverse", "more"]),
        "name": st.sampled_from(["synthetic", "var-d16"]),
    }
    if only_for:
        return st.sampled_from([_shape_of(geometry) for geometry, _ in only_for]).flatmap(
            lambda shape: _built(ProfileCase, **_just(shape), **fields, seed=seeds())
        )
    return _built(ProfileCase, maps=schedules(), **fields, **_shape(layers=4, heads=4, rows=3))


def plan_cases(only_for: OnlyFor = ()) -> st.SearchStrategy[PlanCase]:
    """Models with roles and budgets."""
    fields = {"roles": st.sampled_from(ROLES), "spread": st.sampled_from(SPREADS)}
    if only_for:
        return st.sampled_from([(_shape_of(geometry), budget) for geometry, budget in only_for]).flatmap(
            lambda shape: _built(PlanCase, **_just(shape[0]), budget=st.just(shape[1]), **fields, seed=seeds())
        )
    return _built(PlanCase, maps=schedules(), **fields, budget=budgets(), **_shape(layers=4, heads=4, rows=3))


def image_cases(only_for: OnlyFor = ()) -> st.SearchStrategy[ImageCase]:
    """Models with a budget and one image."""
    if only_for:
        return st.sampled_from([(_shape_of(geometry), budget) for geometry, budget in only_for]).flatmap(
            lambda shape: _built(ImageCase, **_just(shape[0]), budget=st.just(shape[1]), seed=seeds())
        )
    maps = schedules(least_maps=2, most_maps=5, most_tokens=80)
    shape = _shape(layers=3, heads=3, rows=2) | {"width": st.sampled_from([2, 4, 8])}  # see ImageCase
    fields = {"budget": budgets(most_tokens=40), "content": content_kinds(), "layout": layouts()}
    return _built(ImageCase, maps=maps, **fields, **shape)


def _shape_of(geometry: CacheGeometry) -> dict[str, Any]:
    return {
        "maps": geometry.schedule,
        "layers": geometry.layers,
        "heads": geometry.heads,
        "width": geometry.head_dim,
    }


def _just(values: dict[str, Any]) -> dict[str, st.SearchStrategy[Any]]:
    return {name: st.just(value) for name, value in values.items()}


@st.composite
def view_cases(draw: st.DrawFn, only_for: OnlyFor = (), *, device: str = "cpu") -> ViewCase:
    """What a selector or merger sees, with at least one token more than may be kept; histories thinned in any measure."""
    maps = draw(schedules(least_maps=2).filter(lambda maps: maps.last_history > 1))
    scale = draw(st.integers(0, len(maps) - 2).filter(lambda k: maps.seen[k] > 1))
    held = draw(st.integers(max(0, 2 - maps.tokens[scale]), maps.history[scale]))
    return ViewCase(
        maps=maps,
        scale=scale,
        held=held,
        keep=draw(st.integers(1, held + maps.tokens[scale] - 1)),
        rows=draw(st.integers(1, 3)),
        heads=draw(st.integers(1, 3)),
        width=draw(st.sampled_from([1, 2, 4, 8])),
        layer=draw(st.sampled_from([0, 1, 2, 3, 17])),
        first=draw(st.sampled_from([0, 0, 1, 4])),
        dtype=draw(dtypes()),
        content=draw(content_kinds()),
        layout=draw(layouts()),
        softmax=draw(st.sampled_from(list(SOFTMAX))),
        counts=draw(st.booleans()),
        even=draw(st.booleans()),
        seed=draw(seeds()),
        device=device,
    )


def codec_cases(only_for: OnlyFor = ()) -> st.SearchStrategy[CodecCase]:
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
        layout=layouts(),
        seed=seeds(),
    )


def generation_cases(only_for: OnlyFor = ()) -> st.SearchStrategy[GenerationCase]:
    """How a model is made to generate, and where it is interrupted."""
    budget = st.sampled_from(["50%", "100%", "20%"])
    return _built(GenerationCase, rows=st.integers(1, 3), seed=seeds(), stop=st.integers(0, 999), budget=budget)


CASES: dict[type[Case], Callable[[OnlyFor], st.SearchStrategy[Any]]] = {
    ViewCase: view_cases,
    ProfileCase: profile_cases,
    PlanCase: plan_cases,
    ImageCase: image_cases,
    CodecCase: codec_cases,
    GenerationCase: generation_cases,
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


def views(selector: TokenSelector | None = None) -> st.SearchStrategy[CacheView]:
    """What a selector or merger sees; with the statistics that this selector observed before."""
    return view_cases().map(lambda case: case.view(selector))
