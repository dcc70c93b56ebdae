"""What a model takes at most beside its cache, from its sizes alone: where that clearly fits, no dry run is needed.

A dry run is exact and takes seconds; a bound may be several times too large and takes none. A card gives one if its family
can argue for one; a test holds every bound of an installed model against the dry run.
"""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class SizeBound:
    """Upper bounds, in bytes.

    Attributes:
        weights: of all parts, the text encoder too.
        row: activations of one row of the batch while a scale is generated, logits and sampling too.
        image: activations of one image while it is decoded.

    >>> SizeBound(weights=1000, row=10, image=100).of(images=2, rows=4)
    1240
    """

    weights: int
    row: int
    image: int

    def of(self, *, images: int, rows: int) -> int:
        """Bytes of a batch."""
        return self.weights + rows * self.row + images * self.image
