"""The transformer computes the same as the official one, and its caches are no part of it."""

from __future__ import annotations

from collections import defaultdict

import attrs
import pytest
import torch
from torch.testing import assert_close

from scalekv_adapters.infinity.bits import codes_of, on_grid, to_bits, to_tokens
from scalekv_adapters.infinity.config import PUBLISHED, InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.templates import Canvas
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.errors import CheckpointError, InputError, UnknownName

LAYER = 1  # where the inner tensors were recorded
CASES = [
    ("like2b", "sq_cfg1"),
    ("like2b", "sq_cfg3"),
    ("like2b", "ns_cfg3"),
    ("like2b", "b2_cfg3"),
    ("like8b", "sq_cfg1"),
    ("like8b", "sq_cfg3"),
    ("like8b", "ns_cfg3"),
]
"""Free-running generations, square, not square, and of two prompts of different lengths."""
TEACHER_FORCED = [("like2b", "tf_sq"), ("like2b", "tf_ns"), ("like8b", "tf_ns")]
MANIFESTS = {"infinity-125m": "infinity_layer12_125m", "infinity-2b": "infinity_2b", "infinity-8b": "infinity_8b"}


class RecordingCache(ConcatCache):
    """Records what one layer's attention read and returned at one scale."""

    def __init__(self, schedule, record, scale):
        super().__init__(schedule)
        self.record, self.scale, self.calls = record, scale, 0

    def attend(self, layer, q, k, v, *, softmax_scale):
        out = super().attend(layer, q, k, v, softmax_scale=softmax_scale)
        if layer == LAYER:
            if self.calls == self.scale:
                keys, values, scale = self.keys[layer], self.values[layer], torch.tensor(float(softmax_scale))
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

    blocks = list(model.blocks)
    for i, block in enumerate(blocks):
        keep(block, f"block{i}_in", f"block{i}_out")
    for part in ("sa", "ca", "ffn"):
        keep(getattr(blocks[LAYER], part), f"{part}_in", f"{part}_out")
    keep(model.head_nm, "final_hidden", "normed")  # recorded before the last norm
    keep(model.head, "normed", "raw_logits")
    return seen


class Recorded:
    """A generation with the settings of a recorded one."""

    def __init__(self, model, want, facts, case, text, canvas):
        names = {name.removeprefix(f"{case}.") for name in want if name.startswith(f"{case}.")}
        self.want = {name: want[f"{case}.{name}"] for name in names}
        self.canvas, self.scale = canvas, facts["captured_scale_index"]
        self.grids, self.patch = canvas.grids(model.config.patch), model.config.patch
        self.attention, self.modules, self.steps = {}, record_modules(model), []
        model.new_cache = lambda schedule: RecordingCache(schedule, self.attention, self.scale)
        with torch.no_grad():
            guided = facts["cfg"] != 1
            self.condition = model.condition(text.followed_by(model.without_prompt(text)) if guided else text)
        self.modules.clear()
        forced = [self.tokens(scale) for scale in range(facts["forced_first_scales"])]
        self.drawn = model.generate(
            text,
            seeds=None,
            guidance=facts["cfg"],
            canvas=canvas,
            forced=forced,
            on_scale=self.steps.append,
            keep_logits=True,
        )

    def tokens(self, scale):
        """The recorded bits of a scale, (B, n, d')."""
        return to_tokens(self.want[f"bits_s{scale}"][:, 0].permute(0, 3, 1, 2).bool(), self.patch)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def recorded(request, make_infinity, golden, golden_cases, golden_text, golden_canvas):
    """Each recorded generation, generated again once for all tests of this file."""
    kind, case = request.param
    facts = golden_cases(kind)[case]
    text, canvas = golden_text(kind, facts["text"]), golden_canvas(kind, case)
    return Recorded(make_infinity(kind), golden(f"{kind}_io"), facts, case, text, canvas)


def test_greedy_generation_is_the_one_recorded(recorded):
    """Logits after guidance, bits, sums of codes and the image equal the recorded ones."""
    for scale, (logits, choices) in enumerate(zip(recorded.drawn.logits, recorded.drawn.choices, strict=True)):
        if f"logits_s{scale}" in recorded.want:
            want = recorded.want[f"logits_s{scale}"]
            assert_close(logits, want, rtol=0, atol=2e-4)
            assert torch.equal(want[..., 1::2] > want[..., ::2], choices)
        assert torch.equal(recorded.tokens(scale), recorded.drawn.tokens[scale])
    assert_close(recorded.steps[-1].total, recorded.want["summed_final"], rtol=0, atol=2e-5)
    if "decoded" in recorded.want:
        assert_close(recorded.drawn.images, (recorded.want["decoded"] + 1) / 2, rtol=0, atol=1e-4)


def test_images_are_the_official_ones_in_rgb(recorded):
    """The official images are bytes, channels last, blue first; ours agree within one level, almost everywhere."""
    ours = (recorded.drawn.images.flip(1).permute(0, 2, 3, 1) * 255).to(torch.uint8).int()
    difference = (ours - recorded.want["image_uint8"].int()).abs()
    assert 1 >= difference.max()
    assert 0.005 > (difference > 0).float().mean()


def test_sums_and_next_inputs_agree(recorded):
    """Bits, codes, their running sum and the next input equal the recorded ones."""
    want = recorded.want
    for scale, step in enumerate(recorded.steps):
        if f"summed_s{scale}" in want:
            assert_close(step.total, want[f"summed_s{scale}"].squeeze(2), rtol=0, atol=2e-5)
        if f"sampled_s{scale}" in want:
            assert torch.equal(want[f"sampled_s{scale}"].bool(), step.tokens)
            bits = to_bits(step.tokens, recorded.grids[scale], recorded.patch)
            assert_close(codes_of(bits), want[f"codes_s{scale}"].squeeze(2), rtol=0, atol=1e-6)
        if f"next_s{scale + 1}" in want:
            read = to_tokens(on_grid(step.total, recorded.grids[scale + 1]), recorded.patch)
            assert_close(read, want[f"next_s{scale + 1}"], rtol=0, atol=2e-5)


def test_the_prompt_is_read_as_recorded(recorded):
    """The first token, the input of cross attention and the shared condition equal the recorded ones."""
    condition = recorded.condition
    got = {"sos": condition.start, "ca_kv": condition.text.features, "shared_ada": condition.six}
    for name in set(got) & set(recorded.want):
        assert_close(got[name], recorded.want[name], rtol=0, atol=1e-5)


def test_text_features_are_normalised_as_recorded(infinity, kind, golden, text):
    """Features of prompts and of no prompt are normalised as recorded."""
    both = text.followed_by(infinity.without_prompt(text))
    assert_close(infinity.text_norm(both.features), golden(f"{kind}_io")["sq_cfg3.text_normed"], rtol=0, atol=1e-5)


def test_what_the_cache_is_given_is_what_the_official_attention_read(recorded):
    """Queries and keys reach the cache normalised, scaled and rotated; keys and values with the history."""
    names = [name for name in ("attn_q", "attn_k", "attn_v", "attn_out", "attn_scale") if name in recorded.want]
    for name in names:
        assert_close(recorded.attention[name], recorded.want[name], rtol=0, atol=1e-4)


def test_every_recorded_inner_tensor_agrees(recorded):
    """Block, attention and feed-forward inputs and outputs, the final hidden state and the raw logits agree."""
    names = set(recorded.want) & set(recorded.modules)
    for name in names:
        atol = 2e-4 if name == "raw_logits" else 1e-4
        assert_close(recorded.modules[name][recorded.scale], recorded.want[name], rtol=0, atol=atol)


def test_inner_tensors_were_recorded(golden):
    """The comparisons above are not empty."""
    for kind in ("like2b", "like8b"):
        names = [name.split(".")[1] for name in golden(f"{kind}_io")]
        assert 2 == names.count("attn_q")
        assert {"summed_s2", "sampled_s2", "codes_s2", "next_s6", "shared_ada", "ca_kv", "attn_scale"} <= set(names)
        assert {"sa_in", "ca_out", "ffn_in", "block3_out", "final_hidden", "raw_logits"} <= set(names)


@pytest.mark.parametrize(("kind", "case"), TEACHER_FORCED)
def test_teacher_forced_logits_are_those_recorded(
    make_infinity, golden, golden_text, golden_cases, golden_canvas, kind, case
):
    """The masked pass over all scales gives the official logits, also for prompts of different lengths."""
    want, text = golden(f"{kind}_io"), golden_text(kind, golden_cases(kind)[case]["text"])
    got = make_infinity(kind)(text, want[f"{case}.x"], canvas=golden_canvas(kind, case))
    assert_close(got, want[f"{case}.logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "case"), TEACHER_FORCED)
def test_an_images_bits_are_what_teacher_forcing_reads(make_vae, infinity_config, golden, golden_canvas, kind, case):
    """Images encoded by the VAE become the recorded inputs."""
    shape = case.removeprefix("tf_")
    images, want = golden(f"{kind}_vae")[f"in.image_{shape}"], golden(f"{kind}_io")[f"{case}.x"]
    vae, patch = make_vae(kind), infinity_config(kind).patch
    bits = vae.encode(images, golden_canvas(kind, case).grids(patch))
    assert_close(vae.teacher_inputs(bits, patch), want, rtol=0, atol=2e-5)


def test_generating_and_teacher_forcing_agree(infinity, kind, plain_text):
    """Without guidance the logits of generation equal those of the masked pass, also for prompts of different lengths."""
    text = plain_text(5, 9)
    got = infinity.generate(text, seeds=[1, 2], guidance=1, keep_logits=True)
    grids, patch = infinity.canvas.grids(infinity.config.patch), infinity.config.patch
    bits = [to_bits(tokens, grid, patch) for tokens, grid in zip(got.tokens, grids, strict=True)]
    forced = infinity(text, infinity.vae.teacher_inputs(bits, patch))
    assert_close(torch.cat(got.logits, dim=1), forced, rtol=0, atol=2e-4)


def test_bfloat16_is_close(make_infinity, golden, golden_text):
    """With blocks in bfloat16, as the published runs are, few bits of the teacher-forced pass flip."""
    want, model = golden("like2b_io"), make_infinity("like2b").blocks_to(torch.bfloat16)
    got = model(golden_text("like2b", "text2"), want["tf_sq.x"])
    assert torch.float32 == got.dtype
    flipped = (got[..., 1::2] > got[..., ::2]) != (want["tf_sq.logits"][..., 1::2] > want["tf_sq.logits"][..., ::2])
    assert 0.004 > flipped.float().mean()
    assert 0.03 > (got - want["tf_sq.logits"]).std()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("everything", [True, False])
def test_half_precision_generates(any_infinity, plain_text, dtype, everything):
    """With all weights or the blocks in half precision the cache has that dtype and logits are float32."""
    any_infinity.to(dtype) if everything else any_infinity.blocks_to(dtype)
    given = {}
    any_infinity.new_cache = lambda schedule: RecordingCache(schedule, given, 2)
    drawn = any_infinity.generate(plain_text(7), seeds=[1], keep_logits=True)
    assert {dtype} == {given[name].dtype for name in ("attn_q", "attn_k", "attn_v")}
    assert {torch.float32} == {logits.dtype for logits in drawn.logits}
    assert bool(drawn.images.isfinite().all())


def test_autocast_draws_what_bfloat16_blocks_draw(infinity, text):
    """Under autocast the large layers run in bfloat16 and the rest in float32."""
    given = {}
    infinity.new_cache = lambda schedule: RecordingCache(schedule, given, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = infinity.generate(text, seeds=None, keep_logits=True)
    assert torch.bfloat16 == given["attn_k"].dtype
    inside = infinity.blocks_to(torch.bfloat16).generate(text, seeds=None, keep_logits=True)
    assert_close(drawn.logits[0], inside.logits[0], rtol=0, atol=0.1)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes_have_the_official_names_and_shapes(manifest, name):
    """Every published model has the official names and shapes."""
    want = manifest(MANIFESTS[name])
    with torch.device("meta"):
        model = Infinity(InfinityConfig.published(name))
    assert want["params"] == {name: list(value.shape) for name, value in model.named_parameters()}
    buffers = {name: {"shape": list(b.shape), "dtype": str(b.dtype)[6:]} for name, b in model.named_buffers()}
    assert want["buffers"] == buffers
    assert want["n_params"] == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes_are_the_official_ones(manifest, name):
    """Every published configuration equals the official one."""
    want, got = manifest(MANIFESTS[name])["config"], InfinityConfig.published(name)
    fields = {
        "depth": got.depth,
        "embed_dim": got.width,
        "num_heads": got.heads,
        "block_chunks": got.block_chunks,
        "mlp_ratio": got.mlp_ratio,
        "text_channels": got.text_channels,
        "text_maxlen": got.text_maxlen,
        "apply_spatial_patchify": int(got.patch == 2),
        "vae_type": got.bits,
        "d_vae": got.token_bits,
        "V": 2 * got.token_bits,
        "pool_heads": got.pool_heads,
    }
    assert {key: want[key] for key in fields} == fields


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_sizes_are_read_off_the_weights(manifest, name):
    """Sizes are read from a published state dict, with and without its VAE."""
    state = {name: torch.empty(shape, device="meta") for name, shape in manifest(MANIFESTS[name])["params"].items()}
    want = InfinityConfig.published(name)
    assert want == InfinityConfig.of_state(state)
    assert want == InfinityConfig.of_state(state, bits=want.bits)


def test_sizes_of_an_own_model_are_read_off_its_weights(infinity):
    """The VAE's bits decide whether a model is patched."""
    assert infinity.config == InfinityConfig.of_state(infinity.state_dict(), bits=infinity.config.bits)
    alone = InfinityConfig.of_state(infinity.state_dict())
    assert (1, infinity.config.token_bits) == (alone.patch, alone.token_bits)


def test_weights_that_are_none_of_an_infinity_are_refused(infinity):
    """A missing tensor and a VAE of other bits are named."""
    state = infinity.state_dict()
    with pytest.raises(CheckpointError, match=r"bits per token are not a square number times the VAE's 10"):
        InfinityConfig.of_state(state, bits=10)
    del state["text_proj_for_sos.ca.mat_q"]
    with pytest.raises(CheckpointError, match=r"it lacks 'text_proj_for_sos.ca.mat_q'"):
        InfinityConfig.of_state(state)


def test_vae_is_no_part_of_the_model(infinity):
    """State dict and parameters of an Infinity exclude its VAE."""
    assert [name for name in infinity.state_dict() if "decoder" in name or "quantize" in name] == []


def test_training_reaches_every_parameter(any_infinity, plain_text):
    """One training step gives every parameter a gradient, also after an image was generated."""
    like, text = any_infinity, plain_text(4, 6)
    model = Infinity(like.config, like.vae, canvas=like.canvas)
    with torch.inference_mode():
        model.generate(text, seeds=[0, 1])
    x = torch.randn(2, model.canvas.schedule.total - 1, model.config.token_bits)
    model(text, x, drop=torch.tensor([True, False])).square().mean().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_small_sizes_can_be_built(plain_text):
    """Any text width, few heads and no chunks are accepted."""
    config = InfinityConfig(depth=2, width=32, heads=2, bits=4, text_channels=24, text_maxlen=8, mlp_ratio=8)
    model = Infinity(config, canvas=Canvas("3:4", "0.06M"))
    logits = model(plain_text(3, 8, channels=24), torch.randn(2, model.canvas.schedule.total - 1, 4))
    assert (2, model.canvas.schedule.total, 8) == tuple(logits.shape)


def test_dropped_prompts_say_nothing(any_infinity, plain_text):
    """A mask or probability 1 inserts the unconditional text; probability 0 changes nothing."""
    text = plain_text(4, 6)
    x = torch.randn(2, any_infinity.canvas.schedule.total - 1, any_infinity.config.token_bits)
    nobody = any_infinity(any_infinity.without_prompt(text), x)
    assert torch.equal(nobody, any_infinity(text, x, drop=1.0))
    assert torch.equal(nobody[:1], any_infinity(text, x, drop=torch.tensor([True, False]))[:1])
    assert torch.equal(any_infinity(text, x), any_infinity(text, x, drop=torch.tensor([False, False])))


def test_drop_is_drawn_by_the_generator(any_infinity, plain_text):
    """The same generator state drops the same prompts."""
    text = plain_text(4, 6)
    dropped = [any_infinity.with_dropped(text, 0.5, torch.Generator().manual_seed(4)).features for _ in range(2)]
    assert torch.equal(*dropped)


def test_prompts_do_not_see_each_other(any_infinity, plain_text):
    """A prompt beside a longer one is read as alone."""
    text = plain_text(5, 9)
    alone = any_infinity.condition(PackedText(text.features[:5], [5]))
    both = any_infinity.condition(text)
    assert_close(alone.start, both.start[:1], rtol=0, atol=1e-5)
    x = torch.randn(2, any_infinity.canvas.schedule.total - 1, any_infinity.config.token_bits)
    assert_close(any_infinity(PackedText(text.features[:5], [5]), x[:1]), any_infinity(text, x)[:1], rtol=0, atol=1e-4)


def test_what_does_not_fit_is_refused(infinity, make_vae, kind, plain_text):
    """Text of another encoder, long prompts, inputs of another canvas, a VAE of other bits and indivisible sizes are
    refused.
    """
    x = torch.zeros(1, 520, infinity.config.token_bits)
    with pytest.raises(InputError, match=r"text features of 256 channels; got \(3, 8\): another text encoder"):
        infinity(plain_text(3, channels=8), x)
    with pytest.raises(InputError, match="prompts of at most 16 text tokens; got one of 17"):
        infinity(plain_text(17), x)
    with pytest.raises(InputError, match=r"inputs of \(1, 520, .*\) for 1 images of 1:1 at 0.06M pixels; got \(1, 519"):
        infinity(plain_text(3), x[:, 1:])
    other = make_vae({"like2b": "like8b", "like8b": "like2b"}[kind])
    with pytest.raises(InputError, match=r"needs a VAE of \d+ bits, got one of \d+"):
        Infinity(infinity.config, other)
    with pytest.raises(InputError, match="this Infinity has no VAE"):
        _ = Infinity(infinity.config).vae
    with pytest.raises(InputError, match="depth 4 is not divisible by 3 block_chunks"):
        attrs.evolve(infinity.config, block_chunks=3)
    with pytest.raises(InputError, match="over 3 heads is not divisible by 4"):
        attrs.evolve(infinity.config, heads=3)
    with pytest.raises(InputError, match="not divisible by 5 pool_heads"):
        attrs.evolve(infinity.config, pool_heads=5)
    with pytest.raises(InputError, match="depth must be a whole number of at least 1, got 0"):
        attrs.evolve(infinity.config, depth=0)
    with pytest.raises(InputError, match=r"rounded to a multiple of 256, here 0; give a larger mlp_ratio"):
        attrs.evolve(infinity.config, mlp_ratio=0.5)
    with pytest.raises(UnknownName, match="did you mean 'infinity-2b'"):
        InfinityConfig.published("infinity-2")
