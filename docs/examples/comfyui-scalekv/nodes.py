"""The nodes: load a model, choose a policy, generate images, report memory. Menus come from the installed plugins."""

from __future__ import annotations

from typing import Any

import torch

from scalekv_core import Budget, Pipeline, Policy, Report, ScaleKVError, shared_registry
from scalekv_core.shapes.geometry import format_bytes

from .comfy import Watch

CATEGORY = "scalekv"
UNMODIFIED, OWN = "unmodified", "the policy's own"
Inputs = dict[str, dict[str, tuple[Any, ...]]]


def devices() -> list[str]:
    """The names of the devices of this machine, the fastest first."""
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


class LoadModel:
    """Loads an image model by name."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES, RETURN_NAMES = ("SCALEKV_MODEL",), ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        models = shared_registry().names("model")
        shipped = [name for name in models if not shared_registry().make("model", name).needs_weights]
        return {
            "required": {
                "model": (models, {"default": shipped[-1] if shipped else models[0]}),
                "device": (devices(),),
                "dtype": (["bfloat16", "float32", "float16"], {"default": "float32"}),
            },
            "optional": {"weights": ("STRING", {"default": "", "tooltip": "file or folder; empty where weights ship"})},
        }

    def load(self, model: str, device: str, dtype: str, weights: str = "") -> tuple[Pipeline]:
        """The loaded model, without a policy."""
        return (Pipeline.from_pretrained(model, policy=None, weights=weights or None, device=device, dtype=dtype),)


class ChoosePolicy:
    """A policy by name, with its budget and codec."""

    CATEGORY, FUNCTION = CATEGORY, "choose"
    RETURN_TYPES, RETURN_NAMES = ("SCALEKV_POLICY",), ("policy",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        registry = shared_registry()
        policies = registry.names("policy")
        return {
            "required": {
                "policy": (
                    [UNMODIFIED, *policies],
                    {
                        "default": "fold" if "fold" in policies else UNMODIFIED,
                        "tooltip": "unmodified uses neither budget nor codec",
                    },
                ),
                "budget": (
                    "STRING",
                    {"default": "10%", "tooltip": "10%, 10% of all, 650 tokens, 4GiB; empty: the policy's own"},
                ),
                "codec": ([OWN, *registry.names("codec")],),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, budget: str) -> bool | str:
        """True, or the line that says what is wrong, before anything runs."""
        try:
            return not budget or bool(Budget.parse(budget))
        except ScaleKVError as error:
            return str(error)

    def choose(self, policy: str, budget: str, codec: str) -> tuple[tuple[Policy | None, str | None]]:
        """The policy and its budget; none for the unmodified model."""
        if policy == UNMODIFIED:
            return ((None, None),)
        made = shared_registry().policy(policy, codec=None if codec == OWN else codec)
        return ((made, budget or None),)


class Generate:
    """Generates images, with a preview after every scale; ComfyUI's stop button works between scales."""

    CATEGORY, FUNCTION = CATEGORY, "generate"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "SCALEKV_REPORT"), ("images", "report")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("SCALEKV_MODEL",),
                "policy": ("SCALEKV_POLICY",),
                "prompt": ("STRING", {"default": "a red circle left of a blue square", "multiline": True}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
                "images": ("INT", {"default": 1, "min": 1, "max": 64}),
                "guidance": ("FLOAT", {"default": -1.0, "min": -1.0, "max": 100.0, "tooltip": "-1: the model's own"}),
            },
            "optional": {
                "negative_prompt": ("STRING", {"default": "", "multiline": True}),
                "aspect": ("STRING", {"default": "", "tooltip": "such as 3:4; empty: the model's own"}),
                "size": ("STRING", {"default": "", "tooltip": "such as 1M; empty: the model's own"}),
            },
        }

    def generate(
        self,
        model: Pipeline,
        policy: tuple[Policy | None, str | None],
        prompt: str,
        seed: int,
        images: int,
        guidance: float,
        negative_prompt: str = "",
        aspect: str = "",
        size: str = "",
    ) -> tuple[torch.Tensor, Report | None]:
        """Images (B, H, W, 3) float32 in [0, 1] on the CPU, as ComfyUI passes them on, of clips every frame; and the report."""
        chosen, budget = policy
        output = model.with_policy(chosen, budget=budget)(
            prompt,
            seed=seed,
            num_images_per_prompt=images,
            guidance=None if guidance < 0 else guidance,
            negative_prompt=negative_prompt,
            aspect=aspect or None,
            size=size or None,
            output="numpy",
            on_scale=Watch(),
        )
        return torch.from_numpy(output.images).flatten(0, -4).contiguous(), output.report


class MemoryReport:
    """The bytes of the cache, as text on the node."""

    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "report", True
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("text",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"report": ("SCALEKV_REPORT",)}}

    def report(self, report: Report | None) -> dict[str, Any]:
        """The text, for the node and for the nodes after it."""
        text = in_words(report)
        return {"ui": {"text": [text]}, "result": (text,)}


def in_words(report: Report | None) -> str:
    """The figures of a report, a line each."""
    if report is None:
        return "unmodified model: nothing was compressed"
    figures = report.as_dict()
    lines = [f"{name:<11}{format_bytes(figures[f'{name}_bytes'])}" for name in ("unmodified", "planned", "resident")]
    return "\n".join([f"{figures['policy']}, {figures['budget']}", *lines, f"{figures['compression']:.1f} times less"])


NODE_CLASS_MAPPINGS = {
    "ScaleKVLoadModel": LoadModel,
    "ScaleKVPolicy": ChoosePolicy,
    "ScaleKVGenerate": Generate,
    "ScaleKVMemoryReport": MemoryReport,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ScaleKVLoadModel": "scalekv: load model",
    "ScaleKVPolicy": "scalekv: policy",
    "ScaleKVGenerate": "scalekv: generate",
    "ScaleKVMemoryReport": "scalekv: memory report",
}
