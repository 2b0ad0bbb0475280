"""The verdict on each deviation, and the page of them."""

from collections.abc import Mapping, Sequence

from tests.experiments.deviations.heard import Heard, Heards
from tests.experiments.deviations.rows import Deviation

SAME, LENIENT, STRICTER, MENDED = "as the package", "more lenient", "stricter on purpose", "mended on purpose"
WRONG = "DIFFERENT"
INTRODUCTION = """# Deviations

Answers of providers in an odd form: read by the official package itself, and through the service, delivered
`live` and `whole`. The service is lenient about the form of events and strict about ends. *stricter on
purpose*: the package goes on, or ends without an error, and the service fails. `all`: the whole answer, no
error. `half, no error`: the application cannot tell that words are missing. Made by
`python -m tests.experiments.deviations --write`; `nox -s contract` checks it.
"""


def verdict(row: Deviation, package: Heard, through: Heard) -> str:
    """Return how the service compares with the package on one deviation."""
    if row.whole != (not through.error) or (row.whole and not is_all(row, through)):
        return WRONG
    if package.error:
        return LENIENT if row.whole else SAME
    if not row.whole:
        return STRICTER if row.purpose else WRONG
    if is_all(row, package):
        return SAME
    return MENDED if row.purpose else WRONG


def is_all(row: Deviation, heard: Heard) -> bool:
    """Return whether the application has the whole answer."""
    return heard.text == row.text and tuple(heard.calls.values()) == row.calls and not heard.error


def unexplained(rows: Sequence[Deviation], heard: Sequence[Heards]) -> list[str]:
    """Return the differences without an explanation."""
    found = []
    for row, (package, *through) in zip(rows, heard, strict=True):
        if WRONG in (verdict(row, package, one) for one in through):
            found.append(f"{row.dialect}: {row.what}: {package} / {through}")
    return found


def page(sections: Mapping[str, Sequence[Deviation]], heard: Sequence[Heards]) -> str:
    """docs/prove/deviations.md."""
    left = iter(heard)
    lines = [INTRODUCTION]
    for title, rows in sections.items():
        lines += [
            f"## {title}",
            "",
            "| deviation | package | live | whole | verdict | why |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_line(row, next(left)) for row in rows]
        lines.append("")
    return "\n".join(lines)


def _line(row: Deviation, heard: Heards) -> str:
    package, live, whole = heard
    verdicts = dict.fromkeys(verdict(row, package, one) for one in (live, whole))
    why = row.purpose if verdicts.keys() & {STRICTER, MENDED} else ""
    told = [_told(row, package), *("an error" if one.error else _told(row, one) for one in (live, whole))]
    cells = [row.what.replace("|", "\\|"), *told, ", ".join(verdicts), why]
    return f"| {' | '.join(cells)} |"


def _told(row: Deviation, heard: Heard) -> str:
    if is_all(row, heard):
        return "all" if row.whole else "half, no error"
    if heard.error:
        return f"`{heard.error}`"
    parts = [f'"{heard.text}"'] if heard.text else []
    parts += [f"`{arguments}`" for arguments in heard.calls.values()]
    return f"{', '.join(parts) or 'nothing'}, no error"
