"""Metrics of how well an image fits its prompt, by networks that were trained on images and texts.

Nothing is downloaded: weights are read from the cache of Hugging Face, and a metric whose weights are not there says how to
get them. Each network is loaded once. The figure of a clip is the mean over its frames.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import frozen
from PIL import Image
from torch import Tensor

from scalekv_core.compare.further_metrics import package
from scalekv_core.compare.pictures import as_images
from scalekv_core.errors import InputError, MissingExtra
from scalekv_core.models.frames import every_frame, mean_by_clip
from scalekv_core.models.metric import Pair, PairMetric

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@frozen
class CLIPScore(PairMetric):
    """CLIP score (Hessel et al. 2021): 100 times the cosine of the features of the compressed image and its prompt."""

    checkpoint: str = "openai/clip-vit-large-patch14"

    def check_available(self) -> None:
        _check_cached("clip-score", self.checkpoint)

    def measure(self, pair: Pair) -> Tensor:
        found = [_compared(self.checkpoint, self.checkpoint, *both) for both in _images(pair)]
        figures = torch.stack([100 * (out.image_embeds * out.text_embeds).sum() for out in found]).double().clamp(min=0)
        return mean_by_clip(figures, len(pair.prompts))


@frozen
class PickScore(PairMetric):
    """PickScore: people's preference for the compressed image (Kirstain et al. 2023, arXiv 2305.01569)."""

    checkpoint: str = "yuvalkirstain/PickScore_v1"
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

    def check_available(self) -> None:
        _check_cached("pick-score", self.checkpoint)
        _check_cached("pick-score", self.processor, files=("preprocessor_config.json",))

    def measure(self, pair: Pair) -> Tensor:
        found = [_compared(self.checkpoint, self.processor, *both) for both in _images(pair)]
        figures = torch.stack([out.logits_per_image.reshape(()) for out in found]).double()
        return mean_by_clip(figures, len(pair.prompts))


@frozen
class ImageReward(PairMetric):
    """ImageReward: a model of human preference (Xu et al. 2023, arXiv 2304.05977), for the compressed image.

    Its package needs older versions of timm and transformers than other metrics, so that no extra has it.
    """

    folder: ClassVar[Path] = Path("~/.cache/ImageReward")

    def check_available(self) -> None:
        if importlib.util.find_spec("ImageReward") is None:
            raise MissingExtra(
                "metric 'image-reward' needs image-reward, which is not installed; run: pip install image-reward"
            )
        try:
            importlib.import_module("ImageReward")
        except ImportError as error:
            raise InputError(f"its package image-reward does not work with what is installed here ({error})") from error
        for file in ("ImageReward.pt", "med_config.json"):
            if not (self.folder.expanduser() / file).is_file():
                raise InputError(
                    f"its weights are not here; run: hf download THUDM/ImageReward --local-dir {self.folder}"
                )
        _check_cached("image-reward", "bert-base-uncased", files=("vocab.txt",))

    def measure(self, pair: Pair) -> Tensor:
        model = _reward(self.folder.expanduser())
        with torch.no_grad():
            figures = [model.score(prompt, image) for image, prompt in _images(pair)]
        return mean_by_clip(torch.tensor(figures, dtype=torch.float64), len(pair.prompts))


def _images(pair: Pair) -> list[tuple[Image.Image, str]]:
    """The compressed images as they are stored, each with its prompt; of clips every frame."""
    frames = every_frame(pair.compressed.images)
    prompts = [prompt for prompt in pair.prompts for _ in range(len(frames) // len(pair.prompts))]
    return list(zip(as_images(frames), prompts, strict=True))


@torch.no_grad()
def _compared(checkpoint: str, processor: str, image: Image.Image, prompt: str) -> Any:
    """What a CLIP model says of an image and a text: their features, of length 1, and the logit of both."""
    model, prepare = _clip(checkpoint, processor)
    return model(**prepare(text=[prompt], images=[image], return_tensors="pt", padding=True, truncation=True))


@cache
def _clip(checkpoint: str, processor: str) -> tuple[Any, Any]:
    transformers = package("transformers", "metrics 'clip-score' and 'pick-score'")
    model = transformers.CLIPModel.from_pretrained(checkpoint, local_files_only=True).eval()
    return model, transformers.CLIPProcessor.from_pretrained(processor, local_files_only=True)


@cache
def _reward(folder: Path) -> Any:
    reward = importlib.import_module("ImageReward")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights are
        return reward.load(str(folder / "ImageReward.pt"), device="cpu", med_config=str(folder / "med_config.json"))


def _check_cached(metric: str, checkpoint: str, files: tuple[str, ...] = WEIGHTS) -> None:
    """Raises where none of these files of a checkpoint is here: in the cache, or in the folder that it names."""
    package("transformers", f"metric {metric!r}")
    hub = package("huggingface_hub", f"metric {metric!r}")
    if not any((Path(checkpoint) / name).is_file() for name in files) and not any(
        isinstance(hub.try_to_load_from_cache(checkpoint, name), str) for name in files
    ):
        raise InputError(
            f"its weights {checkpoint} are not in the cache of Hugging Face; run: hf download {checkpoint}"
        )
