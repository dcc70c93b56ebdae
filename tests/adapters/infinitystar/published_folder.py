"""The golden model as a folder of published files, and a small card with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import torch
from safetensors.torch import save_file
from torch import Tensor

from scalekv_adapters.infinitystar.card import InfinityStarCard
from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.published import TEXT_TOKENS, pyramids_of
from tests.adapters.infinitystar.golden import SIZES, golden_star
from tests.adapters.infinitystar.tokenizer_data import SMALL, TINY, golden_state

SHARDS = 3


def save_shards(folder: Path, state: dict[str, Tensor]) -> list[Path]:
    """Writes a transformer as it is published; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors" for i in range(SHARDS)]
    names = list(state)
    for i, file in enumerate(files):
        save_file({name: state[name].contiguous() for name in names[i::SHARDS]}, file)
    weight_map = {name: files[i % SHARDS].name for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


def save_published(folder: Path, size: str = "480p", **changes: Tensor | None) -> list[Path]:
    """Writes all official files with the golden weights; those of the transformer."""
    state = {**golden_star().state_dict(), **changes}
    files = save_shards(
        folder / f"infinitystar_8b_{size}_weights", {name: x for name, x in state.items() if x is not None}
    )
    torch.save({"vae": golden_state()}, folder / "infinitystar_videovae.pth")
    (folder / "flan-t5-xl").mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / "flan-t5-xl" / name).touch()
    return files


def golden_card() -> InfinityStarCard:
    """The card of the golden model."""
    config = InfinityStarConfig(**SIZES)
    return attrs.evolve(InfinityStarCard.of(), config=config, tokenizer=TINY, geometry=_geometry(config))


def small_card(**sizes: int) -> InfinityStarCard:
    """The card of a model that is small enough to generate a published setting."""
    given = {"depth": 2, "width": 16, "heads": 2, "kv_heads": 1, "hidden": 16, "chunks": 1, "text_width": 8}
    config = InfinityStarConfig(**{**given, **sizes}, code_width=8)
    return attrs.evolve(InfinityStarCard.of(), config=config, tokenizer=SMALL, geometry=_geometry(config))


def _geometry(config: InfinityStarConfig):
    return config.geometry(pyramids_of(None, None).schedule(TEXT_TOKENS))
