"""Who keeps what: the figures and plots behind ``scalekv explain``.

A plan says how much every layer holds after every scale; a drawn image says which tokens those are. Both are gathered
here as plain arrays, so that they can be printed without matplotlib, and plotted with it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import InputError, missing_extra
from scalekv_core.planning.planner import Planned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scalekv_core.shapes.schedule import ScaleSchedule

HELD, SCORES = "viridis", "magma"
"""Colour maps of shares and of scores."""
GONE = (0.36, 0.45, 0.62, 0.9)
"""Colour (RGBA) that lies over what is not held: neither black nor white, for images are both."""


def held_share(plan: CachePlan) -> NDArray[np.float64]:
    """[K-1, L] what is held after each scale but the last, as a share of all tokens seen until then; mean over heads.

    >>> from scalekv_core.shapes.schedule import ScaleSchedule
    >>> plan = CachePlan(ScaleSchedule.square(1, 2, 3), np.array([[[1]], [[2]], [[0]]]))
    >>> held_share(plan).tolist()
    [[1.0], [0.4]]
    """
    seen = np.asarray(plan.schedule.seen[:-1], dtype=np.float64)
    return plan.held[:-1].mean(axis=2) / seen[:, None]


def role_share(roles: LayerRoles, name: str) -> NDArray[np.float64]:
    """[K, L] the share of a layer's heads that play this role."""
    return roles.is_role(name).mean(axis=2)


@define(eq=False)
class KeptTokens:
    """Which tokens are still there when the last scale is drawn. A cache's observer: give it to ``compress``.

    Attributes:
        schedule: of the last image that was seen.
        kept: {(layer, head): [B, N] whether each token of the history is held}.
    """

    schedule: ScaleSchedule | None = None
    kept: dict[tuple[int, int], NDArray[np.bool_]] = field(factory=dict)

    def __call__(self, view: CacheView, kept: Tensor | None) -> None:
        """Notes what the last scale finds in the cache."""
        schedule = view.schedule
        if view.scale != len(schedule) - 1:
            return
        self.schedule = schedule
        positions = view.positions[:, :, : view.history].cpu().numpy()
        for index, head in enumerate(view.heads):
            mask = np.zeros((positions.shape[0], schedule.last_history), dtype=bool)
            np.put_along_axis(mask, positions[:, index].astype(np.int64), True, axis=1)
            self.kept[view.layer, head] = mask

    def on_map(self, source: int, *, layer: int, head: int | None = None, row: int = 0) -> NDArray[np.float64]:
        """[t, h, w] of a source map: 1 where the token is held, 0 where not; without ``head`` the share of heads.

        Raises:
            InputError: there is no such layer, head or row, or no image was drawn.
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
            raise InputError("nothing was drawn to its last scale; there are no kept tokens to show")
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


def check_plots() -> None:
    """Raises MissingExtra if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "plot", "a plot (scalekv explain without --text)")


def figure_of_plan(planned: Planned) -> Figure:
    """A figure: what every layer holds after every scale, and the roles and scores that this comes from.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    roles, plan = planned.roles, planned.plan
    panels: list[tuple[str, NDArray[Any], str, float | None]] = [
        ("held after the scale, share of what was seen", held_share(plan), HELD, 1.0)
    ]
    if len(roles.names) > 1:
        panels += [(f"role: {name}, share of heads", role_share(roles, name), HELD, 1.0) for name in roles.names[:-1]]
    if roles.scores is not None:
        panels.append(("score that decides the role, mean over heads", _mean(roles.scores), SCORES, None))
    figure = _figure(2.5 + 0.34 * len(plan.schedule), 1.2 + len(panels) * (1.1 + 0.16 * plan.layers))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (title, values, colours, top) in zip(axes, panels, strict=True):
        _heat_map(figure, axis, title, values, colours, top, planned)
    figure.suptitle(f"{planned.policy.name}, {planned.budget}", fontsize=10)
    return figure


def figure_of_kept(
    kept: KeptTokens, image: Tensor, *, layers: Sequence[int], head: int | None = None, row: int = 0, title: str = ""
) -> Figure:
    """A figure: the image once for every source map, and covered where the last scale finds no token of that map.

    Args:
        kept: what the cache's observer saw.
        image: (3, H, W) in [0, 1], what the row drew.
        layers: one row of the figure each.
        head: one head; None shades by the share of heads.
        row: of the batch.
        title: above everything.

    Raises:
        InputError: there is no such layer, head or row.
        MissingExtra: matplotlib is not installed.
    """
    schedule, _ = kept._masks(layers[0], head, row)
    sources = range(len(schedule) - 1)
    aspect = image.shape[1] / image.shape[2]
    figure = _figure(0.6 + 1.25 * len(sources), 0.8 + len(layers) * (1.25 * aspect + 0.3))
    axes = figure.subplots(len(layers), len(sources), squeeze=False)
    pixels = image.detach().float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    for line, layer in zip(axes, layers, strict=True):
        for source, axis in zip(sources, line, strict=True):
            share = kept.on_map(source, layer=layer, head=head, row=row)
            _shade(axis, pixels, share.mean(axis=0))
            _, h, w = schedule.maps[source]
            axis.set_title(f"{h}x{w}: {share.sum():.4g} of {share.size}", fontsize=7, pad=3)
        line[0].set_ylabel(f"layer {layer}", fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure


def _heat_map(
    figure: Figure, axis: Axes, title: str, values: NDArray[Any], colours: str, top: float | None, planned: Planned
) -> None:
    """Scales from left to right, layers from top to bottom."""
    from matplotlib.ticker import MaxNLocator

    schedule = planned.geometry.schedule
    drawn = axis.imshow(values.T, aspect="auto", cmap=colours, vmin=None if top is None else 0.0, vmax=top)
    figure.colorbar(drawn, ax=axis)
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_ylabel("layer")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    names = [str(h) if h == w else f"{h}x{w}" for _, h, w in schedule.maps[: len(values)]]
    axis.set_xticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("map that was just drawn", fontsize=8)


def _shade(axis: Axes, pixels: NDArray[Any], share: NDArray[np.float64]) -> None:
    height, width = pixels.shape[:2]
    cover = np.full((*share.shape, 4), GONE)
    cover[..., 3] *= 1 - share
    place = (0, width, height, 0)
    axis.imshow(pixels, extent=place, interpolation="nearest")
    axis.imshow(cover, extent=place, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])


def _figure(width: float, height: float) -> Figure:
    """A figure of its own, without pyplot's global state or a display."""
    check_plots()
    from matplotlib.figure import Figure

    return Figure(figsize=(max(4.0, width), max(2.0, height)), dpi=130, layout="constrained")


def _mean(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).mean(axis=2)
