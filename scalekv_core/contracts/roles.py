"""Layer roles: what a classifier answers."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from scalekv_core.errors import ContractError
from scalekv_core.shapes.geometry import CacheGeometry


@frozen(eq=False)
class LayerRoles:
    """Which role each head of each layer plays at each scale.

    Attributes:
        names: the roles; label i means ``names[i]``.
        labels: [K, L, H] integers. Row k is the role during scale k, so it decides what is held *for* scale k.
        scores: [K, L, H] the measure that decided, if there is one (``scalekv explain`` plots it).

    Raises:
        ContractError: labels are not three-dimensional integers, or point past ``names``.
    """

    names: tuple[str, ...]
    labels: NDArray[np.integer]
    scores: NDArray[np.floating] | None = None

    def __attrs_post_init__(self) -> None:
        labels = self.labels
        if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
            raise ContractError(f"layer roles are integers [K, L, H]; got {labels.dtype} of shape {labels.shape}")
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.names):
            raise ContractError(
                f"layer roles name {len(self.names)} roles; labels go from {labels.min()} to {labels.max()}"
            )

    @classmethod
    def alike(cls, name: str, geometry: CacheGeometry, scores: NDArray[np.floating] | None = None) -> LayerRoles:
        """The same role everywhere; scores tell layers and heads apart, if there are any."""
        shape = (len(geometry.schedule), geometry.layers, geometry.heads)
        return cls((name,), np.zeros(shape, dtype=np.int8), scores)

    def with_prefix(self) -> LayerRoles:
        """The same with a text prefix in front, at which every head plays the role that it plays at the first map."""
        labels, scores = (None if x is None else np.concatenate([x[:1], x]) for x in (self.labels, self.scores))
        assert labels is not None
        return LayerRoles(self.names, labels, scores)

    def without_prefix(self) -> LayerRoles:
        """Those of the maps alone."""
        return LayerRoles(self.names, self.labels[1:], None if self.scores is None else self.scores[1:])

    def is_role(self, name: str) -> NDArray[np.bool_]:
        """[K, L, H] where the role of this name is played; nowhere, if it does not exist."""
        return self.labels == (self.names.index(name) if name in self.names else -1)
