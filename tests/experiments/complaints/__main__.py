"""docs/prove/complaints.md, made from rows.toml.

Run `python -m tests.experiments.complaints > docs/prove/complaints.md`.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from tests.experiments.complaints.mutants import MUTANTS
from tests.experiments.complaints.table import THEMES, ComplaintRow, rows

HEAD = """\
# Complaints

Problems that users of other gateways have reported in public, and the tests that would catch them here. Each
row is one or more real threads, summarised in our own words. Some are fixed in newer versions: check before
you quote them. "?" marks problems that are known only from their reporter, or from the title.

{counts}

A test is named by its path and name, an invariant of the [simulation](simulation.md) by its name. A test
checks that all of them exist, and that this page is the output of `python -m tests.experiments.complaints >
docs/prove/complaints.md` for [the table](../../tests/experiments/complaints/rows.toml).
"""
TAIL = """\
## Broken builds

For each theme the service is broken on purpose, in the way that users reported; the test named here must fail
then, and pass in the regular build: [mutants.py](../../tests/experiments/complaints/mutants.py). The
simulation has [more of these](simulation.md#broken-builds).

| theme | broken build | failing test |
|---|---|---|
"""


def page() -> str:
    """Return the whole page."""
    counts = Counter(row.kind for row in rows())
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("caught", "by design", "not built yet"))
    parts = [HEAD.format(counts=f"Of {len(rows())}: {told}.")]
    for theme in THEMES:
        parts.append(f"## {theme.capitalize()}\n\n| # | what happened | here |\n|---|---|---|\n")
        parts[-1] += "".join(_line(row) for row in rows() if row.theme == theme)
    mutants = "".join(f"| {m.theme} | {m.broken} | {_code([m.test])} |\n" for m in MUTANTS)
    return "\n".join([*parts, TAIL + mutants])


def _line(row: ComplaintRow) -> str:
    mark = "" if row.surely else " ?"
    here = " ".join(_here(row))
    return f"| {row.number} | {row.happened}{mark} {' '.join(_links(row.threads))} | {here} |\n"


def _here(row: ComplaintRow) -> Iterator[str]:
    if row.not_built:
        yield f"**Not built yet.** {row.not_built}"
    if row.by_design:
        yield f"**By design.** {row.by_design}"
        yield ", ".join(f"[{path.rpartition('/')[2]}](../../{path})" for path in row.place) + "."
    yield _code(row.caught_by) + "."
    if row.note:
        yield row.note


def _links(threads: Iterable[str]) -> Iterator[str]:
    for thread in threads:
        repository, _, number = thread.partition("#")
        name = repository.partition("/")[2]
        yield f"[{name}#{number}](https://github.com/{repository}/issues/{number})"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name.removeprefix('simulate:')}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(page())
