"""Sheets and grids: sizes, sharp pixels, labels that fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scalekv_core.compare.pictures import BAR, Row, as_images, difference, grid, sheet


def test_pixels_are_rounded_and_clipped() -> None:
    """[0, 1] becomes 0 to 255; what is outside is clipped."""
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)

    assert [0, 0, 128, 255, 255] == np.asarray(as_images(values)[0])[0, :, 0].tolist()


def test_a_grid_is_the_images_as_they_are() -> None:
    """Row by row, no pixel between them."""
    images = torch.arange(6).view(6, 1, 1, 1).expand(6, 3, 2, 2) / 255

    picture = np.asarray(grid(as_images(images), columns=3))
    assert [[0, 1, 2], [3, 4, 5]] == picture[::2, ::2, 0].tolist()


def test_difference_is_amplified() -> None:
    """Absolute, and no more than white."""
    a, b = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.4, 0.6, 1.0])

    torch.testing.assert_close(torch.tensor([0.4, 0.4, 1.0]), difference(a, b, amplify=4))


@pytest.mark.parametrize("size", [(8, 8), (7, 20), (256, 256), (1024, 512)])
def test_a_sheet_holds_every_row_and_column(size: tuple[int, int]) -> None:
    """Small pictures are enlarged by whole factors, large ones made smaller."""
    images = as_images(torch.rand(2, 3, *size))
    rows = [Row(images=images, title=f"row {i}", lines=("one", "two"), share=0.5) for i in range(3)]

    picture = sheet(rows, columns=("a", "a very long label that cannot fit" * 9), heading="heading")
    assert picture.width > 2 * 100
    assert picture.height > 3 * 60


def test_small_pixels_stay_sharp() -> None:
    """Only the two colours of the image, and no mixture of them."""
    image = as_images(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(1, 3, 2, 2))
    picture = np.asarray(sheet([Row(images=image, title="")]))[:, -60:-10, 0]

    assert {0, 255} == set(np.unique(picture))


def test_the_bar_is_as_long_as_the_share() -> None:
    """Half the memory is half the bar."""
    image = as_images(torch.zeros(1, 3, 8, 8))
    colour = tuple(int(BAR[i : i + 2], 16) for i in (1, 3, 5))
    whole, half = (
        (np.asarray(sheet([Row(images=image, title="x", share=share)])) == colour).all(axis=2).sum()
        for share in (1, 0.5)
    )

    assert whole / 2 == pytest.approx(half, rel=0.02)


def test_every_writing_can_be_drawn() -> None:
    """A prompt may be in any language."""
    image = as_images(torch.zeros(1, 3, 8, 8))

    assert sheet([Row(images=image, title="猫 — café")], columns=["猫 и кошка"]).width > 100


def test_what_is_not_a_number_is_seen() -> None:
    """Magenta, in the image and in its difference map; infinity is clipped as every large value."""
    values = torch.zeros(1, 3, 1, 3)
    values[0, 1, 0, 1], values[0, :, 0, 2] = torch.nan, torch.inf
    magenta = [255, 0, 255]

    assert [[0, 0, 0], magenta, [255, 255, 255]] == np.asarray(as_images(values)[0])[0].tolist()
    apart = difference(values, torch.zeros(1, 3, 1, 3), amplify=4)
    assert magenta == np.asarray(as_images(apart)[0])[0, 1].tolist()


def test_difference_maps_stand_right_of_their_images() -> None:
    """In the rows that have them; the columns are as wide in the others."""
    black, white = as_images(torch.zeros(2, 3, 8, 8)), as_images(torch.ones(2, 3, 8, 8))
    picture = np.asarray(sheet([Row(images=black, title="a"), Row(images=black, beside=white, title="b")], note="note"))
    dark = (picture == 0).all(axis=2).sum(axis=1)
    edges = np.flatnonzero(np.diff((picture[-40] == 0).all(axis=1).astype(int)))

    assert 2 * 144 == dark.max()
    assert [144, 144 + 2 + 8, 144] == np.diff(edges).tolist()
