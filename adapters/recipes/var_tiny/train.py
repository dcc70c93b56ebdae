"""The recipe of var-tiny, from digits to the shipped weights: `PYTHONPATH=adapters python -m recipes.var_tiny.train --help`.

Every stage can be killed and called again with the same options. Run in the order judge, vqvae, var, export, evaluate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import attrs
import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from recipes.sheet import sheet
from recipes.shipping import write_shipped
from recipes.training import LoopOptions, averaged, rounded, train
from recipes.var_tiny.data import Augmentation, Digits, augment, load_digits, to_model
from recipes.var_tiny.measure import accuracy, draw_digits, rebuild
from recipes.var_tiny.objectives import (
    Noise,
    VQVAELoss,
    judge_loss,
    noisy_tokens,
    refresh_codes,
    var_loss,
    vqvae_loss,
)
from scalekv_adapters.var import tiny
from scalekv_adapters.var.generation import VAR
from scalekv_adapters.var.tiny import SAMPLING, VQVAE_SIZES
from scalekv_adapters.var.tiny import SIZES as VAR_SIZES
from scalekv_adapters.var.tiny.judge import DigitReader
from scalekv_adapters.var.transformer import drop_labels
from scalekv_adapters.vqvae import VQVAE
from scalekv_core.models.sampling import Sampling

JUDGE_WIDTH = 16

GENTLE = Augmentation()
ROUGH = Augmentation(degrees=15, zoom=0.15, shear=0.2, shift=2.5, elastic=1.0)

PREFIXES = {8: 0.5, 9: 0.25, 10: 0.25}
"""How often a step of the VAR trains on so many scales."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(soft_wrap=True)
Out = Annotated[Path, typer.Option(help="Folder of the checkpoints.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps in all; the learning rate falls to a hundredth by then.")]


def frozen(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads weights, rounded as they are shipped, and switches training off."""
    module.load_state_dict({name: rounded(value) for name, value in weights.items()})
    module.eval().requires_grad_(False)


def train_judge(
    digits: Digits, model: DigitReader, options: LoopOptions, path: Path, *, stop_at: int | None = None
) -> None:
    """Trains the judge on strongly varied digits."""

    def loss(step: int, source: torch.Generator) -> Tensor:
        images, labels = digits.batch(64, source)
        return judge_loss(model, augment(images, ROUGH, source), labels)

    train(model, loss, options, path, stop_at=stop_at)


def train_vqvae(digits: Digits, model: VQVAE, options: LoopOptions, path: Path, *, stop_at: int | None = None) -> None:
    """Trains the VQVAE; unused codes are renewed every 20 steps of the first 60 %."""

    def loss(step: int, source: torch.Generator) -> Tensor:
        images = to_model(augment(digits.batch(32, source)[0], GENTLE, source))
        if step % 20 == 10 and step < 0.6 * options.steps:
            refresh_codes(model, images, source)
        return vqvae_loss(model, images, VQVAELoss(), source)

    train(model, loss, options, path, stop_at=stop_at)


def train_var(
    digits: Digits, model: VAR, options: LoopOptions, path: Path, *, batch: int = 16, stop_at: int | None = None
) -> None:
    """Trains the VAR on the tokens of its (frozen) VQVAE."""
    lengths = sorted(min(scales, len(model.config.patch_sides)) for scales in PREFIXES)
    shares = torch.tensor([PREFIXES[scales] for scales in sorted(PREFIXES)])

    def loss(step: int, source: torch.Generator) -> Tensor:
        scales = lengths[int(torch.multinomial(shares, 1, generator=source))]
        images, labels = digits.batch(batch, source)
        labels = drop_labels(labels, 0.1, model.config.num_classes, source)
        read, answers = noisy_tokens(model.vqvae, to_model(augment(images, GENTLE, source)), scales, Noise(), source)
        return var_loss(model, labels, read, answers, scales)

    train(model, loss, options, path, stop_at=stop_at)


@app.command("judge")
def run_judge(out: Out, steps: Steps = 2500) -> None:
    """Trains the judge: about a minute."""
    torch.manual_seed(0)
    model = DigitReader(width=JUDGE_WIDTH)
    train_judge(
        load_digits("judge"), model, LoopOptions(steps=steps, peak=2e-3, average=0.995, seed=1), out / "judge.pt"
    )


@app.command("vqvae")
def run_vqvae(out: Out, steps: Steps = 1500) -> None:
    """Trains the VQVAE: about ten minutes."""
    torch.manual_seed(0)
    model = VQVAE(VQVAE_SIZES)
    nn.init.normal_(model.quantize.embedding.weight, std=0.3)
    options = LoopOptions(steps=steps, peak=2e-3, weight_decay=0, average=0.995, seed=1)
    train_vqvae(load_digits("generator"), model, options, out / "vqvae.pt")


@app.command("var")
def run_var(out: Out, steps: Steps = 4000) -> None:
    """Trains the VAR: most of an hour."""
    torch.manual_seed(0)
    vqvae = VQVAE(VQVAE_SIZES)
    frozen(vqvae, averaged(out / "vqvae.pt"))
    options = LoopOptions(steps=steps, peak=2e-3, warmup=200, average=0.998, seed=2)
    train_var(load_digits("generator"), VAR(VAR_SIZES, vqvae), options, out / "var.pt")


def _sizes(stage: str) -> dict[str, Any]:
    """What the constructors of the three networks take."""
    return {"judge": {"width": JUDGE_WIDTH}, "vqvae": attrs.asdict(VQVAE_SIZES), "var": attrs.asdict(VAR_SIZES)}[stage]


@app.command("export")
def run_export(
    out: Out,
    to: Annotated[Path, typer.Option(help="Folder of the shipped weights.")] = Path(tiny.__file__).parent,
) -> None:
    """Writes the averaged weights as float16, by default to where they are loaded from."""
    for stage in ("judge", "vqvae", "var"):
        target = to / f"{stage}.safetensors"
        write_shipped(target, _sizes(stage), averaged(out / f"{stage}.pt"))
        console.print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


def _networks(out: Path) -> tuple[DigitReader, VQVAE, VAR]:
    judge, vqvae = DigitReader(width=JUDGE_WIDTH), VQVAE(VQVAE_SIZES)
    var = VAR(VAR_SIZES, vqvae)
    for stage, network in (("judge", judge), ("vqvae", vqvae), ("var", var)):
        frozen(network, averaged(out / f"{stage}.pt"))
    return judge, vqvae, var


@app.command("evaluate")
def run_evaluate(
    out: Out,
    per_class: Annotated[int, typer.Option(min=1, help="Digits generated per class.")] = 50,
    guidance: float = float(SAMPLING.strengths[0]),
    top_k: int = SAMPLING.top_k,
    top_p: float = SAMPLING.top_p,
    temperature: float = SAMPLING.temperature,
) -> None:
    """Judges real, rebuilt and generated digits, with the weights as they are shipped; writes digits.png."""
    judge, vqvae, var = _networks(out)
    test = load_digits("test")
    console.print(f"judge on real digits that nothing was trained on: {accuracy(judge, test.images, test.labels):.3f}")
    rebuilt = accuracy(judge, rebuild(vqvae, to_model(test.images)), test.labels)
    console.print(f"the same digits through the VQVAE: {rebuilt:.3f}")
    how = Sampling(guidance=guidance, top_k=top_k, top_p=top_p, temperature=temperature)
    images, labels = draw_digits(var, per_class, how)
    shares = [round(accuracy(judge, images[labels == c], labels[labels == c]), 2) for c in range(10)]
    console.print(f"generated digits, {how}: {accuracy(judge, images, labels):.3f}, by class {shares}")
    sheet(images, per_class).save(out / "digits.png")


if __name__ == "__main__":
    app()
