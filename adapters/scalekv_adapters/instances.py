"""Changing instances and changing them back: how every adapter of this room attaches, so that classes stay untouched.

All or nothing: an exception on the way in, Ctrl-C included, restores what was changed already, and restoring goes on to its
end whatever comes. Copies and pickles of a changed instance come out as it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import frozen
from torch import nn

DROPOUTS = ("attn_drop", "drop_prob")
"""Attributes in which the official modules keep the rates of their own dropout."""

_ABSENT = object()


def replace_attributes(instance: object, **attributes: Any) -> Callable[[], None]:
    """Sets attributes of this instance; what comes back restores its ``__dict__`` exactly.

    >>> import copy
    >>> class Bell:
    ...     def ring(self):
    ...         return "ding"
    >>> bell = Bell()
    >>> restore = replace_attributes(bell, ring=lambda: "dong")
    >>> bell.ring(), copy.deepcopy(bell).ring()
    ('dong', 'ding')
    >>> restore()
    >>> bell.ring(), vars(bell)
    ('ding', {})
    """
    return replace_all([(instance, attributes)])


def replace_all(
    changes: Iterable[tuple[object, Mapping[str, Any]]], *, afterwards: Callable[[], None] | None = None
) -> Callable[[], None]:
    """Sets attributes of several instances, of all or of none; what comes back restores every ``__dict__`` exactly.

    Args:
        changes: the instances, each with {name: value}.
        afterwards: is called when all is restored.
    """
    replaced = [_Replaced.of(instance, attributes) for instance, attributes in changes]
    restore = partial(_restore_all, replaced, afterwards)
    try:
        for one in replaced:
            one.replace()
        return restore
    except BaseException:
        restore()
        raise


@frozen(eq=False)
class _Replaced:
    """One instance: what its attributes become, and what they were; what it only had from its class was absent."""

    own: dict[str, Any]
    after: Mapping[str, Any]
    before: Mapping[str, Any]

    @classmethod
    def of(cls, instance: object, attributes: Mapping[str, Any]) -> _Replaced:
        own = vars(instance)
        names = (*attributes, "__getstate__")
        before = {name: own.get(name, _ABSENT) for name in names}
        return cls(own, {**attributes, "__getstate__": partial(_state_of, own, before)}, before)

    def replace(self) -> None:
        self.own.update(self.after)

    def restore(self) -> None:
        _put_back(self.own, self.before)


def _restore_all(replaced: Sequence[_Replaced], afterwards: Callable[[], None] | None) -> None:
    try:
        for one in replaced:
            one.restore()
    except BaseException:  # an interruption; to restore what is restored already changes nothing
        for one in replaced:
            one.restore()
        raise
    finally:
        if afterwards is not None:
            afterwards()


def _put_back(attributes: dict[str, Any], before: Mapping[str, Any]) -> None:
    for name, value in before.items():
        if value is _ABSENT:
            attributes.pop(name, None)
        else:
            attributes[name] = value


def _state_of(own: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What ``copy`` and ``pickle`` take of a changed instance: its attributes as they were."""
    state = dict(own)
    _put_back(state, before)
    return state


def drops_out(model: nn.Module) -> bool:
    """Whether dropout would change what it generates: parts of it are in training mode and have a rate of dropout.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    >>> drops_out(model), drops_out(model.eval())
    (True, False)
    """
    return any(part.training and _rate(part) > 0 for part in model.modules())


def _rate(part: nn.Module) -> float:
    rates = [vars(part).get(name) for name in DROPOUTS]
    if isinstance(part, nn.modules.dropout._DropoutNd):
        rates.append(part.p)
    return max((rate for rate in rates if isinstance(rate, (int, float))), default=0.0)
