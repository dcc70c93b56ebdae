"""The tables of the documentation that come from the registry: ``make tables`` writes them into the pages.

A table stands between two comments, ``<!-- table: NAME -->`` and ``<!-- end of table -->``. In every table of a page, columns
of figures are aligned to the right. A test compares the pages with what this would write. Figures of fidelity are read from
``data/*.json``, which the modules ``compare`` of var-tiny and infinity-tiny write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from attrs import evolve
from torch.utils.flop_counter import FlopCounterMode

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
from scalekv_core.contracts.options import options_of
from scalekv_core.contracts.policy import PARTS
from scalekv_core.contracts.profile import FRACTIONS
from scalekv_core.memory.need import MemoryNeed
from scalekv_core.models.card import ModelCard
from scalekv_core.plugins.offers import summary_of
from scalekv_core.shapes.geometry import format_bytes
from scalekv_core.testing.kinds import KINDS, checks_of

PAGES = Path(__file__).parent
JUDGED, ENCODED = PAGES / "data" / "judged.json", PAGES / "data" / "codecs.json"
CAPTIONS, ENCODED_CAPTIONS = PAGES / "data" / "captions.json", PAGES / "data" / "captions-codecs.json"
UNMODIFIED = "unmodified"
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

TABLE = re.compile(r"(?P<titles>^\|.*\|\n)^\|[ :|-]+\|\n(?P<rows>(?:^\|.*\|\n)+)", re.MULTILINE)
FIGURE = re.compile(r"identical$|[-+]?\d[\d,.]*( ?(%|dB|s|ms|[KMG]iB|±|\(|,|x|$)|$)")

SCHEDULE = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=32, heads=16, head_dim=128)
"""Infinity-2B at 1024 x 1024."""
SCALE, HELD, HEADS, WIDTH = 11, 642, 2, 16
"""The view of the selectors: the last map after which tokens are evicted, a tenth of the history, two narrow heads."""

COMPARED = (
    ("fold", "scalekv"),
    ("fold", "uniform"),
    ("scalekv", "uniform"),
    ("fold codec=int4", "fold"),
    ("fold codec=int4", "scalekv"),
)
"""Policies whose difference is shown with what it scatters over seeds."""

BUDGETS = ("50%", "20%", "10%", "5%", "2.5%")

BATCHES = (1, 8)
PLANNED = ("full", "scalekv")
"""What the table of whole models shows: images at once, and policies under their own budgets."""


def registry() -> Registry:
    """What ships with scalekv, whatever else is installed."""
    return Registry.installed(["scalekv-policies", "scalekv-adapters"])


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


def judged(budgets: Container[str] = BUDGETS) -> str:
    """What every policy does to digits of var-tiny: the rows at some budgets, as far as they were measured."""
    rows = [
        [named(row), row["budget"], f"{row['judged']['recognised']:.1%}", *in_figures(row)]
        for row in measured(JUDGED)
        if row["budget"] in budgets
    ]
    return table(["policy", "budget", "recognised", "PSNR", "same tokens", "KL, forced", "of unmodified"], rows)


def encoded(path: Path, budgets: tuple[str, ...] = ("20%", "10%", "5%", "2.5%")) -> str:
    """What policies do with and without codecs: a line for each, a column for each budget."""
    lines: dict[str, dict[str, str]] = {}
    for row in measured(path):
        psnr, _, kl, held = in_figures(row)
        lines.setdefault(named(row), {})[row["budget"]] = f"{kl}, {psnr}, {held}"
    rows = [[name, *(cells.get(budget, "") for budget in budgets)] for name, cells in lines.items()]
    return table(["KL, PSNR, of unmodified", *budgets], rows)


def encoded_at(path: Path, budget: str, policies: Container[str] = ("fold", "scalekv", "uniform")) -> str:
    """What some policies do with and without codecs at one budget: a line for each pair."""
    rows = []
    for row in measured(path):
        if row["budget"] == budget and row["policy"] in policies:
            psnr, same, kl, held = in_figures(row)
            rows.append([f"`{row['policy']}`", f"`{row['options'].get('codec', 'dense')}`", kl, psnr, same, held])
    return table(["policy", "codec", "KL, forced", "PSNR", "same", "of unmodified"], rows)


def differences(budgets: tuple[str, ...] = ("20%", "10%", "5%")) -> str:
    """How much further one policy is than another: means over batches of the same pictures, with their standard errors."""
    found = {(row["policy"], row["budget"]): row for row in measured(ENCODED)}
    rows = []
    for one, other in COMPARED:
        pairs = [(found[one, budget], found[other, budget]) for budget in budgets]
        cells = [f"{further(*pair, 'kl', 3)}, {further(*pair, 'psnr', 1)} dB" for pair in pairs]
        rows.append([f"`{one}` against `{other}`", *cells])
    return table(["KL, PSNR", *budgets], rows)


def further(one: dict[str, Any], other: dict[str, Any], figure: str, digits: int) -> str:
    """The mean difference of a figure, batch by batch, and its standard error."""
    pairs = zip(one["batches"], other["batches"], strict=True)
    differences = [mine[figure] - theirs[figure] for mine, theirs in pairs]
    return f"{fmean(differences):+.{digits}f} ± {error_of_mean(differences):.{digits}f}"


def captions(budgets: Container[str] = BUDGETS) -> str:
    """What every policy does to the captions of infinity-tiny, task by task."""
    rows = [
        [named(row), row["budget"], *(f"{share:.0%}" for share in row["judged"].values()), *in_figures(row)]
        for row in measured(CAPTIONS, unmodified=True)
        if row["policy"] == UNMODIFIED or row["budget"] in budgets
    ]
    looked_at = next(iter(measured(CAPTIONS)))["judged"]
    return table(["policy", "budget", *looked_at, "PSNR", "same bits", "KL, forced", "of unmodified"], rows)


def measured(path: Path, *, unmodified: bool = False) -> list[dict[str, Any]]:
    """The rows of a file, on demand with the unmodified model's."""
    rows = json.loads(path.read_text(encoding="utf-8")).values()
    return [row for row in rows if unmodified or row["policy"] != UNMODIFIED]


def named(row: dict[str, Any]) -> str:
    """The policy of a row with the options that were set."""
    return " ".join([f"`{row['policy']}`", *(f"{option}={value}" for option, value in row["options"].items())])


def in_figures(row: dict[str, Any]) -> list[str]:
    """PSNR, share of equal tokens, divergence, share of bytes."""
    if row["policy"] == UNMODIFIED:
        return ["", "", "", "100.0%"]
    kl = "" if row["kl"] is None else f"{row['kl']:.3f}{scatter([batch['kl'] for batch in row['batches']])}"
    held = row["resident_bytes"] / row["unmodified_bytes"]
    return [f"{row['psnr']:.1f} dB", f"{row['agreement']:.1%}", kl, f"{held:.1%}"]


def scatter(figures: Sequence[float]) -> str:
    """The standard error of the mean of figures, as far as there are enough to tell."""
    return f" ± {error_of_mean(figures):.3f}" if len(figures) > 2 else ""


def error_of_mean(figures: Sequence[float]) -> float:
    """The standard error of the mean."""
    return float(stdev(figures) / len(figures) ** 0.5)


def nearness(name: str) -> list[str]:
    """PSNR, share of equal tokens and divergence of a policy at 10 %; empty where it was not measured."""
    if name == "full":
        return ["identical", "100.0%", "0.000"]
    found = [row for row in measured(JUDGED) if (row["policy"], row["budget"]) == (name, "10%") and not row["options"]]
    return [figure.partition(" ±")[0] for figure in in_figures(found[0])[:3]] if found else ["", "", ""]


def memory() -> str:
    """What whole models take at once, and their caches alone: model by size by batch by policy."""
    known, rows = registry(), []
    for name in sorted(known.names("model")):
        card: ModelCard = known.make("model", name)
        if not card.can_be_planned:
            continue
        for size in card.sizes[1::2] or (None,):  # every other one: the table is long enough
            for images in BATCHES:
                plans = [plan_memory(name, policy, images=images, size=size, registry=known) for policy in PLANNED]
                unmodified = peak_and_cache(plans[0].unmodified)
                tokens = plans[0].batch.geometry.schedule.total
                cells = [unmodified, *(peak_and_cache(plan.need) for plan in plans)]
                rows.append([f"`{name}`", size or "", f"{tokens:,}", str(images), *cells])
    return table(["model", "size", "tokens", "images", "unmodified", *(f"`{name}`" for name in PLANNED)], rows)


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
    "judged": judged,
    "codecs": partial(encoded, ENCODED),
    "captions-codecs": partial(encoded, ENCODED_CAPTIONS),
    "differences": differences,
    "judged-10": partial(judged, ["10%"]),
    "captions": captions,
    "captions-10": partial(captions, ["10%"]),
    "codecs-10": partial(encoded_at, ENCODED, "10%"),
    "captions-codecs-10": partial(encoded_at, ENCODED_CAPTIONS, "10%"),
    "memory": memory,
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
