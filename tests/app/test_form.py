"""Reading the fields of the page: an empty one means the model's own value, a wrong one is refused in one line."""

from __future__ import annotations

import pytest
import torch

from scalekv_core import InputError, Registry, UnknownName
from scalekv_core.app import menus
from scalekv_core.app.form import Form, Request, read
from scalekv_core.testing.toy import ToyCard


def reading(registry: Registry, **fields: object) -> Request:
    form = Form(**{"model": "toy", "policy": "toy-latest", **fields})
    return read(form, registry=registry, dtype=torch.float32)


def test_empty_fields_are_the_models_own(registry: Registry) -> None:
    """Prompt, seed, sampling, shape and budget have the model's own values."""
    request = reading(registry, prompt=None, seed=" ")

    assert ("3", 0, None) == (request.prompt, request.seed, request.budget)
    assert registry.make("model", "toy").sampling == request.job.sampling
    assert (None, None) == (request.job.batch.aspect, request.job.batch.size)


def test_fields_are_read(registry: Registry) -> None:
    """Numbers are read from text, without blanks around them."""
    request = reading(registry, prompt="7", seed=" 18446744073709551615 ", guidance="1, 3", budget="50%", codec="")

    assert ("7", 2**64 - 1, (1.0, 3.0), "50%") == (
        request.prompt, request.seed, request.job.sampling.guidance, request.budget,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "error", "line"),
    [
        ({"model": "toi"}, UnknownName, "no model is called 'toi'; did you mean 'toy'"),
        ({"policy": "toy-late"}, UnknownName, "no policy is called 'toy-late'"),
        ({"codec": "int3"}, UnknownName, "no codec is called 'int3'"),
        ({"seed": "x"}, InputError, "--seed needs seeds that are whole numbers from 0 to 2\\*\\*64 - 1; got 'x'"),
        ({"seed": "-1"}, InputError, "--seed needs seeds"),
        ({"seed": "1.5"}, InputError, "--seed needs seeds"),
        ({"guidance": "strong"}, InputError, "--guidance needs a number, or one per scale"),
        ({"guidance": "-1"}, InputError, "sampling needs guidance at least 0"),
        ({"aspect": "3:1"}, InputError, "model 'toy' generates no such images: there is no aspect ratio '3:1'"),
    ],
)
def test_what_is_wrong_is_refused(
    registry: Registry, fields: dict[str, object], error: type[Exception], line: str
) -> None:
    """A wrong field is refused before any model is loaded."""
    with pytest.raises(error, match=line):
        reading(registry, **fields)


def test_a_model_without_an_example_needs_a_prompt(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty field means the example, which a plugin's model may lack."""
    monkeypatch.setattr(ToyCard, "example", "")
    with pytest.raises(InputError, match="model 'toy' has no example; write a prompt"):
        reading(registry)


def test_menus_have_every_installed_name(registry: Registry) -> None:
    """The menus list a plugin's models and policies too; models without weights are marked and come last."""
    shipped = [(name, name) for name in ("second", "toy", "toy-video")]
    assert [*shipped, ("unshipped (needs weights)", "unshipped")] == menus.models(registry)
    assert [("toy-latest", "toy-latest")] == menus.policies(registry)
    assert ("the policy's own", "") == menus.codecs(registry)[0]
    assert registry.names("codec") == [value for _, value in menus.codecs(registry)[1:]]


def test_a_models_fields_follow_its_card() -> None:
    """Aspect ratios, sizes, and the placeholders of empty fields follow the model's card."""
    fields = menus.model_fields(Registry.installed(), "infinity-tiny")

    assert ["", "1:1", "3:4", "4:3"] == sorted(value for _, value in fields.aspects)
    assert "a red circle left of a blue square" == fields.example
    assert float(fields.guidance) == Registry.installed().make("model", "infinity-tiny").sampling.guidance
