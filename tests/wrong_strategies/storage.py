"""Wrong token mergers and cache codecs."""

from __future__ import annotations

import torch
from attrs import define, field, frozen
from torch import Tensor

from scalekv_core import CacheCodec, CacheView, Encoded, TokenMerger
from scalekv_core.contracts.defaults import Dense
from scalekv_policies import Int8 as ChannelRanges
from tests.wrong_strategies.catalogue import fails


@frozen
class IntoNearest(TokenMerger):
    """Right: every token goes into the kept one whose position is nearest."""

    def assign(self, view: CacheView, kept: Tensor) -> Tensor:
        chosen = view.positions.gather(2, kept)
        return (view.positions.unsqueeze(3) - chosen.unsqueeze(2)).abs().argmin(dim=3)


@fails("kept_tokens_stay_themselves")
@frozen
class IntoTheNext(IntoNearest):
    """Folds every token, kept ones too, into the one after."""

    def assign(self, view, kept):
        return (super().assign(view, kept) + 1) % kept.shape[2]


@fails("kept_tokens_stay_themselves")
@frozen
class IntoTheFirst(TokenMerger):
    """Folds everything into one token, and leaves the others' places empty."""

    def assign(self, view, kept):
        return torch.zeros_like(view.positions, dtype=torch.int64)


@fails("counts_add_up")
@frozen
class LosesTheDistant(IntoNearest):
    """Drops what is far from every kept token, and does not say so."""

    def assign(self, view, kept):
        target = super().assign(view, kept)
        distance = (view.positions - view.positions.gather(2, kept).gather(2, target)).abs()
        return torch.where(distance > 2, -1, target)


@fails("targets_exist")
@frozen
class IntoTheView(IntoNearest):
    """Names the kept token by its index in the view instead of among the kept ones."""

    def assign(self, view, kept):
        return kept.gather(2, super().assign(view, kept))


@fails("assigns_every_token")
@frozen
class OnlyTheOthers(IntoNearest):
    """Assigns the evicted tokens and leaves out the others."""

    def assign(self, view, kept):
        return super().assign(view, kept)[:, :, kept.shape[2] :]


@fails("assigns_every_token")
@frozen
class ShortTargets(IntoNearest):
    """Returns int32."""

    def assign(self, view, kept):
        return super().assign(view, kept).int()


@fails("drops_what_it_says")
@frozen
class SaysThatItDrops(IntoNearest):
    """Says that it drops, and folds."""

    drops = True


@fails("weights_are_positive")
@frozen
class WeighsOnlyTheCurrentMap(IntoNearest):
    """Gives the tokens of the history no weight, so that a mean of none but those is none."""

    def weights(self, view):
        return (torch.arange(view.tokens) >= view.history).float().expand(view.positions.shape)


@fails("rows_are_apart")
@frozen
class WeighsByTheBatch(IntoNearest):
    """Divides its weights by the largest of the batch."""

    def weights(self, view):
        length = view.k.float().norm(dim=3) + 1e-6
        return length / length.max()


@fails("rows_are_apart")
@frozen
class IntoTheBatchMean(IntoNearest):
    """Measures likeness by keys averaged over the batch."""

    def assign(self, view, kept):
        target = super().assign(view, kept)
        alike = view.k.float().mean(dim=(0, 3), keepdim=True)[..., 0] > 0
        moved = torch.where(alike, target, 0)
        return moved.scatter(2, kept, torch.arange(kept.shape[2], device=kept.device).expand_as(kept))


def unless_kept(target: Tensor, kept: Tensor) -> Tensor:
    """The targets; kept tokens go to themselves."""
    return target.scatter(2, kept, torch.arange(kept.shape[2], device=kept.device).expand_as(kept))


@fails("is_a_value")
class NotFrozen(IntoNearest):
    """Is not decorated as its base is, and so can be written to."""

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)


@fails("rows_permute")
@frozen
class IntoTheNextRow(IntoNearest):
    """Uses every row's targets for the next row."""

    def assign(self, view, kept):
        return unless_kept(super().assign(view, kept).roll(1, dims=0), kept)


@fails("heads_are_apart")
@frozen
class HeadsAlike(IntoNearest):
    """Decides by a key that is averaged over heads."""

    def assign(self, view, kept):
        up = view.k.float().sum(dim=(1, 3), keepdim=True)[..., 0] > 0
        return unless_kept(torch.where(up, super().assign(view, kept), 0), kept)


_ASSIGNED = [0]


@fails("repeats_itself")
@frozen
class EverySecondTime(IntoNearest):
    """Folds into the first token at every second call."""

    def assign(self, view, kept):
        _ASSIGNED[0] += 1
        target = super().assign(view, kept)
        return target if _ASSIGNED[0] % 2 else unless_kept(target * 0, kept)


@fails("remembers_nothing")
@frozen
class AsBefore(IntoNearest):
    """Folds into the first token once it has seen another batch."""

    _rows: dict[str, int] = field(factory=dict, repr=False, eq=False, init=False)

    def assign(self, view, kept):
        target = super().assign(view, kept)
        if view.k.shape[0] != self._rows.setdefault("first", view.k.shape[0]):
            self._rows["other"] = 1
        return unless_kept(target * 0 if "other" in self._rows else target, kept)


@fails("ignores_global_randomness")
@frozen
class FoldsByLot(IntoNearest):
    """Chooses at random the token to fold into."""

    def assign(self, view, kept):
        return unless_kept(torch.randint(kept.shape[2], view.positions.shape), kept)


@fails("leaves_its_input_alone")
@frozen
class CountsFromZero(IntoNearest):
    """Shifts the positions where they are."""

    def assign(self, view, kept):
        view.positions.sub_(view.positions[..., :1].clone())
        return super().assign(view, kept)


@fails("leaves_indices_alone")
@frozen
class NumbersKept(IntoNearest):
    """Numbers the kept tokens where their indices are."""

    def assign(self, view, kept):
        target = super().assign(view, kept)
        kept.copy_(torch.arange(kept.shape[2]).expand_as(kept))
        return target


@fails("stays_on_the_device")
@frozen
class TokenByToken(IntoNearest):
    """Goes over tokens in Python."""

    def assign(self, view, kept):
        return torch.tensor(super().assign(view, kept).tolist())


# -- codecs -------------------------------------------------------------------------------------------------------


@frozen
class Int8(CacheCodec):
    """Right: eight bits, and a range for each token."""

    def encode(self, x, kind, *, like=None):
        step = self.step(x)
        return Encoded({"codes": (x.float() / step).round().clamp(-127, 127).to(torch.int8), "step": step})

    def step(self, x):
        return (x.float().abs().amax(dim=3, keepdim=True) / 127).clamp_min(1e-30)

    def decode(self, stored, kind, out):
        out.copy_(stored.tokens["codes"] * stored.tokens["step"])

    def nbytes(self, kind, *, rows, heads, tokens, maps, head_dim, dtype):
        return rows * heads * tokens * (head_dim + 4)

    def error_bound(self, stored, kind):
        return stored.tokens["step"] * 0.51


@fails("decodes_within_its_bound")
@frozen
class SaysNothing(Int8):
    """Is lossy and says nothing of its error."""

    def error_bound(self, stored, kind):
        return torch.zeros(())


@fails("decodes_within_its_bound")
@frozen
class Truncates(Int8):
    """Truncates where it says that it rounds."""

    def encode(self, x, kind, *, like=None):
        step = self.step(x)
        return Encoded({"codes": (x.float() / step).trunc().to(torch.int8), "step": step})


@fails("decodes_within_its_bound")
@frozen
class NoRange(CacheCodec):
    """Divides by a range that is zero where all numbers of a token are one."""

    def encode(self, x, kind, *, like=None):
        least, most = x.float().amin(dim=3, keepdim=True), x.float().amax(dim=3, keepdim=True)
        return Encoded({"share": (x.float() - least) / (most - least), "least": least, "range": most - least})

    def decode(self, stored, kind, out):
        out.copy_(stored.tokens["share"] * stored.tokens["range"] + stored.tokens["least"])

    def nbytes(self, kind, *, rows, heads, tokens, maps, head_dim, dtype):
        return rows * heads * tokens * (head_dim + 2) * 4

    def error_bound(self, stored, kind):
        return stored.tokens["range"] * 1e-5


@fails("bytes_are_as_planned")
@frozen
class ForgetsRanges(Int8):
    """Counts the codes and not the ranges."""

    def nbytes(self, kind, *, rows, heads, tokens, maps, head_dim, dtype):
        return rows * heads * tokens * head_dim


@fails("bytes_are_as_planned")
@frozen
class AlwaysFloat32(Dense):
    """Stores float32, and counts the dtype that it was given."""

    dense = False

    def encode(self, x, kind, *, like=None):
        return Encoded({"x": x.float().clone()})

    def keep(self, stored, current, whole, index, kind):
        return CacheCodec.keep(self, stored, current, whole, index, kind)


@fails("bytes_are_as_planned")
@frozen
class ForgetsOtherMaps(ChannelRanges):
    """Counts the ranges of one map, however many were joined."""

    def nbytes(self, kind, *, maps, **shape):
        return super().nbytes(kind, maps=1, **shape)


@fails("owns_its_memory")
@frozen
class KeepsAView(Dense):
    """Stores a view of what it is given, with all that the model has beside it."""

    def encode(self, x, kind, *, like=None):
        return Encoded({"x": x})


@fails("owns_its_memory")
@frozen
class KeepsTheBuffer(Dense):
    """Gathers by slicing a larger buffer."""

    def keep(self, stored, current, whole, index, kind):
        made = super().keep(stored, current, whole, index, kind).tokens["x"]
        buffer = made.new_empty(*made.shape[:2], made.shape[2] + 8, made.shape[3])
        buffer[:, :, : made.shape[2]] = made
        return Encoded({"x": buffer[:, :, : made.shape[2]]})


@fails("rows_are_apart")
@frozen
class OneRange(Int8):
    """One range for the whole batch."""

    def step(self, x):
        return (x.float().abs().amax(dim=(0, 3), keepdim=True) / 127).clamp_min(1e-30).expand(*x.shape[:3], 1).clone()


@fails("later_maps_join")
@frozen
class ClipsLater(CacheCodec):
    """A range for each channel, from the first map; what later maps have beyond it is clipped."""

    def encode(self, x, kind, *, like=None):
        fresh = (x.float().abs().amax(dim=2, keepdim=True) / 127).clamp_min(1e-30)
        step = fresh if like is None else like.ranges["step"].clone()
        return Encoded({"codes": (x.float() / step).round().clamp(-127, 127).to(torch.int8)}, {"step": step})

    def decode(self, stored, kind, out):
        out.copy_(stored.tokens["codes"] * stored.ranges["step"])

    def nbytes(self, kind, *, rows, heads, tokens, maps, head_dim, dtype):
        return rows * heads * (tokens + 4) * head_dim

    def error_bound(self, stored, kind):
        return stored.ranges["step"] * 0.51


@fails("errors_do_not_add_up")
@frozen
class EncodesAgain(ClipsLater):
    """Encodes everything again after every scale, from what it had decoded."""

    def keep(self, stored, current, whole, index, kind):
        index = torch.arange(whole.shape[2]).expand(*whole.shape[:3]) if index is None else index
        return self.encode(whole.gather(2, index.unsqueeze(3).expand(-1, -1, -1, whole.shape[3])), kind)


@fails("decodes_into_its_place")
@frozen
class ForgetsTheEnd(Dense):
    """Leaves the last token of what it decodes as it was."""

    def decode(self, stored, kind, out):
        out[:, :, :-1] = stored.tokens["x"][:, :, :-1]


@fails("decodes_into_its_place")
@frozen
class Overflows(Int8):
    """Decodes in float16, where large numbers become infinite and their product nan."""

    def decode(self, stored, kind, out):
        step = stored.tokens["step"].half()
        out.copy_(stored.tokens["codes"].half() * step / (step + step.isinf()) * step)


@fails("gathering_changes_nothing")
@frozen
class SharesByPlace(Int8):
    """Adds a little that depends on where a token stands among those that are there."""

    def decode(self, stored, kind, out):
        place = torch.arange(out.shape[2]).view(-1, 1) / (1 + out.shape[2])
        out.copy_(stored.tokens["codes"] * stored.tokens["step"] + place * stored.tokens["step"] * 0.01)

    def error_bound(self, stored, kind):
        return stored.tokens["step"]


@fails("keeps_what_stays")
@frozen
class KeepsEverything(Dense):
    """Keeps all tokens, whatever has been selected."""

    def keep(self, stored, current, whole, index, kind):
        return self.encode(whole, kind)


@fails("dense_means_as_it_is")
@frozen
class HalfDense(Dense):
    """Says that it is dense, and stores bfloat16."""

    def encode(self, x, kind, *, like=None):
        return Encoded({"x": x.bfloat16().half()})


@fails("codes_belong_to_tokens")
@frozen
class TokensFirst(Dense):
    """Stores (B, N, H, D)."""

    dense = False

    def encode(self, x, kind, *, like=None):
        return Encoded({"x": x.transpose(1, 2).contiguous()})


@fails("leaves_its_input_alone")
@frozen
class RoundsInPlace(Dense):
    """Rounds the model's keys where they are."""

    def encode(self, x, kind, *, like=None):
        return super().encode(x.mul_(8).round_().div_(8), kind)


@frozen
class RoundsTheModelsKeys(RoundsInPlace):
    """The same, not dense, so that the cache hands it the map as the model made it."""

    dense = False

    def keep(self, stored, current, whole, index, kind):
        return CacheCodec.keep(self, stored, current, whole, index, kind)


@fails("is_a_value")
@define
class Writable(Dense.__base__):
    """Is not frozen."""

    bits: int = 8

    encode, decode, nbytes, keep = Dense.encode, Dense.decode, Dense.nbytes, Dense.keep


_ENCODED = [0]


@fails("repeats_itself")
@frozen
class Drifts(Int8):
    """Widens its range from call to call."""

    def step(self, x):
        _ENCODED[0] = (_ENCODED[0] + 1) % 1000
        return super().step(x) * (1 + _ENCODED[0] / 1000)


@fails("ignores_global_randomness")
@frozen
class RoundsByLot(Int8):
    """Rounds up or down at random."""

    def encode(self, x, kind, *, like=None):
        step = self.step(x)
        return Encoded({"codes": (x.float() / step + torch.rand_like(x.float())).floor().to(torch.int8), "step": step})

    def error_bound(self, stored, kind):
        return stored.tokens["step"] * 1.01
