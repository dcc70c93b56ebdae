"""One case of a promise: small enough to read, and written as a line of text from which it can be made again.

A case holds sizes, names and a seed; tensors are made from it. Only what differs from the smallest case is written, so
that the smallest failing case is a short line: ``maps=1x1,1x2 scale=1 content=tied``.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import attrs
import numpy as np
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import InputError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing import contents
from scalekv_core.testing.contents import DTYPES

CONTENTS = ("ordinary", "tied", "equal", "repeated", "huge", "denormal", "zero")

AnyCase = TypeVar("AnyCase", bound="Case")


def read_maps(maps: str | ScaleSchedule) -> ScaleSchedule:
    """The schedule that a text like ``1x1,2x3`` means.

    >>> read_maps("1x1,2x2x3").maps
    ((1, 1, 1), (2, 2, 3))
    """
    if isinstance(maps, ScaleSchedule):
        return maps
    return ScaleSchedule([tuple(int(side) for side in sizes.split("x")) for sizes in maps.split(",")])


@frozen(kw_only=True)
class Case:
    """What all cases can do: be written as a line, and be read from one."""

    def __str__(self) -> str:
        """The line: the first field, and every other one that is not what it is in the smallest case."""
        smallest, names = type(self)(), [field.name for field in attrs.fields(type(self))]
        changed = [name for name in names if getattr(self, name) != getattr(smallest, name) or name == names[0]]
        return " ".join(f"{name}={_word(getattr(self, name))}" for name in changed)

    def with_several(self: AnyCase, **least: int) -> AnyCase:
        """The case with at least so many rows, heads or whatever is named: one alone has nobody to be mixed up with."""
        return attrs.evolve(self, **{name: max(number, getattr(self, name)) for name, number in least.items()})

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis prints: the call that makes the case again."""
        printer.text(repr(self))

    @classmethod
    def parse(cls: type[AnyCase], line: str) -> AnyCase:
        """The case that a line stands for.

        Raises:
            InputError: it has no such field, or a value is of another type.

        >>> ViewCase.parse("maps=1x1,2x3 scale=1 keep=4").view().tokens
        6
        """
        smallest = cls()
        values: dict[str, Any] = {}
        for word in line.split():
            name, _, text = word.partition("=")
            if not hasattr(smallest, name):
                known = ", ".join(f.name for f in attrs.fields(cls))
                raise InputError(f"case {line!r}: a {cls.__name__} has no {name!r}; it has {known}")
            values[name] = _read(name, text, getattr(smallest, name))
        try:
            return cls(**values)
        except ValueError as error:
            raise InputError(f"case {line!r}: {error.args[0]}") from error


def _word(value: Any) -> str:
    return str(value).replace(" ", "," if isinstance(value, ScaleSchedule) else "_")


def _read(name: str, text: str, like: Any) -> Any:
    try:
        if isinstance(like, bool):
            return {"True": True, "False": False}[text]
        return type(like)(text) if isinstance(like, int) else text.replace("_", " ")
    except (KeyError, ValueError) as error:
        raise InputError(f"case: {name} is of type {type(like).__name__}; got {text!r}") from error


@frozen(kw_only=True, repr=False)
class ViewCase(Case):
    """What a selector or merger sees of one group of heads after a scale, and how many tokens may stay.

    Attributes:
        maps, scale: the schedule and the scale that was just drawn.
        held: tokens of the history that are left, others in every row and head.
        keep: tokens that may stay.
        rows, heads, width, layer, dtype, device: the shape of the view.
        content: of queries, keys and values.
        counts: whether tokens of the history stand for several.
        seed: of all numbers.
    """

    maps: ScaleSchedule = field(default=ScaleSchedule([(1, 2)]), converter=read_maps)
    scale: int = 0
    held: int = 0
    keep: int = 1
    rows: int = 1
    heads: int = 1
    width: int = 1
    layer: int = 0
    dtype: str = field(default="float32", validator=in_(DTYPES))
    content: str = field(default="ordinary", validator=in_(CONTENTS))
    counts: bool = False
    seed: int = 0
    device: str = "cpu"

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.scale < len(self.maps) or not 0 <= self.held <= self.maps.history[self.scale]:
            raise InputError(f"scale {self.scale} of maps {self.maps} has no history of {self.held} tokens")

    @property
    def tokens(self) -> int:
        """N."""
        return self.held + self.maps.tokens[self.scale]

    def view(self, statistics: tuple[str, ...] = ()) -> CacheView:
        """The view, with running statistics of these names."""
        return contents.make_view(self, statistics)

    def __repr__(self) -> str:
        return f"ViewCase.parse({str(self)!r})"


@frozen(kw_only=True, repr=False)
class _ModelCase(Case):
    """The shape of a model, its schedule and its batch."""

    maps: ScaleSchedule = field(default=ScaleSchedule([(1, 1), (1, 1)]), converter=read_maps)
    layers: int = 1
    heads: int = 1
    width: int = 1
    rows: int = 1
    dtype: str = field(default="float32", validator=in_(DTYPES))
    seed: int = 0

    @property
    def geometry(self) -> CacheGeometry:
        return CacheGeometry(
            schedule=self.maps,
            layers=self.layers,
            heads=self.heads,
            head_dim=self.width,
            rows=self.rows,
            dtype=DTYPES[self.dtype],
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({str(self)!r})"


@frozen(kw_only=True, repr=False)
class ProfileCase(_ModelCase):
    """A model and what calibration measured of it: ``ordinary``, ``flat`` or ``peaked`` attention."""

    content: str = field(default="ordinary", validator=in_(("ordinary", "flat", "peaked")))

    def profile(self) -> AttentionProfile:
        return contents.make_profile(self.geometry, self.content, self.seed)


@frozen(kw_only=True, repr=False)
class PlanCase(_ModelCase):
    """A model, the roles that some classifier gave its layers and heads, and a budget.

    Attributes:
        roles: names of the roles, separated by commas, given at random.
        budget: as text.
    """

    roles: str = "any"
    budget: str = "100%"

    def layer_roles(self) -> LayerRoles:
        names = tuple(self.roles.split(","))
        shape = (len(self.maps), self.layers, self.heads)
        return LayerRoles(names, np.random.default_rng(self.seed).integers(len(names), size=shape).astype(np.int8))


@frozen(kw_only=True, repr=False)
class ImageCase(_ModelCase):
    """A model, a budget, and the queries, keys and values of one image.

    Heads are at least 2 wide: where they are 1, torch's attention on CPU gives other bits for another memory layout.

    Attributes:
        budget: as text; "" takes the policy's own.
        content: of queries, keys and values.
    """

    width: int = 2
    budget: str = "100%"
    content: str = field(default="ordinary", validator=in_(CONTENTS))
    device: str = "cpu"


@frozen(kw_only=True, repr=False)
class CodecCase(Case):
    """Keys or values to encode, and a second map that joins them later.

    Attributes:
        tokens, later: of the two maps.
        kind: ``key`` or ``value``.
    """

    tokens: int = 1
    later: int = 1
    rows: int = 1
    heads: int = 1
    width: int = 1
    kind: Literal["key", "value"] = "key"
    dtype: str = field(default="float32", validator=in_(DTYPES))
    content: str = field(default="ordinary", validator=in_(CONTENTS))
    seed: int = 0
    device: str = "cpu"

    def maps(self) -> tuple[Tensor, Tensor]:
        """(B, H, n, D) of both maps."""
        return contents.make_maps(self)

    def __repr__(self) -> str:
        return f"CodecCase.parse({str(self)!r})"


@frozen(kw_only=True, repr=False)
class DrawCase(Case):
    """How a model is made to draw: images in the batch, seed, and the call of attention at which something fails.

    Attributes:
        stop: at which of the calls, from 0, if something is to fail; past the end nothing does.
        budget: of the compressed image.
    """

    rows: int = 1
    seed: int = 0
    stop: int = 0
    budget: str = "50%"

    def __repr__(self) -> str:
        return f"DrawCase.parse({str(self)!r})"
