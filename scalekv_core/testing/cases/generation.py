"""Cases for adapters and models: how a model is made to generate, and where it is interrupted."""

from __future__ import annotations

from attrs import frozen

from scalekv_core.testing.cases.base import Case


@frozen(kw_only=True, repr=False)
class GenerationCase(Case):
    """How a model is made to generate.

    Attributes:
        rows: images in the batch.
        seed: of the images.
        stop: where something fails, if anything does: a number that is reduced to the steps that there are.
        budget: of the compressed image.
    """

    rows: int = 1
    seed: int = 0
    stop: int = 0
    budget: str = "50%"

    def __repr__(self) -> str:
        return f"GenerationCase.parse({str(self)!r})"
