"""``scalekv calibrate`` writes a profile that fits and names its origin, or writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scalekv_core.contracts.profile import AttentionProfile

TOY = ("calibrate", "3", "5", "--model", "toy")


def test_the_profile_says_where_it_comes_from(run) -> None:
    """Model, prompts, seeds, sampling, queries and versions are in the file, and are printed."""
    ran = run(*TOY, "-n", "3", "--queries", "4", "--out", "toy.safetensors")
    provenance = AttentionProfile.load("toy.safetensors").provenance

    assert 0 == ran.code
    assert ["3", "5"] == json.loads(provenance["prompts"])
    assert ("6", "2", "4") == tuple(provenance[name] for name in ("images", "batches", "queries_per_map"))
    assert {"greedy": True}.items() <= json.loads(provenance["sampling"]).items()
    assert all(name in ran.out for name in provenance)
    assert 80 >= max(len(line) for line in ran.out.splitlines())


def test_the_batch_size_changes_nothing(run) -> None:
    """The profile is the mean over all images, whatever the batch."""
    run(*TOY, "-n", "2", "--batch", "1", "--out", "one.safetensors")
    run(*TOY, "-n", "2", "--batch", "4", "--out", "four.safetensors")

    one, four = (AttentionProfile.load(f"{name}.safetensors") for name in ("one", "four"))
    np.testing.assert_allclose(one.mass, four.mass, atol=1e-6)


def test_a_policy_can_use_it(run) -> None:
    """--profile reads what calibrate wrote."""
    run(*TOY, "--out", "toy.safetensors")
    ran = run("generate", "3", "--model", "toy", "--policy", "profiled", "--profile", "toy.safetensors")

    assert 0 == ran.code
    recorded = json.loads(Path("scalekv-out/record.json").read_text())["profile"]
    assert ("toy", "toy.safetensors") == (recorded["model"], recorded["from"])


def test_a_profile_of_another_model_is_refused(run) -> None:
    """The error names both models."""
    run(*TOY, "--out", "toy.safetensors")
    ran = run("generate", "3", "--model", "toy-trouble", "--policy", "profiled", "--profile", "toy.safetensors")

    assert 2 == ran.code
    assert "was measured on 'toy', the model is 'toy-trouble'" in ran.complaint


def test_prompts_from_a_file(run) -> None:
    """A file has one prompt per line; empty lines are skipped."""
    Path("prompts.txt").write_text("1\n\n 2 \n")
    run("calibrate", "--model", "toy", "--prompt-file", "prompts.txt")

    assert ["1", "2"] == json.loads(AttentionProfile.load("profile.safetensors").provenance["prompts"])


def test_an_interrupt_writes_nothing_and_says_so(run, trouble) -> None:
    """An interrupted calibration writes nothing and says so."""
    trouble(KeyboardInterrupt(), after=2)
    ran = run("calibrate", "--model", "toy-trouble")

    assert (130, "scalekv: interrupted; nothing was written") == (ran.code, ran.complaint)
    assert [] == list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "tooy"], "no model is called 'tooy'"),
        (["--model", "toy", "--out", "."], "--out needs the name of a file; . is a directory"),
        (["--model", "toy", "--out", "text/p"], "cannot write to the directory text: text is a file"),
        (["--model", "toy", "--prompt-file", "none"], "prompt file none cannot be read"),
        (["--model", "toy", "--prompt-file", "text"], "prompt file text holds no prompt"),
        (["x", "--model", "toy"], "model 'toy' generates from the prompts 0 to 9"),
        (["--model", "toy-weights"], "does not ship with weights"),
    ],
)
def test_a_mistake_is_one_line(run, arguments: list[str], said: str) -> None:
    """A mistake has exit code 2 and writes no profile."""
    Path("text").write_text("\n")
    ran = run("calibrate", *arguments)

    assert 2 == ran.code
    assert said in ran.complaint
    assert ["text"] == [file.name for file in Path.cwd().iterdir()]
