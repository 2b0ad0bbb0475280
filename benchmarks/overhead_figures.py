"""What benchmarks/overhead.py makes of its times: the schedule before, percentiles and verdicts after."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.sockets import quantile

SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
STEP_MS = (38.0, 46.0)  # a delayed acknowledgement of TCP: 40 ms, and what the machine adds
STEP_COUNT_MIN = 3
BOUNDS_MS = {  # over direct, on a quiet machine
    ("answer", "p50"): 1.0,
    ("answer", "p99"): 2.5,
    ("first token", "p99"): 1.2,
    ("gap", "p99"): 0.3,
}


def schedule(
    arms: Sequence[str], rate_per_s: float, seconds: float, rng: random.Random
) -> Iterator[tuple[float, str]]:
    """Yield (second, arm): `rate_per_s` requests to each arm, in an order drawn anew for each turn.

    A turn lasts 1 / rate; its requests are spread over it, each at a drawn moment of the first half of its
    part, so that nothing beats with a timer, and the answer of one is not in the way of the next.
    """
    part_s = 1 / rate_per_s / len(arms)
    for turn in range(round(rate_per_s * seconds)):
        for place, arm in enumerate(rng.sample(list(arms), len(arms))):
            yield (turn * len(arms) + place + rng.random() / 2) * part_s, arm


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """Return the percentiles of SHARES, in ms; those that too few values hold are left out."""
    return {
        name: quantile(values_ms, share)
        for name, share in SHARES.items()
        if len(values_ms) * (1 - share) >= 1 - 1e-9
    }


def added(direct: Mapping[str, float], through: Mapping[str, float]) -> dict[str, float]:
    """Return the percentiles over direct, in ms."""
    return {name: through[name] - direct[name] for name in through if name in direct}


def has_step(values_ms: Sequence[float]) -> bool:
    """Return whether times crowd at 40 ms, as where Nagle's algorithm meets a delayed acknowledgement.

    A crowd is three times as dense as what lies within as much time before and behind it, and at least 3.
    """
    low_ms, high_ms = STEP_MS
    wide_ms = high_ms - low_ms
    inside = sum(low_ms <= value < high_ms for value in values_ms)
    around = sum(
        low_ms - wide_ms <= value < low_ms or high_ms <= value < high_ms + wide_ms for value in values_ms
    )
    return inside >= STEP_COUNT_MIN and inside > 3 * around / 2


@dataclass(slots=True)
class ArmTimes:
    """What one way to the provider took within a window, in ms."""

    answers: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # over the gaps at which the provider sent
    cpu_us: list[float] = field(default_factory=list)  # of its process, a request; one value a window

    def extend(self, other: "ArmTimes") -> None:
        """Add the times of another window."""
        self.answers += other.answers
        self.first_tokens += other.first_tokens
        self.gaps += other.gaps
        self.cpu_us += other.cpu_us

    def by_kind(self) -> dict[str, list[float]]:
        """Return the times that there are, by what they are of."""
        kinds = {"answer": self.answers, "first token": self.first_tokens, "gap": self.gaps}
        return {kind: values for kind, values in kinds.items() if values}


@dataclass(frozen=True, slots=True)
class LoadWindow:
    """Some seconds of load on several arms."""

    arms: Mapping[str, ArmTimes]
    late_ms: Sequence[float]  # how late the generator itself sent
    failures: Sequence[str]

    def void_because(self, late_ms_max: float) -> str:
        """Return why the window says nothing; empty if it counts."""
        if self.failures:
            others = f", and {len(self.failures) - 1} more" if len(self.failures) > 1 else ""
            return f"a request failed: {self.failures[0]}{others}"
        late_ms = quantile(self.late_ms, 0.99)
        if not late_ms <= late_ms_max:  # NaN, too
            return f"the generator was {late_ms:.2f} ms late (p99); {late_ms_max:g} ms are allowed"
        return ""


def pooled(windows: Sequence[LoadWindow], pair: str) -> tuple[ArmTimes, ArmTimes]:
    """Return the times of direct and of an arm, from the windows that had both."""
    direct, through = ArmTimes(), ArmTimes()
    for window in windows:
        if pair in window.arms:
            direct.extend(window.arms["direct"])
            through.extend(window.arms[pair])
    return direct, through


def verdicts(over_ms: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Write one line for each bound: held, or by how much not."""
    lines = []
    for (kind, share), bound_ms in BOUNDS_MS.items():
        value_ms = over_ms.get(kind, {}).get(share, math.nan)
        word = "held" if value_ms <= bound_ms else "not met"
        lines.append(f"{word}: {kind} {share} {value_ms:.2f} ms over direct; {bound_ms:g} ms are wanted")
    return lines
