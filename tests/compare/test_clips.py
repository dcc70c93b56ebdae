"""Clips as files, contact sheets, and figures frame by frame."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from PIL import Image

from scalekv_core import Generation, Registry, save_clip
from scalekv_core.compare import metrics as fidelity
from scalekv_core.compare import plugin
from scalekv_core.compare.cells import as_png
from scalekv_core.compare.checking import check_question
from scalekv_core.compare.clips import frames_beside, frames_in_rows, write_frames
from scalekv_core.compare.further_metrics import MultiScaleSSIM
from scalekv_core.compare.pair_metrics import PSNR, SSIM
from scalekv_core.compare.pictures import as_images
from scalekv_core.compare.prompt_metrics import _images
from scalekv_core.compare.question import Question
from scalekv_core.errors import InputError, MissingExtra
from scalekv_core.models.frames import as_clips
from scalekv_core.models.metric import Pair, SetMetric
from scalekv_core.testing import toy


def levels(*frames: int, size: tuple[int, int] = (16, 24)) -> torch.Tensor:
    """(3, F, H, W) of one grey level of 255 for each frame."""
    return (torch.tensor(frames, dtype=torch.float32) / 255).view(1, -1, 1, 1).expand(3, -1, *size)


def generation(images: torch.Tensor) -> Generation:
    """With these images and no tokens."""
    return Generation(images=images, tokens=(), choices=())


class TestFiles:
    def test_a_gif_holds_every_frame_and_its_time(self, tmp_path: Path) -> None:
        """Up to 256 colours a frame without loss; it runs without end."""
        (file,) = save_clip(levels(0, 100, 200), tmp_path / "clip.gif", fps=8)
        with Image.open(file) as gif:
            assert (3, 0) == (gif.n_frames, gif.info["loop"])
            for number, level in enumerate((0, 100, 200)):
                gif.seek(number)
                assert 120 == gif.info["duration"]  # GIF counts in hundredths of a second
                assert {(level,) * 3} == {tuple(pixel) for pixel in np.asarray(gif.convert("RGB")).reshape(-1, 3)}

    def test_frames_as_png_are_exact(self, tmp_path: Path) -> None:
        """One file for each, numbered."""
        clip = torch.rand(3, 11, 5, 7, generator=torch.Generator().manual_seed(0))
        files = save_clip(clip, tmp_path / "clip.png", fps=8)
        assert [f"clip-{number:03}.png" for number in range(11)] == [file.name for file in files]
        for file, frame in zip(files, as_images(clip.transpose(0, 1)), strict=True):
            with Image.open(file) as image:
                assert frame.tobytes() == image.tobytes()

    @pytest.mark.parametrize("size", [(16, 24), (17, 25)])
    def test_an_mp4_shows_every_frame(self, tmp_path: Path, size: tuple[int, int]) -> None:
        """In order, at its rate, at most a few levels apart; odd sides become even ones."""
        av = pytest.importorskip("av", reason="needs the extra 'video'")
        (file,) = save_clip(levels(0, 90, 180, 255, size=size), tmp_path / "clip.mp4", fps=16)
        with av.open(str(file)) as video:
            assert 16 == video.streams.video[0].average_rate
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert [(16 + 2 * (size[0] % 2), 24 + 2 * (size[1] % 2), 3)] * 4 == [frame.shape for frame in frames]
        for frame, level in zip(frames, (0, 90, 180, 255), strict=True):
            assert 3 >= np.abs(frame.astype(int) - level).max()

    def test_clips_run_at_once(self) -> None:
        """In rows, pixel by pixel; side by side enlarged by a whole factor."""
        clips = torch.stack([levels(10, 20), levels(30, 40), levels(50, 60)])
        first, second = frames_in_rows(clips, columns=2)
        assert (48, 32) == first.size
        assert (20, 40, 60) == tuple(second.getpixel(at)[0] for at in ((0, 0), (24, 0), (0, 16)))
        _, second = frames_beside([clips, clips / 10])
        assert (2 * 24 * 16, 3 * 16 * 16) == second.size
        assert (20, 2, 60) == tuple(second.getpixel(at)[0] for at in ((0, 0), (24 * 16, 0), (0, 2 * 256)))

    @pytest.mark.parametrize(
        ("clip", "name", "fps", "message"),
        [
            (levels(0, 1), "clip.avi", 8, r"clips are written as gif, mp4 or png; got 'avi'"),
            (levels(0, 1), "clip.gif", 0, r"more than 0 frames a second; got 0"),
            (levels(0, 1)[None], "clip.gif", 8, r"one clip \(3, F, H, W\); got \(1, 3, 2, 16, 24\)"),
        ],
        ids=["ending", "rate", "shape"],
    )
    def test_what_is_no_clip_is_refused(self, tmp_path: Path, clip, name, fps, message) -> None:
        """And nothing is written."""
        with pytest.raises(InputError, match=message):
            save_clip(clip, tmp_path / name, fps=fps)
        assert not list(tmp_path.iterdir())

    def test_without_pyav_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And what needs none."""
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(MissingExtra, match=r"as MP4 \(gif and png need no extra\) needs av, .*'scalekv\[video\]'"):
            write_frames([], tmp_path / "clip.mp4", fps=8)


class TestSheets:
    def test_the_picture_of_a_clip_is_a_contact_sheet(self) -> None:
        """The first, the last and evenly between, row by row, in sheets and in studies."""
        clip = levels(*range(20))
        (sheet,) = as_images(clip[None])
        assert (3 * 24, 3 * 16) == sheet.size
        shown = [sheet.getpixel((24 * column, 16 * row))[0] for row in range(3) for column in range(3)]
        assert [0, 2, 5, 7, 10, 12, 14, 17, 19] == shown
        assert as_png(clip).startswith(b"\x89PNG")

    def test_few_frames_are_all_shown(self) -> None:
        """Two side by side."""
        assert (2 * 24, 16) == as_images(levels(0, 1)[None])[0].size


class TestFigures:
    def test_a_clip_has_figures_of_every_frame(self) -> None:
        """Each frame's are those of the frame as an image; the clip's are of the mean error and the mean similarity."""
        a = torch.rand(2, 3, 4, 16, 24, generator=torch.Generator().manual_seed(0))
        b = (a + torch.linspace(0, 0.3, 4).view(4, 1, 1)).clamp(0, 1)
        found = fidelity.compare(generation(b), generation(a))
        for clip in range(2):
            frames = fidelity.compare(*(generation(x[clip].transpose(0, 1)) for x in (b, a)))
            assert frames.image_psnr == found.frame_psnr[clip]
            assert frames.image_ssim == found.frame_ssim[clip]
            assert frames.psnr == pytest.approx(found.image_psnr[clip])
            assert frames.ssim == pytest.approx(found.image_ssim[clip])
        assert not found.identical
        assert "frame_psnr" in found.not_finite  # the first frames are identical
        assert not found.has_nan

    def test_an_image_is_a_clip_of_one_frame(self) -> None:
        """With the same figures, but for those of every frame, which images do not have."""
        a, b = (torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        images = fidelity.compare(generation(b), generation(a))
        clips = fidelity.compare(generation(as_clips(b)), generation(as_clips(a)))
        assert images == evolve(clips, frame_psnr=None, frame_ssim=None)
        assert (images.image_psnr[0],) == clips.frame_psnr[0]

    def test_metrics_have_one_figure_for_each_clip(self) -> None:
        """The same as `scalekv generate` prints."""
        a, b = (generation(torch.rand(2, 3, 3, 16, 24)) for _ in range(2))
        pair = Pair(model="toy", prompts=("1", "2"), seeds=(0, 0), unmodified=a, compressed=b, forced=b)
        found = fidelity.compare(b, a)
        assert found.image_psnr == tuple(PSNR().measure(pair).tolist())
        assert found.image_ssim == tuple(SSIM().measure(pair).tolist())

    def test_metrics_of_other_packages_are_given_every_frame(self) -> None:
        """Their figure of a clip is the mean over its frames; those of prompts are given the prompt with each of them."""
        pytest.importorskip("torchmetrics", reason="needs the extra 'metrics'")
        a, b = (torch.rand(2, 3, 2, 176, 176, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        b = (a + 0.1 * b).clamp(0, 1)
        how = {"model": "toy", "prompts": ("1", "2"), "seeds": (0, 0)}
        clips = Pair(**how, unmodified=generation(a), compressed=generation(b), forced=generation(b))
        frames = [
            MultiScaleSSIM().measure(
                Pair(**how, unmodified=generation(a[:, :, f]), compressed=generation(b[:, :, f]), forced=generation(b))
            )
            for f in range(2)
        ]
        torch.testing.assert_close(torch.stack(frames).mean(dim=0), MultiScaleSSIM().measure(clips), rtol=0, atol=1e-6)
        small = generation(a[..., :175])
        with pytest.raises(InputError, match="'ms-ssim' needs images of at least 176 pixels a side"):
            MultiScaleSSIM().measure(Pair(**how, unmodified=small, compressed=small, forced=small))
        assert ["1", "1", "2", "2"] == [prompt for _, prompt in _images(clips)]
        assert [as_images(b[:, :, 1])[0].size] * 4 == [image.size for image, _ in _images(clips)]

    def test_a_metric_of_sets_of_images_is_refused_for_clips(self) -> None:
        """Since a study keeps contact sheets only."""

        class Sets(SetMetric):
            def measure(self, compressed, unmodified):
                return 0.0

        class Offered:
            __name__ = "sets"

            @plugin.hookimpl
            def scalekv_metrics(self):
                return {"sets": Sets}

        registry = Registry.of(toy, plugin, Offered())
        question = Question(
            models=["toy-video"], policies=["toy-latest"], budgets=["60%"], prompts={"toy-video": ["3"]},
            metrics=["psnr", "sets"],
        )  # fmt: skip
        with pytest.raises(InputError, match="'sets' compares sets of images, and model 'toy-video' generates clips"):
            check_question(question, registry)
