"""Checks that a strategy leaves the terminal, warnings, and settings of torch, numpy and the process alone."""

from __future__ import annotations

import contextlib
import gc
import io
import locale
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalekv_core.testing.common import all_same
from scalekv_core.testing.faults import is_foreign_file


def settings() -> dict[str, Any]:
    """{setting: value} of every global setting that a strategy must not change."""
    cuda = torch.backends.cuda
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": str(torch.get_default_device()) if hasattr(torch, "get_default_device") else "",
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's matmul precision": torch.get_float32_matmul_precision(),
        "torch's cudnn settings": (torch.backends.cudnn.benchmark, torch.backends.cudnn.enabled),
        "torch's oneDNN setting": torch.backends.mkldnn.enabled,
        "torch's choice of attention": (
            cuda.flash_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
        ),
        "torch's TF32 setting": cuda.matmul.allow_tf32,
        "torch's autocast": torch.is_autocast_enabled(),
        "torch's anomaly detection": torch.is_anomaly_enabled(),
        "numpy's error handling": tuple(sorted(np.geterr().items())),
        "numpy's print options": str(np.get_printoptions()),
        "the environment": dict(os.environ),
        "the current directory": os.getcwd(),
        "the files in the current directory": tuple(sorted(os.listdir())),
        "the warning filters": tuple(map(str, warnings.filters)),
        "the log handlers": (tuple(map(id, logging.getLogger().handlers)), logging.getLogger().level),
        "sys.path": tuple(sys.path),
        "the recursion limit": sys.getrecursionlimit(),
        "the garbage collector": (gc.isenabled(), gc.get_threshold()),
        "the handler of Ctrl-C": signal.getsignal(signal.SIGINT),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the number of threads": threading.active_count(),
        "sys.stdout": id(sys.stdout),
        "sys.stderr": id(sys.stderr),
        "sys.excepthook": id(sys.excepthook),
    }


@contextlib.contextmanager
def restored_settings(before: Mapping[str, Any]) -> Iterator[None]:
    """A block after which settings are restored where possible, so that later checks are not misled."""
    try:
        yield
    finally:
        torch.set_default_dtype(before["torch's default dtype"])
        torch.set_num_threads(before["torch's number of threads"])
        torch.set_grad_enabled(before["torch's gradient mode"])
        torch.use_deterministic_algorithms(before["torch's deterministic algorithms"])
        torch.set_float32_matmul_precision(before["torch's matmul precision"])
        np.seterr(**dict(before["numpy's error handling"]))
        os.chdir(before["the current directory"])
        for name in set(os.environ) - set(before["the environment"]):
            del os.environ[name]
        os.environ.update(before["the environment"])


def quietly(act: Callable[[], list[Tensor]]) -> list[Tensor]:
    """What the act gives; AssertionError if it prints, warns, or changes a setting.

    It is done twice, since torch imports, starts and warns of things at a first call; a strategy's own words count at once.
    """
    with _unheard() as (said, first):
        before = settings()
        with restored_settings(before):
            act()
            _assert_unchanged(before)
    _assert_silent("standard output", said.getvalue())
    own = [warning for warning in first if is_foreign_file(warning.filename)]
    assert not own, f"it warns: {str(own[0].message).splitlines()[0]}" if own else ""
    out, err = io.StringIO(), io.StringIO()
    with (
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.simplefilter("always")
        with _sleepless():
            answer = act()
    _assert_silent("standard output", out.getvalue())
    _assert_silent("standard error", err.getvalue())
    assert not warned, f"it warns: {str(warned[0].message).splitlines()[0]}" if warned else ""
    return answer


def _assert_silent(stream: str, text: str) -> None:
    assert not text, f"it writes to {stream}: {text.strip().splitlines()[0] if text.strip() else 'an empty line'}"


@contextlib.contextmanager
def _unheard() -> Iterator[tuple[io.StringIO, list[warnings.WarningMessage]]]:
    """A block whose prints and warnings are not shown; gives what is written to standard output, and the warnings."""
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        yield out, warned


@contextlib.contextmanager
def _sleepless() -> Iterator[None]:
    """A block in which sleeping is an AssertionError."""
    own = time.sleep

    def sleep(seconds: Any) -> None:
        raise AssertionError(f"it sleeps for {seconds:g} s")

    time.sleep = sleep
    try:
        yield
    finally:
        time.sleep = own


def _assert_unchanged(before: Mapping[str, Any]) -> None:
    changed = [name for name, value in settings().items() if value != before[name]]
    assert not changed, f"it changes {changed[0]}"


def in_inference_mode(act: Callable[[], list[Tensor]]) -> None:
    """The act gives the same under ``torch.inference_mode`` as a model generates in, under no_grad, and without either."""
    plain = act()
    with torch.inference_mode():
        assert all_same(plain, act()), "it gives something else under torch.inference_mode"
    with torch.no_grad():
        assert all_same(plain, act()), "it gives something else under torch.no_grad"
