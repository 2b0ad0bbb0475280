"""The HTML report of a load run: one self-contained file, in the style of the chaos reports."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from dub5.chaos.report.html import STYLE
from dub5.loadtests.stages import StageTime
from dub5.loadtests.summary import SummaryRow

SPANS = (
    *("first_token_ms", "direct_ms", "added_ms", "turn_first_token_ms", "turn_added_ms", "resume_ms"),
    *("longest_gap_ms", "json_ms", "cached_ms", "degraded_ms", "late_ms"),
)
QUANTILES = {"p50": "p50", "p95": "p95", "p99": "p99", "p999": "p99.9"}


def html(
    facts: str, summary: Mapping[str, Any], stages: Sequence[StageTime], rows: Sequence[SummaryRow]
) -> str:
    """Return the whole page. `facts`: what was run, where and when."""
    held = all(row.held for row in rows)
    word, kind = ("HELD", "good") if held else ("DID NOT HOLD", "bad")
    parts = [
        f'<header><p class="badge {kind}">{word}</p><h1>Load run</h1><p>{escape(facts)}</p></header>',
        _section("Objectives", _table(("objective", "bound", "value", ""), map(_objective, rows))),
        _section("Milliseconds", _table(("", *QUANTILES.values()), _spans(summary))),
        _section("Stages of the service", _stages(stages)),
        _section("Turns of conversations", _table(("", "value"), _turns(summary["turns"]))),
        _section("How requests ended", _counts(summary["outcomes"]) + _counts(summary["why"])),
        _section("Kinds of requests", _counts(summary["by_kind"])),
        _section("Who answered", _counts(summary["by_target"])),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{word}: load run</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def spans(summary: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, float | None]]]:
    """Yield the name and the quantiles of each time that was measured."""
    for name in SPANS:
        if summary[name]["p50"] is not None:
            yield name.removesuffix("_ms").replace("_", " "), summary[name]


def _objective(row: SummaryRow) -> tuple[str, ...]:
    value = "no value" if row.value is None else f"{row.value:g}"
    word, kind = ("held", "good") if row.held else ("not held", "bad")
    return escape(row.name), f"{row.bound:g}", value, f'<span class="{kind}">{word}</span>'


def _spans(summary: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for name, found in spans(summary):
        yield name, *(f"{found[quantile]:.1f}" for quantile in QUANTILES)


def _stages(stages: Sequence[StageTime]) -> str:
    head = ("the slowest first", "count", "p95 at most, ms", "ms a request")
    return _table(
        head,
        ((escape(one.name), str(one.count), f"{one.p95_ms:.1f}", f"{one.request_ms:.2f}") for one in stages),
    )


def _turns(turns: Mapping[str, float | None]) -> Iterable[Sequence[str]]:
    return ((name.replace("_", " "), f"{value:g}") for name, value in turns.items() if value is not None)


def _counts(counts: Mapping[str, int]) -> str:
    return _table(("", "requests"), ((escape(name), str(count)) for name, count in counts.items() if count))


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, or nothing without rows. Cells are HTML already."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    titles = "".join(f"<th scope=col>{title}</th>" for title in head)
    table = f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
    return table if body else ""
