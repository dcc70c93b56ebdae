"""The recipe of infinity-tiny, from a seed to the shipped weights: `PYTHONPATH=adapters python -m recipes.infinity_tiny.train --help`.

Every stage can be killed and called again with the same options. Run in the order vae, infinity, export, evaluate. With
``--go-on`` the transformer starts from the shipped weights instead of from nothing: training in pieces, on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import attrs
import torch
import typer
from rich.console import Console
from torch import Tensor

from recipes.infinity_tiny.drawings import drawings
from recipes.infinity_tiny.measure import draw, held_by_task, questions
from recipes.infinity_tiny.objectives import (
    ASPECTS,
    Lesson,
    VAELoss,
    lesson_loss,
    random_canvas,
    to_model,
    vae_loss,
)
from recipes.infinity_tiny.start import start_weights
from recipes.muon import by_muon
from recipes.sheet import sheet
from recipes.shipping import write_shipped
from recipes.training import LoopOptions, averaged, rounded, train
from scalekv_adapters.infinity import tiny
from scalekv_adapters.infinity.tiny import SAMPLING
from scalekv_adapters.infinity.tiny.judge import judge
from scalekv_adapters.infinity.tiny.network import SIZES, SQUARE, TEXT_DEPTH, VAE_SIZES, TinyInfinity
from scalekv_adapters.infinity.vae import BSQVAE
from scalekv_adapters.shipped import read_shipped
from scalekv_core.models.sampling import Sampling

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(soft_wrap=True)
Out = Annotated[Path, typer.Option(help="Folder of the checkpoints.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps in all; the learning rate falls to a hundredth by then.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


def train_vae(model: BSQVAE, options: LoopOptions, path: Path, *, batch: int = 32, stop_at: int | None = None) -> None:
    """Trains the BSQ-VAE on new pictures, sometimes of another aspect ratio."""

    def loss(step: int, source: torch.Generator) -> Tensor:
        canvas = random_canvas(ASPECTS, source)
        _, pictures = drawings(batch, canvas.image_size(model.config.stride), source)
        return vae_loss(model, to_model(pictures), canvas.grids(), VAELoss(), source)

    train(model, loss, options, path, stop_at=stop_at)


def train_infinity(
    model: TinyInfinity,
    vae: BSQVAE,
    options: LoopOptions,
    path: Path,
    *,
    lesson: Lesson | None = None,
    stop_at: int | None = None,
) -> None:
    """Trains the transformer and its text encoder on the bits of a frozen VAE."""
    how = lesson or Lesson()

    def loss(step: int, source: torch.Generator) -> Tensor:
        return lesson_loss(model, vae, how, source)

    train(model, loss, options, path, stop_at=stop_at, optimizers=muon_and_adamw)


muon_and_adamw = partial(by_muon, hidden=("block_chunks", "neighbours", "text_proj"))


def frozen_vae(out: Path) -> BSQVAE:
    """The trained VAE, rounded as it is shipped."""
    vae = BSQVAE(VAE_SIZES)
    vae.load_state_dict({name: rounded(value) for name, value in averaged(out / "vae.pt").items()})
    return vae.eval().requires_grad_(False)


@app.command("vae")
def run_vae(out: Out, steps: Steps = 650, threads: Threads = 2) -> None:
    """Trains the BSQ-VAE: some minutes."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    options = LoopOptions(steps=steps, peak=2e-3, warmup=50, weight_decay=0, average=0.995, seed=1)
    train_vae(BSQVAE(VAE_SIZES), options, out / "vae.pt")


@app.command("infinity")
def run_infinity(
    out: Out,
    steps: Steps = 1220,
    peak: Annotated[float, typer.Option(help="The highest learning rate.")] = 3e-3,
    go_on: Annotated[bool, typer.Option(help="Start from the shipped weights, VAE included.")] = False,
    seed: Annotated[int, typer.Option(help="Use another one for every part, or it trains on the same pictures.")] = 2,
    threads: Threads = 2,
) -> None:
    """Trains the transformer and its text encoder: an hour and more."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = TinyInfinity()
    if go_on:
        vae = BSQVAE(VAE_SIZES)
        vae.load_state_dict(read_shipped(tiny.__name__, "vae")[1], strict=False)
        vae.eval().requires_grad_(False)
        model.load_state_dict(read_shipped(tiny.__name__, "infinity")[1], strict=False)
    else:
        vae = frozen_vae(out)
        start_weights(model.transformer)
    options = LoopOptions(steps=steps, peak=peak, warmup=60, plateau=0.7, seed=seed, save_every=120)
    train_infinity(model, vae, options, out / "infinity.pt")


@app.command("export")
def run_export(
    out: Out, to: Annotated[Path, typer.Option(help="Folder of the weights.")] = Path(tiny.__file__).parent
) -> None:
    """Writes the averaged weights as float16, by default to where they are loaded from."""
    sizes = {"vae": attrs.asdict(VAE_SIZES), "infinity": attrs.asdict(SIZES) | {"text_depth": TEXT_DEPTH}}
    for name in ("vae", "infinity"):
        target = to / f"{name}.safetensors"
        write_shipped(target, sizes[name], averaged(out / f"{name}.pt"))
        console.print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


@app.command("evaluate")
def run_evaluate(
    out: Out,
    per_task: Annotated[int, typer.Option(min=1, help="Captions of each task.")] = 20,
    guidance: float = float(SAMPLING.strengths[0]),
    temperature: float = SAMPLING.temperature,
    top_p: float = SAMPLING.top_p,
    aspect: Annotated[str, typer.Option(help="Aspect ratio, width:height.")] = "1:1",
    threads: Threads = 2,
) -> None:
    """Judges real, reconstructed and generated pictures, with the checkpoints' weights as they would be shipped; writes a sheet."""
    torch.set_num_threads(threads)
    vae = frozen_vae(out)
    captions, pictures = drawings(100, SQUARE.image_size(vae.config.stride), torch.Generator().manual_seed(9))
    rebuilt = (vae.decode(vae.sums(vae.encode(to_model(pictures), SQUARE.grids()), SQUARE.grids()[-1])[-1]) + 1) / 2
    error = float(-10 * (rebuilt - pictures).square().mean().log10())
    console.print(
        f"the judge on pictures: {_share(judge(captions, pictures))}, after the VAE: {_share(judge(captions, rebuilt))} "
        f"({error:.1f} dB)"
    )
    model = TinyInfinity(vae=vae)
    state = averaged(out / "infinity.pt")
    model.load_state_dict({name: rounded(value) for name, value in state.items()})
    asked = questions(per_task)
    how = Sampling(guidance=guidance, temperature=temperature, top_p=top_p)
    images = draw(model.eval(), asked, how, aspect=aspect)
    console.print(f"generated at {aspect}, {how}: {held_by_task(asked, images)}")
    sheet(images, per_task).save(out / "pictures.png")


def _share(right: Sequence[bool]) -> str:
    return f"{sum(right) / len(right):.1%}"


if __name__ == "__main__":
    app()
