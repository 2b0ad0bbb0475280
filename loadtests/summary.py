"""What a run of many requests was like, in numbers; and whether that is good enough."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dub5.loadtests.sample import Sample, SampleOutcome

SLO = Path(__file__).with_name("slo.toml")
WHYS_MAX = 10


class RunHeader(msgspec.Struct, frozen=True):
    """The generator's own record: how many requests the schedule wanted, and how many found no place."""

    planned: int
    unsent: int
    ended_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One objective: what it is, what it may be at most or at least, what it was."""

    name: str
    bound: float
    value: float | None

    @property
    def held(self) -> bool:
        """Whether it is good enough. What could not be measured is not."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.name.endswith("_min") else self.value <= self.bound


def read(path: Path) -> tuple[RunHeader, list[Sample]]:
    """A file of samples."""
    head, *lines = path.read_bytes().splitlines()
    decode = msgspec.json.Decoder(Sample).decode
    return msgspec.json.decode(head, type=RunHeader), [decode(line) for line in lines]


def summarize(head: RunHeader, samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """The numbers of a run. Milliseconds count from when a request should have been sent. Substitutes have a row of
    their own: they come at once, and would make everything else look quick."""
    ended = [sample for sample in samples if sample.outcome is not SampleOutcome.CANCELLED]
    counts = Counter(sample.outcome.value for sample in samples)
    first_token_ms = quantiles(_first_tokens(samples, direct=False))
    direct_ms = quantiles(_first_tokens(samples, direct=True))
    last_start_s = max((sample.started_s for sample in samples), default=0.0)
    return {
        "planned": head.planned,
        "sent": len(samples),
        "hung": head.planned - head.unsent - len(samples),  # given up on after a minute
        "achieved_share": _share(len(samples), head.planned) * min(1.0, seconds / max(last_start_s, seconds)),
        "late_ms": quantiles([sample.started_s - sample.intended_s for sample in samples]),
        "outcomes": {outcome.value: counts[outcome.value] for outcome in SampleOutcome},
        "whole_share": _share(sum(s.outcome is SampleOutcome.COMPLETE for s in ended), len(ended)),
        "first_token_ms": first_token_ms,
        "direct_ms": direct_ms,
        "added_ms": {name: _less(first_token_ms[name], direct_ms[name]) for name in direct_ms},
        "longest_gap_ms": quantiles([s.longest_gap_s for s in samples if s.stream and not s.direct]),
        "json_ms": _spans(
            s for s in ended if not (s.stream or s.cached or s.outcome is SampleOutcome.DEGRADED)
        ),
        "cached_ms": _spans(s for s in ended if s.cached),
        "degraded_ms": _spans(s for s in ended if s.outcome is SampleOutcome.DEGRADED),
        "by_kind": dict(Counter(sample.kind for sample in samples)),
        "by_target": dict(Counter(sample.target or "none" for sample in samples)),
        "why": dict(Counter(s.why for s in samples if s.why).most_common(WHYS_MAX)),
    }


def _first_tokens(samples: Sequence[Sample], *, direct: bool) -> list[float]:
    heard = [
        s for s in samples if s.stream and s.direct is direct and s.outcome is not SampleOutcome.DEGRADED
    ]
    waits = [s.waited_for_token_s for s in heard]
    return [wait_s for wait_s in waits if wait_s is not None]


def _spans(samples: Iterable[Sample]) -> dict[str, float | None]:
    return quantiles([s.ended_s - s.intended_s for s in samples])


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else round(one - other, 2)


def quantiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 and p99.9 in milliseconds, the nearest rank, not rounded to Locust's coarse steps."""
    ordered = sorted(seconds)
    return {
        name: round(ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000, 2) if ordered else None
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999))
    }


def objectives(mix: str, path: Path = SLO) -> dict[str, float]:
    """slo.toml, what holds for every mix and for this one: a name of the summary with `_min` or `_max` behind it,
    and the bound."""
    tables = msgspec.toml.decode(path.read_bytes(), type=dict[str, dict[str, float]])
    return tables["every"] | tables.get(mix, {})


def judge(summary: dict[str, Any], bounds: dict[str, float]) -> list[Row]:
    """Each objective against what was measured. Raises KeyError for a name that the summary does not have."""
    return [Row(name, bound, _value(summary, name.rsplit("_", 1)[0])) for name, bound in bounds.items()]


def _value(summary: dict[str, Any], path: str) -> float | None:
    """`first_token_ms.p95` is the p95 within first_token_ms."""
    found: Any = summary
    for part in path.split("."):
        found = found[part]
    return None if found is None else float(found)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
