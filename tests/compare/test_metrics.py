"""The figures of fidelity, against their definitions and against torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from scalekv_core.compare import metrics as fidelity
from scalekv_core.errors import InputError
from scalekv_core.models.image_model import Generation


def images(*, seed: int, size: tuple[int, int] = (24, 32)) -> torch.Tensor:
    return torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(seed))


def generation(seed: int, *, logits: bool = True) -> Generation:
    generator = torch.Generator().manual_seed(seed)
    tokens = tuple(torch.randint(5, (3, n), generator=generator) for n in (1, 4))
    scores = tuple(torch.randn(3, n, 5, generator=generator) for n in (1, 4))
    return Generation(images=images(seed=seed), tokens=tokens, choices=tokens, logits=scores if logits else None)


def test_psnr_is_that_of_torchmetrics() -> None:
    """Per image, and of all images together."""
    a, b = images(seed=0), images(seed=1)
    each = [peak_signal_noise_ratio(x, y, data_range=1.0) for x, y in zip(a, b, strict=True)]
    together = float(peak_signal_noise_ratio(a, b, data_range=1.0))

    torch.testing.assert_close(torch.stack(each).double(), fidelity.psnr(a, b), rtol=1e-5, atol=0)
    g = Generation(images=a, tokens=(), choices=())
    assert together == pytest.approx(fidelity.compare(g, Generation(images=b, tokens=(), choices=())).psnr, rel=1e-5)


@pytest.mark.parametrize("size", [(24, 32), (11, 11), (64, 40)])
@pytest.mark.parametrize("noise", [0.001, 0.1, 1.0])
def test_ssim_is_that_of_torchmetrics(size: tuple[int, int], noise: float) -> None:
    """Per image; theirs is computed in the images' dtype, so the comparison is in float64."""
    a = images(seed=0, size=size).double()
    b = (a + noise * (images(seed=1, size=size) - 0.5)).clamp(0, 1)
    wanted = structural_similarity_index_measure(b, a, data_range=1.0, reduction="none")

    torch.testing.assert_close(wanted, fidelity.ssim(b, a), rtol=0, atol=1e-12)
    torch.testing.assert_close(wanted, fidelity.ssim(b.float(), a.float()), rtol=0, atol=1e-6)


def test_identical_images_have_infinite_psnr_and_ssim_one() -> None:
    """And nothing else has: one changed bit is seen."""
    a = generation(0)
    almost = Generation(images=a.images + torch.eye(24, 32) * 1e-6, tokens=a.tokens, choices=a.choices)

    same = fidelity.compare(a, a, a)
    assert same.identical
    assert (math.inf, 1.0) == (same.psnr, same.ssim)
    assert fidelity.compare(almost, a).ssim < 1
    assert not fidelity.compare(almost, a).identical


def test_ssim_falls_with_noise() -> None:
    """One for the same image, less for a noisy one; one figure per image."""
    a, b = images(seed=0), images(seed=1)
    near, far = (fidelity.ssim(a + x * (b - a), a) for x in (0.1, 0.5))

    assert near is not None
    assert far is not None
    assert (3,) == near.shape
    assert (1 > near).all()
    assert (near > far).all()


def test_small_images_have_no_ssim() -> None:
    """Its window does not fit into 10 pixels."""
    assert fidelity.ssim(images(seed=0, size=(10, 40)), images(seed=1, size=(10, 40))) is None


def test_agreement_counts_tokens_and_bits() -> None:
    """Scale by scale; over all scales by the number of tokens."""
    reference = [torch.zeros(2, 1), torch.zeros(2, 3, 4)]
    mine = [torch.zeros(2, 1), torch.cat([torch.ones(2, 3, 1), torch.zeros(2, 3, 3)], dim=2)]

    assert (1.0, 0.75) == fidelity.agreement(mine, reference)


def test_divergence_is_that_of_the_definition() -> None:
    """Mean over tokens of sum p (log p - log q), p the reference's."""
    a, b = generation(0), generation(1)
    wanted = [
        F.kl_div(x.log_softmax(-1), y.log_softmax(-1), reduction="none", log_target=True).sum(-1).mean().item()
        for x, y in zip(a.logits, b.logits, strict=True)
    ]

    assert wanted == pytest.approx(fidelity.divergence(a.logits, b.logits, b.tokens), rel=1e-5)


def test_divergence_does_not_depend_on_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large logits are gone through piece by piece."""
    a, b = generation(0), generation(1)
    whole = fidelity.divergence(a.logits, b.logits, b.tokens)
    monkeypatch.setattr(fidelity, "PIECE", 10)

    assert whole == pytest.approx(fidelity.divergence(a.logits, b.logits, b.tokens))


def test_divergence_of_bits_is_per_bit() -> None:
    """Logits of 2 values a bit, side by side, are one distribution a bit."""
    logits, other = torch.tensor([[[0.0, 0.0, 5.0, 1.0]]]), torch.tensor([[[1.0, 0.0, 5.0, 1.0]]])
    first = F.kl_div(other[..., :2].log_softmax(-1), logits[..., :2].softmax(-1), reduction="sum").item()

    (value,) = fidelity.divergence([other], [logits], [torch.zeros(1, 1, 2)])
    assert first / 2 == pytest.approx(value)


def test_what_is_never_chosen_costs_nothing() -> None:
    """Values that both exclude have no part in the divergence."""
    cut = torch.tensor([[[0.0, 1.0, -math.inf]]])

    assert (0.0,) == fidelity.divergence([cut], [cut], [torch.zeros(1, 1)])


def test_over_scales_weighs_by_tokens() -> None:
    """A scale of four tokens counts four times one of one."""
    figures = fidelity.compare(generation(0), generation(0))

    assert (3 * 1.0 + 12 * 0.5) / 15 == figures.over_scales((1.0, 0.5))


def test_what_cannot_be_compared_is_refused() -> None:
    """Other shapes, and logits on one side only."""
    small = Generation(images=images(seed=0, size=(8, 8)), tokens=(), choices=())

    with pytest.raises(InputError, match="images of the same shape"):
        fidelity.compare(small, generation(0))
    with pytest.raises(InputError, match="needs the logits of both"):
        fidelity.compare(generation(1), generation(0, logits=False), generation(1))


class TestNotANumber:
    """It stays one in every figure: a model that overflows must not look better than one that does not."""

    NAN = torch.full((1, 4, 8), math.nan)
    ZEROS = torch.zeros(1, 4, 8)
    TOKENS = torch.zeros(1, 4, dtype=torch.long)

    @pytest.mark.parametrize(("mine", "theirs"), [(NAN, ZEROS), (ZEROS, NAN), (NAN, NAN)])
    def test_in_a_divergence(self, mine: torch.Tensor, theirs: torch.Tensor) -> None:
        """Whichever of the two has it."""
        assert math.isnan(fidelity.divergence([mine], [theirs], [self.TOKENS])[0])

    @pytest.mark.parametrize("piece", [1 << 24, 8])
    @pytest.mark.parametrize("row", [0, 3])
    def test_in_one_row_of_a_divergence(self, monkeypatch: pytest.MonkeyPatch, piece: int, row: int) -> None:
        """The other rows do not hide it, in whichever piece it is."""
        monkeypatch.setattr(fidelity, "PIECE", piece)
        mine = self.ZEROS.clone()
        mine[0, row, 0] = math.nan

        assert math.isnan(fidelity.divergence([mine], [self.ZEROS], [self.TOKENS])[0])
        assert math.isnan(fidelity.divergence([self.ZEROS], [mine], [self.TOKENS])[0])

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_beside_a_value_that_is_never_chosen(self, value: float) -> None:
        """A logit of -inf on the other side does not hide it; one of +inf leaves no distribution."""
        mine, theirs = torch.tensor([[[0.0, value]]]), torch.tensor([[[0.0, -math.inf]]])

        assert math.isnan(fidelity.divergence([mine], [theirs], [self.TOKENS[:, :1]])[0])

    def test_what_the_compressed_model_excludes_costs_infinitely_much(self) -> None:
        """A token that the unmodified model may choose."""
        mine, theirs = torch.tensor([[[0.0, -math.inf]]]), torch.tensor([[[0.0, 0.0]]])

        assert (math.inf,) == fidelity.divergence([mine], [theirs], [self.TOKENS[:, :1]])

    @pytest.mark.parametrize("both", [True, False])
    def test_in_one_pixel(self, both: bool) -> None:
        """PSNR and SSIM of that image and of all images; the other images keep theirs. It is not identical."""
        a, b = generation(0), generation(0)
        for one in (a, b) if both else (a,):
            one.images[1, 0, 0, 0] = math.nan
        figures = fidelity.compare(a, b)

        assert math.isnan(figures.psnr)
        assert math.isnan(figures.ssim)
        assert [False, True, False] == [math.isnan(value) for value in figures.image_psnr]
        assert [False, True, False] == [math.isnan(value) for value in figures.image_ssim]
        assert not figures.identical

    def test_in_a_mean_over_scales(self) -> None:
        """One scale is enough."""
        assert math.isnan(fidelity.compare(generation(0), generation(0)).over_scales((1.0, math.nan)))
