"""The figures of ``scalekv explain``; they need matplotlib."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scalekv_core.compare.explain import Explanation, visible_share
from scalekv_core.contracts.defaults import Drop
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.errors import InputError, missing_extra
from scalekv_core.planning.planner import Planned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

SHARES, SCORES = "viridis", "magma"
"""Colour maps of shares and of scores."""
ROLES = ("#4c78a8", "#f2cf5b", "#54a24b", "#b279a2", "#9d755d", "#bab0ac")
"""One colour per role."""
KEPT, EVICTED, NONE = "#e4572e", "#d4d4d4", "#ffffff"
"""Colours of kept tokens, of evicted ones in the legend, and of empty cells."""
SMALL = 7
"""Points of the smallest text."""


def check_plots() -> None:
    """Raises MissingExtra if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "plot", "a plot (scalekv explain without --text)")


def figure_of_plan(planned: Planned) -> Figure:
    """A figure whose columns are scales: how much of its history each scale attends to, and the roles and scores that
    this comes from. All panels share the columns, so a column shows everything about one scale.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    roles, plan = planned.roles, planned.plan
    panels = 1 + _role_panels(roles) + (roles.scores is not None)
    figure = _figure(2.8 + 0.38 * len(plan.schedule), 0.9 + panels * (0.9 + 0.17 * plan.layers))
    axes = iter(figure.subplots(panels, 1, squeeze=False)[:, 0])
    _shares(
        figure,
        next(axes),
        "kept tokens that the scale attends to, share of its history (×: it has none)",
        visible_share(plan),
    )
    if len(roles.names) > 1 and _whole_layers(roles):
        _categories(figure, next(axes), "role of the layer at the scale", roles)
    elif len(roles.names) > 1:
        for name in roles.names[:-1]:
            title = f"role {name}, share of heads (the others: {roles.names[-1]})"
            _shares(figure, next(axes), title, roles.is_role(name).mean(axis=2))
    if roles.scores is not None:
        scores = np.asarray(roles.scores, dtype=np.float64).mean(axis=2)
        axis = next(axes)
        figure.colorbar(_heat_map(axis, "score that decides the role, mean over heads", scores, SCORES), ax=axis)
    for axis in figure.axes[:panels]:
        _name_scales(axis, planned)
    figure.axes[panels - 1].set_xlabel("scale, by its map; the history is all maps to the left", fontsize=8)
    figure.suptitle(f"{planned.policy.name}, {planned.budget}", fontsize=10)
    return figure


def figure_of_kept(explanation: Explanation) -> Figure:
    """A figure with the image once for every earlier map: coloured where the last scale attends to a token of that map,
    pale where the token was evicted.

    Raises:
        InputError: there is no such layer, head or row, or no image was generated.
        MissingExtra: matplotlib is not installed.
    """
    shown, kept = explanation, explanation.kept
    if kept is None or shown.image is None:
        raise InputError("no image was generated; there are no kept tokens to show")
    schedule = shown.planned.geometry.schedule
    sources = range(len(schedule) - 1)
    aspect = shown.image.shape[1] / shown.image.shape[2]
    figure = _figure(0.8 + 1.25 * len(sources), 1.3 + len(shown.layers) * (1.25 * aspect + 0.3))
    axes = figure.subplots(len(shown.layers), len(sources), squeeze=False)
    pale = _pale(shown.image.detach().float().clamp(0, 1).mean(dim=0).cpu().numpy())
    for line, layer in zip(axes, shown.layers, strict=True):
        for source, axis in zip(sources, line, strict=True):
            share = kept.on_map(source, layer=layer, head=shown.head, row=shown.row)
            _cover(axis, pale, share.mean(axis=0))
            _, h, w = schedule.maps[source]
            axis.set_title(f"{h}x{w}: {share.sum():.4g} of {share.size}", fontsize=SMALL, pad=3)
        line[0].set_ylabel(_layer_in_words(shown.planned.roles, layer), fontsize=8)
    _kept_legend(figure, shown)
    counts = "; numbers are means over heads" if shown.head is None else ""
    what = f"tokens of each map that the last scale attends to{counts}"
    figure.suptitle(f"{shown.planned.policy.name}, {shown.planned.budget}: {what}", fontsize=9)
    return figure


def _shares(figure: Figure, axis: Axes, title: str, values: NDArray[Any]) -> None:
    figure.colorbar(_heat_map(axis, title, values, SHARES, limits=(0.0, 1.0)), ax=axis)


def _heat_map(
    axis: Axes,
    title: str,
    values: NDArray[Any],
    colours: str | Colormap,
    *,
    limits: tuple[float | None, float | None] = (None, None),
) -> Any:
    """Scales from left to right, layers from top to bottom; what is not a number is crossed out."""
    from matplotlib.ticker import MaxNLocator

    axis.set_facecolor(NONE)
    mesh = axis.imshow(values.T, aspect="auto", cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    for scale, layer in np.argwhere(np.isnan(np.asarray(values, dtype=np.float64))):
        axis.text(scale, layer, "×", ha="center", va="center", fontsize=SMALL, color="#b0b0b0")
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_ylabel("layer")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    return mesh


def _categories(figure: Figure, axis: Axes, title: str, roles: LayerRoles) -> None:
    """One colour per role, named beside the panel."""
    from matplotlib.colors import ListedColormap

    colours = [ROLES[index % len(ROLES)] for index in range(len(roles.names))]
    limits = (-0.5, len(colours) - 0.5)
    mesh = _heat_map(axis, title, roles.labels[:, :, 0], ListedColormap(colours), limits=limits)
    figure.colorbar(mesh, ax=axis, ticks=range(len(colours))).set_ticklabels(roles.names)


def _role_panels(roles: LayerRoles) -> int:
    """How many panels the roles take: none if there is one role, one if all heads of a layer share theirs."""
    if len(roles.names) == 1:
        return 0
    return 1 if _whole_layers(roles) else len(roles.names) - 1


def _whole_layers(roles: LayerRoles) -> bool:
    return bool((roles.labels == roles.labels[:, :, :1]).all())


def _name_scales(axis: Axes, planned: Planned) -> None:
    maps = planned.geometry.schedule.maps
    axis.set_xticks(range(len(maps)), [str(h) if h == w else f"{h}x{w}" for _, h, w in maps], fontsize=SMALL)


def _layer_in_words(roles: LayerRoles, layer: int) -> str:
    """The layer and, where layers differ, its roles at the last scale."""
    if len(roles.names) == 1:
        return f"layer {layer}"
    here = [name for name in roles.names if roles.is_role(name)[-1, layer].any()]
    return f"layer {layer}\n{', '.join(here)}"


def _pale(grey: NDArray[Any]) -> NDArray[np.float64]:
    """(H, W, 3) the image as a faint grey picture, lighter than anything that is laid over it."""
    return np.repeat((0.78 + 0.20 * grey)[..., None], 3, axis=2)


def _cover(axis: Axes, pale: NDArray[np.float64], share: NDArray[np.float64]) -> None:
    """The image, with every token's cell the more coloured the more heads keep it."""
    from matplotlib.colors import to_rgb

    height, width = pale.shape[:2]
    cover = np.empty((*share.shape, 4))
    cover[..., :3], cover[..., 3] = to_rgb(KEPT), np.where(share > 0, 0.25 + 0.65 * share, 0.0)
    place = (0, width, height, 0)
    axis.imshow(pale, extent=place, interpolation="nearest", vmin=0, vmax=1)
    axis.imshow(cover, extent=place, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])


def _kept_legend(figure: Figure, shown: Explanation) -> None:
    """Adds the legend below all panels."""
    from matplotlib.patches import Patch

    folded = not isinstance(shown.planned.policy.merger, Drop)
    gone = "folded into a kept token" if folded else "evicted"
    one = f"head {shown.head}"
    handles = [Patch(facecolor=KEPT, label=f"kept by {'all heads' if shown.head is None else one}")]
    if shown.head is None:
        handles.append(Patch(facecolor=_mixed(KEPT, EVICTED), label="kept by some heads"))
    handles.append(Patch(facecolor=EVICTED, edgecolor="#9a9a9a", label=gone))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)


def _mixed(one: str, other: str) -> tuple[float, float, float]:
    """The colour half way between two."""
    from matplotlib.colors import to_rgb

    red, green, blue = ((a + b) / 2 for a, b in zip(to_rgb(one), to_rgb(other), strict=True))
    return red, green, blue


def _figure(width: float, height: float) -> Figure:
    """A figure of its own, without pyplot's global state or a display."""
    check_plots()
    from matplotlib.figure import Figure

    return Figure(figsize=(max(4.0, width), max(2.0, height)), dpi=130, layout="constrained")
