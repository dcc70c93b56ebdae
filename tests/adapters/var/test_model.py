"""VAR by name: cards, files, labels as prompts, and sampling."""

from __future__ import annotations

import attrs
import pytest
import torch

from scalekv_adapters.var import tiny
from scalekv_adapters.var.card import OFFICIAL
from scalekv_adapters.var.config import PUBLISHED, VARConfig
from scalekv_adapters.var.files import FILES
from scalekv_adapters.var.model import VARImageModel
from scalekv_core import (
    CheckpointError,
    InputError,
    ProfileError,
    Sampling,
    ScaleSchedule,
    calibrate,
    compress,
    load_model,
    shared_registry,
)

PLAIN = "saln0_l2n1"


@pytest.fixture
def model(plain_var):
    """An image model of the recorded sizes: ten classes, images of 12 pixels."""
    return VARImageModel("var-small", plain_var, sampling=Sampling(guidance=2.0, top_k=20))


@pytest.fixture
def small_d16(monkeypatch, tmp_path, var_config, var_state, make_vqvae):
    """A folder with the official files, in which var-d16 has the recorded sizes."""
    monkeypatch.setattr(VARConfig, "published", classmethod(lambda cls, name: var_config(PLAIN)))
    torch.save(var_state(PLAIN), tmp_path / "var_d16.pth")
    torch.save(make_vqvae().state_dict(), tmp_path / "vae_ch160v4096z32.pth")
    return tmp_path


# Cards


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_cards_tell_the_published_shape(manifest, name):
    """Cards state layers, heads, width and maps without any file."""
    want, card = manifest(name.replace("-", "_"))["config"], shared_registry().make("model", name)
    got = card.geometry
    assert ScaleSchedule.square(*want["patch_nums"]) == got.schedule
    assert (want["depth"], want["num_heads"]) == (got.layers, got.heads)
    assert want["embed_dim"] == got.heads * got.head_dim
    assert ("512 x 512" if name.endswith("512") else "256 x 256") in card.summary
    assert FILES[name] in card.weights
    assert card.needs_weights


def test_var_tiny_is_as_its_card_says():
    """The loaded model has the shape, the sampling and the profile of its card."""
    card, model = shared_registry().make("model", "var-tiny"), load_model("var-tiny")
    _, adapter = shared_registry().adapter_for(model.module)
    assert card.geometry == adapter.geometry(model.module)
    assert tiny.SAMPLING == model.sampling
    assert not card.needs_weights
    assert model.profile is not None
    model.profile.check_fits(card.geometry, "var-tiny")


def test_var_tiny_draws_under_its_default_policy():
    """A name, a prompt and a policy are enough."""
    model = load_model("var-tiny")
    with compress(model, "scalekv", "20%") as session:
        drawn = model.generate(["3"], seeds=[0])
    assert (1, 3, 32, 32) == tuple(drawn.images.shape)
    assert session.report().images[0].as_planned


# Files


def test_published_models_are_loaded_from_the_official_files(small_d16, make_var):
    """A folder, or the transformer's file in it, loads the model with these weights."""
    want = make_var(PLAIN).generate([3], seeds=[1], guidance=4.0, top_k=900, top_p=0.95)
    for weights in (small_d16, small_d16 / "var_d16.pth", str(small_d16)):
        model = load_model("var-d16", weights=weights)
        assert OFFICIAL == model.sampling
        assert "var-d16" == model.name
        assert model.profile is None
        assert torch.equal(want.images, model.generate(["3"], seeds=[1]).images)


def test_the_transformer_is_cast_and_its_vqvae_is_not(small_d16):
    """The dtype applies to the transformer only."""
    module = load_model("var-d16", weights=small_d16, dtype=torch.bfloat16).module
    assert torch.bfloat16 == module.head.weight.dtype
    assert torch.float32 == module.vqvae.quantize.embedding.weight.dtype


def test_a_profile_beside_the_weights_is_used(small_d16):
    """profile.safetensors in the same folder is the model's; a damaged one is named."""
    model = load_model("var-d16", weights=small_d16)
    with pytest.raises(ProfileError, match="scalekv calibrate --model var-d16"), compress(model, "scalekv"):
        raise AssertionError("never entered")
    with calibrate(model) as calibration:
        model.generate(["3"], seeds=[1])
    calibration.profile().save(small_d16 / "profile.safetensors")
    model = load_model("var-d16", weights=small_d16)
    with compress(model, "scalekv", "50%"):
        model.generate(["3"], seeds=[1])
    (small_d16 / "profile.safetensors").write_bytes(b"no profile")
    with pytest.raises(ProfileError, match=r"profile.safetensors is not a profile that scalekv calibrate wrote"):
        load_model("var-d16", weights=small_d16)


def test_missing_files_are_named(small_d16):
    """One line names the missing files and where to get them."""
    wanted = (
        r"give a folder with var_d16.pth and vae_ch160v4096z32.pth, from https://huggingface.co/FoundationVision/var"
    )
    cases = {
        small_d16 / "nowhere": rf"^model 'var-d16' lacks \S+/nowhere; {wanted}$",
        small_d16: rf"^model 'var-d16' lacks \S+/vae_ch160v4096z32.pth; {wanted}$",
        small_d16.parent: rf"^model 'var-d16' lacks \S+/var_d16.pth and \S+/vae_ch160v4096z32.pth; {wanted}$",
    }
    for weights, message in cases.items():
        if weights == small_d16:
            (small_d16 / "vae_ch160v4096z32.pth").unlink()
        with pytest.raises(CheckpointError, match=message):
            load_model("var-d16", weights=weights)


def test_without_weights_they_come_from_the_hub(small_d16, monkeypatch):
    """Exactly the two files are fetched; without the hub's client the error names them."""
    asked = []

    def fetched(repository, patterns, *, otherwise):
        asked.append((repository, *patterns, otherwise))
        return small_d16

    monkeypatch.setattr("scalekv_adapters.var.files.fetched", fetched)
    load_model("var-d16")
    (repository, *files, otherwise), *more = asked
    assert ("FoundationVision/var", ["var_d16.pth", "vae_ch160v4096z32.pth"], []) == (repository, files, more)
    assert otherwise.startswith("or give a folder with var_d16.pth and vae_ch160v4096z32.pth, from https://")


def test_another_depth_is_named(small_d16, monkeypatch, var_config):
    """A file of another model ends in one line, not in pages of names."""
    deeper = attrs.evolve(var_config(PLAIN), depth=16)
    monkeypatch.setattr(VARConfig, "published", classmethod(lambda cls, name: deeper))
    with pytest.raises(CheckpointError, match=r"^checkpoint \S+ is a VAR of depth 3; you asked for \S+ of depth 16$"):
        load_model("var-d16", weights=small_d16)


def test_another_schedule_is_named(small_d16, monkeypatch, var_config):
    """A file trained with other maps is refused, and the error gives its maps."""
    other = attrs.evolve(var_config(PLAIN), patch_sides=(1, 2, 3, 4, 5, 9))
    monkeypatch.setattr(VARConfig, "published", classmethod(lambda cls, name: other))
    message = r"of patch_sides \(1, 2, 3, 4, 5, 6\); you asked for \S+ of patch_sides \(1, 2, 3, 4, 5, 9\)$"
    with pytest.raises(CheckpointError, match=message):
        load_model("var-d16", weights=small_d16)


def test_var_tiny_wants_no_weights(tmp_path):
    """--weights is refused, since the weights are shipped."""
    with pytest.raises(InputError, match="'var-tiny' ships with its weights; leave out --weights"):
        load_model("var-tiny", weights=tmp_path)


# Drawing


def test_prompts_are_labels(model):
    """Prompts are numbers as text; sampling defaults to the model's own."""
    got = model.generate(["3", " 7 "], seeds=[1, 2], keep_logits=True)
    want = model.module.generate([3, 7], seeds=[1, 2], guidance=2.0, top_k=20, keep_logits=True)
    assert torch.equal(want.images, got.images)
    assert 6 == len(got.logits)
    assert model.generate(["3"], seeds=[1]).logits is None


def test_sampling_is_handed_on(model):
    """Every field of the sampling takes effect, and greedy sampling ignores seeds."""
    how = Sampling(guidance=1.0, top_k=9, top_p=0.8, temperature=1.3)
    got = model.generate(["3"], seeds=[1], sampling=how)
    want = model.module.generate([3], seeds=[1], guidance=1.0, top_k=9, top_p=0.8, temperature=1.3)
    assert torch.equal(want.images, got.images)
    first, second = (model.generate(["3"], seeds=[s], sampling=Sampling(greedy=True)).images for s in (1, 2))
    assert torch.equal(first, second)


def test_forced_tokens_are_handed_on(model):
    """Tokens of another generation can be forced; choices are still reported."""
    free = model.generate(["3"], seeds=[1])
    forced = model.generate(["3"], seeds=[9], forced=free.tokens)
    assert torch.equal(free.images, forced.images)
    assert any(not torch.equal(a, b) for a, b in zip(free.tokens, forced.choices, strict=True))


def test_a_label_of_thousands_of_digits_is_refused(model):
    """One line shows the beginning of the label."""
    with pytest.raises(InputError, match=r"the numbers 0 to 9; got '7{40}'\.\.\. \(5000 characters\)$"):
        model.generate(["7" * 5000], seeds=[1])


@pytest.mark.parametrize("prompt", ["10", "-1", "3.0", "three", "", "²"])
def test_what_is_no_label_is_refused(model, prompt):
    """The error gives the range and what was given."""
    message = rf"model 'var-small' generates class labels, the numbers 0 to 9; got '{prompt}'"
    with pytest.raises(InputError, match=message):
        model.generate(["3", prompt], seeds=[1, 2])


@pytest.mark.parametrize("greedy", [False, True])
def test_one_seed_per_prompt(model, greedy):
    """Too few or too many seeds are refused, also by greedy sampling."""
    with pytest.raises(InputError, match="'var-small' needs one seed per image: 2 images, got 1 seeds"):
        model.generate(["3", "7"], seeds=[1], sampling=Sampling(greedy=greedy))
