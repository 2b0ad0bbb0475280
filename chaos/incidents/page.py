"""The index of all incidents: docs/prove/incidents.md."""

from collections.abc import Iterator, Sequence

from dub5.chaos.incidents.replay import IncidentReplay
from dub5.chaos.report.axis import span
from dub5.chaos.run.verdict import Question, VerdictLine, percent

HEAD = """\
# Incidents

What has happened to providers and to those in front of them, played against this service from its first minute to its
last, in virtual time: the real service over simulated providers, with two or three healthy neighbours, and load that is
dense at every change and sparse in between. Each is a [scenario](../../chaos/scenarios/incidents), with its source and how
sure that is. This page is made by

```sh
dub5 simulate --incidents --index docs/prove/incidents.md
```

which also writes a report with a picture for each (`reports/incidents/`). One alone: `dub5 simulate --incidents
openai-2024-12-04`. Each is played a second time without one mechanism, and must fail then: a check that cannot fail
proves nothing.

"""
TERMS = """
*Whole*: requests that got their whole answer. *Noticed*: how long after a fault began somebody last waited for longer
than usual, or got no answer (99 of 100 requests after that were as before). *Tries*: at providers, for each request that
came while something was wrong. *Without*: what became of the same requests when the mechanism was switched off.
`failover`: each route has its first target only. `standing_per_target`: what is known of one model is held against all
models of its provider. `last_settings`: settings that cannot be read are taken for empty ones.

## What was expected of each
"""


def page(replays: Sequence[IncidentReplay]) -> str:
    """All of it, in Markdown. Says nothing of machine or time: equal runs make equal pages."""
    rows = sorted(replays, key=lambda one: one.name)
    held = sum(one.ok for one in rows)
    said = f"{held} of {len(rows)} held, and failed without their mechanism.\n"
    return "\n".join([HEAD + said, *_table(rows), TERMS, *_expectations(rows)])


def _table(rows: Sequence[IncidentReplay]) -> Iterator[str]:
    yield "| incident | what happened | lasted | requests | whole | noticed | tries | without | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in rows:
        scenario = one.scenario
        link = f"[{one.name}](../../chaos/scenarios/incidents/{one.name}.toml)"
        yield (
            f"| {link} | {scenario.title.partition(': ')[2]} | {span(scenario.heal_s - scenario.first_fault_s)} | "
            f"{one.requests:,} | {percent(one.complete)} | {one.noticed_s:.1f} s | {one.tries_each:.2f} | "
            f"`{scenario.off}`: {percent(one.complete_without)} | {'held' if one.ok else '**NOT HELD**'} |"
        )


def _expectations(rows: Sequence[IncidentReplay]) -> Iterator[str]:
    for one in rows:
        yield f"\n### {one.name}\n\n{one.scenario.title}. Source ({one.scenario.confidence}): {one.scenario.source}\n"
        for line in one.lines:
            if line.question is not Question.RAN:
                yield f"- {'' if line.ok else '**not held** '}{_format_line(line)}"
        yield f"- without {one.scenario.off} this does not hold: {'; '.join(one.missed) or '**nothing: it cannot fail**'}"


def _format_line(line: VerdictLine) -> str:
    return f"{line.expectation}: {line.result}"
