"""The transformer computes the same as the official one, and its caches are no part of it."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch.testing import assert_close

from scalekv_adapters.var.config import PUBLISHED, VARConfig
from scalekv_adapters.var.generation import VAR
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.errors import InputError, UnknownName

SCALES = range(6)
LAYER, SCALE = 1, 2  # where the inner tensors were recorded


class RecordingCache(ConcatCache):
    """Records what one layer's attention read and returned at one scale."""

    def __init__(self, schedule, record):
        super().__init__(schedule)
        self.record, self.calls = record, 0

    def attend(self, layer, q, k, v, *, softmax_scale):
        out = super().attend(layer, q, k, v, softmax_scale=softmax_scale)
        if layer == LAYER:
            if self.calls == SCALE:
                keys, values, scale = self.keys[layer], self.values[layer], torch.tensor(softmax_scale)
                self.record.update(attn_q=q, attn_k=keys, attn_v=values, attn_out=out, attn_scale=scale)
            self.calls += 1
        return out


def record_modules(model):
    """Hooks that collect, per name of the golden files, one tensor per scale; and the collection."""
    seen = defaultdict(list)

    def keep(module, name_in, name_out):
        def hook(module, args, out):
            seen[name_in].append(args[0])
            seen[name_out].append(out)

        module.register_forward_hook(hook)

    for i, block in enumerate(model.blocks):
        keep(block, f"block{i}_in", f"block{i}_out")
    keep(model.blocks[LAYER].attn, "sa_in", "sa_out")
    keep(model.blocks[LAYER].ffn, "ffn_in", "ffn_out")
    keep(model.head_nm, "final_hidden", "normed")  # recorded before the last norm
    keep(model.head, "normed", "raw_logits_s2")
    return seen


def test_teacher_forced_logits_are_those_recorded(var, variant, golden):
    """The masked pass over all scales gives the official logits."""
    want = golden(f"var_{variant}")
    assert_close(var(want["tf.label"], want["tf.x"]), want["tf.logits"], rtol=0, atol=2e-4)


@pytest.mark.parametrize(("case", "guidance"), [("ar", 1.5), ("ar4", 4.0)])
def test_greedy_generation_is_the_one_recorded(var, variant, golden, case, guidance):
    """Logits after guidance, tokens, sums, next inputs and the image agree at every scale, without any forcing."""
    want, steps = golden(f"var_{variant}"), []
    got = var.generate([3, 7], seeds=None, guidance=guidance, on_scale=steps.append, keep_logits=True)
    for k in SCALES:
        assert_close(got.logits[k], want[f"{case}.logits_s{k}"], rtol=0, atol=2e-4)
        assert torch.equal(want[f"{case}.idx_s{k}"], got.tokens[k])
        if f"{case}.fhat_s{k}" in want:
            assert_close(steps[k].total, want[f"{case}.fhat_s{k}"], rtol=0, atol=2e-5)
        if f"{case}.next_s{k}" in want:
            next_input = var.vqvae.next_input(steps[k].total, k)
            assert_close(next_input, want[f"{case}.next_s{k}"].flatten(2).mT, rtol=0, atol=2e-5)
    assert_close(got.images, want[f"{case}.image"], rtol=0, atol=5e-5)


def test_what_the_cache_is_given_is_what_the_official_attention_read(var, variant, golden):
    """Queries, keys and values reach the cache with bias, l2 norm and head scale in, and the keys normalised."""
    want, got = golden(f"var_{variant}"), {}
    var.new_cache = lambda schedule: RecordingCache(schedule, got)
    var.generate([3, 7], seeds=None, guidance=1.5)
    for name in ("attn_q", "attn_k", "attn_v", "attn_out", "attn_scale"):
        assert_close(got[name], want[f"ar.{name}"], rtol=0, atol=1e-4)


def test_every_recorded_inner_tensor_agrees(var, variant, golden):
    """Block, attention and feed-forward inputs and outputs, the final hidden state and the raw logits agree."""
    want, got = golden(f"var_{variant}"), record_modules(var)
    var.generate([3, 7], seeds=None, guidance=1.5)
    names = {name.removeprefix("ar.") for name in want if name.startswith("ar.")} & set(got)
    assert (10 if variant in ("saln0_l2n0", "saln1_l2n1") else 1) == len(names)
    for name in names:
        assert_close(got[name][SCALE], want[f"ar.{name}"], rtol=0, atol=2e-4 if name == "raw_logits_s2" else 1e-4)


def test_generating_and_teacher_forcing_agree(plain_var):
    """Without guidance the logits of generation equal those of the masked pass."""
    got = plain_var.generate([3, 7], seeds=[1, 2], guidance=0, keep_logits=True)
    forced = plain_var(torch.tensor([3, 7]), plain_var.vqvae.teacher_inputs(got.tokens))
    assert_close(torch.cat(got.logits, dim=1), forced, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes_have_the_official_names_and_shapes(manifest, name):
    """Every published model has the official names and shapes."""
    want = manifest(name.replace("-", "_"))
    with torch.device("meta"):
        model = VAR(VARConfig.published(name))
    assert want["params"] == {name: list(value.shape) for name, value in model.named_parameters()}
    buffers = {name: {"shape": list(b.shape), "dtype": str(b.dtype)[6:]} for name, b in model.named_buffers()}
    assert want["buffers"] == buffers
    assert want["n_params"] == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes_are_the_official_ones(manifest, name):
    """Every published configuration equals the official one."""
    want, got = manifest(name.replace("-", "_"))["config"], VARConfig.published(name)
    fields = {
        "depth": got.depth,
        "embed_dim": got.width,
        "num_heads": got.heads,
        "patch_nums": list(got.patch_sides),
        "shared_aln": got.shared_adaln,
        "attn_l2_norm": got.attn_l2_norm,
        "num_classes": got.num_classes,
        "mlp_ratio": got.mlp_ratio,
        "V": got.codes,
        "Cvae": got.code_width,
    }
    assert {key: want[key] for key in fields} == fields


def test_buffers_are_the_official_ones(plain_var, var_state, var_config):
    """A new model's level table and mask equal those in the checkpoint."""
    state, fresh = var_state("saln0_l2n1"), VAR(var_config("saln0_l2n1"))
    assert torch.equal(state["lvl_1L"], fresh.lvl_1L)
    assert torch.equal(state["attn_bias_for_masking"], fresh.attn_bias_for_masking)


def test_vqvae_is_no_part_of_the_model(plain_var):
    """State dict and parameters of a VAR exclude its VQVAE."""
    assert [name for name in plain_var.state_dict() if "decoder" in name or "quantize" in name] == []
    assert sum(p.numel() for p in plain_var.parameters()) < sum(v.numel() for v in plain_var.state_dict().values())


def test_training_reaches_every_parameter(var, golden, variant):
    """One training step gives every parameter a gradient."""
    want, model = golden(f"var_{variant}"), VAR(var.config)
    logits = model(want["tf.label"], want["tf.x"], drop=torch.tensor([True, False]))
    logits.square().mean().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_dropped_labels_become_no_class(plain_var, golden):
    """A mask or probability 1 inserts the unconditional class; probability 0 changes nothing."""
    x, labels = golden("var_saln0_l2n1")["tf.x"], torch.tensor([3, 7])
    nobody = plain_var(torch.tensor([10, 10]), x)
    assert torch.equal(nobody, plain_var(labels, x, drop=1.0))
    assert torch.equal(nobody[:1], plain_var(labels, x, drop=torch.tensor([True, False]))[:1])
    assert torch.equal(plain_var(labels, x), plain_var(labels, x, drop=torch.tensor([False, False])))


def test_drop_is_drawn_by_the_generator(plain_var, golden):
    """The same generator state drops the same labels."""
    x, labels = golden("var_saln0_l2n1")["tf.x"], torch.tensor([3, 7])
    draws = [plain_var(labels, x, drop=0.5, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draws)


def test_sizes_that_do_not_fit_are_refused(make_vqvae, var_config):
    """Heads that do not divide the width, a VQVAE with other maps, and an unknown name are named."""
    with pytest.raises(InputError, match="width 96 is not divisible by 5 heads"):
        VARConfig(depth=3, width=96, heads=5)
    with pytest.raises(InputError, match="depth must be a whole number of at least 1, got 0"):
        VARConfig(depth=0, width=96, heads=3)
    with pytest.raises(InputError, match=r"VAR needs a VQVAE of .* \(64, 8, \(1, 2, 3, 4, 5, 6\)\), got one of"):
        VAR(var_config("saln0_l2n1"), make_vqvae((1, 2, 6)))
    with pytest.raises(UnknownName, match="did you mean 'var-d16'"):
        VARConfig.published("var-16")
