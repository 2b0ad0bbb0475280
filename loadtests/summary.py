"""The summary of a run: quantiles, outcomes, and whether the objectives of slo.toml held."""

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
WHOLE = (SampleOutcome.COMPLETE, SampleOutcome.DEGRADED)


class RunHeader(msgspec.Struct, frozen=True):
    """The generator's own counts: requests in the schedule, and requests that were not sent (too many
    open)."""

    planned: int
    unsent: int
    ended_s: float


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One objective: its name, its lower or upper bound, and the measured value."""

    name: str
    bound: float
    value: float | None

    @property
    def held(self) -> bool:
        """Whether the objective held. An objective without a value did not."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.name.endswith("_min") else self.value <= self.bound


def read(path: Path) -> tuple[RunHeader, list[Sample]]:
    """Read a file of samples."""
    head, *lines = path.read_bytes().splitlines()
    decode = msgspec.json.Decoder(Sample).decode
    return msgspec.json.decode(head, type=RunHeader), [decode(line) for line in lines]


def summarize(head: RunHeader, samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """Return the summary of a run. Milliseconds count from the scheduled time of a request.

    Fallback answers have a row of their own: they come at once, and would make everything else look fast.
    """
    ended = [sample for sample in samples if sample.outcome is not SampleOutcome.CANCELLED]
    counts = Counter(sample.outcome.value for sample in samples)
    requests = [sample for sample in samples if not (sample.carrier or sample.direct)]
    first_token_ms = quantiles(_first_tokens(requests))
    direct_ms = quantiles(_first_tokens([sample for sample in samples if sample.direct]))
    turns = [sample for sample in samples if sample.carrier]
    turn_ms = quantiles(_first_tokens(turns))
    last_start_s = max((sample.started_s for sample in samples), default=0.0)
    return {
        "planned": head.planned,
        "sent": len(samples),
        "hung": head.planned - head.unsent - len(samples),  # still open a minute after the schedule's end
        "achieved_share": _share(len(samples), head.planned) * min(1.0, seconds / max(last_start_s, seconds)),
        "late_ms": quantiles([sample.started_s - sample.intended_s for sample in samples]),
        "outcomes": {outcome.value: counts[outcome.value] for outcome in SampleOutcome},
        "complete_share": _share(sum(s.outcome is SampleOutcome.COMPLETE for s in ended), len(ended)),
        "first_token_ms": first_token_ms,
        "direct_ms": direct_ms,
        "added_ms": {name: _difference(first_token_ms[name], direct_ms[name]) for name in direct_ms},
        "turn_first_token_ms": turn_ms,
        "turn_added_ms": {name: _difference(turn_ms[name], direct_ms[name]) for name in direct_ms},
        "resume_ms": quantiles([s.resume_s for s in turns if s.resume_s is not None]),
        "turns": _turns(turns),
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


def _turns(turns: Sequence[Sample]) -> dict[str, Any]:
    """Return how turns of conversations did. `whole`: every byte of the answer was read, once."""
    ended = [turn for turn in turns if turn.outcome is not SampleOutcome.CANCELLED]
    resumed = [turn for turn in turns if turn.resumed]
    whole = sum(turn.outcome in WHOLE for turn in resumed)
    return {
        "asked": len(turns),
        "stopped": len(turns) - len(ended),
        "resumed": len(resumed),
        "resumed_whole_share": whole / len(resumed) if resumed else None,
        "kept_share": sum(turn.kept for turn in turns) / len(turns) if turns else None,
    }


def _first_tokens(samples: Sequence[Sample]) -> list[float]:
    streams = [s for s in samples if s.stream and s.outcome is not SampleOutcome.DEGRADED]
    waits = [s.waited_for_token_s for s in streams]
    return [wait_s for wait_s in waits if wait_s is not None]


def _spans(samples: Iterable[Sample]) -> dict[str, float | None]:
    return quantiles([s.ended_s - s.intended_s for s in samples])


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else round(a - b, 2)


def quantiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p95, p99 and p99.9 in milliseconds: nearest rank, not rounded to Locust's coarse steps."""
    ordered = sorted(seconds)
    return {
        name: round(ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000, 2) if ordered else None
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999))
    }


def objectives(mix: str, path: Path = SLO) -> dict[str, float]:
    """Read the objectives of all mixes and of this mix: a name of the summary with `_min` or `_max`, and a
    bound."""
    tables = msgspec.toml.decode(path.read_bytes(), type=dict[str, dict[str, float]])
    return tables["every"] | tables.get(mix, {})


def judge(summary: dict[str, Any], bounds: dict[str, float]) -> list[SummaryRow]:
    """Compare each objective with the summary. Raises KeyError for a name that the summary does not have."""
    return [
        SummaryRow(name, bound, _value(summary, name.rsplit("_", 1)[0])) for name, bound in bounds.items()
    ]


def _value(summary: dict[str, Any], path: str) -> float | None:
    """Return the value at a path: `first_token_ms.p95` is the p95 within first_token_ms."""
    found: Any = summary
    for part in path.split("."):
        found = found[part]
    return None if found is None else float(found)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
