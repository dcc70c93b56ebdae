"""All wrong strategies, and the table of what catches them: ``python -m tests.wrong_strategies.table``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from scalekv_core.testing import TestModel, toy
from scalekv_core.testing.kinds import kind_of
from scalekv_core.testing.running import try_all
from scalekv_core.testing.trying import Subject
from tests.wrong_strategies import adapters, beside, metrics, models, plans, policies, selectors, storage, unseen  # noqa: F401  (they fill the catalogue)
from tests.wrong_strategies.catalogue import WRONG, Wrong

TOY = TestModel.of_card(toy.ToyCard())


def subject_of(wrong: Wrong) -> Subject:
    """The strategy as the kit sees it; adapters with the toy model."""
    kind = kind_of(wrong.make())
    return Subject(kind, wrong.name, wrong.make, TOY if kind == "adapter" else None)


def rows(wrong: Sequence[Wrong], *, examples: int) -> Iterator[tuple[str, str, str, float, str]]:
    """(kind, strategy, check, seconds of processor time of the whole kit, other checks that fail, too)."""
    for one in wrong:
        subject, start = subject_of(one), time.process_time()
        outcomes = list(try_all(subject, examples=examples, timeout=1.0 if one.name == "Endless" else 10.0))
        broken = [outcome.check for outcome in outcomes if outcome.is_wrong]
        caught = one.check if one.check in broken else f"NOT CAUGHT by {one.check}"
        others = ", ".join(name for name in broken if name != one.check)
        yield subject.kind, one.name, caught, time.process_time() - start, others


def main() -> None:
    """Prints the table; the number of examples may be given."""
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for kind, name, check, seconds, others in rows(WRONG, examples=examples):
        print(f"{kind:10} {name:24} {check:36} {seconds:6.2f} s  {others}", flush=True)


if __name__ == "__main__":
    main()
