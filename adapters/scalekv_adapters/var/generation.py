"""VAR as it generates: the transformer with its VQVAE, and what is computed at each scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scalekv_adapters.generation import ImageBatch, Step, generate
from scalekv_adapters.inputs import check_forced_codes, check_same_device
from scalekv_adapters.sampling import choose, filter_logits
from scalekv_adapters.var.config import VARConfig, check_trained
from scalekv_adapters.var.guidance import guide
from scalekv_adapters.var.inputs import check_labels, check_pair
from scalekv_adapters.var.transformer import VARTransformer
from scalekv_adapters.vqvae import VQVAE
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.cache.tracing import untraced
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.errors import InputError
from scalekv_core.models.image_model import Generation
from scalekv_core.models.requests import Seeds
from scalekv_core.models.sampling import Sampling
from scalekv_core.shapes.schedule import ScaleSchedule


class VAR(VARTransformer):
    """A class-conditional VAR.

    Args:
        config: its sizes.
        vqvae: turns tokens into images; needed by `generate` only. It is no part of this module: neither the state dict
            nor `.to()` see it.

    Attributes:
        new_cache: makes the cache of one generation from its schedule; assign another one to an instance to change how
            it keeps its keys and values.
    """

    def __init__(self, config: VARConfig, vqvae: VQVAE | None = None) -> None:
        super().__init__(config)
        if vqvae is not None:
            check_pair(config, vqvae)
        self._vqvae = (vqvae,)  # in a tuple, where nn.Module does not look
        self.new_cache: Callable[[ScaleSchedule], AttentionCache] = ConcatCache

    @property
    def vqvae(self) -> VQVAE:
        """The VQVAE given to the constructor; InputError if there was none."""
        if self._vqvae[0] is None:
            raise InputError("this VAR has no VQVAE, so it generates no images; build it with VAR(config, vqvae)")
        return self._vqvae[0]

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor | Sequence[int],
        *,
        seeds: Seeds | None,
        guidance: float = 4.0,
        top_k: int = 0,
        top_p: float = 0.0,
        temperature: float = 1.0,
        forced: Sequence[Tensor] = (),
        on_scale: Callable[[Step], None] | None = None,
        keep_logits: bool = False,
    ) -> Generation:
        """Generates one image per label.

        Args:
            labels: (B,) classes.
            seeds: one per image, or None for the likeliest token everywhere. An image depends on its label and its seed,
                not on the images beside it.
            guidance: strength of classifier-free guidance at the last scale; it grows from 0 at the first. 0 runs B rows
                instead of 2B.
            top_k, top_p: keep only so many, or so much probability, of the likeliest tokens; 0 keeps all.
            temperature: divides the logits before the filters.
            forced: tokens (B, n) that replace the model's choices at the first len(forced) scales; the noise of later
                scales stays what it was.
            on_scale: called after every scale.
            keep_logits: also return the logits, B * L * V floats.

        Raises:
            InputError: a label, seed, option or forced map that does not fit; a schedule that it was not trained for.
            NonFiniteError: it computed NaN or infinity.
        """
        sampling = Sampling(guidance=guidance, top_k=top_k, top_p=top_p, temperature=temperature, greedy=seeds is None)
        return untraced(generate)(  # the loop is Python; compile the blocks
            self.batch(labels, sampling), seeds=seeds, forced=forced, on_scale=on_scale, keep_logits=keep_logits
        )

    def batch(self, labels: Tensor | Sequence[int], sampling: Sampling) -> VARImages:
        """One image per label (B,), not begun yet.

        Raises:
            InputError: a label that does not fit, a schedule that it was not trained for, or a VQVAE elsewhere.
        """
        check_trained(self.config.schedule, self.lvl_1L)
        checked, device = check_labels(labels, self.config.num_classes), self.head.weight.device
        check_same_device("VAR", device, "VQVAE", self.vqvae.quantize.embedding.weight.device)
        return VARImages(self, checked.to(device), sampling)


class VARImages(ImageBatch):
    """Images of labels (B,) while they are generated; with guidance the rows of the batch are 2B, conditioned ones first."""

    family = "VAR"
    model: VAR

    def __init__(self, model: VAR, labels: Tensor, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling
        self.schedule, self.images = model.config.schedule, len(labels)
        (self.guidance,) = sampling.strengths
        no_class = torch.full_like(labels, model.config.num_classes)
        self.condition: Tensor = model.class_emb(
            torch.cat((labels, no_class)) if self.guidance else labels
        )  # (rows, C)
        self.total = model.vqvae.empty_map(self.images)

    def check_forced(self, forced: Sequence[Tensor]) -> None:
        check_forced_codes(forced, self.images, self.schedule, self.model.config.codes)

    def logits(self, scale: int, cache: AttentionCache) -> Tensor:
        logits = self.model.run_blocks(self._embedded(scale), self.condition, cache)
        return (
            guide(logits, guidance=self.guidance, scale=scale, scales=len(self.schedule)) if self.guidance else logits
        )

    def _embedded(self, scale: int) -> Tensor:
        """(rows, n, C) what the first block reads."""
        if scale == 0:
            return self.model.embed(self.condition, None, 0)
        x = self.model.vqvae.next_input(self.total, scale - 1)  # (B, n, Cvae), the same for both halves
        both = x.repeat(len(self.condition) // self.images, 1, 1)
        return self.model.embed(self.condition, both, start=self.schedule.history[scale])

    def choose(self, logits: Tensor, scale: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        how = self.sampling
        return choose(filter_logits(logits / how.temperature, top_k=how.top_k, top_p=how.top_p), generators)

    def with_map(self, tokens: Tensor, scale: int) -> Tensor:
        return self.model.vqvae.add_scale(self.total, tokens, scale)

    def pictures(self, total: Tensor) -> Tensor:
        return self.model.vqvae.pictures(total)
