"""The call that the page offers to copy is the call that it made."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from PIL import Image

from scalekv_core import shared_registry
from scalekv_core.app import pictures
from scalekv_core.app.calls import Place, as_python, as_shell
from scalekv_core.app.engine import Engine, Settings
from scalekv_core.app.form import Form
from scalekv_core.app.turns import Turns
from scalekv_core.cli import main

FORM = Form(model="infinity-tiny", policy="fold", budget="25%", codec="int8", seed="7", guidance="1,2", aspect="4:3")


def test_the_shell_command_says_everything() -> None:
    """Every field becomes an option, and an empty field none."""
    expected = "scalekv generate --model infinity-tiny --policy fold --budget 25% --codec int8 --seed 7 --guidance 1,2 --aspect 4:3 -- 'a red circle'"

    assert expected == as_shell(FORM, "a red circle", Place())
    assert "scalekv generate --model toy --policy full --seed 0 -- 3" == as_shell(
        Form(model="toy", policy="full"), "3", Place()
    )


@pytest.mark.parametrize("prompt", ["it's", "-1", "a $HOME; `ls`", 'say "no"', "two\nlines", "日本"])
def test_any_prompt_survives_a_shell(prompt: str) -> None:
    """The prompt is quoted, and is never read as an option."""
    assert ["--", prompt] == shlex.split(as_shell(FORM, prompt, Place()))[-2:]


def test_the_path_of_weights_is_not_shown() -> None:
    """A placeholder stands for the path."""
    place = Place(device="cuda:1", dtype="bfloat16", weights=True)

    assert "--weights WEIGHTS --device cuda:1 --dtype bfloat16" in as_shell(FORM, "x", place)
    assert 'weights="WEIGHTS", device="cuda:1", dtype="bfloat16"' in as_python(FORM, "x", place)


@pytest.mark.parametrize("prompt", ["it's", 'say "no"', "\\n", "two\nlines"])
def test_any_prompt_survives_python(prompt: str) -> None:
    """The lines compile, and their literal is the prompt."""
    lines = as_python(FORM, prompt, Place())
    compile(lines, "call", "exec")
    literal = lines.partition("pipe(")[2].partition(", seed=7")[0]

    assert prompt == eval(literal)


@pytest.mark.thorough
def test_both_calls_generate_the_image_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied into a shell and into Python, the calls generate the same pixels."""
    monkeypatch.chdir(tmp_path)
    form = Form(model="var-tiny", policy="uniform", budget="20%", codec="int8", prompt="7", seed="3", guidance="3")
    engine = Engine(shared_registry(), Settings(model="var-tiny", policy="uniform"))
    turns = Turns(engine.work, describe=lambda error: None)
    *_, result = turns.run(engine.read(form), "visitor")
    turns.close()

    with pytest.raises(SystemExit, match="0"):
        main(shlex.split(as_shell(form, "7", Place()))[1:])
    exec(compile(as_python(form, "7", Place()), "call", "exec"), {})

    expected = pictures.picture(result.compressed.image).tobytes()
    for file in ("compressed.png", "scalekv-out/compressed.png"):
        with Image.open(file) as image:
            assert expected == image.convert("RGB").tobytes()
