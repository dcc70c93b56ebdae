"""The recipe of star-tiny, from a seed to the shipped weights: `PYTHONPATH=adapters python -m recipes.star_tiny.train --help`.

Every stage can be killed and called again with the same options. Run in the order tokenizer, features, star, export, evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from recipes.muon import by_muon
from recipes.sheet import sheet
from recipes.star_tiny.examples import FRAMES, Examples, held_out, write_part
from recipes.star_tiny.lessons import Lesson, lesson_loss
from recipes.star_tiny.measure import draw, score
from recipes.star_tiny.movies import movies
from recipes.star_tiny.start import start_weights
from recipes.star_tiny.tokenizing import TokenizerLoss, practice, reconstructed, tokenizer_loss
from recipes.training import LoopOptions, averaged, rounded, train
from scalekv_adapters.infinitystar.tiny.network import SIDE, TOKENIZER_SIZES, TinyStar
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_core.models.sampling import Sampling

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(soft_wrap=True)
SHOWN = 9
"""Frames of a clip on a sheet."""

Out = Annotated[Path, typer.Option(help="Folder of the checkpoints.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps in all; the learning rate falls to a hundredth by then.")]
Peak = Annotated[float, typer.Option(help="The highest learning rate.")]
Seed = Annotated[int, typer.Option(help="Use another one for every part, or it trains on the same clips.")]
Begin = Annotated[
    list[Path] | None,
    typer.Option(
        "--from", help="Checkpoints, the mean of whose averaged weights it starts from, instead of from nothing."
    ),
]
Parts = Annotated[int, typer.Option(min=1, help="Parts of the training clips, of 40 clips each.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


def train_tokenizer(
    model: VideoTokenizer, options: LoopOptions, path: Path, *, pixels: int = 40_000 * 4, stop_at: int | None = None
) -> None:
    """Trains the video tokenizer on new clips, about so many pixels a step."""

    def loss(step: int, source: torch.Generator) -> Tensor:
        return tokenizer_loss(model, practice(pixels, source), TokenizerLoss(), source)

    train(model, loss, options, path, stop_at=stop_at)


def train_star(
    model: TinyStar,
    examples: Examples,
    options: LoopOptions,
    path: Path,
    *,
    lesson: Lesson | None = None,
    stop_at: int | None = None,
) -> None:
    """Trains the transformer and its text encoder on the features of a frozen tokenizer."""
    how = lesson or Lesson()

    def loss(step: int, source: torch.Generator) -> Tensor:
        captions, features = examples.some(how.clips, source)
        with torch.autocast("cpu", torch.bfloat16):
            return lesson_loss(model, captions, features, how, source)

    hidden = partial(by_muon, hidden=("block_chunks", "text_proj"))
    train(model, loss, options, path, stop_at=stop_at, optimizers=hidden)


def mean_of(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the averaged weights of checkpoints: parts of a training that began with the same weights and ran side by side."""
    states = [averaged(path) for path in paths]
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}


def frozen_tokenizer(out: Path) -> VideoTokenizer:
    """The trained tokenizer, rounded as it is shipped."""
    tokenizer = VideoTokenizer(TOKENIZER_SIZES)
    tokenizer.load_state_dict({name: rounded(value) for name, value in averaged(out / "tokenizer.pt").items()})
    return tokenizer.eval().requires_grad_(False)


@app.command("tokenizer")
def run_tokenizer(
    out: Out, steps: Steps = 900, peak: Peak = 3e-3, seed: Seed = 1, begin: Begin = None, threads: Threads = 1
) -> None:
    """Trains the video tokenizer: half an hour."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = VideoTokenizer(TOKENIZER_SIZES)
    if begin:
        model.load_state_dict(mean_of(begin))
    options = LoopOptions(steps=steps, peak=peak, warmup=50, weight_decay=0, average=0.99, seed=seed)
    train_tokenizer(model, options, out / "tokenizer.pt")


@app.command("features")
def run_features(
    out: Out,
    parts: Parts = 25,
    first: Annotated[int, typer.Option(min=0, help="The first part to make; two processes can share the work.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Make each so-many-th part from there.")] = 1,
    threads: Threads = 1,
) -> None:
    """Encodes the clips that the transformer learns from: a third of a minute for each part."""
    torch.set_num_threads(threads)
    tokenizer = frozen_tokenizer(out)
    for part in range(first, parts, every):
        write_part(out, part, tokenizer)
        console.print(f"part {part} of {parts}")


@app.command("star")
def run_star(
    out: Out,
    parts: Parts = 25,
    steps: Steps = 1500,
    peak: Peak = 3e-3,
    seed: Seed = 2,
    begin: Begin = None,
    threads: Threads = 1,
) -> None:
    """Trains the transformer and its text encoder: an hour."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = TinyStar()
    start_weights(model.transformer)
    if begin:
        model.load_state_dict(mean_of(begin))
    options = LoopOptions(steps=steps, peak=peak, warmup=60, plateau=0.5, average=0.995, seed=seed, save_every=120)
    train_star(model, Examples.read(out, parts), options, out / "star.pt")


@app.command("evaluate")
def run_evaluate(
    out: Out,
    per_caption: Annotated[int, typer.Option(min=1, help="Clips of each caption that is held out.")] = 4,
    guidance: float = 3.0,
    temperature: float = 0.7,
    threads: Threads = 1,
) -> None:
    """Judges real, reconstructed and generated clips, with the checkpoints' weights as they would be shipped; writes a sheet."""
    torch.set_num_threads(threads)
    tokenizer = frozen_tokenizer(out)
    asked = held_out()
    real = movies(asked, FRAMES, SIDE, torch.Generator().manual_seed(9))
    rebuilt = torch.cat([reconstructed(tokenizer, clip) for clip in real.split(4)])
    error = float(-10 * (rebuilt - real)[:, :, 1:].square().mean().log10())  # a clip shows its second frame twice
    console.print(f"the judge on real clips: {score(asked, real)}")
    console.print(f"after the tokenizer ({error:.1f} dB): {score(asked, rebuilt)}")
    sheet(_some_frames(rebuilt), SHOWN, zoom=1).save(out / "tokenizer.png")
    if not (out / "star.pt").exists():
        return
    model = TinyStar(tokenizer=tokenizer)
    model.load_state_dict({name: rounded(value) for name, value in averaged(out / "star.pt").items()})
    captions = asked * per_caption
    clips = draw(model.eval(), captions, range(len(captions)), Sampling(guidance=guidance, temperature=temperature))
    console.print(f"generated, guidance {guidance}, temperature {temperature}: {score(captions, clips)}")
    sheet(_some_frames(clips), SHOWN, zoom=1).save(out / "clips.png")


def _some_frames(clips: Tensor) -> Tensor:
    """(N SHOWN, 3, H, W) frames of clips, evenly between, clip by clip."""
    chosen = torch.linspace(0, clips.shape[2] - 1, SHOWN).round().long()
    return clips[:, :, chosen].transpose(1, 2).flatten(0, 1)


if __name__ == "__main__":
    app()
