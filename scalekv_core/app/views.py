"""What the page shows, as plain values: before an image, while it is generated, and after. The page only places them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import evolve, frozen
from PIL import Image

from scalekv_core.app import fragments, kept, memory, pictures
from scalekv_core.app.calls import Place, as_python, as_shell
from scalekv_core.app.engine import COMPRESSED, UNMODIFIED, Engine, Loading, Result, Step
from scalekv_core.app.form import Form, Request
from scalekv_core.app.record import record_of
from scalekv_core.app.turns import Failed, Turns, Waiting
from scalekv_core.compare.metrics import psnr
from scalekv_core.errors import ScaleKVError
from scalekv_core.shapes.geometry import plural


@frozen(kw_only=True)
class Before:
    """What is known before anything is generated.

    Attributes:
        hint: what the cache will hold, or what is wrong with the fields; HTML.
        bars, parts, shares: memory, and what each layer holds; HTML, empty where something is wrong.
        layers: how many there are.
        shell, python: the call to copy.
    """

    hint: str
    bars: str = ""
    parts: str = ""
    shares: str = ""
    layers: int = 1
    shell: str = ""
    python: str = ""

    @property
    def valid(self) -> bool:
        """Whether the fields are an image that can be planned."""
        return bool(self.bars)


@frozen(eq=False, kw_only=True)
class Shown:
    """What the right side shows at a moment.

    Attributes:
        status: one line; HTML.
        busy: whether something is going on that can be cancelled.
        stage: the images so far; HTML.
        pair: both images when they are done, to be laid over each other.
        difference, downloads, bars: when they are done; HTML.
        result: the same for later questions about its layers.
    """

    status: str
    busy: bool = True
    stage: str = ""
    pair: tuple[Image.Image, Image.Image] | None = None
    difference: str = ""
    downloads: str = ""
    bars: str = ""
    result: Result | None = None


class Views:
    """The page without its toolkit.

    Args:
        engine: plans and generates.
        turns: the line of requests for it.
        place: where the model runs.
    """

    def __init__(self, engine: Engine, turns: Turns, place: Place) -> None:
        self.engine = engine
        self.turns = turns
        self.place = place

    def before(self, form: Form, layer: int = 0) -> Before:
        """What the fields mean; what is wrong with them is one line, the same as that of the command line."""
        try:
            request = self.engine.read(form)
            plan = self.engine.plan(request)
        except ScaleKVError as error:
            return Before(hint=fragments.status(str(error), "wrong"))
        place = self._place(form)
        return Before(
            hint=fragments.status(f"The cache will hold {plan.sentence}."),
            bars=fragments.memory_bars(memory.bars(plan.planned)),
            parts=fragments.memory_table(plan),
            shares=self._shares(plan.planned, layer),
            layers=plan.planned.plan.layers,
            shell=as_shell(form, request.prompt, place),
            python=as_python(form, request.prompt, place, request.job.batch.card.fps),
        )

    def generating(self, form: Form, visitor: str) -> Iterator[Shown]:
        """What is shown while an image is generated, from the first moment to the last."""
        try:
            request = self.engine.read(form)
        except ScaleKVError as error:
            yield Shown(status=fragments.status(str(error), "wrong"), busy=False, stage=fragments.EMPTY_STAGE)
            return
        shown = Shown(status=fragments.status("Starting.", "busy"), stage=fragments.EMPTY_STAGE)
        yield shown
        so_far: dict[str, Step] = {}
        for event in self.turns.run(request, visitor):
            if isinstance(event, Waiting):
                shown = evolve(shown, status=fragments.status(f"{plural(event.ahead, 'request')} ahead.", "busy"))
            elif isinstance(event, Loading):
                shown = evolve(shown, status=fragments.status(f"Loading {event.model}.", "busy"))
            elif isinstance(event, Step):
                so_far[event.which] = event
                shown = evolve(shown, status=self._doing(request, event), stage=self._stage(request, so_far))
            elif isinstance(event, Result):
                shown = self._done(event)
            elif isinstance(event, Failed):
                shown = evolve(shown, status=fragments.status(event.message, "wrong"), busy=False)
            yield shown

    def layer(self, result: Result | None, form: Form, layer: int) -> str:
        """What one layer keeps: planned, and once an image is generated the tokens themselves."""
        if result is None:
            return self.before(form, layer).shares
        maps = kept.kept_maps(result.kept, result.planned, layer)
        return self._shares(result.planned, layer) + fragments.kept_maps(maps, layer)

    def _place(self, form: Form) -> Place:
        return self.place if form.model == self.engine.settings.model else evolve(self.place, weights=False)

    def _shares(self, planned: Any, layer: int) -> str:
        return fragments.shares(kept.shares(planned), kept.titles(planned), layer)

    def _doing(self, request: Request, step: Step) -> str:
        scales = len(request.job.batch.geometry.schedule)
        return fragments.status(f"Generating, {step.which}: scale {step.scale} of {scales}.", "busy")

    def _stage(self, request: Request, so_far: dict[str, Step]) -> str:
        titles = [f"{h}×{w}" for _, h, w in request.job.batch.geometry.schedule.maps]
        figures = []
        for which in (UNMODIFIED, COMPRESSED):
            step = so_far.get(which)
            note = "" if step is None else f"scale {step.scale} of {len(titles)}, {titles[step.scale - 1]} tokens"
            figures.append((which, note, None if step is None else step.image))
        return fragments.stage(figures)

    def _done(self, result: Result) -> Shown:
        unmodified, compressed = result.unmodified, result.compressed
        pair = tuple(pictures.shown(pictures.picture(one.image)) for one in (unmodified, compressed))
        took = f"{unmodified.seconds:.1f} s unmodified, {compressed.seconds:.1f} s compressed"
        return Shown(
            status=fragments.status(f"Done: {took}.", "done"),
            busy=False,
            stage=fragments.strips(
                [(UNMODIFIED, unmodified.steps), (COMPRESSED, compressed.steps)], kept.titles(result.planned)
            ),
            pair=pair,  # type: ignore[arg-type]  # a tuple of two
            difference=fragments.difference(
                pictures.difference_map(compressed.image, unmodified.image), _apart(result)
            ),
            downloads=self._downloads(result),
            bars=fragments.memory_bars(memory.bars(result.planned, result.report)),
            result=result,
        )

    def _downloads(self, result: Result) -> str:
        record = record_of(result, self._place(result.request.form), self.engine.registry)
        files = [
            (f"{which} PNG", f"{which}.png", pictures.png(pictures.picture(made.image), record), "image/png")
            for which, made in ((COMPRESSED, result.compressed), (UNMODIFIED, result.unmodified))
        ]
        files.append(("record as JSON", "record.json", pictures.as_json(record).encode(), "application/json"))
        return fragments.downloads([(text, name, pictures.data_url(file, kind)) for text, name, file, kind in files])


def _apart(result: Result) -> str:
    """How far both images are apart, in one line."""
    one, other = result.compressed.image, result.unmodified.image
    if bool((one == other).all()):
        return "none: the images are identical"
    return f"{pictures.AMPLIFY} times amplified; PSNR {float(psnr(one[None], other[None])[0]):.1f} dB"
