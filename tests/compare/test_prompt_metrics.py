"""How well images fit their prompts: against transformers itself on a small CLIP, and what is said where weights are missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scalekv_core.compare import prompt_metrics
from scalekv_core.compare.prompt_metrics import CLIPScore, ImageReward, PickScore
from scalekv_core.errors import InputError, MissingExtra, ScaleKVError
from scalekv_core.models.image_model import Generation
from scalekv_core.models.metric import Pair

PROMPTS = ("a red circle", "two blue squares")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a CLIP of two layers with random weights, as its files are published."""
    transformers = pytest.importorskip("transformers", reason="extra 'metrics'")
    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 600, "max_position_embeddings": 16, "bos_token_id": 598, "eos_token_id": 599}
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    letters = [chr(n) for n in range(97, 123)]
    words = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words[:-2])} | {"<|startoftext|>": 598, "<|endoftext|>": 599}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    square = {"height": 32, "width": 32}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", "crop_size": square, "size": {"shortest_edge": 32}})
    )
    return str(folder)


def pair(images: torch.Tensor) -> Pair:
    made = Generation(images=images, tokens=(), choices=())
    return Pair(model="any", prompts=PROMPTS, seeds=(0, 1), unmodified=made, compressed=made, forced=made)


def test_scores_are_those_of_the_network(clip: str) -> None:
    """CLIP score is 100 times the cosine, the pick score its scaled logit; an image has the figure that it has alone."""
    images = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    metric = PickScore(checkpoint=clip, processor=clip)
    metric.check_available()
    picked, scored = metric.measure(pair(images)), CLIPScore(checkpoint=clip).measure(pair(images))
    scale = prompt_metrics._clip(clip, clip)[0].logit_scale.exp().item()

    assert (2,) == picked.shape == scored.shape
    torch.testing.assert_close(scored, (100 * picked / scale).clamp(min=0), rtol=1e-5, atol=1e-5)
    assert picked[0] != picked[1]


@pytest.mark.parametrize("metric", [CLIPScore(checkpoint="nobody/clip"), PickScore(checkpoint="nobody/pick")])
def test_weights_that_are_not_there_are_one_line(metric: CLIPScore | PickScore) -> None:
    """Nothing is downloaded; the command that gets them is named."""
    pytest.importorskip("transformers", reason="extra 'metrics'")
    with pytest.raises(InputError, match=rf"run: hf download {metric.checkpoint}$"):
        metric.check_available()


def test_image_reward_needs_its_package_and_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each missing part is one line; with all of them the package's own score is the figure."""
    found = SimpleNamespace(
        load=lambda *_, **__: SimpleNamespace(score=lambda prompt, image: len(prompt) + image.width)
    )
    monkeypatch.setattr(ImageReward, "folder", tmp_path)
    monkeypatch.setattr(prompt_metrics.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="run: pip install image-reward"):
        ImageReward().check_available()
    monkeypatch.setattr(prompt_metrics.importlib.util, "find_spec", lambda name: found)
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    with pytest.raises(InputError, match="its package image-reward does not work with what is installed here"):
        ImageReward().check_available()
    monkeypatch.setitem(sys.modules, "ImageReward", found)
    with pytest.raises(ScaleKVError, match="run: hf download THUDM/ImageReward --local-dir"):
        ImageReward().check_available()

    assert [28.0, 32.0] == ImageReward().measure(pair(torch.zeros(2, 3, 16, 16))).tolist()
