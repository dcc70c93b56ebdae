"""Attaching to each of the four kinds of objects is all or nothing, detaching completes, and copies are not attached."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from scalekv_core import SessionError, compress, shared_registry
from scalekv_core.cache.concat_cache import ConcatCache
from tests.adapters.drawing import everything_in
from tests.adapters.infinity.official_standin import StandInInfinity
from tests.adapters.interrupting import interrupted, steps_of
from tests.adapters.small import small_infinity, small_var
from tests.adapters.var.official_standin import StandInVAR
from tests.conformance.small_models import small_official_star, small_star


class Source:
    """Makes unmodified caches."""

    def new_cache(self, schedule) -> ConcatCache:
        return ConcatCache(schedule)


KINDS = {
    "var": small_var,
    "var-official": lambda: StandInVAR(small_var()),
    "infinity": small_infinity,
    "infinity-official": lambda: StandInInfinity(small_infinity()),
    "infinitystar": small_star,
    "infinitystar-official": small_official_star,
}


@pytest.fixture(params=KINDS)
def model(request) -> nn.Module:
    """A small object of each kind, with random weights."""
    torch.manual_seed(0)
    made = KINDS[request.param]().eval()
    assert request.param == shared_registry().adapter_for(made)[0]
    return made


def attach(model: nn.Module):
    return shared_registry().adapter_for(model)[1].attach(model, Source())


def test_an_interruption_while_attaching_leaves_the_model_as_it_was(model: nn.Module) -> None:
    """Ctrl-C before any step of attaching leaves no layer replaced."""
    before, attached = everything_in(model), []
    adapter = shared_registry().adapter_for(model)[1]
    steps = steps_of(lambda: attached.append(adapter.attach(model, Source())))
    assert before != everything_in(model)
    attached.pop()()

    assert before == everything_in(model)
    for step in range(steps):
        with pytest.raises(KeyboardInterrupt):
            interrupted(lambda: adapter.attach(model, Source()), step)
        assert before == everything_in(model), step


def test_an_interruption_while_detaching_restores_the_model_all_the_same(model: nn.Module) -> None:
    """Once begun, detaching completes whenever Ctrl-C comes; detaching again changes nothing."""
    before = everything_in(model)
    for step in range(1, steps_of(attach(model))):
        detach = attach(model)
        with pytest.raises(KeyboardInterrupt):
            interrupted(detach, step)
        assert before == everything_in(model), step
        detach()
        assert before == everything_in(model), step


@pytest.mark.parametrize("copied", ["deepcopy", "copy", "saved"])
def test_copies_come_out_unattached(model: nn.Module, copied: str) -> None:
    """A copy made inside the block has the model's original attributes, and the model stays attached."""

    def saved(module: nn.Module) -> nn.Module:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    make = {"deepcopy": copy.deepcopy, "copy": copy.copy, "saved": saved}[copied]
    names = [set(vars(part)) for part in model.modules()]
    detach = attach(model)
    attached = everything_in(model)
    made = make(model)

    if copied != "copy" or "new_cache" in vars(model):  # a shallow copy shares the layers of an official object
        assert names == [set(vars(part)) for part in made.modules()]
        assert not any(isinstance(value, Source) for part in made.modules() for value in vars(part).values())
        assert vars(made).get("new_cache", ConcatCache) is ConcatCache
    assert attached == everything_in(model)
    detach()


def test_a_copy_generates_as_the_unmodified_model() -> None:
    """The copy generates unmodified while the model stays compressed."""
    model = small_var()
    whole = model.generate([3], seeds=[0], keep_logits=True).logits
    with compress(model, "streaming", "1 token", check=True) as session:
        made = copy.deepcopy(model)
        model.generate([3], seeds=[0])
        assert all(map(torch.equal, whole, made.generate([3], seeds=[0], keep_logits=True).logits))
    assert 1 == len(session.report().images)


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_wrapper_is_refused_and_the_inner_module_named(model: nn.Module, wrap) -> None:
    """A wrapper is refused, since attaching to what it forwards would compress another object than the one called."""
    wrapper, before, kind = wrap(model), everything_in(model), type(model).__name__
    message = f"wraps a {kind}; give compress the inner module, which is its attribute '(module|_orig_mod)'"
    with pytest.raises(SessionError, match=message), compress(wrapper, "full"):
        raise AssertionError("never entered")
    assert before == everything_in(model)
