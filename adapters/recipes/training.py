"""A training loop that can be killed at any moment and goes on as if nothing had happened.

All randomness of a step follows from the run's seed and the step's number, so a checkpoint needs weights, averaged weights,
optimiser and step, and no generator state: four steps straight and two steps, a kill, and two more give equal bits.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

__all__ = ["LoopOptions", "StepLoss", "adamw", "averaged", "learning_rate", "rounded", "train"]

StepLoss = Callable[[int, torch.Generator], Tensor]
"""From a step's number and its source of randomness to the loss, a scalar."""

Optimizers = Callable[[nn.Module, "LoopOptions"], Sequence[torch.optim.Optimizer]]
"""What makes the optimisers of a model; between them they hold each trained parameter once. A parameter group may name the
`share` of the learning rate that it gets."""


@attrs.frozen(kw_only=True)
class LoopOptions:
    """How long and how fast a network learns."""

    steps: int
    peak: float
    """The highest learning rate; it rises linearly during `warmup` steps and falls as a cosine to a hundredth."""
    warmup: int = 100
    plateau: float = 0.0
    """Share of the steps after which it begins to fall. A plateau makes a run that can be prolonged."""
    weight_decay: float = 0.02
    clip: float = 1.0
    """Gradients are scaled down to this norm."""
    average: float = 0.998
    """Decay per step of the averaged weights, which are the ones that are exported."""
    seed: int = 0
    save_every: float = 60.0
    """Seconds between checkpoints."""


def learning_rate(step: int, options: LoopOptions) -> float:
    """Returns the learning rate of a step, counted from 0.

    >>> options = LoopOptions(steps=100, peak=1.0, warmup=10)
    >>> [round(learning_rate(step, options), 2) for step in (0, 9, 50, 99)]
    [0.1, 1.0, 0.59, 0.01]
    """
    if step < options.warmup:
        return options.peak * (step + 1) / options.warmup
    top = max(options.warmup, int(options.plateau * options.steps))
    along = (step - top) / max(1, options.steps - top)
    return options.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, along)))))


def adamw(model: nn.Module, options: LoopOptions) -> Sequence[torch.optim.Optimizer]:
    """AdamW for everything; matrices decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() == 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.dim() != 2], "weight_decay": 0.0},
    ]
    return (torch.optim.AdamW(groups, lr=options.peak, betas=(0.9, 0.98)),)


@attrs.define(kw_only=True, eq=False)
class _Run:
    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    average: dict[str, Tensor]
    step: int = 0
    seconds: float = 0.0
    recent: float = 0.0

    def save(self, path: Path) -> None:
        """Writes everything under a new name first: a kill while writing leaves the old checkpoint whole."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
            "recent": self.recent,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average, self.step = state["average"], state["step"]
        self.seconds, self.recent = state["seconds"], state["recent"]


def _fresh_run(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> _Run:
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return _Run(model=model, optimizers=optimizers, average=average)


def _follow(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isinf().any():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def _one_step(run: _Run, loss_of: StepLoss, options: LoopOptions) -> float:
    source = torch.Generator().manual_seed(options.seed * 1_000_003 + run.step)
    torch.manual_seed(options.seed * 1_000_003 + run.step)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run.step, options) * group.get("share", 1.0)
        optimizer.zero_grad(set_to_none=True)
    loss = loss_of(run.step, source)
    loss.backward()
    nn.utils.clip_grad_norm_(run.model.parameters(), options.clip)
    for optimizer in run.optimizers:
        optimizer.step()
    run.step += 1
    _follow(run.average, run.model, min(options.average, run.step / (run.step + 9)))
    return float(loss.detach())


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), refresh_per_second=1)


def train(
    model: nn.Module,
    loss_of: StepLoss,
    options: LoopOptions,
    path: Path,
    *,
    stop_at: int | None = None,
    optimizers: Optimizers = adamw,
) -> dict[str, Tensor]:
    """Returns the averaged weights after `options.steps` steps, resuming from `path` if it exists.

    Args:
        model: is trained in place.
        loss_of: gives the loss of a step; all its random numbers must come from the generator that it is given (or from torch's
            global one, which is seeded before each step).
        options: the schedule.
        path: the checkpoint, written about every `options.save_every` seconds and at the end.
        stop_at: leave after this step, as a kill would, but with a checkpoint.
        optimizers: what makes the optimisers.
    """
    run = _fresh_run(model, optimizers(model, options))
    if path.exists():
        run.restore(path)
    last = options.steps if stop_at is None else min(stop_at, options.steps)
    model.train()
    with _bar() as bar:
        task = bar.add_task(path.stem, total=options.steps, completed=run.step)
        saved = started = time.monotonic()
        while run.step < last:
            value = _one_step(run, loss_of, options)
            run.recent = value if run.step == 1 else 0.98 * run.recent + 0.02 * value
            bar.update(task, completed=run.step, description=f"{path.stem} loss {run.recent:.4f}")
            if time.monotonic() - saved > options.save_every:
                saved = time.monotonic()
                run.seconds += saved - started
                started = saved
                run.save(path)
        run.seconds += time.monotonic() - started
    run.save(path)
    return run.average


def averaged(path: Path) -> dict[str, Tensor]:
    """Returns the averaged weights of a checkpoint.

    Raises:
        FileNotFoundError: the stage that writes it has not run.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run the stage '{path.stem}' with the same --out first")
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["average"]
    return state


def rounded(value: Tensor) -> Tensor:
    """Returns a floating tensor with the precision of float16, others unchanged.

    >>> rounded(torch.tensor([1.0001, 0.5]))
    tensor([1.0000, 0.5000])
    """
    return value.half().to(value.dtype) if value.is_floating_point() else value
