"""Checks what the strategies of a policy return; anything invalid is an error that names the strategy.

Shapes and dtypes are always checked. Numbers are checked in the first answer only, unless asked for: that waits for the
device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import described
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import ContractError


class AnswerCheck:
    """Checks what a policy's selector and merger return during one image.

    Args:
        policy: whose.
        always: check the numbers of every answer, not of the first alone.
    """

    def __init__(self, policy: Policy, *, always: bool = False) -> None:
        self._policy = policy
        self._always = always
        self.begin()

    def begin(self) -> None:
        """Begins a new image: first answers are checked again."""
        self._unchecked = {"selector", "merger"}

    def statistics(self, view: CacheView, returned: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{name: (B, H, N) float32} the statistics that the selector returns, copied into memory of their own.

        Raises:
            ContractError: one is missing or of another shape.
        """
        kept = {}
        for name in self._policy.selector.statistics:
            if name not in returned or returned[name].shape != view.positions.shape:
                raise ContractError(
                    f"{self._selector(view)} must return statistic {name!r} of shape {tuple(view.positions.shape)} from "
                    f"observe; got {tuple(returned[name].shape) if name in returned else 'nothing'}"
                )
            kept[name] = ops.tight(returned[name].float())
        return kept

    def kept(self, view: CacheView, kept: Tensor, keep: int) -> Tensor:
        """The selector's answer; ContractError unless it is (B, H, keep) int64, ascending, and within the tokens."""
        wanted = (*view.positions.shape[:2], keep)
        if not isinstance(kept, Tensor) or kept.shape != wanted or kept.dtype != torch.int64:
            raise ContractError(
                f"{self._selector(view)} returned {described(kept)}; wanted int64 {wanted}: "
                f"its capacity is {keep} of {view.tokens} tokens"
            )
        if self._numbers_of("selector", kept):
            _check_indices(self._selector(view), kept, view.tokens)
        return kept

    def targets(self, view: CacheView, target: Tensor, kept: Tensor) -> Tensor:
        """The merger's answer; ContractError unless it is (B, H, N) int64 in -1..keep-1, each kept token at its own place."""
        wanted = view.positions.shape
        if not isinstance(target, Tensor) or target.shape != wanted or target.dtype != torch.int64:
            raise ContractError(f"{self._merger(view)} returned {described(target)}; wanted int64 {tuple(wanted)}")
        if self._numbers_of("merger", target):
            _check_targets(self._merger(view), target, kept)
        return target

    def weights(self, view: CacheView, weights: Tensor) -> Tensor:
        """The merger's weights; ContractError unless they are (B, H, N) float32."""
        wanted = view.positions.shape
        if not isinstance(weights, Tensor) or weights.shape != wanted or weights.dtype != torch.float32:
            raise ContractError(
                f"{self._merger(view)} returned weights {described(weights)}; wanted float32 {tuple(wanted)}"
            )
        return weights

    def _numbers_of(self, part: str, answer: Tensor) -> bool:
        """Whether the values of this answer are checked; on the meta device there are none."""
        first = part in self._unchecked
        self._unchecked.discard(part)
        return (first or self._always) and not answer.is_meta

    def _selector(self, view: CacheView) -> str:
        selector = type(self._policy.selector).__name__
        return f"selector {selector} of policy {self._policy.name!r}, layer {view.layer} at scale {view.scale},"

    def _merger(self, view: CacheView) -> str:
        return f"merger {type(self._policy.merger).__name__}, layer {view.layer} at scale {view.scale},"


def _check_indices(who: str, kept: Tensor, tokens: int) -> None:
    if int(kept.min()) < 0 or int(kept.max()) >= tokens:
        raise ContractError(f"{who} returned an index outside of 0..{tokens - 1}")
    if not bool((kept[..., 1:] > kept[..., :-1]).all()):
        raise ContractError(f"{who} returned indices that are not ascending and unique")


def _check_targets(who: str, target: Tensor, kept: Tensor) -> None:
    keep = kept.shape[2]
    if int(target.min()) < -1 or int(target.max()) >= keep:
        raise ContractError(f"{who} returned a target outside of 0..{keep - 1} (-1 drops a token)")
    if not torch.equal(target.gather(2, kept), ops.all_tokens(kept, 0, keep)):
        raise ContractError(f"{who} assigned a kept token to another one; each kept token must be its own target")
