"""The names of the adapters, of the models that can be loaded, and of their judge. Nothing is read here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from scalekv_adapters.hart.adapter import HARTAdapter
from scalekv_adapters.hart.card import HARTCard
from scalekv_adapters.hart.config import PUBLISHED as HARTS
from scalekv_adapters.hart.official import OfficialHARTAdapter
from scalekv_adapters.infinity.adapter import InfinityAdapter
from scalekv_adapters.infinity.card import PublishedInfinityCard
from scalekv_adapters.infinity.config import PUBLISHED as INFINITIES
from scalekv_adapters.infinity.official import OfficialInfinityAdapter
from scalekv_adapters.infinity.tiny.card import TinyInfinityCard
from scalekv_adapters.infinitystar.adapter import InfinityStarAdapter
from scalekv_adapters.infinitystar.card import NAME as INFINITYSTAR
from scalekv_adapters.infinitystar.card import InfinityStarCard
from scalekv_adapters.infinitystar.official import OfficialInfinityStarAdapter
from scalekv_adapters.judge import Judge
from scalekv_adapters.var.adapter import VARAdapter
from scalekv_adapters.var.card import PublishedVARCard
from scalekv_adapters.var.config import PUBLISHED as VARS
from scalekv_adapters.var.official import OfficialVARAdapter
from scalekv_adapters.var.tiny.card import TinyVARCard
from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.models.card import ModelCard
from scalekv_core.models.metric import Metric
from scalekv_core.plugins.hookspecs import hookimpl


@hookimpl
def scalekv_model_adapters() -> Mapping[str, Callable[[], ModelAdapter]]:
    return {
        "hart": HARTAdapter,
        "hart-official": OfficialHARTAdapter,
        "infinity": InfinityAdapter,
        "infinity-official": OfficialInfinityAdapter,
        "infinitystar": InfinityStarAdapter,
        "infinitystar-official": OfficialInfinityStarAdapter,
        "var": VARAdapter,
        "var-official": OfficialVARAdapter,
    }


@hookimpl
def scalekv_image_models() -> Mapping[str, Callable[[], ModelCard]]:
    return (
        {"var-tiny": TinyVARCard, "infinity-tiny": TinyInfinityCard}
        | {name: partial(PublishedVARCard.of, name) for name in VARS}
        | {name: partial(PublishedInfinityCard.of, name) for name in INFINITIES}
        | {name: partial(HARTCard.of, name) for name in HARTS}
        | {INFINITYSTAR: InfinityStarCard.of}
    )


@hookimpl
def scalekv_metrics() -> Mapping[str, Callable[[], Metric]]:
    return {"judge": Judge}
