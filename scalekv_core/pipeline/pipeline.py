"""A loaded model with a policy, as one object that is called with prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import frozen

from scalekv_core.cache.kv_cache import Observer
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.models.requests import check_prompts, check_seeds
from scalekv_core.pipeline import loading, running
from scalekv_core.pipeline.job import Job, check_images, every_seed, seeds_of
from scalekv_core.pipeline.loaded import Loaded, Place, changed_sampling
from scalekv_core.pipeline.output import PipelineOutput, in_form
from scalekv_core.pipeline.progress import Progress, Stopped, telling
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.planner import Planned
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.session.report import Report

Generators = torch.Generator | Sequence[int | torch.Generator]
"""A generator for all images, or one for each; a number is a seed."""


@frozen(eq=False)
class Pipeline:
    """A loaded model with a policy. Made by :meth:`from_pretrained`; calling it generates images.

    Several threads may call it, and pipelines of the same model: one generates, the others wait.

    Attributes:
        policy: under which it generates; None leaves the model unmodified.
        budget: of the policy; None is the policy's own.

    >>> pipe = Pipeline.from_pretrained("var-tiny", policy="uniform", budget="20%")
    >>> output = pipe(["3", "7"], seed=1)
    >>> [image.size for image in output.images], output.report.as_dict()["rows"]
    ([(32, 32), (32, 32)], 4)
    """

    _loaded: Loaded
    policy: Policy | None
    budget: str | Budget | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        policy: str | Policy | None = "scalekv",
        budget: str | Budget | None = None,
        weights: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        profile: str | Path | AttentionProfile | None = None,
        aspect: str | None = None,
        size: str | None = None,
        random_weights: bool = False,
        allow_nonfinite: bool = False,
        registry: Registry | None = None,
        **changes: Any,
    ) -> Pipeline:
        """A pipeline of a model by name. If one image cannot be generated, this is refused before the model is loaded.

        Args:
            model: as ``scalekv models`` lists it.
            policy: a name or a value; None leaves the model unmodified.
            budget: "10%" (of the history that enters the last scale), "10% of all", "650 tokens", "4GiB"; None takes the
                policy's own.
            weights: file or folder, for models whose weights do not ship.
            device, dtype: where and in which dtype the model runs.
            profile: what ``scalekv calibrate`` measured; the model's own by default.
            aspect, size: of the images where a call gives none; None is the model's own.
            random_weights: generate noise, to measure memory and time.
            allow_nonfinite: accept weights and text features that hold NaN or infinity.
            registry: where names are looked up; the installed plugins by default.
            **changes: of the policy, as for :func:`~scalekv_core.compress`: ``codec="int8"``, ``window=9``.

        Raises:
            UnknownName, InputError, BudgetError, ProfileError: what was asked cannot be done.
            CheckpointError: the weights are missing, truncated, of another model, or not finite.
            MissingExtra: the model needs a package that is not installed.
        """
        registry = registry or shared_registry()
        place = Place(
            name=model,
            card=registry.make("model", model),
            weights=None if weights is None else Path(weights),
            device=device,
            dtype=dtype,
            profile=AttentionProfile.load(Path(profile)) if isinstance(profile, (str, Path)) else profile,
            random_weights=random_weights,
            aspect=aspect,
            size=size,
            registry=registry,
        )
        chosen = _policy(registry, policy, changes)
        one = place.job([(place.card.example, 0)], place.card.sampling, aspect=aspect, size=size)
        loading.check_weights(one.batch, place.weights)
        place.plan(one, chosen, budget)
        return cls(place.load(one, allow_nonfinite=allow_nonfinite), chosen, budget)

    def with_policy(
        self, policy: str | Policy | None, *, budget: str | Budget | None = None, **changes: Any
    ) -> Pipeline:
        """A pipeline of the same loaded model under another policy; None is the unmodified model.

        Raises:
            UnknownName, InputError: a policy, part or option that is not there, or a value out of range.
        """
        return attrs.evolve(self, policy=_policy(self._loaded.place.registry, policy, changes), budget=budget)

    def enable_offload(self) -> None:
        """Text encoder, transformer and image decoder take turns on the device from now on; the others wait in main memory.

        This holds for every pipeline of the same model. The batch that fits grows, and moving weights takes time.

        Raises:
            InputError: the model runs on the CPU, or does not tell its parts.
        """
        self._loaded.take_turns()

    def compile(self, **options: Any) -> None:
        """Compiles every layer of the transformer; the cache stays in Python. The first images after it take long.

        Args:
            **options: of ``torch.compile``, such as ``mode="max-autotune-no-cudagraphs"``.

        Raises:
            InputError: the model does not tell its layers.
        """
        self._loaded.compile(**options)

    @property
    def model(self) -> ImageModel:
        """The loaded model."""
        return self._loaded.model

    @property
    def card(self) -> ModelCard:
        """What is known of the model."""
        return self._loaded.place.card

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        generators: Generators | None = None,
        num_images_per_prompt: int | None = None,
        guidance: float | Sequence[float] | None = None,
        negative_prompt: str = "",
        aspect: str | None = None,
        size: str | None = None,
        output: str = "pil",
        on_scale: Callable[[Progress], None] | None = None,
        measure_peak: bool = False,
        observer: Observer | None = None,
        **sampling: Any,
    ) -> PipelineOutput:
        """Generates every prompt with every seed, in the order of the prompts.

        Args:
            prompt: one text or several, in the model's language.
            seed: of the first image of each prompt, the next ones have the next seeds; or one per image of a prompt.
            generators: in place of seeds, a torch generator for all images, or one for each.
            num_images_per_prompt: how many; by default one, or as many as seeds.
            guidance: strength, for all scales or one per scale; the model's own by default, 0 generates without.
            negative_prompt: what guidance leads away from, where the model's family knows that; empty is nothing.
            aspect, size: of the images, such as "3:4" and "1M"; None is the pipeline's.
            output: "pil", "tensor" or "numpy".
            on_scale: is called after every scale; may look at a preview, and may stop.
            measure_peak: also measure the peak bytes of the cache; slower on a CPU.
            observer: is shown every view of the cache and which tokens are kept, as for :func:`~scalekv_core.compress`.
            **sampling: other fields of :class:`~scalekv_core.Sampling`, such as ``top_k``, ``top_p``, ``temperature``.

        Raises:
            InputError, BudgetError, ProfileError: what was asked cannot be done, or does not fit into memory.
            OutOfMemory: memory ran out all the same.
            NonFiniteError: the model computed NaN or infinity.
        """
        loaded, place, form = self._loaded, self._loaded.place, in_form(output)
        if guidance is not None:
            sampling["guidance"] = guidance if isinstance(guidance, (int, float)) else tuple(guidance)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        images = _images(place.name, prompts, seed, generators, num_images_per_prompt)
        aspect = place.aspect if aspect is None else aspect
        size = place.size if size is None else size
        how = changed_sampling(self.card.sampling, sampling)
        job = place.job(images, how, aspect=aspect, size=size, take_turns=loaded.offload is not None)
        tell = None if on_scale is None else telling(on_scale, form, goes_on=loaded.goes_on)
        options = loaded.options({"on_scale": tell, "negative_prompt": negative_prompt})
        with loaded.reserved(aspect=aspect, size=size):
            planned = place.plan(job, self.policy, self.budget)
            start, stopped, generation, report = loaded.now(), None, None, None
            try:
                generation, report = self._run(job, planned, options, measure_peak=measure_peak, observer=observer)
                made = generation.images
            except Stopped as stop:
                stopped, made = stop.scale, stop.images
            seconds = loaded.now() - start
        return PipelineOutput(
            images=form(made), report=report, seconds=seconds, stopped=stopped, job=job, generation=generation
        )

    def _run(
        self, job: Job, planned: Planned | None, options: dict[str, Any], **watching: Any
    ) -> tuple[Generation, Report | None]:
        model, place = self.model, self._loaded.place
        if planned is None:
            with running.unmodified(job):
                return running.generate(model, job, **options), None
        with running.compressed(
            model, job, planned, device=place.device, registry=place.registry, **watching
        ) as session:
            generation = running.generate(model, job, **options)
        return generation, session.report()


def _policy(registry: Registry, policy: str | Policy | None, changes: dict[str, Any]) -> Policy | None:
    if policy is not None:
        return registry.policy(policy, **changes)
    if changes:
        raise InputError(f"the unmodified model has no policy to change; leave out {', '.join(changes)}")
    return None


def _images(
    model: str,
    prompts: Sequence[str],
    seed: int | Sequence[int],
    generators: Generators | None,
    images: int | None,
) -> list[tuple[str, int]]:
    """Prompt and seed of each image."""
    who = f"model {model!r}"
    check_images(images, who=who)
    if generators is None:
        return every_seed(model, prompts, seeds_of(seed, images, who=who))
    repeated = [prompt for prompt in check_prompts(model, prompts) for _ in range(images or 1)]
    return list(zip(repeated, check_seeds(generators, len(repeated), who=who), strict=True))
