"""The five parts of a policy as base classes: classifier, allocator, selector, merger, codec.

Strategies are frozen attrs classes whose fields are their options. They hold no tensors and no state: what changes
while an image is generated lives in the cache, which the core owns. Axes are named in :mod:`scalekv_core.contracts`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.encoded import Encoded, Kind
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import ContractError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule


class LayerClassifier(ABC):
    """Decides which role each layer and head plays at each scale, before generation."""

    needs_profile: ClassVar[bool] = False

    only_for: ClassVar[tuple[tuple[CacheGeometry, str], ...]] = ()
    """(geometry, budget) of the models that it is for, where it refuses all others; what it is checked on."""

    @abstractmethod
    def classify(self, profile: AttentionProfile | None, geometry: CacheGeometry) -> LayerRoles:
        """The roles, [K, L, H].

        Args:
            profile: what calibration measured on this model; never None if ``needs_profile``.
            geometry: the model's shape and the schedule.
        """


class BudgetAllocator(ABC):
    """Turns a budget into capacities, before generation."""

    spends_all: ClassVar[bool] = True
    """False if the allocator ignores the budget: ``full`` holds everything."""

    only_for: ClassVar[tuple[tuple[CacheGeometry, str], ...]] = ()
    """(geometry, budget) of the models that it is for, where it refuses all others; what it is checked on."""

    @abstractmethod
    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        """The plan: capacity [K, L, H], and if wanted a quota per source scale.

        Args:
            geometry: the model's shape and the schedule.
            roles: what the classifier said.
            slots: tokens that may be held at any scale, summed over layers and heads (of one row).
        """


class TokenSelector(ABC):
    """Chooses which tokens of a head group are kept after a scale, if there are more than its capacity."""

    statistics: ClassVar[tuple[str, ...]] = ()
    """Names of the running statistics that ``observe`` keeps, one float32 per cached token each."""

    @property
    def claims(self) -> frozenset[str]:
        """What it promises beyond the contract: names from ``scalekv_core.testing.checks.claims``, which checks them.

        One that claims both ``contents_are_ignored`` and ``layers_are_alike`` and keeps no statistics must be hashable, and is
        asked once per scale: where nothing is folded, other layers and images with the same plan get the same answer.
        """
        return frozenset()

    def least(self, schedule: ScaleSchedule, scale: int) -> int:
        """The fewest tokens that it can be asked to keep after this scale."""
        return 1

    def observe(self, view: CacheView) -> Mapping[str, Tensor]:
        """{name: (B, H, N) float32} the statistics after this scale; called at every scale but the last."""
        return {}

    @abstractmethod
    def select(self, view: CacheView, keep: int) -> Tensor:
        """(B, H, keep) int64 indices into the view's N tokens: unique, ascending; 0 < keep < N."""

    def select_by_source(self, view: CacheView, keeps: Sequence[tuple[int, int, int]]) -> Tensor:
        """(B, H, sum of keep) indices, where the plan has a quota per source scale.

        Args:
            view: the whole group.
            keeps: (start, stop, keep) for every source scale: keep that many of the tokens ``start:stop``.
        """
        parts = [self._select_part(view, *part) for part in keeps if part[2]]
        return torch.cat(parts, dim=-1)

    def _select_part(self, view: CacheView, start: int, stop: int, keep: int) -> Tensor:
        if keep == stop - start:
            return ops.all_tokens(view.k, start, stop)
        return self.select(view.slice(start, stop), keep) + start


def selects_each_source_alone(selector: TokenSelector) -> bool:
    """Whether it leaves quotas to the core, which then asks it about the tokens of each source scale by themselves."""
    return type(selector).select_by_source is TokenSelector.select_by_source


def described(x: object) -> str:
    """What a strategy returned, in words.

    >>> described(torch.zeros(2, 3)), described("tokens")
    ('torch.float32 of shape (2, 3)', 'a str')
    """
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"


class ScoringSelector(TokenSelector):
    """A selector that gives every token a score and keeps the best: most methods need only ``score``."""

    @property
    def claims(self) -> frozenset[str]:
        """By default that a larger budget keeps at least as much attention; override it if the order of scores depends on ``keep``."""
        return frozenset({"larger_budgets_keep_more"})

    @abstractmethod
    def score(self, view: CacheView, keep: int) -> Tensor:
        """(B, H, N) the higher, the more worth keeping; +inf is kept in any case; never NaN."""

    def select(self, view: CacheView, keep: int) -> Tensor:
        return ops.top_tokens(self._scores(view, keep), keep)

    def select_by_source(self, view: CacheView, keeps: Sequence[tuple[int, int, int]]) -> Tensor:
        scores = self._scores(view, sum(keep for _, _, keep in keeps))
        parts = [ops.top_tokens(scores[:, :, start:stop], keep) + start for start, stop, keep in keeps if keep]
        return torch.cat(parts, dim=-1)

    def _scores(self, view: CacheView, keep: int) -> Tensor:
        scores = self.score(view, keep)
        wanted = view.positions.shape
        if not isinstance(scores, Tensor) or scores.shape != wanted:
            got = described(scores)
            raise ContractError(f"{type(self).__name__}.score returned {got}; wanted (B, H, N) = {tuple(wanted)}")
        return scores


class TokenMerger(ABC):
    """Decides what happens to evicted tokens: into which kept token each is folded."""

    drops: ClassVar[bool] = False
    """True only for a merger that folds nothing, so that the cache carries no counts."""

    conserves: ClassVar[bool] = True
    """False for one that gives some tokens up all the same: then counts do not add up to the tokens seen."""

    @abstractmethod
    def assign(self, view: CacheView, kept: Tensor) -> Tensor:
        """(B, H, N) int64: for each token the index *into kept* that it is folded into, or -1 to drop it.

        Args:
            view: the group before eviction.
            kept: (B, H, keep) the kept indices. A kept token must be assigned to itself.
        """

    def weights(self, view: CacheView) -> Tensor | None:
        """(B, H, N) float32, greater than zero: how much each token weighs in the mean that becomes of its key and value.

        None, as here: as much as it counts, so that the sums over all tokens are what they were. How many tokens one stands
        for is counted in either case.
        """
        return None


class CacheCodec(ABC):
    """How kept keys and values are stored. Stateless: everything that decoding needs is in the encoded value."""

    dense: ClassVar[bool] = False
    """True only where the stored tensor *is* the decoded one, so that attention can read it in place."""

    @property
    def kinds_alike(self) -> bool:
        """Whether keys and values are stored by the same rule, row by row.

        Then the cache hands both over at once, as 2 B rows of kind "key": half as many calls.
        """
        return False

    leaves_device: ClassVar[bool] = False
    """True where codes are kept in the host's memory: a plan of the device's memory does not count them."""

    @abstractmethod
    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        """(B, H, N, D) as codes; with ``like`` so that they can be joined to those, by its ranges or by further ones."""

    @abstractmethod
    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        """Writes the (B, H, N, D) that the codes stand for into ``out``."""

    def error_bound(self, stored: Encoded, kind: Kind) -> Tensor:
        """The most by which a decoded number may differ from the one encoded; broadcasts to (B, H, N, D).

        Zero, as here, promises bit-equality. A lossy codec says half the step of its codes, say; rounding to the dtype
        that is decoded into comes on top. Tokens keep their bound however often they are gathered and joined.
        """
        return next(stored.tensors()).new_zeros((), dtype=torch.float32)

    @abstractmethod
    def nbytes(
        self, kind: Kind, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        """Exactly the bytes that are held for the keys or values of so many tokens, ranges and all.

        Args:
            kind: key or value.
            rows, heads, tokens, head_dim: B, H, N, D.
            maps: how many tensors were encoded and joined to make it: one for each map since the first, or one if
                something was folded, which encodes everything anew.
            dtype: of what is encoded.
        """

    def keep(self, stored: Encoded | None, current: Tensor, whole: Tensor, index: Tensor | None, kind: Kind) -> Encoded:
        """The codes of the kept tokens: gathered without decoding.

        Args:
            stored: the history's codes; None if there is no history, or if the codec is ``dense``: then ``whole`` has it.
            current: (B, H, n, D) of the current map.
            whole: (B, H, N, D) history (decoded) and current map, as attention read them.
            index: (B, H, keep) into the N tokens; None keeps all. Where keys and values come at once, it is that of the
                first half of the rows and holds for the second too, as :func:`scalekv_core.ops.gather_tokens` takes it.
            kind: key or value.
        """
        fresh = self.encode(current, kind, like=stored)
        joined = fresh if stored is None else stored.join(fresh)
        return joined if index is None else joined.gather(index)
