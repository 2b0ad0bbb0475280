"""Compare an old record with a new one, in the new one's words. Pure: records in, lines of a report out."""

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from tests.experiments.equality.words import Words

SHOWN = 10  # worlds or requests with differences, of which the first is shown
BEFORE = 3  # lines of a trace before it
CHARS = 400
SIZE = "content-length"
END = "(nothing)"


class Report:
    """The lines of a report; `differ` counts worlds or requests that do."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.differ = self.count = 0

    def add(self, name: str, difference: list[str]) -> None:
        """Add one more world or request; an empty difference is none."""
        self.count += 1
        if difference:
            self.differ += 1
            if self.differ <= SHOWN:
                self.lines += [f"{name} differs:", *(f"  {line[:CHARS]}" for line in difference)]


def worlds(old: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]], words: Words) -> Report:
    """Compare traces, world by world."""
    report, lines = Report(), 0
    for before, after in itertools.zip_longest(old, new):
        if before is None or after is None:
            report.add(f"seed {(before or after)['seed']}", ["it is in one of the records only"])
            continue
        lines += len(before["lines"])
        report.add(f"seed {after['seed']}", _world(before, after, words))
    report.lines.append(
        f"{report.count} worlds, {lines} lines: {report.differ} worlds differ; {words.summary()}"
    )
    return report


def _world(old: dict[str, Any], new: dict[str, Any], words: Words) -> list[str]:
    if old["seed"] != new["seed"]:
        return [f"the old one has seed {old['seed']} here"]
    was, now = words.translated("\n".join(old["lines"])).split("\n"), list(new["lines"])
    was, now = (_kept(lines, words) for lines in (was, now))
    if was != now:
        return _first(was, now)
    outcomes = {words.translated(name): count for name, count in old["outcomes"].items()}
    violations = [words.translated(one) for one in old["violations"]]
    ends, ended = (outcomes, violations), (new["outcomes"], new["violations"])
    return [] if ends == ended else [f"- {ends}", f"+ {ended}"]


def _kept(lines: list[str], words: Words) -> list[str]:
    return [line for line in lines if not words.leaves_out(line)]


def _first(old: list[str], new: list[str]) -> list[str]:
    """Show the first lines that differ, and what came before them."""
    at = next(at for at, (was, now) in enumerate(itertools.zip_longest(old, new)) if was != now)
    was, now = (lines[at] if at < len(lines) else END for lines in (old, new))
    shared = [f"  {line}" for line in new[max(0, at - BEFORE) : at]]
    return [f"at line {at + 1} of {len(old)} and {len(new)}:", *shared, f"- {was}", f"+ {now}"]


def requests(old: list[dict[str, Any]], new: list[dict[str, Any]], words: Words) -> Report:
    """Compare requests, one by one, in their order."""
    report = Report()
    for before, after in itertools.zip_longest(old, new):
        if before is None or after is None:
            report.add((before or after)["name"], ["it is in one of the records only"])
            continue
        report.add(after["name"], _request(before, after, words))
    report.lines.append(f"{report.count} records: {report.differ} differ; {words.summary()}")
    return report


def _request(old: dict[str, Any], new: dict[str, Any], words: Words) -> list[str]:
    name = new["name"]
    was = [(words.translated(path), words.translated(value)) for path, value in flat(old)]
    was, now = (
        [one for one in values if not words.passes(name, one[0])] for values in (was, list(flat(new)))
    )
    if was == now:
        return []
    return _first([f"{path} = {value}" for path, value in was], [f"{path} = {value}" for path, value in now])


def flat(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each value of a record with its path, in the order in which it was sent."""
    for name, value in record.items():
        if name == "name":
            continue  # of the scenario: ours, and no behaviour
        shown = _measured(value, record.get("body", "")) if name == "headers" else value
        yield from _values(_parsed(value) if name == "body" else shown, name)


def _measured(headers: dict[str, str], body: str) -> dict[str, str]:
    """Return the headers without a length that is the body's own: another word has another length."""
    if headers.get(SIZE) != str(len(body.encode())):
        return headers
    return {**headers, SIZE: "that of the body"}


def _parsed(body: str) -> object:
    """Return JSON, or a list of the events of a stream, or the lines of a text."""
    try:
        return json.loads(body)
    except ValueError:
        pass
    if body.startswith(("data: ", ": ", "event: ")):
        return [_event(event) for event in body.split("\n\n") if event]
    return body.split("\n")


def _event(event: str) -> object:
    try:
        return json.loads(event.removeprefix("data: "))
    except ValueError:
        return event


def _values(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _values(inner, f"{path}.{name}")
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _values(inner, path)
    else:
        yield path, f'"{value}"' if isinstance(value, str) else json.dumps(value)
