"""Which tokens a policy keeps: the figures behind ``scalekv explain``.

A plan says how much each layer holds after each scale; a generated image says which tokens those are. Both are gathered
here as plain arrays, so that they can be printed without matplotlib and plotted with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import InputError
from scalekv_core.planning.planner import Planned
from scalekv_core.shapes.schedule import ScaleSchedule


def held_share(plan: CachePlan) -> NDArray[np.float64]:
    """[K-1, L] what is held after each scale but the last, as a share of all tokens so far that a later one reads; mean over heads.

    >>> from scalekv_core.shapes.schedule import ScaleSchedule
    >>> plan = CachePlan(ScaleSchedule.square(1, 2, 3), np.array([[[1]], [[2]], [[0]]]))
    >>> held_share(plan).tolist()
    [[1.0], [0.4]]
    """
    keepable = np.maximum(np.asarray(plan.schedule.keepable()[:-1], dtype=np.float64), 1)
    return plan.held[:-1].mean(axis=2) / keepable[:, None]


def visible_share(plan: CachePlan) -> NDArray[np.float64]:
    """[K, L] the share of its history that each scale attends to; not a number for the first scale, which has none.

    >>> from scalekv_core.shapes.schedule import ScaleSchedule
    >>> plan = CachePlan(ScaleSchedule.square(1, 2, 3), np.array([[[1]], [[2]], [[0]]]))
    >>> visible_share(plan).tolist()
    [[nan], [1.0], [0.4]]
    """
    none = np.full((1, plan.layers), np.nan)
    return np.concatenate([none, held_share(plan)])


def role_share(roles: LayerRoles, name: str) -> NDArray[np.float64]:
    """[K, L] the share of a layer's heads that play this role."""
    return roles.is_role(name).mean(axis=2)


def typical_layers(roles: LayerRoles) -> list[int]:
    """The first, the middle and the last layer, and for each role the layer with most heads in it.

    >>> drafter = np.zeros((3, 16, 2), dtype=np.int8)
    >>> drafter[:, 5] = 1
    >>> typical_layers(LayerRoles(("refiner", "drafter"), drafter))
    [0, 5, 8, 15]
    """
    layers = roles.labels.shape[1]
    shares = [role_share(roles, name).mean(axis=0) for name in roles.names]
    return sorted({0, layers // 2, layers - 1, *(int(share.argmax()) for share in shares if share.any())})


@define(eq=False)
class KeptTokens:
    """Which tokens are kept until the last scale. An observer of the cache: pass it to ``compress``.

    Attributes:
        schedule: of the last image that was seen.
        kept: {(layer, head): [B, N] whether each token of the history is held}.
    """

    schedule: ScaleSchedule | None = None
    kept: dict[tuple[int, int], NDArray[np.bool_]] = field(factory=dict)

    def __call__(self, view: CacheView, kept: Tensor | None) -> None:
        """Notes which tokens the last scale attends to."""
        schedule = view.schedule
        if view.scale != len(schedule) - 1:
            return
        self.schedule = schedule
        positions = view.positions[:, :, : view.history].cpu().numpy()
        for index, head in enumerate(view.heads):
            mask = np.zeros((positions.shape[0], schedule.history[-1]), dtype=bool)
            np.put_along_axis(mask, positions[:, index].astype(np.int64), True, axis=1)
            self.kept[view.layer, head] = mask

    def on_map(self, source: int, *, layer: int, head: int | None = None, row: int = 0) -> NDArray[np.float64]:
        """[t, h, w] of a source map: 1 where the token is held, 0 where not; without ``head`` the share of heads.

        Raises:
            InputError: there is no such layer, head or row, or no image was generated.
        """
        schedule, masks = self._masks(layer, head, row)
        start = schedule.history[source]
        part = np.stack([mask[row, start : start + schedule.tokens[source]] for mask in masks])
        return part.mean(axis=0).reshape(schedule.maps[source])

    def counts(self, *, layer: int, head: int | None = None, row: int = 0) -> list[float]:
        """Tokens held of each source map but the last; without ``head`` the mean over heads."""
        schedule, _ = self._masks(layer, head, row)
        sources = range(len(schedule) - 1)
        return [float(self.on_map(source, layer=layer, head=head, row=row).sum()) for source in sources]

    def _masks(self, layer: int, head: int | None, row: int) -> tuple[ScaleSchedule, list[NDArray[np.bool_]]]:
        if self.schedule is None:
            raise InputError("no image reached its last scale; there are no kept tokens to show")
        rows = next(iter(self.kept.values())).shape[0]
        for what, value, there in (
            ("layer", layer, {at for at, _ in self.kept}),
            ("head", head, {at for _, at in self.kept} | {None}),
            ("row", row, set(range(rows))),
        ):
            if value not in there:
                raise InputError(f"there is no {what} {value}; the image had {what}s 0 to {len(there - {None}) - 1}")
        masks = [mask for (at, of), mask in sorted(self.kept.items()) if at == layer and head in (None, of)]
        return self.schedule, masks


@frozen(eq=False, kw_only=True)
class Explanation:
    """The data of all figures of one policy on one model.

    Attributes:
        planned: how much each head may hold.
        kept, image: which tokens are kept, and the image; None if nothing was generated.
        layers, head, row: which ones are shown.
    """

    planned: Planned
    kept: KeptTokens | None = None
    image: Tensor | None = None
    layers: Sequence[int] = ()
    head: int | None = None
    row: int = 0
