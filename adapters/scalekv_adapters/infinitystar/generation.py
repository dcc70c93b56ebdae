"""InfinityStar as it generates: text first, then every pass of every map, and what is computed at each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from scalekv_adapters.generation import ImageBatch, Step, generate
from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.guidance import Choosing
from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.infinitystar.rotation import pass_places, text_places
from scalekv_adapters.infinitystar.story import Story
from scalekv_adapters.infinitystar.templates import published
from scalekv_adapters.infinitystar.text import Text
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_adapters.infinitystar.tokenizer_bits import add_bits, pooled, to_bits
from scalekv_adapters.infinitystar.transformer import InfinityStarTransformer
from scalekv_adapters.inputs import check_forced_bits
from scalekv_adapters.teacher_forcing import MaskedAttention, reading_mask
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.cache.tracing import untraced
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.errors import InputError
from scalekv_core.models.image_model import Generation
from scalekv_core.models.requests import Seeds
from scalekv_core.shapes.schedule import ScaleSchedule


class InfinityStar(InfinityStarTransformer):
    """An InfinityStar that generates.

    Args:
        config: its sizes.
        tokenizer: turns codes into clips; needed by `generate` only, and no part of this module.
        pyramids, text_tokens: what it is expected to pass, for a plan of its cache; every generation says its own.

    Attributes:
        new_cache: makes the cache of one generation from its schedule; assign another one to an instance to change how
            it keeps its keys and values.
    """

    def __init__(
        self,
        config: InfinityStarConfig,
        tokenizer: VideoTokenizer | None = None,
        *,
        pyramids: Pyramids | None = None,
        text_tokens: int = 1,
    ) -> None:
        super().__init__(config)
        self.pyramids, self.text_tokens = pyramids or published("480p-5s"), text_tokens
        self._tokenizer = (tokenizer,)  # in a tuple, where nn.Module does not look
        self.new_cache: Callable[[ScaleSchedule], AttentionCache] = ConcatCache

    @property
    def tokenizer(self) -> VideoTokenizer:
        """The tokenizer given to the constructor; InputError if there was none."""
        if self._tokenizer[0] is None:
            raise InputError(
                "this InfinityStar has no tokenizer, so it generates no clips; build it with "
                "InfinityStar(config, tokenizer)"
            )
        return self._tokenizer[0]

    @torch.no_grad()
    def generate(
        self,
        text: Text,
        pyramids: Pyramids,
        choosing: Choosing,
        *,
        seeds: Seeds | None,
        story: Story | None = None,
        forced: Sequence[Tensor] = (),
        on_scale: Callable[[Step], None] | None = None,
        keep_logits: bool = False,
    ) -> Generation:
        """Generates one clip per prompt, (B, 3, F, H, W).

        Args:
            text: features of the prompts.
            pyramids: the maps, and how often each is passed.
            choosing: guidance and temperatures.
            seeds: one per clip, or None for the likelier value of every bit. A clip depends on its prompt and seed alone.
            story: what an interactive clip follows.
            forced: bits (B, n, d) bool that replace the model's choices at the first len(forced) passes; those of the first
                pyramid come from an image that the clip begins with.
            on_scale: called after every pass.
            keep_logits: also return the logits.

        Raises:
            InputError: a text, seed, story or forced map that does not fit.
            NonFiniteError: it computed NaN or infinity.
        """
        batch = Clips(self, text, pyramids, choosing, story)
        return untraced(generate)(batch, seeds=seeds, forced=forced, on_scale=on_scale, keep_logits=keep_logits)

    def teacher_forced(self, text: Text, pyramids: Pyramids, picks: Sequence[int], x: Tensor) -> Tensor:
        """Hidden states (B, n, C) of one pass of every map, all at once; `logits_of` makes logits of those of a map.
        Differentiable.

        Args:
            text: features of the prompts; guidance and negative prompts have no part in it.
            pyramids: the maps, without those of a story.
            picks: the numbers of the passes, one of each map in order.
            x: (B, n, code width) what is embedded for these passes, one map after the other.

        Raises:
            InputError: a text that does not fit, other passes than one of each map, or another number of tokens.
        """
        text.check(self.config)
        passes = [pyramids.passes[number] for number in picks]
        schedule = pyramids.schedule(text.tokens)
        if [each.grid for each in passes] != list(schedule.maps[1:]) or x.shape[1] != sum(schedule.tokens[1:]):
            raise InputError(
                f"teacher forcing needs one pass of each of {len(pyramids.maps)} maps, {sum(schedule.tokens[1:])} tokens; got "
                f"passes {list(picks)} and {x.shape[1]} tokens"
            )
        window, whole = self.config.text_window, pyramids.whole
        where = [pass_places(each, window, whole) for each in passes]
        words = self.word_embed(x.to(self.dtype))
        tokens = torch.cat((self.embed_text(text.features), words), dim=1)
        rotation = self.rotation(torch.cat((text_places(text.tokens), *where)))
        mask = MaskedAttention(reading_mask(schedule).to(self.device, self.dtype))
        return self.run_blocks(tokens, rotation, mask)[:, text.tokens :]


class Clips(ImageBatch):
    """Clips of B prompts while they are generated; with guidance the rows of the batch are 2 B, conditioned ones first.

    `total` holds the latent frames of all pyramids begun so far; a step is a pass.
    """

    family = "InfinityStar"
    model: InfinityStar
    _begun = False

    def __init__(
        self, model: InfinityStar, text: Text, pyramids: Pyramids, choosing: Choosing, story: Story | None = None
    ) -> None:
        text.check(model.config)
        choosing.check(len(pyramids.passes))
        if (story is not None) != bool(pyramids.conditions):
            raise InputError("InfinityStar needs a story for interactive clips, and for no others")
        if story is not None:
            story.check(pyramids, text.prompts, model.config.code_width)
        self.model, self.pyramids, self.choosing, self.story = model, pyramids, choosing, story
        self.images, self.guided = text.prompts, choosing.guidance.is_needed
        self.schedule = pyramids.schedule(text.tokens)
        self.text = text.embedded(model, guided=self.guided)  # (rows, T, C)
        width = model.config.code_width
        self.total = torch.zeros(self.images, width, 0, *pyramids.whole, device=model.device)

    @property
    def passes(self) -> int:
        return len(self.pyramids.passes)

    def check_forced(self, forced: Sequence[Tensor]) -> None:
        if len(forced) > self.passes:
            raise InputError(f"generate needs forced bits of at most {self.passes} passes, got {len(forced)}")
        for each, bits in zip(self.pyramids.passes, forced, strict=False):
            check_forced_bits([bits], self.images, ScaleSchedule([each.grid]), each.bits)

    def logits(self, scale: int, cache: AttentionCache) -> Tensor:
        if scale == 0:
            for _ in self.before(cache):
                pass
        each = self.pyramids.passes[scale]
        where = pass_places(each, self._window, self.pyramids.whole)
        x = self._blank(each.grid) if each.opens else pooled(self._current(each.grid[0]), each.grid)
        hidden = self._through_blocks(x, where, cache, store=each.last)
        logits = self.model.logits_of(hidden, each.bits) / self.choosing.temperatures[scale]
        if not self.guided:
            return logits
        conditioned, unconditioned = logits.chunk(2)
        return self.choosing.guidance.mixed(conditioned, unconditioned, scale)

    @property
    def _window(self) -> int:
        return self.model.config.text_window

    def before(self, cache: AttentionCache) -> Iterator[None]:
        """Passes the text, by itself, and each condition, by itself; once, before the first pass of a map."""
        if self._begun:
            return
        self._begun = True
        self.model.run_blocks(self.text, self.model.rotation(text_places(self.text.shape[1])), cache)
        yield
        if self.story is not None:
            for x, where in self.story.conditions(self.pyramids, self._window):
                self._through_blocks(x.to(self.model.device), where, cache, store=True)
                yield

    def _through_blocks(self, x: Tensor, where: Tensor, cache: AttentionCache, *, store: bool) -> Tensor:
        """Hidden states (rows, n, C) of a map (B, 64, t, h, w), the same for both halves of the rows."""
        embedded = self.model.embed_map(x).repeat(len(self.text) // self.images, 1, 1)
        return self.model.run_blocks(embedded, self.model.rotation(where), cache, store=store)

    def _blank(self, grid: tuple[int, int, int]) -> Tensor:
        return self.total.new_zeros(*self.total.shape[:2], *grid)

    def _current(self, frames: int) -> Tensor:
        """(B, 64, t, H, W) the sum of the codes of the current pyramid."""
        return self.total[:, :, -frames:]

    def choose(self, logits: Tensor, scale: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        return self.choosing.bits(logits, generators)

    def with_map(self, tokens: Tensor, scale: int) -> Tensor:
        each = self.pyramids.passes[scale]
        frames, bits = each.grid[0], to_bits(tokens, each.grid)
        if each.opens:
            blank = self._blank((frames, *self.pyramids.whole))
            return torch.cat((self.total, add_bits(blank, bits)), dim=2)
        return torch.cat((self.total[:, :, :-frames], add_bits(self._current(frames), bits)), dim=2)

    def pictures(self, total: Tensor) -> Tensor:
        tokenizer = self.model.tokenizer
        if self.story is None:
            return tokenizer.pictures(total)
        former = self.story.former.to(total)
        clips = tokenizer.pictures(torch.cat((former, total), dim=2))
        return clips[:, :, tokenizer.config.frames_of(former.shape[2]) :]
