"""All wrong strategies, and the table of what catches them: ``python -m tests.wrong_strategies.table``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from scalekv_core.testing import Specimen, toy
from scalekv_core.testing.kinds import kind_of
from scalekv_core.testing.proving import Subject
from scalekv_core.testing.running import try_all
from tests.wrong_strategies import adapters, models, plans, policies, selectors, storage  # noqa: F401  (they fill the catalogue)
from tests.wrong_strategies.catalogue import WRONG, Wrong

TOY = Specimen.of_card(toy.ToyCard())


def subject_of(wrong: Wrong) -> Subject:
    """The strategy as the kit sees it; adapters with the toy model."""
    kind = kind_of(wrong.make())
    return Subject(kind, wrong.name, wrong.make, TOY if kind == "adapter" else None)


def rows(wrong: Sequence[Wrong], *, examples: int) -> Iterator[tuple[str, str, str, float, str]]:
    """(kind, strategy, promise, seconds of the whole kit, other promises that are broken too)."""
    for one in wrong:
        subject, start = subject_of(one), time.perf_counter()
        outcomes = list(try_all(subject, examples=examples, timeout=1.0))
        broken = [outcome.promise for outcome in outcomes if outcome.state in ("broken", "hangs")]
        caught = one.promise if one.promise in broken else f"NOT CAUGHT by {one.promise}"
        others = ", ".join(name for name in broken if name != one.promise)
        yield subject.kind, one.name, caught, time.perf_counter() - start, others


def main() -> None:
    """Prints the table; the number of examples may be given."""
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for kind, name, promise, seconds, others in rows(WRONG, examples=examples):
        print(f"{kind:10} {name:24} {promise:36} {seconds:6.2f} s  {others}", flush=True)


if __name__ == "__main__":
    main()
