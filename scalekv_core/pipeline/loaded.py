"""A loaded model and what all pipelines of it share: where it runs, what is known of it, and whose turn it is."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import define, field, frozen

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.memory import free
from scalekv_core.memory.fit import check_baseline_fits
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.parts import TRANSFORMER
from scalekv_core.models.requests import read_device, read_dtype
from scalekv_core.models.sampling import Sampling
from scalekv_core.pipeline import loading, running
from scalekv_core.pipeline.job import Job
from scalekv_core.pipeline.offload import REST, Offload
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.planner import Planned
from scalekv_core.plugins.registry import Registry


@frozen(eq=False, kw_only=True)
class Place:
    """Where a model comes from and runs.

    Attributes:
        name, card: of the model.
        weights: file or folder; None if they ship, are fetched or are random.
        device, dtype: where and in which dtype it runs.
        profile: what was given in place of its own.
        random_weights: whether it generates noise.
        aspect, size: of the images for which no call says another; None is the model's own.
        registry: where names are looked up.
    """

    name: str
    card: ModelCard
    weights: Path | None
    device: torch.device = field(converter=read_device)
    dtype: torch.dtype = field(converter=read_dtype)
    profile: AttentionProfile | None
    random_weights: bool
    aspect: str | None
    size: str | None
    registry: Registry

    def job(self, images: Sequence[tuple[str, int]], sampling: Sampling, **shape: Any) -> Job:
        """The job of these images, each a prompt and a seed; InputError if the model does not generate them."""
        return Job.of(
            self.name,
            self.card,
            images,
            sampling=sampling,
            dtype=self.dtype,
            random_weights=self.random_weights,
            **shape,
        )

    def plan(self, job: Job, policy: Policy | None, budget: str | Budget | None) -> Planned | None:
        """The plan of a job, None for the unmodified model; InputError, BudgetError or ProfileError if it cannot be run."""
        memory = free.memory_for_process(self.device)
        if policy is None:
            check_baseline_fits(job.batch, memory=memory, suggestion="generate fewer images at once, or give a policy")
            return None
        profile = self.profile or loading.profile_of(job.batch, self.weights)
        return running.plan_job(job, policy, budget, profile, memory=memory, registry=self.registry)

    def load(self, job: Job, *, allow_nonfinite: bool) -> Loaded:
        """The model, set to the shape of the job."""
        model = loading.load_model(
            job.batch,
            weights=self.weights,
            device=self.device,
            allow_nonfinite=allow_nonfinite,
            registry=self.registry,
        )
        return Loaded(model=model, place=self)


@define(eq=False, kw_only=True)
class Loaded:
    """A loaded model; one thread at a time generates with it.

    Attributes:
        model: the image model.
        place: where it comes from and runs.
        lock: is held by who generates.
        offload: moves the parts of the model, if they take turns on the device.
        compiled: whether its layers are compiled.
    """

    model: ImageModel
    place: Place
    lock: threading.RLock = field(factory=threading.RLock, repr=False)
    offload: Offload | None = None
    compiled: bool = False

    @contextlib.contextmanager
    def reserved(self, *, aspect: str | None, size: str | None) -> Iterator[ImageModel]:
        """The model for the length of the block, set to a shape; afterwards it has the shape that it had before."""
        model = self.model
        with self.lock:
            before = {"aspect": model.aspect, "size": model.size}
            model.set_shape(aspect=aspect, size=size)
            try:
                with one_graph_for_all_layers() if self.compiled else contextlib.nullcontext():
                    yield model
            finally:
                model.set_shape(**before)

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What is passed on to the model's `generate`: what was given.

        Raises:
            InputError: the model does not know one of them.
        """
        wanted = {name: value for name, value in given.items() if value}
        known = inspect.signature(self.model.generate).parameters
        if unknown := [name for name in wanted if name not in known]:
            raise InputError(f"model {self.model.name!r} has no {unknown[0]}; leave it out")
        return wanted

    def goes_on(self) -> None:
        """Before the next scale: the transformer is on the device again, wherever a preview was decoded."""
        if self.offload is not None:
            self.offload.bring(TRANSFORMER)

    def compile(self, **options: Any) -> None:
        """Compiles every layer of the transformer in place; InputError if the model does not tell them."""
        if not self.model.blocks:
            raise InputError(
                f"model {self.model.name!r} does not tell its layers (ImageModel.blocks), so they cannot be compiled"
            )
        with self.lock:
            for block in self.model.blocks:
                block.compile(**options)
            self.compiled = True

    def take_turns(self) -> None:
        """From now on, the parts of the model take turns on the device."""
        device = self.place.device
        if device.type == REST.type:
            raise InputError(f"the model runs on {device}, where its parts would wait anyway; offloading gains nothing")
        with self.lock:
            self.offload = self.offload or Offload(self.model, device)

    def now(self) -> float:
        """Seconds of a clock, when the device has done everything that was asked of it."""
        if self.place.device.type == "cuda":
            torch.cuda.synchronize(self.place.device)
        elif self.place.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


def one_graph_for_all_layers() -> contextlib.AbstractContextManager[None]:
    """While it lasts, torch.compile takes the index of a layer for a number like any other, not for a constant.

    Otherwise every layer is compiled for itself, and those behind the eighth, its limit, are not compiled at all. PyTorch 2.4
    has no such setting.
    """
    config: Any = importlib.import_module("torch._dynamo.config")  # only now, since it takes seconds
    name = "allow_unspec_int_on_nn_module"
    patched: contextlib.AbstractContextManager[None] = (
        config.patch({name: True}) if hasattr(config, name) else contextlib.nullcontext()
    )
    return patched


def changed_sampling(own: Sampling, changes: Mapping[str, Any]) -> Sampling:
    """A sampling with fields changed.

    Raises:
        InputError: there is no such field, or a value is out of range.

    >>> changed_sampling(Sampling(), {"top_q": 3})
    Traceback (most recent call last):
    scalekv_core.errors.InputError: sampling has no 'top_q'; it has guidance, top_k, top_p, temperature, greedy, guidance_at
    """
    known = attrs.fields_dict(Sampling)
    if unknown := [name for name in changes if name not in known]:
        raise InputError(f"sampling has no {unknown[0]!r}; it has {', '.join(known)}")
    return attrs.evolve(own, **changes)
