"""The call to copy is the call that was made."""

from __future__ import annotations

import shlex

import pytest

from scalekv_core.app.calls import Place, as_python, as_shell
from scalekv_core.app.form import Form

FORM = Form(model="infinity-tiny", policy="fold", budget="25%", codec="int8", seed="7", guidance="1,2", aspect="4:3")


def test_the_shell_command_says_everything() -> None:
    """In options that are left out where the field is empty."""
    expected = "scalekv generate --model infinity-tiny --policy fold --budget 25% --codec int8 --seed 7 --guidance 1,2 --aspect 4:3 -- 'a red circle'"

    assert expected == as_shell(FORM, "a red circle", Place())
    assert "scalekv generate --model toy --policy full --seed 0 -- 3" == as_shell(
        Form(model="toy", policy="full"), "3", Place()
    )


@pytest.mark.parametrize("prompt", ["it's", "-1", "a $HOME; `ls`", 'say "no"', "two\nlines", "日本"])
def test_any_prompt_survives_a_shell(prompt: str) -> None:
    """Quoted, and never an option."""
    assert ["--", prompt] == shlex.split(as_shell(FORM, prompt, Place()))[-2:]


def test_the_path_of_weights_is_not_shown() -> None:
    """A word stands for it."""
    place = Place(device="cuda:1", dtype="bfloat16", weights=True)

    assert "--weights WEIGHTS --device cuda:1 --dtype bfloat16" in as_shell(FORM, "x", place)
    assert 'weights="WEIGHTS", device="cuda:1", dtype="bfloat16"' in as_python(FORM, "x", place)


@pytest.mark.parametrize("prompt", ["it's", 'say "no"', "\\n", "two\nlines"])
def test_any_prompt_survives_python(prompt: str) -> None:
    """The lines compile, and the literal is the prompt."""
    lines = as_python(FORM, prompt, Place())
    compile(lines, "call", "exec")
    literal = lines.partition("pipe(")[2].partition(", seed=7")[0]

    assert prompt == eval(literal)
