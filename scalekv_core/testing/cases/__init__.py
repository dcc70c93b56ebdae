"""Small inputs for checks: sizes, names and a seed, written as one line; tensors are made from them."""

from scalekv_core.testing.cases.base import Case, read_maps
from scalekv_core.testing.cases.codecs import CodecCase
from scalekv_core.testing.cases.generation import GenerationCase
from scalekv_core.testing.cases.models import ImageCase, ModelCase, PlanCase, ProfileCase
from scalekv_core.testing.cases.numbers import CONTENTS, DTYPES, LAYOUTS
from scalekv_core.testing.cases.views import ViewCase

__all__ = [
    "CONTENTS",
    "DTYPES",
    "LAYOUTS",
    "Case",
    "CodecCase",
    "GenerationCase",
    "ImageCase",
    "ModelCase",
    "PlanCase",
    "ProfileCase",
    "ViewCase",
    "read_maps",
]
