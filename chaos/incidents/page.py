"""The index of all incidents: docs/prove/incidents.md."""

from collections.abc import Iterator, Sequence

from dub5.chaos.incidents.replay import IncidentReplay
from dub5.chaos.report.axis import span
from dub5.chaos.run.verdict import Question, VerdictLine, percent

HEAD = """\
# Incidents

Real outages of providers and of services in front of them, replayed from the first minute to the last on virtual time:
the real service over simulated providers, with two or three healthy providers next to the failing one, and load that is
dense at every change and sparse in between. Each incident is a [scenario](../../chaos/scenarios/incidents), with its
source and how reliable that is. This page is made by

```sh
dub5 simulate --incidents --index docs/prove/incidents.md
```

which also writes a report with a picture for each (`reports/incidents/`). A single incident: `dub5 simulate --incidents
openai-2024-12-04`. Each incident is replayed a second time without one mechanism, and must fail then: a check that cannot
fail proves nothing.

"""
TERMS = """
*Complete*: requests that got a complete answer. *Noticed*: time from the start of a fault until the last request that
waited longer than usual or got no answer (99 of 100 requests after that were as before). *Attempts*: at providers, per
request during faults. *Without*: complete answers to the same requests with the mechanism switched off. `failover`: each
route has its first target only. `standing_per_target`: the state of one model applies to all models of its provider.
`last_settings`: invalid settings are treated as empty settings.

## What was expected of each
"""


def page(replays: Sequence[IncidentReplay]) -> str:
    """All of it, in Markdown. Says nothing of machine or time: equal runs make equal pages."""
    rows = sorted(replays, key=lambda one: one.name)
    held = sum(one.ok for one in rows)
    said = f"{held} of {len(rows)} held, and failed without their mechanism.\n"
    return "\n".join([HEAD + said, *_table(rows), TERMS, *_expectations(rows)])


def _table(rows: Sequence[IncidentReplay]) -> Iterator[str]:
    yield "| incident | what happened | duration | requests | complete | noticed | attempts | without | |"
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
