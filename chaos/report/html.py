"""The HTML report of a run: one self-contained file, without scripts or network access."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from dub5.chaos.report.axis import clock
from dub5.chaos.report.figures import WORSE, state_of
from dub5.chaos.report.narrative import LONG_S, first_tokens_text, narrative, notes
from dub5.chaos.report.timeline import Picture
from dub5.chaos.run.journal import Journal, RequestResult
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.run.verdict import Question, RunVerdict, outcomes
from dub5.chaos.scenario.model import Scenario

ROWS_MAX = 60
CELL_MAX = 300  # characters of a reason or trail
ADDRESS = re.compile(
    r"(?:https?://)?(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?(?:/[\w./?=&%#~+-]*[\w/])?", re.IGNORECASE
)
CONFIDENCE = {
    "primary": "the provider's own account",
    "secondary source": "news, trackers and digests: the shape is right, details may not be",
    "unverified": "not checked",
}
ANSWERS = {
    Question.RAN: ("The run was as planned.", "The run was not as planned: the rest proves little."),
    Question.HELD: ("Every expectation held.", "An expectation failed."),
    Question.RECOVERED: ("The service recovered in time.", "The service did not recover in time."),
}
STYLE = (files("dub5.chaos.report") / "report.css").read_text(encoding="utf-8")


def write(journal: Journal, verdict: RunVerdict, folder: Path) -> tuple[Path, Path]:
    """Write the report and the journal next to it. Return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = journal.started.replace(":", "").replace(" ", "-")
    page = folder / f"{journal.scenario.name}-{journal.engine}-{stamp}.html"
    record = page.with_suffix(".json")
    page.write_text(html(journal, verdict), encoding="utf-8")
    record.write_bytes(journal.json())
    return page, record


def html(journal: Journal, verdict: RunVerdict) -> str:
    """Return the whole page."""
    scenario = journal.scenario
    word, kind = ("HELD", "good") if verdict.ok else ("DID NOT HOLD", "bad")
    facts = f"{journal.started} UTC, engine {journal.engine}, seed {journal.seed}, {journal.machine}"
    parts = [
        f'<header><p class="badge {kind}">{word}</p><h1>{escape(scenario.title)}</h1>',
        f"<p>{escape(scenario.why.strip())}</p>{_source(scenario)}",
        f"<p class=quiet>{escape(facts)}</p></header>",
        _section("What happened", _sentences([*_answers(verdict), *narrative(journal), *notes(journal)])),
        _section("The run in a picture", _legend(journal) + _framed(Picture(journal).svg())),
        _section("The verdict, line by line", _verdict(verdict)),
        _section("How requests ended", _outcomes(journal)),
        _section("The providers", _providers(journal)),
        _routes(journal),
        _section("Every request without a complete answer", _incomplete(journal)),
        _section("Run it again", _again(journal)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{word}: {escape(scenario.title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _source(scenario: Scenario) -> str:
    """Return the source of the incident with links, and its confidence."""
    if not scenario.source:
        return ""
    confidence = scenario.confidence
    meaning = f" ({CONFIDENCE[confidence]})" if confidence in CONFIDENCE else ""
    sure = f" Confidence: {confidence}{meaning}." if confidence else ""
    return f"<p>Source: {_linked(scenario.source)}.{escape(sure)}</p>"


def _linked(text: str) -> str:
    """Return the text with its addresses as links. Only http and https become links."""
    parts, done = [], 0
    for found in ADDRESS.finditer(text):
        written = found.group()
        address = written if written.lower().startswith(("http://", "https://")) else f"https://{written}"
        parts += [escape(text[done : found.start()]), f'<a href="{escape(address)}">{escape(written)}</a>']
        done = found.end()
    return "".join(parts) + escape(text[done:])


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _sentences(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _framed(svg: str) -> str:
    return f'<div class="wide">{svg}</div>'


def _answers(verdict: RunVerdict) -> list[str]:
    questions = dict.fromkeys(line.question for line in verdict.lines)
    return [" ".join(ANSWERS[question][0 if verdict.answer(question) else 1] for question in questions)]


def _legend(journal: Journal) -> str:
    keys = [(f"p{index % 6}", name) for index, name in enumerate(journal.scenario.providers)]
    counts = outcomes(journal.requests)
    keys += [
        (outcome.value, outcome.value)
        for outcome in ClientOutcome
        if counts[outcome] and outcome != ClientOutcome.COMPLETE
    ]
    states = {state_of(sample.breaker, sample.cooling_s) for sample in journal.samples}
    met = [(f"s-{escape(state)}", state.replace("_", "-")) for state in WORSE if state in states]
    return _keys("", keys) + (_keys("Circuit breakers: ", met) if met else "")


def _keys(what: str, keys: Iterable[tuple[str, str]]) -> str:
    spans = (f'<span><i class="{kind}"></i>{escape(name)}</span>' for kind, name in keys)
    return f'<p class="legend">{what}{"".join(spans)}</p>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. Cells are HTML already."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    titles = "".join(f"<th scope=col>{title}</th>" for title in head)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _verdict(verdict: RunVerdict) -> str:
    return _table(
        ("", "question", "expected", "observed"),
        (
            (
                f'<b class="{"good" if line.ok else "bad"}">{"yes" if line.ok else "NO"}</b>',
                line.question.value,
                escape(line.expectation),
                escape(line.result),
            )
            for line in verdict.lines
        ),
    )


def _outcomes(journal: Journal) -> str:
    counted = outcomes(journal.requests)
    rows = [(outcome.value, str(count)) for outcome, count in counted.items() if count]
    happened = [(name.replace("_", " "), str(count)) for name, count in journal.happened.items() if count]
    intro = f"<p>Events, counted by {escape(journal.counted_by)}:</p>"
    return _table(("outcome", "requests"), rows) + intro + _table(("event", "times"), happened)


def _providers(journal: Journal) -> str:
    rows = []
    for name, persona in journal.scenario.providers.items():
        attempts = [line for line in journal.ledger if line.provider == name]
        complete = [s for s in journal.requests if s.provider == name and s.outcome is ClientOutcome.COMPLETE]
        faulty = sum(bool(line.faults) for line in attempts)
        rows.append((escape(name), escape(persona), str(len(attempts)), str(faulty), str(len(complete))))
    return _table(("provider", "persona", "attempts", "of these with a fault", "complete answers"), rows)


def _routes(journal: Journal) -> str:
    """Return the table of routes; empty if all requests used one."""
    by_route: dict[str, list[RequestResult]] = {}
    for result in journal.requests:
        by_route.setdefault(result.route, []).append(result)
    if len(by_route) < 2:
        return ""
    rows = []
    for route, requests in sorted(by_route.items()):
        complete = sum(result.outcome is ClientOutcome.COMPLETE for result in requests)
        rows.append((escape(route), str(len(requests)), str(complete), escape(first_tokens_text(requests))))
    return _section(
        "The routes", _table(("route", "requests", "complete answers", "time to first token"), rows)
    )


def _incomplete(journal: Journal) -> str:
    bad = [result for result in journal.requests if result.outcome is not ClientOutcome.COMPLETE]
    if not bad:
        return "<p>None.</p>"
    bad.sort(key=lambda result: (result.honest, result.at_s))
    rows = [_row(journal, result) for result in bad[:ROWS_MAX]]
    more = f"<p>And {len(bad) - ROWS_MAX} more, in the journal.</p>" if len(bad) > ROWS_MAX else ""
    head = ("sent at", "outcome", "reason", "provider", "ended after", "planned", "attempts")
    return _table(head, rows) + more


def _row(journal: Journal, result: RequestResult) -> tuple[str, ...]:
    return (
        clock(result.at_s) if journal.scenario.workload.seconds > LONG_S else f"{result.at_s:.1f} s",
        result.outcome.value,
        escape(_short(result.reason)),
        escape(result.provider or "none"),
        f"{result.total_s:.2f} s",
        "yes" if journal.planned_cut(result) else "no",
        escape(_short(result.trail)),
    )


def _short(text: str) -> str:
    return text if len(text) <= CELL_MAX else f"{text[:CELL_MAX]}…"


def _again(journal: Journal) -> str:
    command = journal.scenario.command(journal.engine, journal.seed)
    return (
        f"<p>The same requests at the same moments: <code>{escape(command)}</code>. On virtual time the run "
        "repeats exactly; on real sockets timings vary. The journal is next to this page, as JSON.</p>"
    )
