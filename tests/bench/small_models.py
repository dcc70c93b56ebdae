"""Processor time of one image of the models that ship, under several policies: ``python tests/bench/small_models.py``.

Contenders take turns, so that other work on the machine slows all of them. Ratios to the unmodified time are taken round by round.
Nothing is asserted, since times depend on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable

import torch

from scalekv_core import Policy, compress
from scalekv_core.models.image_model import ImageModel
from scalekv_core.plugins.registry import load_model

PROMPTS = {"var-tiny": "3", "infinity-tiny": "a red circle"}
POLICIES = {
    "full": Policy.named("full"),
    "scalekv": Policy.named("scalekv", budget="10%"),
    "fold": Policy.named("fold", budget="10%"),
    "fold int4": Policy.named("fold", codec="int4", budget="10%"),
}
UNMODIFIED = "unmodified"


def image_seconds(model: ImageModel, policy: Policy | None) -> float:
    """Processor seconds of one image, the second one of its session: the first makes the plan and the tables."""
    prompts = [PROMPTS[model.name]]
    with compress(model, policy) if policy is not None else contextlib.nullcontext():
        model.generate(prompts, seeds=[0])
        start = time.process_time()
        model.generate(prompts, seeds=[1])
        return time.process_time() - start


def rounds_of(model: ImageModel, rounds: int, seconds: Callable[..., float] = image_seconds) -> dict[str, list[float]]:
    """{contender: seconds in each round}; every round begins with another contender."""
    contenders: list[tuple[str, Policy | None]] = [(UNMODIFIED, None), *POLICIES.items()]
    taken: dict[str, list[float]] = {name: [] for name, _ in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for name, policy in contenders[turn:] + contenders[:turn]:
            taken[name].append(seconds(model, policy))
    return taken


def main() -> None:
    """Prints a row for each model and contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=PROMPTS, help="which models; both by default")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.model or PROMPTS:
        taken = rounds_of(load_model(name), given.rounds)
        print(f"{name}: median seconds, and x unmodified: median (least, most) of {given.rounds} rounds")
        for contender, seconds in taken.items():
            ratios = [mine / theirs for mine, theirs in zip(seconds, taken[UNMODIFIED], strict=True)]
            least, most = min(ratios), max(ratios)
            print(
                f"  {contender:12} {statistics.median(seconds):7.3f} s  {statistics.median(ratios):5.3f} ({least:.3f}, {most:.3f})"
            )


if __name__ == "__main__":
    main()
