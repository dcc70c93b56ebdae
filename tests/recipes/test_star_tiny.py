"""The recipe of star-tiny: its labels and losses, its examples, its measurement, and training that resumes bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from recipes.star_tiny.examples import Examples, held_out, taught, write_part
from recipes.star_tiny.labels import Labels, label
from recipes.star_tiny.lessons import Lesson, chosen_passes, lesson_loss, pass_losses
from recipes.star_tiny.measure import draw, score
from recipes.star_tiny.movies import movies
from recipes.star_tiny.start import start_weights
from recipes.star_tiny.tokenizing import TokenizerLoss, practice, reconstructed, tokenizer_loss
from recipes.star_tiny.train import train_star, train_tokenizer
from recipes.training import LoopOptions
from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.text import Text
from scalekv_adapters.infinitystar.tiny.captions import Caption, every_caption
from scalekv_adapters.infinitystar.tiny.network import PYRAMIDS, TinyStar
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_adapters.infinitystar.tokenizer_bits import pooled, quantize, to_tokens
from scalekv_adapters.infinitystar.tokenizer_config import VideoTokenizerConfig
from scalekv_core.models.sampling import Sampling

CAPTIONS = ["a red circle moves right", "a blue square moves up"]


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_tokenizer() -> VideoTokenizer:
    torch.manual_seed(0)
    return VideoTokenizer(VideoTokenizerConfig(widths=(4, 4, 4, 4), blocks=1))


def small_star(tokenizer: VideoTokenizer | None = None) -> TinyStar:
    torch.manual_seed(0)
    sizes = InfinityStarConfig(
        depth=2, width=64, heads=2, kv_heads=1, hidden=64, chunks=1, text_width=8, text_window=16
    )
    model = TinyStar(sizes, tokenizer)
    start_weights(model.transformer)
    return model


def random_labels(rate: float = 0.0) -> dict[int, Labels]:
    features = torch.randn(2, 64, PYRAMIDS.latent_frames, *PYRAMIDS.whole, generator=source())
    frames, labels = features.split(PYRAMIDS.frames, dim=2), {}
    for pyramid, part in enumerate(frames):
        passes = [each for each in PYRAMIDS.passes if each.pyramid == pyramid]
        labels[pyramid] = label(part, passes, torch.full((2, 1, 1, 1, 1), rate), source(pyramid))
    return labels


def test_without_flips_labels_are_the_tokenizers_bits() -> None:
    """Without flips the labels are those of the quantiser, and so are the sums that are read."""
    passes = [each for each in PYRAMIDS.passes if each.pyramid == 1]
    features = torch.randn(2, 64, 4, 6, 6, generator=source())
    labels = label(features, passes, torch.zeros(2, 1, 1, 1, 1), source())
    bits, sums = quantize(features, [each.grid for each in passes], [each.bits for each in passes])
    assert all(torch.equal(a, b) for a, b in zip(labels.bits, bits, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(labels.sums, sums, strict=False))


def test_after_a_flip_the_labels_put_it_right() -> None:
    """Flipped bits enter the sum, and the next labels are the signs of what is missing then."""
    passes = [each for each in PYRAMIDS.passes if each.pyramid == 0]
    features = torch.randn(2, 64, 1, 6, 6, generator=source())
    flipped, clean = (label(features, passes, torch.full((2, 1, 1, 1, 1), rate), source()) for rate in (0.5, 0.0))
    assert not torch.equal(flipped.sums[1], clean.sums[1])
    assert torch.equal(flipped.bits[-1], features - flipped.sums[-2] > 0)


def test_pass_by_pass_is_teacher_forcing() -> None:
    """The losses of one pass of every map equal those of the model's own masked pass."""
    model, labels = small_star(), random_labels(0.1)
    chosen = [each for each in PYRAMIDS.passes if each.last]
    text = model.text(CAPTIONS)
    losses = pass_losses(model.transformer, text, labels, chosen, PYRAMIDS)
    nth = [each.number % len(labels[0].bits) for each in chosen]
    x = [pooled(labels[each.pyramid].sums[i], each.grid).flatten(2).mT for each, i in zip(chosen, nth, strict=True)]
    picks = [each.number for each in chosen]
    hidden = model.transformer.teacher_forced(Text(text), PYRAMIDS, picks, torch.cat(x, dim=1))
    sizes = [part.shape[1] for part in x]
    for loss, part, each, i in zip(losses, hidden.split(sizes, dim=1), chosen, nth, strict=True):
        wanted = to_tokens(labels[each.pyramid].bits[i]).long().flatten()
        logits = model.transformer.logits_of(part, each.bits).reshape(-1, 2)
        assert_close(loss, torch.nn.functional.cross_entropy(logits, wanted))


def test_a_step_has_what_its_passes_read() -> None:
    """Every pass behind the first pyramid has the stored pass before it, and over the steps every pass is learnt."""
    learnt = set()
    for seed in range(20):
        chosen = chosen_passes(PYRAMIDS, source(seed))
        learnt |= {each.number for each in chosen}
        stored = {each.pyramid for each in chosen if each.last and each.scale == 3}
        assert {each.pyramid - 1 for each in chosen} - {-1} <= stored
        assert [each.number for each in chosen] == sorted({each.number for each in chosen})
    assert set(range(len(PYRAMIDS.passes))) == learnt


def test_every_weight_learns() -> None:
    """One step's gradient reaches the text encoder and the transformer; the weight that nothing reads has none."""
    model, features = small_star(), torch.randn(4, 64, 9, 6, 6, generator=source())
    lesson_loss(model, CAPTIONS * 2, features, Lesson(drop=0.5), source()).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert ["transformer.sos_token"] == still


def test_every_weight_of_the_tokenizer_learns() -> None:
    """The loss reaches both directions of the tokenizer; the published parts that nothing uses stay as they are."""
    tokenizer = small_tokenizer()
    tokenizer_loss(tokenizer, practice(40_000, source()), TokenizerLoss(), source()).backward()
    still = [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    assert [] == [name for name in still if "_two" not in name]


def test_held_out_captions_are_never_shown() -> None:
    """Eight of 48 captions are held out; each colour, shape and direction is among those that are taught, in every pair."""
    assert {8, 40} == {len(held_out()), len(taught())}
    assert set(held_out()) | set(taught()) == set(every_caption())
    for part in ("colour", "shape"):
        assert len({(getattr(one, part), one.direction) for one in taught()}) == (16 if part == "colour" else 12)


def test_examples_are_made_once_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part has a clip of each caption, is not made again, and a missing part is named with what makes it."""
    monkeypatch.setattr("recipes.star_tiny.examples.movies", lambda *_: torch.rand(40, 3, 1, 16, 16))
    write_part(tmp_path, 0, small_tokenizer())
    written = (tmp_path / "features" / "0000.pt").stat().st_mtime_ns
    write_part(tmp_path, 0, small_tokenizer())
    assert written == (tmp_path / "features" / "0000.pt").stat().st_mtime_ns
    captions, features = Examples.read(tmp_path, 1).some(3, source())
    assert (3, (3, 64, 1, 1, 1)) == (len(captions), tuple(features.shape))
    with pytest.raises(FileNotFoundError, match=r"0001\.pt does not exist; run the stage 'features'"):
        Examples.read(tmp_path, 2)


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["tokenizer", "star"])
def test_training_resumes_as_if_it_had_not_stopped(stage: str, tmp_path: Path) -> None:
    """Four steps in one run, and two steps, a stop and two more, give equal bits."""
    options = LoopOptions(steps=4, peak=1e-3, warmup=2, seed=3)
    examples = Examples(CAPTIONS, torch.randn(3, 2, 64, 9, 6, 6, generator=source()).half())
    models: list[VideoTokenizer | TinyStar] = []
    for stops in ((4,), (2, 4)):
        for stop in stops:
            path = tmp_path / f"{stops[0]}.pt"
            if stage == "tokenizer":
                tokenizer = small_tokenizer()
                train_tokenizer(tokenizer, options, path, pixels=40_000, stop_at=stop)
                models.append(tokenizer)
            else:
                star = small_star()
                train_star(star, examples, options, path, lesson=Lesson(clips=2), stop_at=stop)
                models.append(star)
    straight, _, resumed = models
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_small_model_is_measured() -> None:
    """Clips have the 33 frames of the schedule, one by one and together alike; untrained they show nothing."""
    model = small_star(small_tokenizer().eval()).eval()
    asked, how = [Caption("red", "circle", "up")] * 2, Sampling(guidance=2.0)
    clips = draw(model, asked, [0, 1], how)
    assert (2, 3, 33, 96, 96) == tuple(clips.shape)
    assert_close(clips, draw(model, asked, [0, 1], how, at_once=1), rtol=0, atol=1e-4)
    assert 0 == score(asked, clips).all


def test_real_clips_are_scored_right() -> None:
    """The measurement gives full marks to training clips, and says how they come back from a tokenizer."""
    asked = held_out()[:2]
    real = movies(asked, 33, 96, source())
    assert "colour 100.0%, object 100.0%, direction 100.0%, all three 100.0%" == str(score(asked, real))
    assert real.shape == reconstructed(small_tokenizer().eval(), real).shape
