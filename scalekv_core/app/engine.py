"""One loaded model that generates an image twice: unmodified, and under a policy. Called in one thread only."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from PIL import Image
from torch import Tensor

from scalekv_core.app import pictures
from scalekv_core.app.form import Form, Request, read
from scalekv_core.app.memory import PlannedMemory, plan
from scalekv_core.app.turns import Turn
from scalekv_core.compare.explain import KeptTokens
from scalekv_core.errors import CheckpointError
from scalekv_core.memory import fit, free
from scalekv_core.pipeline import loading, running
from scalekv_core.pipeline.output import PipelineOutput
from scalekv_core.pipeline.pipeline import Pipeline
from scalekv_core.pipeline.progress import Progress
from scalekv_core.planning.planner import Planned
from scalekv_core.plugins.registry import Registry
from scalekv_core.session.report import Report

UNMODIFIED, COMPRESSED = "unmodified", "compressed"
REMEMBERED = 8
"""Unmodified images that need not be generated again when only the policy changes."""


@frozen(kw_only=True)
class Settings:
    """How the page was started.

    Attributes:
        model, policy: chosen at first.
        weights: of that model.
        device, dtype: where and how models run.
        allow_nonfinite: accept weights that hold NaN or infinity.
    """

    model: str
    policy: str
    weights: Path | None = None
    device: torch.device = field(factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    allow_nonfinite: bool = False


@frozen
class Loading:
    """The model is read from its files."""

    model: str


@frozen(eq=False, kw_only=True)
class Step:
    """An image after one more scale.

    Attributes:
        which: unmodified or compressed.
        scale: how many scales there are in it.
        image: decoded from them.
    """

    which: str
    scale: int
    image: Image.Image


@frozen(eq=False, kw_only=True)
class OneImage:
    """One image, and how it came about.

    Attributes:
        image: (3, H, W) in [0, 1].
        steps: small pictures of it, one after each scale; of the last scale only where the model shows no others.
        seconds: that it took.
    """

    image: Tensor
    steps: Sequence[Image.Image]
    seconds: float


@frozen(eq=False, kw_only=True)
class Result:
    """Both images of a request.

    Attributes:
        request, planned: what was asked for.
        unmodified, compressed: the images.
        report: the memory of the cache.
        kept: which tokens the last scale attended to.
    """

    request: Request
    planned: Planned
    unmodified: OneImage
    compressed: OneImage
    report: Report
    kept: KeptTokens


class Engine:
    """The model, loaded when it is first asked for; another one takes its place.

    Args:
        registry: where names are looked up.
        settings: how the page was started.
    """

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.registry = registry
        self.settings = settings
        self._pipeline: Pipeline | None = None
        self._unmodified: OrderedDict[Any, OneImage] = OrderedDict()

    def read(self, form: Form) -> Request:
        """The request of a form; raises as :func:`scalekv_core.app.form.read`."""
        return read(form, registry=self.registry, dtype=self.settings.dtype)

    def plan(self, request: Request) -> PlannedMemory:
        """What it will take; raises as :func:`scalekv_core.app.memory.plan`."""
        return plan(request, weights=self._weights(request.form.model))

    def work(self, turn: Turn) -> None:
        """Generates both images of the turn's request, and tells each scale, then the result.

        Raises:
            ScaleKVError: it cannot be done, or was cancelled; the model is as before.
        """
        request: Request = turn.request
        planned = self._check(request)
        pipe = self._load(request, turn)
        unmodified = self._generate_unmodified(pipe, request, turn)
        kept = KeptTokens()
        under_policy = pipe.with_policy(request.policy, budget=request.budget)
        compressed, output = _generate(under_policy, request, turn, COMPRESSED, observer=kept, measure_peak=True)
        assert output.report is not None  # an image that was not stopped has one
        turn.tell(
            Result(
                request=request,
                planned=planned,
                unmodified=unmodified,
                compressed=compressed,
                report=output.report,
                kept=kept,
            )
        )

    def _weights(self, model: str) -> Path | None:
        return self.settings.weights if model == self.settings.model else None

    def _check(self, request: Request) -> Planned:
        """The plan, after every refusal that needs no model."""
        batch, model = request.job.batch, request.form.model
        if batch.card.needs_weights and model != self.settings.model:
            raise CheckpointError(
                f"model {model!r} does not ship with weights; start the page with scalekv app --model {model} "
                f"--weights PATH ({batch.card.weights})"
            )
        memory = free.memory_for_process(self.settings.device)
        profile = loading.profile_of(batch, self._weights(model))
        planned = running.plan_job(
            request.job, request.policy, request.budget, profile, memory=memory, registry=self.registry
        )
        fit.check_baseline_fits(batch, memory=memory, suggestion="generate a smaller image")
        return planned

    def _load(self, request: Request, turn: Turn) -> Pipeline:
        name, settings = request.form.model, self.settings
        if self._pipeline is None or self._pipeline.model.name != name:
            turn.tell(Loading(name))
            self._pipeline = None  # two models at once may not fit
            self._unmodified.clear()
            self._pipeline = Pipeline.from_pretrained(
                name,
                policy=None,
                weights=self._weights(name),
                device=settings.device,
                dtype=settings.dtype,
                allow_nonfinite=settings.allow_nonfinite,
                registry=self.registry,
            )
        return self._pipeline

    def _generate_unmodified(self, pipe: Pipeline, request: Request, turn: Turn) -> OneImage:
        """The unmodified image; the same one again where only the policy has changed."""
        job = request.job
        key = (request.prompt, request.seed, job.sampling, job.batch.aspect, job.batch.size)
        if key in self._unmodified:
            made = self._unmodified[key]
            image = pictures.picture(made.image)
            turn.tell(Step(which=UNMODIFIED, scale=len(job.batch.geometry.schedule), image=image))
        else:
            made, _ = _generate(pipe, request, turn, UNMODIFIED)
            self._unmodified[key] = made
            if len(self._unmodified) > REMEMBERED:
                self._unmodified.popitem(last=False)
        self._unmodified.move_to_end(key)
        return made


def _generate(pipe: Pipeline, request: Request, turn: Turn, which: str, **how: Any) -> tuple[OneImage, PipelineOutput]:
    """One image; a visitor who has cancelled ends it after the scale that is being generated."""
    steps: list[Image.Image] = []

    def show(progress: Progress) -> None:
        turn.check()
        image = pictures.picture(progress.preview[0])
        steps.append(pictures.thumbnail(image))
        turn.tell(Step(which=which, scale=progress.scale + 1, image=image))

    turn.check()
    tells = "on_scale" in inspect.signature(pipe.model.generate).parameters  # a model of another make may not
    job = request.job
    output = pipe(
        request.prompt,
        seed=request.seed,
        guidance=job.sampling.guidance,
        aspect=job.batch.aspect,
        size=job.batch.size,
        output="tensor",
        on_scale=show if tells else None,
        **how,
    )
    image = output.images[0].detach().float().cpu()
    return OneImage(
        image=image, steps=steps or [pictures.thumbnail(pictures.picture(image))], seconds=output.seconds
    ), output
