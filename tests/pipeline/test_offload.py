"""Offloaded parts and compiled layers give bit-identical images, and an offloaded part is never used.

There is no second device here. A part that waits has weights of NaN, so that any use of it would be seen in the image.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from scalekv_core import InputError, Pipeline, Progress
from scalekv_core.memory.need import MemoryNeed, baseline_need
from scalekv_core.models.parts import DECODER, TEXT_ENCODER, TRANSFORMER
from scalekv_core.pipeline.offload import REST, Offload
from scalekv_core.testing.toy import ToyImageModel

DEVICE = torch.device("meta")
"""A device of which only the name is used: nothing is moved there."""
CAPTION = "a red circle left of a blue square"


@frozen(eq=False)
class Moves:
    """Replaces the weights of an offloaded module by NaN, restores them on the way back, and records each move."""

    names: dict[nn.Module, str]
    seen: list[tuple[str, str]] = field(factory=list)
    kept: dict[int, Tensor] = field(factory=dict)

    def __call__(self, module: nn.Module, device: torch.device) -> None:
        step = self.names[module], "away" if device == REST else "there"
        if self.seen[-1:] != [step]:
            self.seen.append(step)
        for tensor in [*module.parameters(), *module.buffers()]:
            if not tensor.is_floating_point():
                continue
            if device == REST:
                self.kept.setdefault(id(tensor), tensor.detach().clone())
                tensor.data.fill_(torch.nan)
            elif id(tensor) in self.kept:
                tensor.data.copy_(self.kept.pop(id(tensor)))


@pytest.fixture
def offloaded() -> Callable[[str], tuple[Pipeline, Moves]]:
    """Makes a pipeline of a model with offloaded parts, and the record of their moves."""

    def make(model: str) -> tuple[Pipeline, Moves]:
        pipe = Pipeline.from_pretrained(model, policy="fold", budget="10%")
        moves = Moves({module: part for part, modules in pipe.model.parts.items() for module in modules})
        pipe._loaded.offload = Offload(pipe.model, DEVICE, move=moves)
        moves.seen.clear()
        return pipe, moves

    return make


def test_one_part_is_on_the_device_at_a_time(
    offloaded: Callable[[str], tuple[Pipeline, Moves]], captions: Pipeline
) -> None:
    """Text encoder, transformer, decoder: each leaves before the next one comes. Known prompts need no text encoder."""
    pipe, moves = offloaded("infinity-tiny")
    expected = captions(CAPTION, output="tensor").images

    assert torch.equal(expected, pipe(CAPTION, output="tensor").images)
    assert [
        (TEXT_ENCODER, "there"),
        (TEXT_ENCODER, "away"),
        (TRANSFORMER, "there"),
        (TRANSFORMER, "away"),
        (DECODER, "there"),
    ] == moves.seen  # fmt: skip
    moves.seen.clear()
    assert torch.equal(expected, pipe(CAPTION, output="tensor").images)
    assert {TRANSFORMER, DECODER} == {part for part, _ in moves.seen}


@pytest.mark.parametrize(("model", "prompt"), [("infinity-tiny", CAPTION), ("var-tiny", "3")])
def test_a_preview_takes_a_turn(
    model: str, prompt: str, offloaded: Callable[[str], tuple[Pipeline, Moves]], request: pytest.FixtureRequest
) -> None:
    """A preview loads the decoder and then the transformer before the next scale, also after a stop and an error."""
    plain = request.getfixturevalue("captions" if model == "infinity-tiny" else "digits")
    expected = plain(prompt, output="tensor").images
    pipe, moves = offloaded(model)
    previews = []

    def look(progress: Progress) -> None:
        if progress.scale in (1, 3):
            previews.append(progress.preview)
        if progress.scale == 4 and len(previews) > 2:
            raise RuntimeError("enough")

    assert torch.equal(expected, pipe(prompt, output="tensor", on_scale=look).images)
    assert moves.seen.count((DECODER, "there")) == 3
    assert all(preview.isfinite().all() for preview in previews)
    with pytest.raises(RuntimeError, match="enough"):
        pipe(prompt, on_scale=look)
    assert pipe(prompt, on_scale=lambda progress: progress.stop(), output="tensor").images.isfinite().all()
    assert torch.equal(expected, pipe(prompt, output="tensor").images)


def test_a_move_that_fails_is_tried_again() -> None:
    """The next image moves the part again, and does not assume that it is already there."""
    pipe, moves = Pipeline.from_pretrained("var-tiny", policy=None), []

    def move(module: nn.Module, device: torch.device) -> None:
        moves.append(device)
        if device == DEVICE and len(moves) < 8:
            raise MemoryError

    offload = Offload(pipe.model, DEVICE, move=move)
    for _ in range(2):
        with pytest.raises(MemoryError):
            offload.bring(TRANSFORMER)
        assert offload.there is None


def test_offloading_is_refused_where_it_gains_nothing(
    toy_pipe: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offloading is refused on the CPU, and for models that do not list their parts."""
    with pytest.raises(InputError, match=r"^the model runs on cpu, where its parts would wait anyway; "):
        toy_pipe().enable_offload()
    with pytest.raises(InputError, match=r"^model 'toy' does not tell its parts \(ImageModel.parts\)"):
        Offload(ToyImageModel(toy_pipe().model.module), DEVICE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^model 'toy' does not tell its layers \(ImageModel.blocks\)"):
        toy_pipe().compile()


def test_parts_that_take_turns_need_less(captions: Pipeline) -> None:
    """The plan of a batch counts one part at a time."""
    together = captions(CAPTION).job.batch
    needs = [baseline_need(batch) for batch in (together, evolve(together, take_turns=True))]
    weights, text = needs[0].weights, needs[0].text_encoder

    def beside(need: MemoryNeed) -> list[int]:
        return list(need.phases.values())

    everything = sum(weights.values())
    saved = [x - y for x, y in zip(*map(beside, needs), strict=True)]
    assert [everything, everything - weights[TRANSFORMER], weights[TRANSFORMER]] == saved
    assert text > 0
    assert needs[1].total < needs[0].total


@pytest.mark.thorough
@pytest.mark.parametrize(("model", "prompt"), [("infinity-tiny", CAPTION), ("var-tiny", "3")])
def test_compiled_layers_generate_the_same(model: str, prompt: str, request: pytest.FixtureRequest) -> None:
    """Images are bit-identical, unmodified and under a policy, with previews; the graph breaks at the cache. Under
    a policy one graph serves all layers."""
    pipe = Pipeline.from_pretrained(model, policy="fold", budget="10%")
    pipes = pipe, pipe.with_policy(None)
    expected = [one(prompt, output="tensor").images for one in pipes]
    torch._dynamo.reset()
    pipe.compile(backend="eager")

    assert all(block._compiled_call_impl is not None for block in pipe.model.blocks)
    for want, one in zip(expected, pipes, strict=True):
        compressed = one is pipe  # what is over the limit would run uncompiled
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=compressed):
            assert torch.equal(want, one(prompt, output="tensor", on_scale=lambda progress: progress.preview).images)
