"""infinity-tiny on the command line: model chosen by the prompt, several captions, aspect ratios, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv_core.cli import main

Run = Callable[..., tuple[int, str, str]]
PROMPT = "a red circle left of a blue square"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``scalekv generate`` with all installed plugins in an empty directory: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def generate(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["generate", *arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return generate


def record() -> dict:
    return json.loads(Path("scalekv-out/record.json").read_text())


@pytest.mark.parametrize(("prompt", "model"), [(PROMPT, "infinity-tiny"), ("3", "var-tiny")])
def test_the_model_follows_from_the_prompt(run: Run, prompt: str, model: str) -> None:
    """Without --model captions go to infinity-tiny and numbers to var-tiny."""
    code, _, err = run(prompt, "--policy", "scalekv", "--budget", "10%")
    assert (0, "") == (code, err)
    assert model == record()["model"]["name"]


@pytest.mark.thorough
def test_several_captions_at_once_in_another_shape(run: Run) -> None:
    """Each caption has its own seed, and the portrait shape uses its own profile."""
    code, _, err = run(
        PROMPT,
        "two triangles",
        "--seed",
        "3",
        "--seed",
        "4",
        "--paired",
        "--aspect",
        "3:4",
        "--policy",
        "scalekv",
        "--budget",
        "20%",
    )
    assert (0, "") == (code, err)
    assert record()["model"]["maps"].endswith("16x12 20x15")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((PROMPT, "3"), "no model that ships with weights accepts all of 'a red circle left of a blue square', '3'"),
        (("a purple cow",), "unknown word 'purple'; the words are a, two, three, red"),
        (
            ("3", "--aspect", "3:4"),
            "model 'var-tiny' generates no such images: there is no aspect ratio '3:4'; there is 1:1 only",
        ),
        (
            (PROMPT, "--aspect", "7:5"),
            "model 'infinity-tiny' generates no such images: there is no aspect ratio '7:5'; there are 1:1, 3:4",
        ),
        ((PROMPT, "--guidance", "0.5"), "guidance of 1 or more"),
        ((PROMPT, "--guidance-at", "-99"), "on the logits (0) or after a block (-1 to -5); got -99"),
        (("3", "--guidance-at", "-1"), "model 'var-tiny' applies guidance on the logits (0) and nowhere else; got -1"),
        ((PROMPT, "--guidance-at", "last"), "--guidance-at needs whole numbers with commas between, 0 for the logits"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(run: Run, arguments: tuple[str, ...], why: str) -> None:
    """One line gives the reason, exit code 2, and nothing is written."""
    code, _, err = run(*arguments, "--policy", "streaming", "--budget", "20%")
    assert (2, True) == (code, why in " ".join(err.split()))
    assert "Traceback" not in err
    assert not Path("scalekv-out").exists()
