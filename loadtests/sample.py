"""What one request was like, as its client saw it."""

from enum import StrEnum

from msgspec import Struct


class SampleOutcome(StrEnum):
    """How it ended. Everything but `false` and `broken` is honest."""

    COMPLETE = "whole"  # the whole answer, and the right one
    DEGRADED = "degraded"  # a substitute that says so, and is what it says
    FAILED = "error"  # an error that says so, before any content
    CUT = "cut"  # an error that says so, after some content
    CANCELLED = "left"  # we went away, as planned
    DISHONEST = "false"  # a truncated, wrong or unreadable answer that does not say so
    BROKEN = "broken"  # no connection, or one that broke


class Sample(Struct, frozen=True):
    """Seconds since the run began. `intended_s` is when the schedule wanted it, `started_s` when it was sent:
    what a user waits counts from the first, what the service takes from the second. `longest_gap_s` is the longest
    silence between two pieces of a stream."""

    kind: str
    stream: bool
    outcome: SampleOutcome
    why: str
    intended_s: float
    started_s: float
    first_token_s: float | None
    ended_s: float
    longest_gap_s: float
    target: str
    cached: bool
    direct: bool = False

    @property
    def waited_for_token_s(self) -> float | None:
        """From when it should have been sent to its first content."""
        return None if self.first_token_s is None else self.first_token_s - self.intended_s
