"""The tables of the documentation that come from the registry: ``make tables`` writes them into the pages.

A table stands between two comments, ``<!-- table: NAME -->`` and ``<!-- end of table -->``. In every table of a page, columns
of figures are aligned to the right. A test compares the pages with what this would write. Figures of fidelity are read from
the studies that ship with the small models, and from those in ``data/*.sqlite``; docs/results.md says how they were made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from attrs import evolve
from torch.utils.flop_counter import FlopCounterMode

from scalekv_adapters.infinity.tiny.captions import TASKS, parse
from scalekv_core import (
    AttentionProfile,
    CacheGeometry,
    CacheView,
    Policy,
    Registry,
    ScaleSchedule,
    TokenSelector,
    plan_memory,
    plan_policy,
)
from scalekv_core import testing as kit
from scalekv_core.compare.leaderboard import Submission, check_protocol, merged
from scalekv_core.compare.ranking import Interval, difference
from scalekv_core.compare.results import Results, Row
from scalekv_core.compare.store import Store
from scalekv_core.contracts.options import options_of
from scalekv_core.contracts.policy import PARTS
from scalekv_core.contracts.profile import FRACTIONS
from scalekv_core.errors import BudgetError
from scalekv_core.memory.need import MemoryNeed
from scalekv_core.models.card import ModelCard
from scalekv_core.plugins.offers import summary_of
from scalekv_core.shapes.geometry import format_bytes
from scalekv_core.testing.kinds import KINDS, checks_of

PAGES = Path(__file__).parent
MODELS = ("var-tiny", "infinity-tiny")
"""Those that ship with a study."""
BESIDE = ("parts",)
"""Studies of var-tiny by the same protocol, beside the one that ships: other mergers and codecs."""
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

TABLE = re.compile(r"(?P<titles>^\|.*\|\n)^\|[ :|-]+\|\n(?P<rows>(?:^\|.*\|\n)+)", re.MULTILINE)
FIGURE = re.compile(r"identical$|[-+]?\d[\d,.]*( ?(%|dB|s|ms|[KMG]iB|±|\(|,|x|$)|$)")

SCHEDULE = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=32, heads=16, head_dim=128)
"""Infinity-2B at 1024 x 1024."""
SCALE, HELD, HEADS, WIDTH = 11, 642, 2, 16
"""The view of the selectors: the last map after which tokens are evicted, a tenth of the history, two narrow heads."""

COMPARED = (
    ("fold {} dense", "scalekv {} dense"),
    ("fold {} dense", "uniform {} dense"),
    ("scalekv {} dense", "uniform {} dense"),
    ("fold {} int4", "fold {} dense"),
    ("fold {} int4", "scalekv {} dense"),
)
"""Settings at one budget whose paired difference is shown."""

SHARES = (0.20, 0.10, 0.05, 0.025, 0.0125)
"""Of the unmodified bytes: what a cache may hold in the table of what fits."""

BATCHES = (1, 8)
PLANNED = ("full", "scalekv")
CLIP_CODECS = ("dense", "int8", "int4")
"""What the table of whole models shows: images at once, and policies under their own budgets."""


def registry() -> Registry:
    """What ships with scalekv, whatever else is installed."""
    return Registry.installed(["scalekv-policies", "scalekv-adapters", "scalekv-metrics"])


def policies() -> str:
    """Every policy: its rule and its paper."""
    known = registry()
    rows = []
    for name in known.names("policy"):
        does = summary_of(known.offer("policy", name).factory)
        rows.append([f"`{name}`", does, ", ".join(arxiv(known.policy(name).paper))])
    return table(["policy", "rule", "arXiv"], rows)


def readme() -> str:
    """Every policy in one line: its rule, its paper, and how near it is to the unmodified model."""
    known = registry()
    rows = []
    for name in known.names("policy"):
        does = summary_of(known.offer("policy", name).factory)
        rows.append([f"`{name}`", does, ", ".join(arxiv(known.policy(name).paper)), *nearness(name)])
    return table(["policy", "rule", "arXiv", "PSNR", "same tokens", "KL"], rows)


def properties() -> str:
    """Every policy: what it needs, how it shares the budget, and what selection costs."""
    known = registry()
    rows = []
    for name in known.names("policy"):
        policy = known.policy(name)
        rows.append(
            [
                f"`{name}`",
                "needed" if policy.needs_profile else "no",
                shares(policy),
                "yes" if differs_by_head(policy.selector) else "no",
                queries_scored(policy.selector),
            ]
        )
    return table(["policy", "profile", "shares", "own tokens per head", "looks at"], rows)


def parts() -> str:
    """Every part that can be named on its own, with its options."""
    known = registry()
    rows = []
    for part in PARTS:
        for name in known.names(part):
            made = known.make(part, name)
            options = ", ".join(f"`{option}={value}`" for option, value in options_of(made).items())
            rows.append([part, f"`{name}`", summary_of(type(made)), options])
    return table(["part", "name", "what it does", "options"], rows)


def reference() -> str:
    """A section of the reference for every module that offers a policy or a part."""
    known = registry()
    offered: dict[str, list[tuple[str, str]]] = {}
    for kind in ("policy", *PARTS):
        for name in known.names(kind):
            offered.setdefault(known.offer(kind, name).factory.__module__, []).append((kind, name))
    return "\n".join(section(module, names) for module, names in offered.items())


def section(module: str, names: Sequence[tuple[str, str]]) -> str:
    """The heading of a module, its names, and what makes mkdocstrings write the rest."""
    heading = ", ".join(name for kind, name in names if kind == "policy" or names[0][0] != "policy")
    listed = ", ".join(f"{kind} `{name}`" for kind, name in names)
    options = 'show_root_heading: false, show_root_toc_entry: false, heading_level: 3, filters: ["!^[A-Z_]+$", "!^_"]'
    return f"## {heading}\n\nNames: {listed}.\n\n::: {module}\n    options: {{{options}}}\n"


def testing() -> str:
    """What makes mkdocstrings write the reference of every public name of the kit."""
    places = {name: getattr(kit, name).__module__ for name in kit.__all__}
    return "\n".join(f"::: {module}.{name}\n" for name, module in places.items())


def table_of_checks(kind: str) -> str:
    """Every check of a kind of strategy, with what it checks in its own words."""
    rows = [[f"`{check.name}`", check.why, check.unless] for check in checks_of(kind)]
    return table(["check", "what is checked, and why", "does not apply if"], rows)


@cache
def studied(model: str) -> Results:
    """What the study that ships with a model found, and for var-tiny the further studies behind it."""
    known = registry()
    found = [Submission(name=model, store=Store.open(known.make("model", model).study))]
    if model == "var-tiny":
        found += [Submission(name=name, store=Store.open(PAGES / "data" / f"{name}.sqlite")) for name in BESIDE]
        check_protocol(found, None)
    (results,) = merged(found, known)
    return results


def setting(model: str, label: str) -> Row:
    """The row of a setting."""
    return next(row for row in studied(model).rows if row.label == label)


def settings_at(model: str, budget: str, codec: str = "dense") -> list[Row]:
    """The policies at one budget with one codec, by name."""
    found = [row for row in studied(model).rows if (row.budget, row.codec, row.refused) == (budget, codec, None)]
    return sorted(found, key=lambda row: row.policy)


def results(model: str) -> str:
    """Every setting of the study that ships with a model, from the nearest to the furthest."""
    found = studied(model)
    rows = []
    for one in found.ranked("forced-kl"):
        row = found.row(one.key)
        if row.study == model:
            named = [f"`{row.policy}`", row.budget, row.codec]
            rows.append([str(one.rank), *named, with_spread(one.figure, 3), *in_figures(found, row), judged_right(row)])
    return table(
        ["rank", "policy", "budget", "codec", "KL, forced", "PSNR", "same", "held", "of unmodified", "right"], rows
    )


def ran() -> str:
    """What the studies that ship ran on, and how many images they have."""
    rows = []
    for model in MODELS:
        found, store = studied(model), Store.open(registry().make("model", model).study)
        versions = ", ".join(f"{name} {version}" for name, version in store.environment["versions"].items())
        own = [row for row in found.rows if row.study == model and row.refused is None]
        rows.append([f"`{model}`", str(len(own)), str(len(found.images)), versions, store.environment["device"]])
    return table(["model", "settings", "images of each", "versions", "device"], rows)


def fitting() -> str:
    """Of the settings that hold at most so much of the unmodified bytes the nearest one, and what it costs."""
    rows = []
    for share in SHARES:
        cells = []
        for model in MODELS:
            found = studied(model)
            order = [found.row(one.key) for one in found.ranked("forced-kl")]
            row = next(row for row in order if row.study == model and held_share(row) <= share)
            cells += [f"`{row.label}`", f"{found.summary(row, 'forced-kl').value:.3f}"]
        rows.append([f"{100 * share:.4g} %", *cells])
    return table(
        ["at most, of unmodified", *(title for model in MODELS for title in (f"`{model}`", "KL, forced"))], rows
    )


def digits_at(budget: str) -> str:
    """What every policy does to digits at one budget."""
    found, rows = studied("var-tiny"), []
    for row in settings_at("var-tiny", budget):
        psnr, same, _, share = in_figures(found, row)
        kl = with_spread(found.summary(row, "forced-kl"), 3)
        rows.append([f"`{row.policy}`", judged_right(row), psnr, same, kl, share])
    return table(["policy", "recognised", "PSNR", "same tokens", "KL, forced", "of unmodified"], rows)


def captions_at(budget: str) -> str:
    """What every policy does to captions at one budget, and which kinds of captions its images show."""
    found, rows = studied("infinity-tiny"), []
    kinds = [parse(prompt).task for prompt, _ in found.images]
    for row in [setting("infinity-tiny", "full dense"), *settings_at("infinity-tiny", budget)]:
        right = row.figures["judge"]
        by_kind = [f"{np.mean([r for r, own in zip(right, kinds, strict=True) if own == kind]):.0%}" for kind in TASKS]
        psnr, same, _, share = in_figures(found, row)
        kl = with_spread(found.summary(row, "forced-kl"), 3)
        rows.append([f"`{row.policy}`", *by_kind, judged_right(row), psnr, same, kl, share])
    return table(["policy", *TASKS, "all", "PSNR", "same bits", "KL, forced", "of unmodified"], rows)


def codecs_at(model: str, budget: str, policies: Sequence[str] = ("fold", "scalekv", "uniform")) -> str:
    """What some policies do with every codec that was measured at one budget."""
    found, rows = studied(model), []
    for policy in policies:
        for codec in ("dense", "int8", "int4", "fp8"):
            names = (f"{policy} {budget} {codec}", f"{policy} codec={codec} {budget}")
            for row in (row for row in found.rows if row.label in names):
                psnr, same, _, share = in_figures(found, row)
                kl = with_spread(found.summary(row, "forced-kl"), 3)
                rows.append([f"`{policy}`", f"`{codec}`", kl, psnr, same, share])
    return table(["policy", "codec", "KL, forced", "PSNR", "same", "of unmodified"], rows)


def mergers(budgets: Sequence[str] = ("10%", "5%")) -> str:
    """What folding does with the tokens of other policies."""
    pairs = [(f"{policy} {{}} dense", f"{policy} merger=fold {{}}") for policy in ("uniform", "snapkv", "scalekv")]
    found, rows = studied("var-tiny"), []
    for label in [*(label for pair in pairs for label in pair), "fold merger=drop {}", "fold {} dense"]:
        at = [setting("var-tiny", label.format(budget)) for budget in budgets]
        cells = [[in_figures(found, row)[0], f"{found.summary(row, 'forced-kl').value:.3f}"] for row in at]
        rows.append([f"`{at[0].policy}`", *(cell for pair in cells for cell in pair)])
    return table(["policy", *(title for budget in budgets for title in (f"{budget}: PSNR", "KL"))], rows)


def differences(budgets: Sequence[str] = ("20%", "10%", "5%")) -> str:
    """By how much one setting is further than another on the same images, with half of its 95 % interval."""
    rows = []
    for one, other in COMPARED:
        cells = [
            f"{further(one.format(b), other.format(b), 'forced-kl', 3)}, {further(one.format(b), other.format(b), 'psnr', 1)} dB"
            for b in budgets
        ]
        rows.append([f"`{' '.join(one.format('').split())}` against `{' '.join(other.format('').split())}`", *cells])
    return table(["KL, PSNR", *budgets], rows)


def further(one: str, other: str, metric: str, digits: int) -> str:
    """The paired difference of a figure between two settings of var-tiny."""
    found = studied("var-tiny")
    mine, theirs = (setting("var-tiny", label).figures[metric] for label in (one, other))
    apart = difference(mine, theirs, found.resamples, pool=found.pool(metric))
    return f"{apart.value:+.{digits}f} ± {(apart.high - apart.low) / 2:.{digits}f}"


def with_spread(figure: Interval, digits: int) -> str:
    """A figure with half of its 95 % interval."""
    return f"{figure.value:.{digits}f} ± {(figure.high - figure.low) / 2:.{digits}f}"


def in_figures(found: Results, row: Row) -> list[str]:
    """PSNR, share of equal tokens, bytes held, and their share of the unmodified bytes."""
    psnr, same = (found.summary(row, name).value for name in ("psnr", "agreement"))
    held = format_bytes(row.resident_bytes or 0)
    return ["identical" if np.isinf(psnr) else f"{psnr:.1f} dB", f"{same:.1%}", held, f"{held_share(row):.1%}"]


def held_share(row: Row) -> float:
    """Bytes held, as a share of those that the unmodified model holds."""
    return (row.resident_bytes or 0) / (row.unmodified_bytes or 1)


def judged_right(row: Row) -> str:
    """Share of images that show what their prompt says."""
    return f"{row.figures['judge'].mean():.1%}"


def nearness(name: str) -> list[str]:
    """PSNR, share of equal tokens and divergence of a policy at 10 %; empty where it was not measured."""
    labels = (f"{name} 10% dense", f"{name} dense")
    row = next((row for row in studied("var-tiny").rows if row.label in labels), None)
    if row is None:
        return ["", "", ""]
    found = studied("var-tiny")
    return [*in_figures(found, row)[:2], f"{found.summary(row, 'forced-kl').value:.3f}"]


def memory() -> str:
    """What whole models take at once, and their caches alone: model by size by batch by policy."""
    known, rows = registry(), []
    for name in sorted(known.names("model")):
        card: ModelCard = known.make("model", name)
        if not card.can_be_planned or card.fps is not None:
            continue
        for size in card.sizes[1::2] or (None,):  # every other one: the table is long enough
            for images in BATCHES:
                plans = [plan_memory(name, policy, images=images, size=size, registry=known) for policy in PLANNED]
                unmodified = peak_and_cache(plans[0].unmodified)
                tokens = plans[0].batch.geometry.schedule.total
                cells = [unmodified, *(peak_and_cache(plan.need) for plan in plans)]
                rows.append([f"`{name}`", size or "", f"{tokens:,}", str(images), *cells])
    return table(["model", "size", "tokens", "images", "unmodified", *(f"`{name}`" for name in PLANNED)], rows)


def clips() -> str:
    """What one clip takes with guidance in every setting, and its cache alone: unmodified, lossless, compressed, encoded."""
    known, rows = registry(), []
    for name in sorted(known.names("model")):
        card: ModelCard = known.make("model", name)
        if not card.can_be_planned or card.fps is None:
            continue
        for size in card.sizes or (None,):
            lossless = plan_memory(name, "full", size=size, registry=known)
            cells = [peak_and_cache(lossless.unmodified), peak_and_cache(lossless.need)]
            cells += [clip_under(known, name, size, codec) for codec in CLIP_CODECS]
            tokens = lossless.batch.geometry.schedule.total
            rows.append([f"`{name}`", size or "", f"{tokens:,}", *cells])
    titles = ["model", "size", "tokens", "unmodified", "`full`"]
    return table([*titles, *(f"`scalekv` {codec}".removesuffix(" dense") for codec in CLIP_CODECS)], rows)


def clip_under(known: Registry, name: str, size: str | None, codec: str) -> str:
    """What a clip takes under a policy with this codec; an image reads nothing but its text, which is always kept."""
    try:
        plan = plan_memory(name, "scalekv", size=size, codec=codec, registry=known)
    except BudgetError:
        return ""
    return peak_and_cache(plan.need) if codec == CLIP_CODECS[0] else format_bytes(plan.need.cache)


def peak_and_cache(need: MemoryNeed) -> str:
    """The most at one moment, and the cache alone, in one unit."""
    return f"{format_bytes(need.total)} ({format_bytes(need.cache)})"


# -- what is found out by trying ----------------------------------------------------------------------------------


def shares(policy: Policy) -> str:
    """Whether layers, or heads of a layer, may hold more than others: seen from a plan."""
    profile = random_profile(GEOMETRY) if policy.needs_profile else None
    held = plan_policy(policy, GEOMETRY, profile=profile).plan.held
    if (held != held[:, :, :1]).any():
        return "by head"
    return "by layer" if (held != held[:, :1]).any() else "equal"


def differs_by_head(selector: TokenSelector) -> bool:
    """Whether the heads of a layer may keep other tokens: seen from its choice among random keys."""
    chosen = choose(selector, random_view(selector))
    return bool((chosen != chosen[:, :1]).any())


def queries_scored(selector: TokenSelector) -> str:
    """How many queries of the map are multiplied with all keys to choose: counted from the products that are made."""
    view = random_view(selector)
    with FlopCounterMode(display=False) as counter:
        choose(selector, view)
    queries = round(counter.get_total_flops() / (2 * view.k.numel()))
    if queries == 0:
        return "positions"
    return "all queries" if queries == view.current else f"{queries} queries"


def choose(selector: TokenSelector, view: CacheView) -> torch.Tensor:
    """The kept tokens, after the selector has observed the view."""
    return selector.select(evolve(view, statistics=dict(selector.observe(view))), HELD)


def random_view(selector: TokenSelector) -> CacheView:
    """The last map after which tokens are evicted, with a tenth of the history."""
    generator = torch.Generator().manual_seed(0)
    history, current = SCHEDULE.history[SCALE], SCHEDULE.tokens[SCALE]
    q, k, v = (torch.randn(1, HEADS, n, WIDTH, generator=generator) for n in (current, *2 * [HELD + current]))
    kept = torch.randperm(history, generator=generator)[:HELD].sort().values
    positions = torch.cat([kept, torch.arange(history, history + current)]).to(torch.int32).expand(1, HEADS, -1)
    before = {name: torch.rand(1, HEADS, HELD + current, generator=generator) for name in selector.statistics}
    return CacheView(
        q=q, k=k, v=v, positions=positions, statistics=before,
        schedule=SCHEDULE, layer=1, scale=SCALE, heads=tuple(range(HEADS)), softmax_scale=WIDTH**-0.5,
    )  # fmt: skip


def random_profile(geometry: CacheGeometry) -> AttentionProfile:
    """A profile in which every head differs from the others."""
    rng = np.random.default_rng(0)
    scales = len(geometry.schedule)
    shape = (scales, geometry.layers, geometry.heads)
    mass = rng.random((*shape, scales)) * np.tri(scales)[:, None, None, :]
    mass /= mass.sum(axis=-1, keepdims=True)
    top = np.sort(rng.random((*shape, len(FRACTIONS))), axis=-1)
    entropy, variance = rng.random((2, *shape), dtype=np.float32)
    return AttentionProfile(
        model="random",
        schedule=geometry.schedule,
        mass=mass.astype(np.float32),
        top_share=top.astype(np.float32),
        entropy=entropy,
        column_variance=variance,
    )


# -- Markdown -----------------------------------------------------------------------------------------------------


def arxiv(paper: str) -> list[str]:
    """The arXiv numbers in a reference, as links."""
    return [f"[{number}](https://arxiv.org/abs/{number})" for number in re.findall(r"arXiv (\d{4}\.\d{5})", paper)]


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def aligned(found: re.Match[str]) -> str:
    """A table whose columns of figures are aligned to the right."""
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in found["rows"].splitlines()]
    rules = ["---:" if holds_figures(column) else "---" for column in zip(*cells, strict=True)]
    return f"{found['titles']}| {' | '.join(rules)} |\n{found['rows']}"


def holds_figures(cells: Iterable[str]) -> bool:
    """Whether a column has figures, and beside them only empty cells."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    return bool(filled) and all(map(FIGURE.match, filled))


TABLES: dict[str, Callable[[], str]] = {
    "readme": readme,
    "policies": policies,
    "properties": properties,
    "parts": parts,
    "reference": reference,
    "testing": testing,
    "ran": ran,
    "fitting": fitting,
    **{f"results-{model}": partial(results, model) for model in MODELS},
    "digits-10": partial(digits_at, "10%"),
    "captions-10": partial(captions_at, "10%"),
    "codecs-10": partial(codecs_at, "var-tiny", "10%"),
    "captions-codecs-10": partial(codecs_at, "infinity-tiny", "10%"),
    "mergers": mergers,
    "differences": differences,
    "memory": memory,
    "clips": clips,
    **{f"checks-{kind}": partial(table_of_checks, kind) for kind in KINDS},
}


def filled(page: str) -> str:
    """A page with its tables written, and the columns of all tables aligned."""
    written = BLOCK.sub(lambda found: f"{found[1]}\n{TABLES[found['name']]()}\n{found[3]}", page)
    return TABLE.sub(aligned, written)


def main() -> None:
    """Writes the tables into the pages."""
    for path in [*sorted(PAGES.glob("**/*.md")), PAGES.parent / "README.md", PAGES.parent / "policies" / "README.md"]:
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"written: {path.name}")


if __name__ == "__main__":
    main()
