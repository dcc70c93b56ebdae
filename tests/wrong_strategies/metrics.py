"""Wrong metrics."""

from __future__ import annotations

import numpy as np
import torch
from attrs import define, frozen

from scalekv_core.models.metric import Pair, PairMetric
from tests.wrong_strategies.catalogue import fails


@frozen
class Brightness(PairMetric):
    """Right: mean of each compressed image."""

    def measure(self, pair: Pair):
        return pair.compressed.images.flatten(1).double().mean(dim=1)


@fails("is_a_value")
@define
class Writable(Brightness):
    """Is not frozen."""

    __setattr__ = object.__setattr__  # attrs would let a frozen base freeze it


@fails("one_figure_per_image")
@frozen
class OneForAll(Brightness):
    """Answers with one figure for the whole batch."""

    def measure(self, pair: Pair):
        return super().measure(pair).mean()


@fails("one_figure_per_image")
@frozen
class ScalesFirst(Brightness):
    """Has its scales before its images."""

    def by_scale(self, pair: Pair):
        return torch.zeros(len(pair.unmodified.tokens), len(pair.prompts))


@fails("images_are_apart")
@frozen
class BesideTheOthers(Brightness):
    """Compares each image with the mean of its batch."""

    def measure(self, pair: Pair):
        figures = super().measure(pair)
        return figures - figures.mean()


@fails("repeats_itself")
@frozen
class Noisy(Brightness):
    """Adds noise of the global generator."""

    def measure(self, pair: Pair):
        return super().measure(pair) + torch.rand(len(pair.prompts))


@fails("repeats_itself")
@frozen
class Scribbles(Brightness):
    """Clamps the images in place."""

    def measure(self, pair: Pair):
        pair.compressed.images.mul_(0.5)
        return super().measure(pair)


@fails("pooling_is_of_images")
@frozen
class LeavesOut(Brightness):
    """Averages what is not a number away."""

    def pool(self, values):
        return np.nanmean(values, axis=-1)


@fails("pooling_is_of_images")
@frozen
class PoolsAll(Brightness):
    """Puts all resamples into one figure."""

    def pool(self, values):
        return values.mean()


@fails("is_quiet")
@frozen
class Prints(Brightness):
    """Prints what it finds."""

    def measure(self, pair: Pair):
        print("brightness", float(pair.compressed.images.mean()))
        return super().measure(pair)
