"""Generates with the official Infinity code and with ours under every policy, and prints how far the two agree.

    git clone https://github.com/FoundationVision/Infinity
    python tests/adapters/infinity/beside_official.py Infinity

No test, for the official code is not ours to ship: it is imported from the clone, as it is. What it needs and a CPU has not
(flash-attn's kernels, timm's registration, compiled norms) is stood in for here by plain PyTorch, and its cross attention
stays in float32, as in the recordings. The weights are those of the recordings.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from scalekv_adapters.infinity.bits import codes_of
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_core import ScaleKVError, calibrate, compress, shared_registry

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "infinity"
SIZES: dict[str, dict[str, int]] = {
    "like2b": {"depth": 4, "width": 128, "heads": 2, "bits": 16, "block_chunks": 2},
    "like8b": {"depth": 4, "width": 64, "heads": 4, "bits": 14, "block_chunks": 4, "patch": 2},
}
SQUARE, BUDGETS = Canvas("1:1", "0.06M"), ("50%", "20%", "10%")
GUIDANCE = 3.0


def packed_attention(q, kv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale):
    """What flash-attn's kernel for packed prompts computes, prompt by prompt."""
    parts = []
    for i in range(len(cu_seqlens_q) - 1):
        queries = q[cu_seqlens_q[i] : cu_seqlens_q[i + 1]].transpose(0, 1)
        keys, values = kv[cu_seqlens_k[i] : cu_seqlens_k[i + 1]].permute(1, 2, 0, 3)
        parts.append(F.scaled_dot_product_attention(queries, keys, values, scale=softmax_scale).transpose(0, 1))
    return torch.cat(parts)


def dense_attention(q, k, v, dropout_p=0, softmax_scale=None):
    """The same for its plain kernel, (B, L, H, D)."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2)


def module(name: str, **content: Any) -> None:
    """Puts a module of this content where an import finds it."""
    made = types.ModuleType(name)
    vars(made).update(content)
    sys.modules[name] = made


class InFloat32:
    """torch for the official attention module, where "bfloat16" is float32: it rounds float32 queries otherwise."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def official_code(clone: Path) -> types.ModuleType:
    """The official module of the transformer."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    module("flash_attn", flash_attn_func=dense_attention, flash_attn_varlen_kvpacked_func=packed_attention)
    module("timm")
    module("timm.models", register_model=lambda function: function)
    module("timm.models.layers", DropPath=nn.Identity, drop_path=None)
    module("timm.loss", SoftTargetCrossEntropy=type("SoftTargetCrossEntropy", (nn.Module,), {}))
    for name in ("pytz", "tqdm", "cv2"):
        module(name)
    sys.path.insert(0, str(clone))
    torch.compile = lambda *args, **kwargs: args[0] if args else (lambda function: function)
    import infinity.models.basic as basic
    import infinity.models.infinity as transformer

    basic.torch = InFloat32()
    return transformer


class OfficialVAE:
    """What the official loop asks of its VAE, answered by ours."""

    def __init__(self, vae: BSQVAE) -> None:
        self.embed_dim, self.vocab_size, self.decode = vae.config.bits, 2**vae.config.bits, vae.decode
        lfq = types.SimpleNamespace(mask=None, indices_to_codes=self._codes)
        self.quantizer = types.SimpleNamespace(z_interplote_up="trilinear", lfq=lfq)

    def _codes(self, bits: Tensor, label_type: str) -> Tensor:
        return codes_of(bits.squeeze(1).permute(0, 3, 1, 2)).unsqueeze(2)  # (B, d, 1, h, w)


class Pair:
    """One of the recorded models, twice: the official object and ours, with the same weights."""

    def __init__(self, code: types.ModuleType, kind: str, *, flash: bool = False) -> None:
        sizes, state = SIZES[kind], load_file(GOLDEN / f"{kind}_weights.safetensors")
        of_vae = {n[3:]: t for n, t in load_file(GOLDEN / f"{kind}_vae.safetensors").items() if n.startswith("sd.")}
        vae = BSQVAE(BSQVAEConfig.of_state(of_vae))
        vae.load_state_dict(of_vae)
        self.ours = Infinity(InfinityConfig(**sizes, text_channels=256, text_maxlen=16), vae, canvas=SQUARE)
        self.ours.load_state_dict(state)
        self.vae = OfficialVAE(vae.eval())
        with contextlib.redirect_stdout(io.StringIO()):
            self.official = official_object(code, self.vae, sizes)
        self.official.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
        for block in self.official.unregistered_blocks if flash else ():
            block.sa.using_flash = True
            block.sa.scale_mul_1H11 = nn.Parameter(block.sa.scale_mul_1H11.data.view(1, 1, -1, 1))
        for model in (self.ours, self.official):
            model.eval().requires_grad_(False)
        self.logits: list[Tensor] = []
        self._watch(code)

    def _watch(self, code: types.ModuleType) -> None:
        name = "sample_with_top_k_top_p_also_inplace_modifying_logits_"
        sample = getattr(code, f"{name}_before", getattr(code, name))
        setattr(code, f"{name}_before", sample)

        def noted(logits: Tensor, **how: Any) -> Tensor:
            self.logits.append(logits.clone())
            return sample(logits, **how)

        setattr(code, name, noted)

    def draw_official(self, text: PackedText, canvas: Canvas = SQUARE) -> list[Tensor]:
        """Logits of every scale, as the official method meets them."""
        self.logits.clear()
        ends = torch.tensor([0, *text.lens]).cumsum(0).int()
        self.official.autoregressive_infer_cfg(
            vae=self.vae,
            scale_schedule=[(1, h, w) for h, w in canvas.maps],
            label_B_or_BLT=(text.features, list(text.lens), ends, max(text.lens)),
            B=len(text),
            g_seed=0,
            cfg_list=[GUIDANCE] * len(canvas.maps),
            tau_list=[1.0] * len(canvas.maps),
            cfg_insertion_layer=[0],
            top_k=1,
            returns_vemb=1,
            vae_type=self.vae.embed_dim,
            ret_img=True,
            inference_mode=True,
        )
        counts = canvas.schedule.tokens
        return [one.reshape(len(text), count, -1) for one, count in zip(self.logits, counts, strict=True)]

    def draw_ours(self, text: PackedText, canvas: Canvas = SQUARE) -> list[Tensor]:
        """The same by ours."""
        drawn = self.ours.generate(text, seeds=None, guidance=GUIDANCE, canvas=canvas, keep_logits=True)
        return list(drawn.logits or ())


def official_object(code: types.ModuleType, vae: OfficialVAE, sizes: dict[str, int]) -> Any:
    """The official Infinity of these sizes, with the flags of the official inference."""
    return code.Infinity(
        vae,
        text_channels=256,
        text_maxlen=16,
        embed_dim=sizes["width"],
        depth=sizes["depth"],
        num_heads=sizes["heads"],
        block_chunks=sizes["block_chunks"],
        apply_spatial_patchify=sizes.get("patch", 1) - 1,
        shared_aln=True,
        fused_norm=True,
        pad_to_multiplier=128,
        rope2d_each_sa_layer=1,
        rope2d_normalized_by_hw=2,
        pn=SQUARE.pixels,
        inference_mode=True,
    )


def bits(logits: list[Tensor]) -> Tensor:
    """(B, L, d') the likelier ones."""
    return torch.cat([one[..., 1::2] > one[..., ::2] for one in logits], dim=1)


def agreement(first: list[Tensor], second: list[Tensor]) -> str:
    """How far two images agree, in words."""
    same = (bits(first) == bits(second)).double().mean()
    apart = max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))
    return f"{same:.3%} of bits the same, logits at most {apart:.1e} apart"


def compare(pair: Pair, text: PackedText) -> Iterator[tuple[str, str]]:
    """(what was generated, how far the two agree)."""
    for canvas in (SQUARE, Canvas("3:4", "0.06M")):
        yield f"unmodified, {canvas.aspect}", agreement(pair.draw_official(text, canvas), pair.draw_ours(text, canvas))
    with calibrate(pair.ours) as calibration:
        pair.draw_ours(text)
    for name in shared_registry().names("policy"):
        policy = shared_registry().policy(name)
        for budget in BUDGETS if policy.allocator.spends_all else (None,):
            how = {"profile": calibration.profile(), "check": True}
            try:
                with compress(pair.official, policy, budget, **how):
                    theirs = pair.draw_official(text)
                with compress(pair.ours, policy, budget, **how):
                    ours = pair.draw_ours(text)
            except ScaleKVError as error:
                yield name, f"not for this model: {str(error)[:60]}..."
                break
            yield f"{name} {budget or ''}", agreement(theirs, ours)


def is_lossless(pair: Pair, text: PackedText) -> bool:
    """Whether the official object under `full` is bit-identical to itself."""
    before = pair.draw_official(text)
    with compress(pair.official, "full", check=True):
        during = pair.draw_official(text)
    return all(torch.equal(a, b) for a, b in zip(before, during, strict=True))


@torch.no_grad()
def main() -> None:
    """Prints a line for everything that was compared."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clone", type=Path, help="a clone of the official repository")
    code = official_code(parser.parse_args().clone)
    warnings.simplefilter("ignore")
    text = PackedText.pack([torch.randn(n, 256, generator=torch.Generator().manual_seed(n)) for n in (5, 9)])
    for kind in SIZES:
        for flash in (False, True):
            layout = "(B, L, H, D)" if flash else "(B, H, L, D)"
            print(
                f"{kind}, official in {layout}: full bit-identical: {is_lossless(Pair(code, kind, flash=flash), text)}"
            )
        for what, how in compare(Pair(code, kind), text):
            print(f"  {what}: {how}")


if __name__ == "__main__":
    main()
