"""``scalekv generate`` with a model of clips."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
from PIL import Image

from scalekv_core.cli.clips import print_frames
from scalekv_core.compare import plugin
from scalekv_core.compare.metrics import Fidelity
from scalekv_core.plugins import registry as registries
from scalekv_core.plugins.registry import Registry
from scalekv_core.testing import toy
from tests.cli.conftest import Plugin


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The toy plugin with the metrics that ship."""
    made = Registry.of(toy, Plugin(), plugin)
    monkeypatch.setattr(registries, "shared_registry", lambda: made)
    return made


VIDEO = ("generate", "3", "--model", "toy-video", "--policy", "windowed", "--budget", "80%")


def record() -> dict:
    return json.loads(Path("scalekv-out/record.json").read_text())


def test_writes_clips_contact_sheets_and_a_sheet(run) -> None:
    """Unmodified, compressed, and both side by side, each as a clip and as a picture; the figures of every frame."""
    ran = run(*VIDEO)
    assert 0 == ran.code, ran.err
    names = [f"{name}.{kind}" for name in ("baseline", "compressed", "side_by_side") for kind in ("gif", "png")]
    assert sorted([*names, "record.json"]) == sorted(file.name for file in Path("scalekv-out").iterdir())
    assert sorted(record()["files"]) == sorted([*names, "record.json"])
    fidelity = record()["policies"][0]["fidelity"]
    assert 2 == len(fidelity["frame_psnr"][0]) == len(fidelity["frame_ssim"][0])
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["frame", "by", "frame:", "3"] in lines
    start = lines.index(["frame", "PSNR", "SSIM"])
    assert ["0", "1"] == [line[0] for line in lines[start + 2 : start + 4]]
    assert 80 >= max(map(len, ran.out.splitlines()))


def test_the_clips_are_what_the_model_generates(run) -> None:
    """Frame by frame; side by side the unmodified one stands left, enlarged by a whole factor."""
    run(*VIDEO)
    frames = toy.VIDEO_CARD.load().generate(["3"], seeds=[0]).images[0]
    with Image.open("scalekv-out/baseline.gif") as clip, Image.open("scalekv-out/side_by_side.gif") as both:
        assert (2, 2) == (clip.n_frames, both.n_frames)
        assert 250 == clip.info["duration"]  # four frames a second, as its card says
        assert (2 * 10 * 32, 10 * 24) == both.size
        for number in range(2):
            clip.seek(number)
            both.seek(number)
            wanted = (frames[:, number].permute(1, 2, 0) * 255).round()
            assert wanted[4, 12].tolist() == list(clip.convert("RGB").getpixel((12, 4)))
            assert wanted[4, 12].tolist() == list(both.convert("RGB").getpixel((10 * 12, 10 * 4)))


def test_several_policies_and_clips(run) -> None:
    """A clip of each, all side by side, and the sheet of all; two prompts run at once."""
    ran = run("generate", "3", "5", "-m", "toy-video", "-p", "windowed", "-p", "everything", "-b", "100%")
    assert 0 == ran.code, ran.err
    with Image.open("scalekv-out/policies.gif") as all_of_them, Image.open("scalekv-out/baseline.gif") as one:
        assert (3 * 10 * 32, 2 * 10 * 24) == all_of_them.size
        assert (2 * 32, 24) == one.size
    assert Path("scalekv-out/policies.png").is_file()
    everything = record()["policies"][1]["fidelity"]
    assert [[None, None]] * 2 == everything["frame_psnr"]
    assert "infinite where frames are identical" == everything["null"]["frame_psnr"]


def test_the_table_of_a_long_clip_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    """Sixteen frames, the first and the last among them; images have none."""
    of_all = Fidelity(psnr=20.0, ssim=None, image_psnr=(20.0,), image_ssim=None, agreement=(1.0,), tokens=(1,))
    print_frames(SimpleNamespace(fidelity=of_all), ["3"])
    assert not capsys.readouterr().out
    print_frames(SimpleNamespace(fidelity=attrs.evolve(of_all, frame_psnr=(tuple(map(float, range(81))),))), ["3"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.strip()[:1].isdigit() and "of 81" not in line]
    assert (16, ["0", "0.0", "dB"], ["80", "80.0", "dB"]) == (len(rows), rows[0], rows[-1])
    assert "16 of 81 frames; the record has all" in lines


def test_numbered_frames_and_what_an_earlier_run_left(run) -> None:
    """A file for each frame without loss; the next run removes those that it does not write."""
    run(*VIDEO, "--clip", "png")
    assert {"baseline-000.png", "side_by_side-001.png"} <= set(record()["files"])
    assert all(Path("scalekv-out", name).is_file() for name in record()["files"])
    run(*VIDEO, "--no-baseline")
    left = {"compressed.gif", "compressed.png", "record.json"}
    assert left == {file.name for file in Path("scalekv-out").iterdir()}


def test_as_mp4(run) -> None:
    """With the extra."""
    av = pytest.importorskip("av", reason="needs the extra 'video'")
    assert 0 == run(*VIDEO, "--clip", "mp4").code
    with av.open("scalekv-out/side_by_side.mp4") as video:
        assert 2 == len(list(video.decode(video=0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*VIDEO, "--clip", "avi"), "scalekv: clips are written as gif, mp4 or png; got 'avi'"),
        (
            ("generate", "3", "--model", "toy", "-p", "windowed", "--clip", "gif"),
            "scalekv: model 'toy' generates images, no clips; leave out --clip",
        ),
    ],
    ids=["kind", "images"],
)
def test_refusals(run, arguments, message) -> None:
    """Before anything is generated."""
    ran = run(*arguments)
    assert (2, message) == (ran.code, ran.complaint)
    assert not Path("scalekv-out").exists()


def test_mp4_without_its_extra(run, monkeypatch) -> None:
    """One line that names it, before anything is generated."""
    monkeypatch.setitem(sys.modules, "av", None)
    ran = run(*VIDEO, "--clip", "mp4")
    assert 2 == ran.code
    assert "run: pip install 'scalekv[video]'" in ran.complaint
    assert not Path("scalekv-out").exists()


def test_explain_shows_the_last_frame(run) -> None:
    """Which is what the last map says."""
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    ran = run("explain", "3", "--model", "toy-video", "--policy", "windowed", "--budget", "80%", "--out", "plots")
    assert 0 == ran.code, ran.err
    assert Path("plots/kept.png").is_file()


def test_a_study_of_clips(run) -> None:
    """Figures of each clip; its picture is a contact sheet."""
    Path("prompts.txt").write_text("3\n")
    ran = run("compare", "-m", "toy-video", "-p", "windowed", "-b", "80%", "--prompts", "prompts.txt", "--out", "study")
    assert 0 == ran.code, ran.err
    pictures = [Image.open(file) for file in Path("study/images").iterdir()]
    assert {(2 * 32, 24)} == {picture.size for picture in pictures}
    for picture in pictures:
        picture.close()
