"""SnapKV: tokens that the end of a map attends to."""

from __future__ import annotations

import pytest
import torch

from scalekv_core import ScaleSchedule
from scalekv_policies.snapkv import SnapSelector

SCHEDULE = ScaleSchedule([(1, 1), (2, 3), (4, 4), (6, 7)])


def by_hand(view, keep, window, kernel, pooling):
    """The selector equals the paper's rule in loops: pooled mass of the tokens before the window, and the window."""
    weights = (view.q[:, :, -window:] @ view.k.transpose(2, 3) * view.softmax_scale).softmax(dim=-1).sum(dim=2)
    before = view.tokens - window
    pooled = torch.empty(*weights.shape[:2], before)
    for j in range(before):
        near = weights[:, :, max(0, j - kernel // 2) : min(before, j + kernel // 2 + 1)]
        pooled[:, :, j] = near.amax(dim=-1) if pooling == "max" else near.mean(dim=-1)
    return pooled, keep - window


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_the_window_and_the_best_pooled_tokens_stay(pooling, make_view):
    """At the paper's sizes the whole window is kept, and no evicted token has a better score than a kept one."""
    view = make_view(SCHEDULE, 3, held=15)
    kept = SnapSelector(window=8, kernel=3, pooling=pooling).select(view, 20)
    pooled, others = by_hand(view, 20, 8, 3, pooling)
    assert torch.arange(view.tokens - 8, view.tokens).tolist() == kept[0, 0, -8:].tolist()
    scores = pooled.gather(2, kept[:, :, :-8])
    torch.testing.assert_close(pooled.topk(others).values, scores.sort(descending=True).values)


def test_a_small_capacity_is_not_all_window(make_view):
    """Half of the capacity is reserved for the end of the window; scores decide the rest, in or out of the window."""
    view = make_view(SCHEDULE, 3)
    view.q.fill_(1.0)
    view.k[:, :, 3] = 5.0  # what every query likes best
    kept = SnapSelector(kernel=1).select(view, 10)
    assert (kept[:, :, -5:] == torch.arange(view.tokens - 5, view.tokens)).all()
    assert (kept == 3).any(dim=-1).all()
