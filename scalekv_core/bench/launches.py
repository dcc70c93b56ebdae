"""How many kernels each ``attend`` launches, and how long the host takes to launch them.

On a GPU an ``attend`` of a large model lasts a fraction of a millisecond, so what a policy costs there is decided by its
kernels and by Python. Neither depends on the size of the tensors, so both are measured on tiny ones. Kernels are counted on
the meta device, where no code takes a shortcut that only a CPU has: every operation that is not a view and does more than
allocate counts as one. Some, such as sorting, launch more than one on a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from scalekv_core.bench.contenders import Contender
from scalekv_core.cache.clock import Clock, NoClock
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

TINY = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 2, 3, 3, 3, 4, 4), layers=3, heads=2, head_dim=8, rows=2)
"""The default geometry, on which no kernel takes longer than its launch."""
REPEATS = 30
OTHER = "other"
"""The stage of everything outside of the other stages."""
_ALLOCATES = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}


@frozen(kw_only=True)
class AttendFigures:
    """One ``attend`` of one layer.

    Attributes:
        scale: which map.
        layer: which of the model's layers.
        what: ``kept`` if it evicts nothing, ``evicted`` if it does, ``last`` if nothing is stored.
        kernels: {stage: kernels}, stages of :data:`~scalekv_core.cache.clock.STAGES` or :data:`OTHER`.
        host_us: microseconds of processor time on a CPU, the least of several images.
    """

    scale: int
    layer: int
    what: str
    kernels: Mapping[str, int]
    host_us: float

    @property
    def launched(self) -> int:
        """Kernels of all stages."""
        return sum(self.kernels.values())


@frozen(eq=False, kw_only=True)
class LaunchFigures:
    """All ``attend`` calls of one image under one contender."""

    name: str
    attends: Sequence[AttendFigures]

    def of(self, what: str) -> list[AttendFigures]:
        """Those that keep everything ("kept"), that evict ("evicted"), or that store nothing ("last")."""
        return [one for one in self.attends if one.what == what]

    def kernels(self, what: str) -> tuple[int, int] | None:
        """(fewest, most) kernels of an attend; None if there is no such attend."""
        launched = [one.launched for one in self.of(what)]
        return (min(launched), max(launched)) if launched else None

    def host_us(self, what: str) -> tuple[float, float] | None:
        """(least, most) microseconds of an attend; None if there is no such attend."""
        times = [one.host_us for one in self.of(what)]
        return (min(times), max(times)) if times else None

    def as_dict(self) -> dict[str, Any]:
        """For a JSON record."""
        return {
            "name": self.name,
            "attends": [
                {
                    "scale": one.scale,
                    "layer": one.layer,
                    "what": one.what,
                    "kernels": dict(one.kernels),
                    "host_us": round(one.host_us, 1),
                }
                for one in self.attends
            ],
        }


def measure_launches(contender: Contender, *, repeats: int = REPEATS) -> LaunchFigures:
    """Kernels and host time of every attend of the second image, after shared tables are made.

    Args:
        contender: whose cache is used, in the geometry that it was planned for.
        repeats: images that are timed; 0 measures no time.
    """
    counter, clock = KernelCounter(), StageClock()
    counted = _image(contender, clock, "meta", _counting(counter, clock))
    timed = [_least_times(contender, repeats)] if repeats else []
    return LaunchFigures(
        name=contender.name,
        attends=[
            AttendFigures(
                scale=scale,
                layer=contender.layers[place].layer,
                what=_what(contender, scale, contender.layers[place].layer),
                kernels=kernels,
                host_us=timed[0][scale, place] * 1e6 if timed else float("nan"),
            )
            for (scale, place), kernels in counted.items()
        ],
    )


class StageClock(Clock):
    """A clock that knows the current stage and measures nothing."""

    current = OTHER

    @contextlib.contextmanager
    def stage(self, scale: int, stage: str) -> Iterator[None]:
        before, self.current = self.current, stage
        yield
        self.current = before


class KernelCounter(TorchDispatchMode):
    """Counts operations that launch a kernel, by the stage that ``begin`` names."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stage: Callable[[], str] = lambda: OTHER
        self.kernels: dict[str, int] = defaultdict(int)
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _launches(func):
            self.add(str(func))
        return func(*args, **(kwargs or {}))

    def add(self, name: str) -> None:
        """Counts one kernel in this stage."""
        self.kernels[self.stage()] += 1
        self.names.append(name)


class _AttentionIsOne(TorchFunctionMode):
    """Counts attention as one kernel, as where it is fused; on the meta device torch decomposes it."""

    def __init__(self, counter: KernelCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self._counter.add("attention")
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def _launches(func: Any) -> bool:
    name = func._schema.name.split("::")[1]
    is_view = any(out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns)
    return not is_view and name not in _ALLOCATES and not name.startswith("sym_")


def _counting(counter: KernelCounter, clock: StageClock) -> Callable[[Callable[[], Any]], dict[str, int]]:
    counter.stage = lambda: clock.current

    def around(call: Callable[[], Any]) -> dict[str, int]:
        counter.kernels = defaultdict(int)
        with _AttentionIsOne(counter), counter:
            call()
        return dict(counter.kernels)

    return around


def _least_times(contender: Contender, repeats: int) -> dict[tuple[int, int], float]:
    """{(scale, layer): seconds} of the host, with one thread and no garbage collector."""

    def timed(call: Callable[[], Any]) -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    threads, collects = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.disable()
    try:
        images = [_image(contender, NoClock(), "cpu", timed, warm=number == 0) for number in range(repeats)]
    finally:
        torch.set_num_threads(threads)
        if collects:
            gc.enable()
    return {key: min(image[key] for image in images) for key in images[0]}


def _image(
    contender: Contender, clock: Clock, device: str, around: Callable[[Callable[[], Any]], Any], *, warm: bool = True
) -> dict[tuple[int, int], Any]:
    """{(scale, layer): what ``around`` returned} of one image, after an uncounted one where ``warm``."""
    cache = contender.new_cache(clock)
    results = {}
    for measured in (False, True) if warm else (True,):
        for scale in range(len(contender.geometry.schedule)):
            for layer in range(len(contender.layers)):
                q, k, v = _map(contender.geometry, scale, layer, device)

                def call(layer: int = layer, q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
                    return cache.attend(layer, q, k, v, softmax_scale=0.25)

                with torch.inference_mode():
                    if measured:
                        results[scale, layer] = around(call)
                    else:
                        call()
        cache.close()
    return results


def _map(geometry: CacheGeometry, scale: int, layer: int, device: str) -> Sequence[Tensor]:
    """q, k and v (B, H, n, D) as models have them: transposed views of one tensor."""
    shape = (geometry.rows, geometry.schedule.tokens[scale], 3, geometry.heads, geometry.head_dim)
    qkv = torch.empty(shape, dtype=geometry.dtype, device=device)
    if device != "meta":
        qkv.normal_(generator=torch.Generator(device).manual_seed(scale * 1000 + layer))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
    return q.repeat_interleave(geometry.group, dim=1) if geometry.group > 1 else q, k, v


def _what(contender: Contender, scale: int, layer: int) -> str:
    if contender.planned is None:
        return "kept"
    held = contender.planned.plan.held[:, layer]
    if not held[scale].any():
        return "last"
    before = held[scale - 1] if scale else 0
    return "evicted" if (held[scale] < before + contender.geometry.schedule.tokens[scale]).any() else "kept"
